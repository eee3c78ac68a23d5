//! What the CPU would do on taking an exception to EL1, computed, so that hyp can make EL1 take one.

use crate::registers::{PSTATE_DAIF, PSTATE_EL1H};
use crate::syndrome::{Abort, Syndrome, exception_class};

/// PSTATE bits as SPSR_ELx lays them out (Arm ARM, SPSR_EL1, exception taken from AArch64).
mod pstate {
    /// M[4]: the exception came from AArch32.
    pub const AARCH32: u64 = 1 << 4;
    /// M[3:2]: the exception level.
    pub const EXCEPTION_LEVEL: u64 = 0b11 << 2;
    /// M[3:2] of EL1.
    pub const EL1: u64 = 0b01 << 2;
    /// M[0]: the exception level's own stack pointer is in use.
    pub const OWN_STACK_POINTER: u64 = 1 << 0;
    /// SSBS.
    pub const SSBS: u64 = 1 << 12;
    /// ALLINT.
    pub const ALLINT: u64 = 1 << 13;
    /// PAN.
    pub const PAN: u64 = 1 << 22;
    /// DIT.
    pub const DIT: u64 = 1 << 24;
    /// TCO.
    pub const TCO: u64 = 1 << 25;
    /// N, Z, C and V.
    pub const NZCV: u64 = 0b1111 << 28;
}

/// SCTLR_EL1.SPINTMASK: the stack pointer's choice masks interrupts, so an exception clears ALLINT (FEAT_NMI).
const SCTLR_SPINTMASK: u64 = 1 << 62;
/// SCTLR_EL1.DSSBS: PSTATE.SSBS on taking an exception.
const SCTLR_DSSBS: u64 = 1 << 44;
/// SCTLR_EL1.SPAN: PSTATE.PAN is left alone on taking an exception.
const SCTLR_SPAN: u64 = 1 << 23;

/// ESR_ELx.IL: a 32-bit instruction, or none to speak of.
const ESR_IL: u64 = 1 << 25;
/// DFSC or IFSC of a synchronous external abort that is not on a table walk.
const STATUS_EXTERNAL_ABORT: u64 = 0x10;
/// ISS.FnV: FAR_EL1 does not hold the address.
const ISS_FAR_NOT_VALID: u64 = 1 << 10;
/// ISS.WnR of a data abort.
const ISS_WRITE: u64 = 1 << 6;
/// ISS.CM of a data abort.
const ISS_CACHE_MAINTENANCE: u64 = 1 << 8;

/// What decides how EL1 takes an exception.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interrupted {
    /// Where EL1 or EL0 was: ELR_EL2.
    pub pc: u64,
    /// In which state: SPSR_EL2.
    pub pstate: u64,
    /// VBAR_EL1.
    pub vbar_el1: u64,
    /// SCTLR_EL1.
    pub sctlr_el1: u64,
    /// Which of the features below the CPU has.
    pub features: ExceptionFeatures,
}

/// Features of the CPU that change what an exception does to PSTATE.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ExceptionFeatures {
    /// FEAT_MTE: PSTATE.TCO is set.
    pub mte: bool,
    /// FEAT_NMI: PSTATE.ALLINT is set, unless SCTLR_EL1.SPINTMASK says otherwise.
    pub nmi: bool,
}

/// What to make EL1 take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Injection {
    /// The instruction at PC is undefined: EC 0.
    Undefined,
    /// A synchronous external abort in place of the stage-2 fault that `abort` describes.
    ExternalAbort {
        /// An instruction abort, not a data abort.
        instruction: bool,
        /// The stage-2 fault's syndrome, from which write, cache maintenance and FnV carry over.
        abort: Abort,
        /// FAR_EL2: the virtual address that EL1 or EL0 used.
        far: u64,
    },
}

/// The registers as EL1 finds them at its vector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Taken {
    /// ELR_EL2, so that the return from EL2 ends at the vector.
    pub pc: u64,
    /// SPSR_EL2.
    pub pstate: u64,
    /// ELR_EL1.
    pub elr_el1: u64,
    /// SPSR_EL1.
    pub spsr_el1: u64,
    /// ESR_EL1.
    pub esr_el1: u64,
    /// FAR_EL1, or `None` where the exception leaves it alone.
    pub far_el1: Option<u64>,
}

