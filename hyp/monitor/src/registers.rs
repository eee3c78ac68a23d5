//! The registers that the world switch saves and loads, in the layout that its assembly addresses by `offset_of!`.

use crate::guest_timer::PhysicalTimer;
use crate::interrupt::InterruptRegisters;
use crate::traps::TrapControls;

/// PSTATE of EL1 with its own stack pointer (Arm ARM, SPSR_EL2.M = EL1h).
pub const PSTATE_EL1H: u64 = 0b0101;
/// PSTATE.{D, A, I, F}: every asynchronous exception masked.
pub const PSTATE_DAIF: u64 = 0b1111 << 6;
/// SCTLR_EL1 of a CPU that comes out of reset: RES1 bits and nothing else, so MMU, caches and alignment checks are
/// off, little-endian (Arm ARM, SCTLR_EL1). LSMAOE, nTLSMD, SPAN, EIS, TSCXT and EOS: what they control is RES1 on a CPU
/// without it, and on one with it as if it were not there; EIS and EOS make exceptions synchronise the context.
pub const SCTLR_EL1_RESET: u64 = 1 << 29 | 1 << 28 | 1 << 23 | 1 << 22 | 1 << 20 | 1 << 11;
/// MPIDR_EL1 bit 31, which reads as one.
const MPIDR_RES1: u64 = 1 << 31;
/// vCPUs that share Aff1: GICv3 addresses at most 16 targets of one affinity cluster by a list.
const VCPUS_PER_CLUSTER: u64 = 16;

/// The host's registers as its exception to EL2 left them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct HostRegisters {
    /// x0 to x30.
    pub x: [u64; 31],
    /// ELR_EL2: where the host goes on.
    pub elr: u64,
    /// SPSR_EL2: the host's PSTATE.
    pub spsr: u64,
    /// Keeps the frame's size a multiple of 16 bytes, as SP_EL2 must be.
    pub reserved: u64,
}

impl HostRegisters {
    /// Every register zero.
    pub const fn new() -> Self {
        Self { x: [0; 31], elr: 0, spsr: 0, reserved: 0 }
    }

    /// Register `index` as an instruction names it: 31 is XZR.
    pub fn x(&self, index: usize) -> u64 {
        self.x.get(index).copied().unwrap_or(0)
    }

    /// Writes register `index` as an instruction names it: 31 is XZR, and swallows the value.
    pub fn set_x(&mut self, index: usize, value: u64) {
        if let Some(register) = self.x.get_mut(index) {
            *register = value;
        }
    }

    /// Writes x0 to x3, where an SMCCC call returns its results.
    pub fn set_results(&mut self, results: [u64; 4]) {
        for (register, value) in self.x.iter_mut().zip(results) {
            *register = value;
        }
    }
}

impl Default for HostRegisters {
    fn default() -> Self {
        Self::new()
    }
}

const _: () = assert!(size_of::<HostRegisters>().is_multiple_of(16));

/// What a guest's exception to EL2 leaves in general registers, ELR_EL2 and SPSR_EL2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct GuestRegisters {
    /// x0 to x30.
    pub x: [u64; 31],
    /// ELR_EL2: the guest's program counter.
    pub pc: u64,
    /// SPSR_EL2: the guest's PSTATE.
    pub pstate: u64,
}

impl GuestRegisters {
    /// Register `index` as an instruction names it: 31 is XZR.
    pub fn x(&self, index: usize) -> u64 {
        self.x.get(index).copied().unwrap_or(0)
    }

    /// Writes register `index` as an instruction names it: 31 is XZR, and swallows the value.
    pub fn set_x(&mut self, index: usize, value: u64) {
        if let Some(register) = self.x.get_mut(index) {
            *register = value;
        }
    }

    /// Writes x0 to x3, where an SMCCC call returns its results.
    pub fn set_results(&mut self, results: [u64; 4]) {
        for (register, value) in self.x.iter_mut().zip(results) {
            *register = value;
        }
    }
}

