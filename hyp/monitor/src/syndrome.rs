//! What ESR_EL2, FAR_EL2 and HPFAR_EL2 say about an exception.

use abi::guest_register::{Policy, policy};
pub use abi::system_register::SystemRegister;
use abi::{Ipa, VirtAddr};
use core::fmt;

/// ESR_EL2.EC, bits 31:26 (Arm ARM, ESR_EL2), of the exceptions that this hypervisor knows.
pub mod exception_class {
    /// No other class fits: an undefined instruction.
    pub const UNKNOWN: u64 = 0x00;
    /// WFI, WFE, WFIT or WFET that HCR_EL2.TWI or TWE traps.
    pub const WFX: u64 = 0x01;
    /// FP, SIMD or SVE under CPTR_EL2.TFP.
    pub const FP: u64 = 0x07;
    /// An instruction that uses a pointer-authentication key, under HCR_EL2.API.
    pub const POINTER_AUTHENTICATION_TRAP: u64 = 0x09;
    /// PSTATE.IL was set, or the execution state illegal.
    pub const ILLEGAL_STATE: u64 = 0x0e;
    /// HVC from AArch64.
    pub const HVC64: u64 = 0x16;
    /// SMC from AArch64 under HCR_EL2.TSC.
    pub const SMC64: u64 = 0x17;
    /// MSR, MRS or a system instruction from AArch64.
    pub const SYSTEM_REGISTER: u64 = 0x18;
    /// SVE under CPTR_EL2.TZ.
    pub const SVE: u64 = 0x19;
    /// Pointer-authentication failure (FEAT_FPAC).
    pub const POINTER_AUTHENTICATION: u64 = 0x1c;
    /// SME under CPTR_EL2.TSM.
    pub const SME: u64 = 0x1d;
    /// Instruction abort from a lower exception level.
    pub const INSTRUCTION_ABORT_LOWER: u64 = 0x20;
    /// Instruction abort from the same exception level.
    pub const INSTRUCTION_ABORT_SAME: u64 = 0x21;
    /// The program counter is misaligned.
    pub const PC_ALIGNMENT: u64 = 0x22;
    /// Data abort from a lower exception level.
    pub const DATA_ABORT_LOWER: u64 = 0x24;
    /// Data abort from the same exception level.
    pub const DATA_ABORT_SAME: u64 = 0x25;
    /// The stack pointer is misaligned.
    pub const SP_ALIGNMENT: u64 = 0x26;
    /// SError.
    pub const SERROR: u64 = 0x2f;
    /// BRK from AArch64.
    pub const BRK64: u64 = 0x3c;
}

/// The value of ESR_EL2.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Syndrome(pub u64);

impl Syndrome {
    /// ESR_EL2.EC, one of [`exception_class`] or another.
    pub const fn exception_class(self) -> u64 {
        self.0 >> 26 & 0x3f
    }

    /// ESR_EL2.IL: the instruction is 32 bits long.
    pub const fn is_32_bit_instruction(self) -> bool {
        self.0 & 1 << 25 != 0
    }

    /// ESR_EL2.ISS, bits 24:0.
    pub const fn iss(self) -> u64 {
        self.0 & 0x1ff_ffff
    }

    /// What happened.
    pub const fn cause(self) -> Cause {
        match self.exception_class() {
            exception_class::WFX if self.iss() & ISS_TI_EVENT != 0 => Cause::Wait(WaitFor::Event),
            exception_class::WFX => Cause::Wait(WaitFor::Interrupt),
            exception_class::FP => Cause::FloatingPoint,
            exception_class::POINTER_AUTHENTICATION_TRAP => Cause::PointerAuthentication,
            exception_class::HVC64 => Cause::Hypercall { immediate: self.immediate() },
            exception_class::SMC64 => Cause::SecureCall { immediate: self.immediate() },
            exception_class::SYSTEM_REGISTER => Cause::SystemRegister(SystemRegisterAccess(self.iss())),
            exception_class::INSTRUCTION_ABORT_LOWER => Cause::InstructionAbort(Abort(self.iss())),
            exception_class::DATA_ABORT_LOWER => Cause::DataAbort(Abort(self.iss())),
            _ => Cause::Other,
        }
    }