impl Injection {
    /// The injection that answers a stage-2 fault of EL1 or EL0: an external abort of the same kind.
    pub fn for_abort(syndrome: Syndrome, far: u64) -> Self {
        Self::ExternalAbort {
            instruction: syndrome.exception_class() == exception_class::INSTRUCTION_ABORT_LOWER,
            abort: Abort::from_iss(syndrome.iss()),
            far,
        }
    }

    /// Takes this exception to EL1 from the interrupted state (Arm ARM, AArch64.TakeException).
    pub fn take(&self, from: &Interrupted) -> Taken {
        let from_el1 = from.pstate & (pstate::EXCEPTION_LEVEL | pstate::AARCH32) == pstate::EL1;
        let (esr_el1, far_el1) = self.syndrome(from_el1);
        Taken {
            pc: (from.vbar_el1 & !0x7ff).wrapping_add(vector_offset(from.pstate)),
            pstate: pstate_at_vector(from),
            elr_el1: from.pc,
            spsr_el1: from.pstate,
            esr_el1,
            far_el1,
        }
    }

    /// ESR_EL1 and FAR_EL1.
    fn syndrome(&self, from_el1: bool) -> (u64, Option<u64>) {
        match *self {
            Injection::Undefined => (exception_class::UNKNOWN << 26 | ESR_IL, None),
            Injection::ExternalAbort { instruction, abort, far } => {
                let class = match (instruction, from_el1) {
                    (true, true) => exception_class::INSTRUCTION_ABORT_SAME,
                    (true, false) => exception_class::INSTRUCTION_ABORT_LOWER,
                    (false, true) => exception_class::DATA_ABORT_SAME,
                    (false, false) => exception_class::DATA_ABORT_LOWER,
                };
                let mut iss = STATUS_EXTERNAL_ABORT;
                if abort.is_far_invalid() {
                    iss |= ISS_FAR_NOT_VALID;
                }
                if !instruction && abort.is_write() {
                    iss |= ISS_WRITE;
                }
                if !instruction && abort.is_cache_maintenance() {
                    iss |= ISS_CACHE_MAINTENANCE;
                }
                (class << 26 | ESR_IL | iss, Some(far))
            }
        }
    }
}

/// Offset of the synchronous vector from VBAR_EL1 (Arm ARM, Exception vectors).
fn vector_offset(from: u64) -> u64 {
    if from & pstate::AARCH32 != 0 {
        0x600
    } else if from & pstate::EXCEPTION_LEVEL != pstate::EL1 {
        0x400
    } else if from & pstate::OWN_STACK_POINTER != 0 {
        0x200
    } else {
        0x000
    }
}

/// PSTATE on taking an exception to EL1. What is not named here (IL, SS, BTYPE, UAO) is cleared, as the CPU does.
fn pstate_at_vector(from: &Interrupted) -> u64 {
    let mut now = PSTATE_EL1H | PSTATE_DAIF;
    now |= from.pstate & (pstate::NZCV | pstate::DIT | pstate::PAN);
    if from.sctlr_el1 & SCTLR_SPAN == 0 {
        now |= pstate::PAN;
    }
    if from.sctlr_el1 & SCTLR_DSSBS != 0 {
        now |= pstate::SSBS;
    }
    if from.features.mte {
        now |= pstate::TCO;
    }
    if from.features.nmi && from.sctlr_el1 & SCTLR_SPINTMASK == 0 {
        now |= pstate::ALLINT;
    }
    now
}

#[cfg(test)]
mod tests {
    use super::*;

    const EL0: u64 = 0;
    const EL1T: u64 = 0b0100;
    const EL1H: u64 = 0b0101;
    const AARCH32_USER: u64 = 0b1_0000;

