//! How the host names the registers of a vCPU of a VM that is not protected.

/// General registers, from number 0 on: x0 to x30.
const GENERAL_COUNT: u64 = 31;
/// Number of the lower half of v0; its upper half follows, then v1.
const VECTOR_BASE: u64 = 0x80;
/// Numbers of halves of vector registers.
const VECTOR_END: u64 = VECTOR_BASE + 2 * 32;

/// A register of a vCPU, or half of a vector register.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Register {
    /// x0 to x30, by its index. Numbers 0 to 30.
    General(u8),
    /// A half of v0 to v31. Numbers 0x80 + 2 * index for bits 63:0, and one more for bits 127:64.
    Vector {
        /// Which register: 0 to 31.
        index: u8,
        /// Bits 127:64 of it.
        upper: bool,
    },
    /// One that has a name and a number of its own.
    Named(NamedRegister),
}

macro_rules! named_registers {
    ($($(#[$meta:meta])* $name:ident = $number:literal,)*) => {
        /// A register by its name. The number is the host's name for it.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        #[repr(u64)]
        pub enum NamedRegister {
            $($(#[$meta])* $name = $number,)*
        }

        impl NamedRegister {
            /// Every one, in the order of the numbers.
            pub const ALL: &'static [NamedRegister] = &[$(NamedRegister::$name,)*];

            /// The register of a number, or `None` where there is none.
            const fn from_number(number: u64) -> Option<Self> {
                match number {
                    $($number => Some(NamedRegister::$name),)*
                    _ => None,
                }
            }
        }
    };
}

named_registers! {
    /// The program counter.
    Pc = 0x20,
    /// PSTATE, in the layout of SPSR_EL2. It may be set for AArch64 at EL0 or EL1 only.
    Pstate = 0x21,
    /// SP_EL0.
    SpEl0 = 0x40,
    /// SP_EL1.
    SpEl1 = 0x41,
    /// SCTLR_EL1.
    SctlrEl1 = 0x42,
    /// ACTLR_EL1, which reads as zero and takes nothing else.
    ActlrEl1 = 0x43,
    /// CPACR_EL1.
    CpacrEl1 = 0x44,
    /// TTBR0_EL1.
    Ttbr0El1 = 0x45,
    /// TTBR1_EL1.
    Ttbr1El1 = 0x46,
    /// TCR_EL1.
    TcrEl1 = 0x47,
    /// ESR_EL1.
    EsrEl1 = 0x48,
    /// AFSR0_EL1.
    Afsr0El1 = 0x49,
    /// AFSR1_EL1.
    Afsr1El1 = 0x4a,
    /// FAR_EL1.
    FarEl1 = 0x4b,
    /// MAIR_EL1.
    MairEl1 = 0x4c,
    /// AMAIR_EL1.
    AmairEl1 = 0x4d,
    /// VBAR_EL1.
    VbarEl1 = 0x4e,
    /// CONTEXTIDR_EL1.
    ContextidrEl1 = 0x4f,
    /// TPIDR_EL0.
    TpidrEl0 = 0x50,
    /// TPIDRRO_EL0.
    TpidrroEl0 = 0x51,
    /// TPIDR_EL1.
    TpidrEl1 = 0x52,
    /// ELR_EL1.
    ElrEl1 = 0x53,
    /// SPSR_EL1.
    SpsrEl1 = 0x54,
    /// PAR_EL1.
    ParEl1 = 0x55,
    /// CNTKCTL_EL1.
    CntkctlEl1 = 0x56,
    /// MDSCR_EL1, which reads as zero and takes nothing else.
    MdscrEl1 = 0x57,
    /// DISR_EL1, of a CPU that has FEAT_RAS.
    DisrEl1 = 0x58,
    /// CNTV_CTL_EL0: ENABLE and IMASK may be set; ISTATUS is as it was when the vCPU last ran.
    CntvCtlEl0 = 0x60,
    /// CNTV_CVAL_EL0.
    CntvCvalEl0 = 0x61,
    /// FPCR.
    Fpcr = 0xc0,
    /// FPSR.
    Fpsr = 0xc1,
}

impl Register {
    /// The register of a number, or `None` where there is none.
    pub const fn from_number(number: u64) -> Option<Self> {
        match number {
            0..GENERAL_COUNT => Some(Register::General(number as u8)),
            VECTOR_BASE..VECTOR_END => {
                let half = number - VECTOR_BASE;
                Some(Register::Vector { index: (half / 2) as u8, upper: !half.is_multiple_of(2) })
            }
            _ => match NamedRegister::from_number(number) {
                Some(named) => Some(Register::Named(named)),
                None => None,
            },
        }
    }

    /// The number, for a call.
    pub const fn number(self) -> u64 {
        match self {
            Register::General(index) => index as u64,
            Register::Vector { index, upper } => VECTOR_BASE + 2 * index as u64 + upper as u64,
            Register::Named(named) => named as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_decode_to_themselves_and_nothing_else_does() {
        let decoded: usize = (0..0x1000)
            .filter_map(|number| Register::from_number(number).map(|register| assert_eq!(register.number(), number)))
            .count();
        assert_eq!(decoded, 31 + 64 + NamedRegister::ALL.len());
        for number in [31, 0x22, 0x59, 0x62, 0xc2, u64::MAX, 1 << 32] {
            assert_eq!(Register::from_number(number), None, "{number:#x}");
        }
        assert_eq!(Register::from_number(0x85), Some(Register::Vector { index: 2, upper: true }));
    }
}