    /// The immediate of an HVC, SMC, SVC or BRK instruction.
    const fn immediate(self) -> u16 {
        (self.0 & 0xffff) as u16
    }
}

/// ISS.TI of a trapped wait, bit 0: WFE or WFET, not WFI or WFIT.
const ISS_TI_EVENT: u64 = 1 << 0;

/// What a trapped instruction waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitFor {
    /// WFI, WFIT.
    Interrupt,
    /// WFE, WFET.
    Event,
}

/// The exceptions from a lower exception level that are more than undefined.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// WFI, WFE, or one of their forms with a time-out.
    Wait(WaitFor),
    /// FP or SIMD while CPTR_EL2.TFP is set.
    FloatingPoint,
    /// An instruction that uses a pointer-authentication key while HCR_EL2.API is clear.
    PointerAuthentication,
    /// HVC.
    Hypercall {
        /// The instruction's immediate.
        immediate: u16,
    },
    /// SMC.
    SecureCall {
        /// The instruction's immediate.
        immediate: u16,
    },
    /// MSR, MRS or a system instruction.
    SystemRegister(SystemRegisterAccess),
    /// Instruction abort.
    InstructionAbort(Abort),
    /// Data abort.
    DataAbort(Abort),
    /// Anything else.
    Other,
}

/// ISS of an instruction or data abort (Arm ARM, ISS encoding for an exception from a Data Abort).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Abort(u64);

/// What kind of fault an abort reports: DFSC or IFSC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultKind {
    /// The address is beyond the table's input or a descriptor's output is beyond PARange.
    AddressSize,
    /// No valid descriptor.
    Translation,
    /// The descriptor's access flag is clear.
    AccessFlag,
    /// The descriptor forbids it.
    Permission,
    /// A synchronous external abort, not on a table walk.
    External,
    /// A synchronous external abort on a table walk.
    ExternalOnWalk,
    /// Misaligned.
    Alignment,
    /// An atomic access that the memory type or the location does not support.
    UnsupportedAtomic,
    /// Any other status code.
    Other,
}

impl Abort {
    /// Wraps ESR_ELx.ISS of an abort.
    pub const fn from_iss(iss: u64) -> Self {
        Self(iss)
    }

    /// DFSC or IFSC: the fault's status code.
    pub const fn status(self) -> u64 {
        self.0 & 0x3f
    }

    /// The kind of fault.
    pub const fn kind(self) -> FaultKind {
        match self.status() {
            0x00..=0x03 | 0x29 | 0x2c => FaultKind::AddressSize,
            0x04..=0x07 | 0x2a | 0x2b => FaultKind::Translation,
            0x08..=0x0b => FaultKind::AccessFlag,
            0x0c..=0x0f => FaultKind::Permission,
            0x10 => FaultKind::External,
            0x12..=0x17 => FaultKind::ExternalOnWalk,
            0x21 => FaultKind::Alignment,
            0x35 => FaultKind::UnsupportedAtomic,
            _ => FaultKind::Other,
        }
    }

    /// ISV: width, register and direction below are valid.
    pub const fn has_instruction_syndrome(self) -> bool {
        self.0 & 1 << 24 != 0
    }

    /// SAS: bytes that the access is wide: 1, 2, 4 or 8.
    pub const fn size(self) -> u64 {
        1 << (self.0 >> 22 & 0b11)
    }

    /// SSE: a read's value is sign-extended.
    pub const fn is_sign_extended(self) -> bool {
        self.0 & 1 << 21 != 0
    }

    /// SRT: the register that is read or written; 31 is XZR.
    pub const fn register(self) -> usize {
        (self.0 >> 16 & 0x1f) as usize
    }

    /// SF: the register is 64 bits wide.
    pub const fn is_64_bit_register(self) -> bool {
        self.0 & 1 << 15 != 0
    }

    /// FnV: FAR_EL2 does not hold the address.
    pub const fn is_far_invalid(self) -> bool {
        self.0 & 1 << 10 != 0
    }

