//! The TLB invalidate instructions, one for each of `pgtable`'s operations (Arm ARM C5.5).

use pgtable::Tlbi;

macro_rules! without_operand {
    ($name:literal) => {
        // SAFETY: invalidating cached translations can only make the CPU walk the tables again.
        unsafe { core::arch::asm!(concat!("tlbi ", $name), options(nostack, preserves_flags)) }
    };
}

macro_rules! with_operand {
    ($name:literal, $operation:expr) => {{
        let operand = $operation.operand().unwrap_or(0);
        // SAFETY: as above; what the operand names only decides how much is dropped.
        unsafe { core::arch::asm!(concat!("tlbi ", $name, ", {}"), in(reg) operand, options(nostack, preserves_flags)) }
    }};
}

macro_rules! with_operand_encoded {
    ($op1:literal, $crm:literal, $op2:literal, $operation:expr) => {{
        let operand = $operation.operand().unwrap_or(0);
        // SAFETY: as above. The range forms are used only where the CPU has FEAT_TLBIRANGE; the encoding is written
        // out because the assembler's baseline lacks it.
        unsafe {
            core::arch::asm!(
                concat!("sys #", $op1, ", c8, c", $crm, ", #", $op2, ", {}"),
                in(reg) operand,
                options(nostack, preserves_flags)
            )
        }
    }};
}

/// Executes one TLB invalidate instruction; the barriers around it are the caller's.
#[inline(always)]
pub fn invalidate(operation: Tlbi) {
    match operation {
        Tlbi::Ipas2e1Is { .. } => with_operand!("ipas2e1is", operation),
        Tlbi::Ipas2e1 { .. } => with_operand!("ipas2e1", operation),
        Tlbi::Ripas2e1Is { .. } => with_operand_encoded!("4", "0", "2", operation),
        Tlbi::Vmalle1Is => without_operand!("vmalle1is"),
        Tlbi::Vmalle1 => without_operand!("vmalle1"),
        Tlbi::Vmalls12e1Is => without_operand!("vmalls12e1is"),
        Tlbi::Vmalls12e1 => without_operand!("vmalls12e1"),
        Tlbi::Alle1Is => without_operand!("alle1is"),
        Tlbi::Alle1 => without_operand!("alle1"),
        Tlbi::Vae2Is { .. } => with_operand!("vae2is", operation),
        Tlbi::Vale2Is { .. } => with_operand!("vale2is", operation),
        Tlbi::Rvae2Is { .. } => with_operand_encoded!("4", "2", "1", operation),
        Tlbi::Alle2Is => without_operand!("alle2is"),
        Tlbi::Alle2 => without_operand!("alle2"),
        Tlbi::Vae1Is { .. } => with_operand!("vae1is", operation),
        Tlbi::Vale1Is { .. } => with_operand!("vale1is", operation),
        Tlbi::Rvae1Is { .. } => with_operand_encoded!("0", "2", "1", operation),
    }
}