    fn interrupted(pstate: u64, sctlr_el1: u64) -> Interrupted {
        let features = ExceptionFeatures::default();
        Interrupted { pc: 0x8_0000, pstate, vbar_el1: 0xffff_0000_0001_0800, sctlr_el1, features }
    }

    #[test]
    fn the_vector_follows_the_level_and_the_stack_pointer() {
        for (pstate, offset) in [(EL1T, 0x000), (EL1H, 0x200), (EL0, 0x400), (AARCH32_USER, 0x600)] {
            let taken = Injection::Undefined.take(&interrupted(pstate, 0));
            assert_eq!(taken.pc, 0xffff_0000_0001_0800 + offset, "{pstate:#x}");
            assert_eq!((taken.elr_el1, taken.spsr_el1), (0x8_0000, pstate));
        }
    }

    #[test]
    fn pstate_at_the_vector_is_what_the_cpu_would_make_of_it() {
        let nzcv_and_dit = 0b1010 << 28 | 1 << 24;
        let illegal_single_step_uao_btype_ssbs = 1 << 20 | 1 << 21 | 1 << 23 | 0b11 << 10 | 1 << 12;
        let from = interrupted(EL0 | nzcv_and_dit | illegal_single_step_uao_btype_ssbs, SCTLR_SPAN);
        assert_eq!(Injection::Undefined.take(&from).pstate, nzcv_and_dit | 0x3c5);
        assert_eq!(Injection::Undefined.take(&interrupted(EL1H, 0)).pstate, 0x3c5 | 1 << 22, "SPAN clear sets PAN");
        let kept = Injection::Undefined.take(&interrupted(EL1H | 1 << 22, SCTLR_SPAN)).pstate;
        assert_eq!(kept, 0x3c5 | 1 << 22, "SPAN set keeps PAN");
        let speculative = Injection::Undefined.take(&interrupted(EL1H, SCTLR_SPAN | SCTLR_DSSBS)).pstate;
        assert_eq!(speculative, 0x3c5 | 1 << 12);
    }

    #[test]
    fn tag_checks_and_interrupts_are_masked_where_the_cpu_has_the_feature() {
        let features = ExceptionFeatures { mte: true, nmi: true };
        let from = Interrupted { features, ..interrupted(EL1H, SCTLR_SPAN) };
        assert_eq!(Injection::Undefined.take(&from).pstate, 0x3c5 | 1 << 25 | 1 << 13);
        let masked_by_stack_pointer = Interrupted { sctlr_el1: SCTLR_SPAN | SCTLR_SPINTMASK, ..from };
        assert_eq!(Injection::Undefined.take(&masked_by_stack_pointer).pstate, 0x3c5 | 1 << 25);
    }

    #[test]
    fn an_external_abort_reports_level_direction_and_address() {
        let far = 0xffff_8000_1234_5678;
        let write = Syndrome(0x24 << 26 | 1 << 25 | 1 << 24 | 1 << 6 | 0x07);
        let taken = Injection::for_abort(write, far).take(&interrupted(EL1H, 0));
        assert_eq!(taken.esr_el1, 0x25 << 26 | 1 << 25 | 1 << 6 | 0x10);
        assert_eq!(taken.far_el1, Some(far));
        let taken = Injection::for_abort(write, far).take(&interrupted(EL0, 0));
        assert_eq!(taken.esr_el1 >> 26, 0x24);
        let fetch = Syndrome(0x20 << 26 | 1 << 25 | 1 << 6 | 0x07);
        assert_eq!(Injection::for_abort(fetch, far).take(&interrupted(EL1H, 0)).esr_el1, 0x21 << 26 | 1 << 25 | 0x10);
        assert_eq!(Injection::for_abort(fetch, far).take(&interrupted(EL0, 0)).esr_el1, 0x20 << 26 | 1 << 25 | 0x10);
    }

    #[test]
    fn an_undefined_instruction_leaves_the_fault_address_alone() {
        let taken = Injection::Undefined.take(&interrupted(EL0, 0));
        assert_eq!((taken.esr_el1, taken.far_el1), (1 << 25, None));
    }
}