    /// CM: a cache-maintenance or address-translation instruction.
    pub const fn is_cache_maintenance(self) -> bool {
        self.0 & 1 << 8 != 0
    }

    /// S1PTW: the fault came from a walk of stage 1's tables.
    pub const fn is_stage1_walk(self) -> bool {
        self.0 & 1 << 7 != 0
    }

    /// WnR: a write. Cache maintenance counts as one, though it needs no more than a read's rights.
    pub const fn is_write(self) -> bool {
        self.0 & 1 << 6 != 0
    }
}

/// The IPA that a stage-2 fault reports: HPFAR_EL2.FIPA, the page, and FAR_EL2, the offset within it (which is no part
/// of the address where the fault came from a walk of stage 1's tables).
pub const fn fault_ipa(hpfar: u64, far: u64, abort: Abort) -> Ipa {
    let page = (hpfar >> 4 & 0xfff_ffff_ffff) << 12;
    if abort.is_stage1_walk() || abort.is_far_invalid() { Ipa::new(page) } else { Ipa::new(page | far & 0xfff) }
}

/// HPFAR_EL2 for the page that PAR_EL1 names; `None` where PAR_EL1.F says that the translation failed.
const fn hpfar_of(par: u64) -> Option<u64> {
    if par & 1 == 0 { Some((par & 0x000f_ffff_ffff_f000) >> 8) } else { None }
}

/// ISS of a trapped MSR, MRS or system instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SystemRegisterAccess(u64);

impl SystemRegisterAccess {
    /// Wraps ESR_EL2.ISS.
    pub const fn from_iss(iss: u64) -> Self {
        Self(iss)
    }

    /// Which register.
    pub const fn register(self) -> SystemRegister {
        SystemRegister::from_iss(self.0)
    }

    /// What becomes of it in a guest.
    #[inline(always)]
    pub fn policy(self) -> Policy {
        policy(self.register(), self.is_read())
    }

    /// True for MRS, false for MSR and for system instructions.
    pub const fn is_read(self) -> bool {
        self.0 & 1 != 0
    }

    /// Rt: the general register.
    pub const fn general_register(self) -> usize {
        (self.0 >> 5 & 0x1f) as usize
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FaultKind::AddressSize => "address size fault",
            FaultKind::Translation => "translation fault",
            FaultKind::AccessFlag => "access flag fault",
            FaultKind::Permission => "permission fault",
            FaultKind::External => "synchronous external abort",
            FaultKind::ExternalOnWalk => "synchronous external abort on a table walk",
            FaultKind::Alignment => "alignment fault",
            FaultKind::UnsupportedAtomic => "unsupported atomic access",
            FaultKind::Other => "other fault",
        })
    }
}

impl fmt::Display for Abort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (status {:#04x}", self.kind(), self.status())?;
        if matches!(
            self.kind(),
            FaultKind::AddressSize | FaultKind::Translation | FaultKind::AccessFlag | FaultKind::Permission
        ) && self.status() < 0x10
        {
            write!(f, ", level {}", self.status() & 0b11)?;
        }
        f.write_str(")")?;
        if self.is_stage1_walk() {
            f.write_str(" on a stage 1 walk")?;
        }
        Ok(())
    }
}