/// The system registers of EL1 and EL0 that belong to whoever runs there: a vCPU's while it is in, the host's else.
///
/// ACTLR_EL1 and MDSCR_EL1 are not among them: a guest's accesses to them trap (HCR_EL2.TACR, MDCR_EL2.TDA), and are zero
/// while it is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct El1Registers {
    /// SP_EL0.
    pub sp_el0: u64,
    /// SP_EL1.
    pub sp_el1: u64,
    /// SCTLR_EL1.
    pub sctlr_el1: u64,
    /// CPACR_EL1.
    pub cpacr_el1: u64,
    /// TTBR0_EL1.
    pub ttbr0_el1: u64,
    /// TTBR1_EL1.
    pub ttbr1_el1: u64,
    /// TCR_EL1.
    pub tcr_el1: u64,
    /// ESR_EL1.
    pub esr_el1: u64,
    /// AFSR0_EL1.
    pub afsr0_el1: u64,
    /// AFSR1_EL1.
    pub afsr1_el1: u64,
    /// FAR_EL1.
    pub far_el1: u64,
    /// MAIR_EL1.
    pub mair_el1: u64,
    /// AMAIR_EL1.
    pub amair_el1: u64,
    /// VBAR_EL1.
    pub vbar_el1: u64,
    /// CONTEXTIDR_EL1.
    pub contextidr_el1: u64,
    /// TPIDR_EL0.
    pub tpidr_el0: u64,
    /// TPIDRRO_EL0.
    pub tpidrro_el0: u64,
    /// TPIDR_EL1.
    pub tpidr_el1: u64,
    /// ELR_EL1.
    pub elr_el1: u64,
    /// SPSR_EL1.
    pub spsr_el1: u64,
    /// PAR_EL1.
    pub par_el1: u64,
    /// CNTKCTL_EL1.
    pub cntkctl_el1: u64,
    /// DISR_EL1, which reaches VDISR_EL2 while a guest is in and HCR_EL2.AMO is set. Only where the CPU has FEAT_RAS.
    pub disr_el1: u64,
}

/// The virtual timer's registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct TimerRegisters {
    /// CNTV_CTL_EL0.
    pub cntv_ctl_el0: u64,
    /// CNTV_CVAL_EL0.
    pub cntv_cval_el0: u64,
    /// CNTVOFF_EL2. The host's is zero, and nobody at EL1 can set it.
    pub cntvoff_el2: u64,
}

/// The five pointer-authentication keys, low half first. Only where the CPU has FEAT_PAuth.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct PointerAuthenticationKeys {
    /// APIAKeyLo_EL1, APIAKeyHi_EL1.
    pub apia: [u64; 2],
    /// APIBKeyLo_EL1, APIBKeyHi_EL1.
    pub apib: [u64; 2],
    /// APDAKeyLo_EL1, APDAKeyHi_EL1.
    pub apda: [u64; 2],
    /// APDBKeyLo_EL1, APDBKeyHi_EL1.
    pub apdb: [u64; 2],
    /// APGAKeyLo_EL1, APGAKeyHi_EL1.
    pub apga: [u64; 2],
}

/// FP and SIMD registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C, align(16))]
pub struct FpRegisters {
    /// v0 to v31.
    pub v: [u128; 32],
    /// FPCR.
    pub fpcr: u64,
    /// FPSR.
    pub fpsr: u64,
}