impl fmt::Display for Syndrome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let abort = Abort(self.iss());
        match self.exception_class() {
            exception_class::UNKNOWN => f.write_str("undefined instruction"),
            exception_class::WFX => f.write_str("trapped WFI or WFE"),
            exception_class::FP => f.write_str("trapped FP or SIMD"),
            exception_class::POINTER_AUTHENTICATION_TRAP => f.write_str("trapped pointer authentication"),
            exception_class::ILLEGAL_STATE => f.write_str("illegal execution state"),
            exception_class::HVC64 => write!(f, "HVC #{:#x}", self.immediate()),
            exception_class::SMC64 => write!(f, "SMC #{:#x}", self.immediate()),
            exception_class::SYSTEM_REGISTER => {
                let access = SystemRegisterAccess(self.iss());
                let (verb, general) = (if access.is_read() { "MRS" } else { "MSR" }, access.general_register());
                write!(f, "trapped {verb} of {} with x{general}", access.register())
            }
            exception_class::SVE => f.write_str("trapped SVE"),
            exception_class::POINTER_AUTHENTICATION => f.write_str("pointer authentication failure"),
            exception_class::SME => f.write_str("trapped SME"),
            exception_class::INSTRUCTION_ABORT_LOWER => write!(f, "instruction abort from a lower level: {abort}"),
            exception_class::INSTRUCTION_ABORT_SAME => write!(f, "instruction abort: {abort}"),
            exception_class::PC_ALIGNMENT => f.write_str("misaligned program counter"),
            exception_class::DATA_ABORT_LOWER | exception_class::DATA_ABORT_SAME => {
                let verb = if abort.is_write() { "write" } else { "read" };
                let whence = if self.exception_class() == exception_class::DATA_ABORT_LOWER {
                    " from a lower level"
                } else {
                    ""
                };
                write!(f, "data abort{whence} on a {verb}: {abort}")
            }
            exception_class::SP_ALIGNMENT => f.write_str("misaligned stack pointer"),
            exception_class::SERROR => f.write_str("SError"),
            exception_class::BRK64 => write!(f, "BRK #{:#x}", self.immediate()),
            other => write!(f, "exception class {other:#04x}"),
        }?;
        write!(f, ", ESR {:#010x}", self.0)
    }
}

/// ESR_EL2, FAR_EL2 and HPFAR_EL2 as a synchronous exception from a lower exception level left them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Exception {
    /// ESR_EL2.
    pub esr: u64,
    /// FAR_EL2.
    pub far: u64,
    /// HPFAR_EL2, or what it would hold if the CPU had written it.
    pub hpfar: u64,
}

impl Exception {
    /// True where the CPU leaves HPFAR_EL2 unknown, though stage 2 is what did not allow the access: a right is
    /// missing, and not to a walk of stage 1's tables (Arm ARM, HPFAR_EL2). It may name a page of whoever faulted
    /// before.
    #[inline(always)]
    pub const fn is_page_unknown(&self) -> bool {
        // The classes of data and instruction aborts differ in one bit.
        const CLASS: u64 = (exception_class::INSTRUCTION_ABORT_LOWER & exception_class::DATA_ABORT_LOWER) << 26;
        const CLASS_MASK: u64 =
            (0x3f ^ exception_class::INSTRUCTION_ABORT_LOWER ^ exception_class::DATA_ABORT_LOWER) << 26;
        const STAGE1_WALK: u64 = 1 << 7;
        const PERMISSION: u64 = 0x0c;
        const PERMISSION_MASK: u64 = 0x3c;
        self.esr & (CLASS_MASK | STAGE1_WALK | PERMISSION_MASK) == CLASS | PERMISSION
    }

    /// The same with the page that `translate` finds, which gives PAR_EL1 after stage 1's translation of a virtual
    /// address. `None` where stage 1 does not translate FAR_EL2 any more: then the access is to be made again.
    #[cold]
    pub fn translated(&self, translate: impl FnOnce(u64) -> u64) -> Option<Self> {
        Some(Self { hpfar: hpfar_of(translate(self.far))?, ..*self })
    }

    /// ESR_EL2, typed.
    pub const fn syndrome(&self) -> Syndrome {
        Syndrome(self.esr)
    }

    /// FAR_EL2: the virtual address that faulted.
    pub const fn fault_address(&self) -> VirtAddr {
        VirtAddr::new(self.far)
    }