/// Everything that the world switch needs of a vCPU.
///
/// What the world switch touches each time comes first, where an instruction that loads two words reaches it.
///
/// Between two calls of [`Platform::run_guest`](crate::platform::Platform::run_guest) the guest's whole state is
/// here and none of it in the CPU, so that what is written here is what the guest finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C, align(16))]
pub struct VcpuContext {
    /// EL1's and EL0's system registers.
    pub el1: El1Registers,
    /// The virtual timer.
    pub timer: TimerRegisters,
    /// What EL2's registers hold while the guest is in: traps, translation, identity.
    pub traps: TrapControls,
    /// General registers, PC and PSTATE.
    pub general: GuestRegisters,
    /// The physical timer, which is emulated.
    pub physical_timer: PhysicalTimer,
    /// CSSELR_EL1, which traps (HCR_EL2.TID2 or TID4): the CPU never holds it.
    pub csselr_el1: u64,
    /// The virtual CPU interface of the interrupt controller. Only where the CPU has its system registers.
    pub interrupts: InterruptRegisters,
    /// Pointer-authentication keys. They are the CPU's while the guest is in once the controls let it use them
    /// ([`TrapControls::gives_keys`]); until then the host's stay there, out of its reach.
    pub keys: PointerAuthenticationKeys,
    /// 1 where the FP registers below are to be loaded at entry and saved at exit. While it is 0 the guest's first use
    /// of FP traps (CPTR_EL2.TFP), and the registers in the CPU are the host's.
    pub fp_enabled: u64,
    /// FP and SIMD registers.
    pub fp: FpRegisters,
}

impl VcpuContext {
    /// The state of vCPU `index` as it comes out of reset at `entry` with `argument` in x0, under the given traps:
    /// EL1h, everything masked, MMU off (PSCI, DEN0022 section 6.4). CNTVCT_EL0 is CNTPCT_EL0 less `counter_offset`.
    pub fn reset(index: u64, entry: u64, argument: u64, traps: TrapControls, counter_offset: u64) -> Self {
        let mut general = GuestRegisters { x: [0; 31], pc: entry, pstate: PSTATE_EL1H | PSTATE_DAIF };
        general.set_x(0, argument);
        Self {
            general,
            el1: El1Registers { sctlr_el1: SCTLR_EL1_RESET, ..El1Registers::default() },
            timer: TimerRegisters { cntvoff_el2: counter_offset, ..TimerRegisters::default() },
            physical_timer: PhysicalTimer::default(),
            csselr_el1: 0,
            interrupts: InterruptRegisters::default(),
            keys: PointerAuthenticationKeys::default(),
            traps: TrapControls { vmpidr_el2: mpidr_of_vcpu(index) | MPIDR_RES1, ..traps },
            fp_enabled: 0,
            fp: FpRegisters::default(),
        }
    }
}

/// The affinity fields that vCPU `index` finds in MPIDR_EL1.
pub const fn mpidr_of_vcpu(index: u64) -> u64 {
    (index % VCPUS_PER_CLUSTER) | ((index / VCPUS_PER_CLUSTER) & 0xff) << 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn register_31_reads_zero_and_swallows_writes() {
        let mut registers = HostRegisters { x: [7; 31], elr: 1, spsr: 2, reserved: 0 };
        registers.set_x(31, 9);
        registers.set_x(30, 5);
        assert_eq!(registers.x(31), 0);
        assert_eq!(registers.x(30), 5);
        assert_eq!(registers.x(29), 7);
        assert_eq!((registers.elr, registers.spsr), (1, 2));
    }

    #[test]
    fn a_vcpu_comes_out_of_reset_masked_and_with_its_mmu_off() {
        let context = VcpuContext::reset(3, 0x4020_0000, 0x4000_0000, TrapControls::default(), 0);
        assert_eq!(context.general.pc, 0x4020_0000);
        assert_eq!(context.general.x[0], 0x4000_0000);
        assert!(context.general.x[1..].iter().all(|&x| x == 0));
        assert_eq!(context.general.pstate, 0x3c5);
        assert_eq!(context.el1.sctlr_el1 & 0x1005, 0, "MMU, data cache and instruction cache are off");
        assert_eq!(context.traps.vmpidr_el2, 0x8000_0003);
        assert_eq!(context.fp_enabled, 0);
    }

    #[test]
    fn vcpu_affinities_differ() {
        assert_eq!(mpidr_of_vcpu(15), 15);
        assert_eq!(mpidr_of_vcpu(16), 0x100);
        assert_eq!(mpidr_of_vcpu(33), 0x201);
    }
}