    /// The IPA of the stage-2 fault that `abort` describes.
    pub const fn fault_ipa(&self, abort: Abort) -> Ipa {
        fault_ipa(self.hpfar, self.far, abort)
    }
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, FAR {:#018x}, HPFAR {:#014x}", self.syndrome(), self.far, self.hpfar)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn a_guests_fault_is_translated_where_the_cpu_leaves_its_page_unknown() {
        const STALE: u64 = 0xdead_bee0;
        const FAR: u64 = 0xffff_0000_1234_5018;
        let exception = |class: u64, iss: u64| Exception { esr: class << 26 | iss, far: FAR, hpfar: STALE };
        for class in 0..0x40 {
            let is_abort =
                [exception_class::DATA_ABORT_LOWER, exception_class::INSTRUCTION_ABORT_LOWER].contains(&class);
            for status in 0..0x40 {
                let is_right = (0x0c..=0x0f).contains(&status);
                for more in [0, 1 << 6, 1 << 24 | 1 << 25] {
                    let direct = exception(class, more | status);
                    assert_eq!(direct.is_page_unknown(), is_abort && is_right, "{class:#x} {status:#x}");
                    assert!(!exception(class, 1 << 7 | more | status).is_page_unknown(), "{class:#x} {status:#x}");
                }
            }
        }
        let fault = exception(exception_class::DATA_ABORT_LOWER, 0x0f);
        // PAR_EL1 has attributes around the address.
        let par = 0xff00_0000_4567_8b80;
        let translate = |address| {
            assert_eq!(address, FAR);
            par
        };
        assert_eq!(fault.translated(translate), Some(Exception { hpfar: 0x4567_8000 >> 12 << 4, ..fault }));
        assert_eq!(fault.translated(|_| par | 1), None, "stage 1 has changed");
    }

    #[test]
    fn a_load_of_a_signed_byte_decodes() {
        // LDRSB w5, [x1] on a hole: EC 0x24, IL, ISV, SAS 0, SSE, SRT 5, SF 0, DFSC 0x07.
        let syndrome = Syndrome(0x24 << 26 | 1 << 25 | 1 << 24 | 1 << 21 | 5 << 16 | 0x07);
        let Cause::DataAbort(abort) = syndrome.cause() else { panic!("{syndrome}") };
        assert!(abort.has_instruction_syndrome() && abort.is_sign_extended());
        assert!(!abort.is_64_bit_register() && !abort.is_write() && !abort.is_stage1_walk());
        assert_eq!((abort.size(), abort.register(), abort.kind()), (1, 5, FaultKind::Translation));
        let wide = Abort::from_iss(3 << 22 | 1 << 15 | 1 << 6);
        assert_eq!((wide.size(), wide.is_64_bit_register(), wide.is_write()), (8, true, true));
    }

    #[test]
    fn the_fault_address_joins_page_and_offset() {
        let abort = Abort::from_iss(0x07);
        assert_eq!(fault_ipa(0x9_0000, 0xffff_0000_1234_5018, abort), Ipa::new(0x900_0018));
        let walk = Abort::from_iss(0x07 | 1 << 7);
        assert_eq!(fault_ipa(0x9_0000, 0xffff_0000_1234_5018, walk), Ipa::new(0x900_0000));
        assert_eq!(fault_ipa(1 << 63 | 0x10, 0, abort), Ipa::new(0x1000), "HPFAR_EL2.NS is no address bit");
    }

    #[test]
    fn calls_carry_their_immediate() {
        assert_eq!(Syndrome(0x16 << 26 | 0x1234).cause(), Cause::Hypercall { immediate: 0x1234 });
        assert_eq!(Syndrome(0x17 << 26).cause(), Cause::SecureCall { immediate: 0 });
    }

    #[test]
    fn a_trapped_system_register_names_itself() {
        // MRS x7, ID_AA64PFR0_EL1: op0 3, op1 0, CRn 0, CRm 4, op2 0.
        let iss = 3 << 20 | 7 << 5 | 4 << 1 | 1;
        let access = SystemRegisterAccess::from_iss(iss);
        assert_eq!(access.register(), SystemRegister::new(3, 0, 0, 4, 0));
        assert_eq!((access.is_read(), access.general_register()), (true, 7));
        let text = Syndrome(0x18 << 26 | iss).to_string();
        assert!(text.starts_with("trapped MRS of S3_0_C0_C4_0 with x7"), "{text}");
    }

    #[test]
    fn dumps_say_what_happened() {
        let exception = Exception { esr: 0x25 << 26 | 1 << 6 | 0x07, far: 0x1000, hpfar: 0 };
        let text = exception.to_string();
        assert!(text.contains("data abort on a write: translation fault (status 0x07, level 3)"), "{text}");
        assert!(text.contains("FAR 0x0000000000001000"), "{text}");
    }
}
