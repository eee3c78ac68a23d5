//! The world switch: the host's EL1 state out, a guest's in, and back.
//!
//! All of a guest's state is in its [`VcpuContext`] while it is not in; all of the host's is on this stack while the
//! guest is. Interrupts stay masked at EL2 throughout; one that comes while the guest runs brings it out.

use crate::machine;
use crate::system_register::{mrs, msr};
use crate::vector_registers::HostVectors;
use crate::{barrier, controls, interrupt_registers, vector_registers};
use aarch64_cpu::registers::{
    ACTLR_EL1, AFSR0_EL1, AFSR1_EL1, AMAIR_EL1, CNTKCTL_EL1, CNTV_CTL_EL0, CNTV_CVAL_EL0, CNTVOFF_EL2, CONTEXTIDR_EL1,
    CPACR_EL1, ELR_EL1, ESR_EL1, ESR_EL2, FAR_EL1, FAR_EL2, HPFAR_EL2, MAIR_EL1, MDSCR_EL1, PAR_EL1, Readable,
    SCTLR_EL1, SP_EL0, SP_EL1, SPSR_EL1, TCR_EL1, TPIDR_EL0, TPIDR_EL1, TPIDRRO_EL0, TTBR0_EL1, TTBR1_EL1, VBAR_EL1,
    VBAR_EL2, Writeable,
};
use monitor::platform::{GuestTrap, Next};
use monitor::registers::{El1Registers, GuestRegisters, PointerAuthenticationKeys, TimerRegisters, VcpuContext};
use monitor::switch_features::SwitchFeatures;
use monitor::syndrome::{Exception, Syndrome};

unsafe extern "C" {
    /// In `world_switch.S`.
    fn enter_vcpu(registers: *mut GuestRegisters) -> u64;
    /// In `world_switch.S`.
    fn take_serror() -> u64;
    /// In `vectors.S`: those that tell a guest's exceptions. EL2's own go the same way in both tables.
    static guest_vectors: u8;
    /// In `vectors.S`: those that tell the host's.
    static host_vectors: u8;
}

/// Kinds of exception that the guest vectors tell apart.
const SYNCHRONOUS: u64 = 0;
const IRQ: u64 = 1;
const FIQ: u64 = 2;
const SERROR: u64 = 3;

/// Two registers at a time, so that a store or load of both goes with them.
macro_rules! el1_registers {
    ($($first:ident = $first_name:ident, $second:ident = $second_name:ident;)*) => {
        /// Those of the CPU. FEAT_RAS's is the guest's alone.
        #[inline(never)]
        fn current_el1() -> El1Registers {
            let mut registers = El1Registers::default();
            save_el1(&mut registers);
            registers
        }

        #[inline(always)]
        fn save_el1(registers: &mut El1Registers) {
            $(
                let (first, second) = ($first_name.get(), $second_name.get());
                registers.$first = first;
                registers.$second = second;
            )*
        }

        #[inline(always)]
        fn load_el1(registers: &El1Registers) {
            $(
                $first_name.set(registers.$first);
                $second_name.set(registers.$second);
            )*
        }
    };
}

el1_registers! {
    sp_el0 = SP_EL0, sp_el1 = SP_EL1;
    sctlr_el1 = SCTLR_EL1, cpacr_el1 = CPACR_EL1;
    ttbr0_el1 = TTBR0_EL1, ttbr1_el1 = TTBR1_EL1;
    tcr_el1 = TCR_EL1, esr_el1 = ESR_EL1;
    afsr0_el1 = AFSR0_EL1, afsr1_el1 = AFSR1_EL1;
    far_el1 = FAR_EL1, mair_el1 = MAIR_EL1;
    amair_el1 = AMAIR_EL1, vbar_el1 = VBAR_EL1;
    contextidr_el1 = CONTEXTIDR_EL1, tpidr_el0 = TPIDR_EL0;
    tpidrro_el0 = TPIDRRO_EL0, tpidr_el1 = TPIDR_EL1;
    elr_el1 = ELR_EL1, spsr_el1 = SPSR_EL1;
    par_el1 = PAR_EL1, cntkctl_el1 = CNTKCTL_EL1;
}

/// ACTLR_EL1 and MDSCR_EL1, which only the host can set. They are zero while a guest is in.
#[derive(Clone, Copy, PartialEq, Eq)]
struct HostSettings {
    actlr_el1: u64,
    mdscr_el1: u64,
}

impl HostSettings {
    const NONE: Self = Self { actlr_el1: 0, mdscr_el1: 0 };

    /// What the CPU has.
    #[inline(always)]
    fn current() -> Self {
        Self { actlr_el1: ACTLR_EL1.get(), mdscr_el1: MDSCR_EL1.get() }
    }

    #[inline(always)]
    fn load(self) {
        ACTLR_EL1.set(self.actlr_el1);
        MDSCR_EL1.set(self.mdscr_el1);
    }
}

/// What a guest or the host can set of the virtual timer: CNTV_CTL_EL0 and CNTV_CVAL_EL0.
#[inline(always)]
fn save_timer(timer: &mut TimerRegisters) {
    let (control, value) = (CNTV_CTL_EL0.get(), CNTV_CVAL_EL0.get());
    timer.cntv_ctl_el0 = control;
    timer.cntv_cval_el0 = value;
}

/// The timer is off while it is neither one's nor the other's.
#[inline(always)]
fn load_timer(timer: &TimerRegisters) {
    CNTV_CTL_EL0.set(0);
    barrier::isb();
    CNTVOFF_EL2.set(timer.cntvoff_el2);
    CNTV_CVAL_EL0.set(timer.cntv_cval_el0);
    barrier::isb();
    CNTV_CTL_EL0.set(timer.cntv_ctl_el0);
}

macro_rules! key_registers {
    ($($field:ident = $low:literal, $high:literal;)*) => {
        fn current_keys() -> PointerAuthenticationKeys {
            PointerAuthenticationKeys { $($field: [mrs!($low), mrs!($high)],)* }
        }

        fn load_keys(keys: &PointerAuthenticationKeys) {
            // SAFETY: EL2 does not use pointer authentication; the CPU has the registers, or this is not called.
            unsafe { $(msr!($low, keys.$field[0]); msr!($high, keys.$field[1]);)* }
        }
    };
}

key_registers! {
    apia = "S3_0_C2_C1_0", "S3_0_C2_C1_1";
    apib = "S3_0_C2_C1_2", "S3_0_C2_C1_3";
    apda = "S3_0_C2_C2_0", "S3_0_C2_C2_1";
    apdb = "S3_0_C2_C2_2", "S3_0_C2_C2_3";
    apga = "S3_0_C2_C3_0", "S3_0_C2_C3_1";
}

/// Loads a guest's keys; the host's, which were in the CPU.
#[inline(never)]
fn exchange_keys(guest: &PointerAuthenticationKeys) -> PointerAuthenticationKeys {
    let host = current_keys();
    load_keys(guest);
    host
}

/// What the CPU may go on doing for the host while a guest is in: profiling, tracing, branch records.
///
/// SCXTNUM_ELx (FEAT_CSV2_2) stay the host's, out of a guest's reach by HCR_EL2.EnSCXT: whether EL2 may touch them is
/// SCR_EL3.EnSCXT's to say, which the boot protocol does not ask for and EL2 cannot read.
#[derive(Default)]
struct HostActivity {
    pmscr_el1: u64,
    pmblimitr_el1: u64,
    trblimitr_el1: u64,
    trfcr_el1: u64,
    brbcr_el1: u64,
    tpidr2_el0: u64,
}

impl HostActivity {
    /// Stops it all, and waits until what was under way has reached the host's memory. The buffers are switched off too:
    /// while a guest is in they are EL2's (MDCR_EL2.E2PB, E2TB), whose addresses the host's pointers must not become.
    #[inline(never)]
    fn suspend(features: SwitchFeatures) -> Self {
        let mut activity = Self::default();
        // SAFETY: registers of EL1 that exist on this CPU; stopping the host's own profiling and tracing affects no one
        // else.
        unsafe {
            if features.has(SwitchFeatures::SPE) {
                activity.pmscr_el1 = mrs!("S3_0_C9_C9_0");
                msr!("S3_0_C9_C9_0", 0);
                barrier::isb();
                core::arch::asm!("hint #17", options(nostack, preserves_flags)); // PSB CSYNC
                barrier::dsb_nsh();
                activity.pmblimitr_el1 = mrs!("S3_0_C9_C10_0");
                msr!("S3_0_C9_C10_0", 0);
                barrier::isb();
            }
            if features.has(SwitchFeatures::TRF) {
                activity.trfcr_el1 = mrs!("S3_0_C1_C2_1");
                msr!("S3_0_C1_C2_1", 0);
                barrier::isb();
                core::arch::asm!("hint #18", options(nostack, preserves_flags)); // TSB CSYNC
                barrier::dsb_nsh();
            }
            if features.has(SwitchFeatures::TRBE) {
                activity.trblimitr_el1 = mrs!("S3_0_C9_C11_0");
                msr!("S3_0_C9_C11_0", 0);
                barrier::isb();
            }
            if features.has(SwitchFeatures::BRBE) {
                activity.brbcr_el1 = mrs!("S2_1_C9_C0_0");
                msr!("S2_1_C9_C0_0", 0);
            }
            if features.has(SwitchFeatures::TPIDR2_IN_REACH) {
                activity.tpidr2_el0 = mrs!("S3_3_C13_C0_5");
                msr!("S3_3_C13_C0_5", 0);
            }
        }
        activity
    }

    /// Lets the host go on where it was. The host's controls are in force, so that the buffers are the host's again.
    #[inline(never)]
    fn resume(&self, features: SwitchFeatures) {
        // SAFETY: as in `suspend`; the values are those that were found.
        unsafe {
            if features.has(SwitchFeatures::SPE) {
                msr!("S3_0_C9_C10_0", self.pmblimitr_el1);
                barrier::isb();
                msr!("S3_0_C9_C9_0", self.pmscr_el1);
            }
            if features.has(SwitchFeatures::TRBE) {
                msr!("S3_0_C9_C11_0", self.trblimitr_el1);
                barrier::isb();
            }
            if features.has(SwitchFeatures::TRF) {
                msr!("S3_0_C1_C2_1", self.trfcr_el1);
            }
            if features.has(SwitchFeatures::BRBE) {
                msr!("S2_1_C9_C0_0", self.brbcr_el1);
            }
            if features.has(SwitchFeatures::TPIDR2_IN_REACH) {
                msr!("S3_3_C13_C0_5", self.tpidr2_el0);
            }
        }
    }
}

/// Runs the guest until it traps and `next` says that it is to come out; see `Platform::run_guest`.
#[inline(always)]
pub fn run(context: &mut VcpuContext, mut next: impl FnMut(Syndrome, &mut VcpuContext) -> Next) -> GuestTrap {
    // No guest exists before the machine does; a caller that got here all the same comes back at once.
    let Some(machine) = machine::get() else { return GuestTrap::Interrupt };
    let features = machine.switch_features;
    let activity =
        if features.has(SwitchFeatures::HOST_ACTIVITY) { Some(HostActivity::suspend(features)) } else { None };
    let host = current_el1();
    let settings = HostSettings::current();
    if settings != HostSettings::NONE {
        HostSettings::NONE.load();
    }
    let mut host_timer = TimerRegisters::default();
    save_timer(&mut host_timer);
    let mut host_keys = if context.traps.gives_keys() { Some(exchange_keys(&context.keys)) } else { None };
    let mut put_away = vector_registers::swap_in(machine, (context.fp_enabled != 0).then_some(&context.fp));

    load_el1(&context.el1);
    load_timer(&context.timer);
    if features.has(SwitchFeatures::GIC) {
        interrupt_registers::load(&context.interrupts, machine);
    }
    // SAFETY: the context's controls come from `TrapControls::guest` for this machine's features and the guest's own
    // stage 2.
    unsafe {
        if features.has(SwitchFeatures::RAS) {
            msr!("S3_4_C12_C1_1", context.el1.disr_el1); // VDISR_EL2
        }
        controls::load_guest(&context.traps, features);
    }
    // All of it is in force for the guest, whose entry is an exception return. EL2's own exceptions find the same in
    // both tables.
    VBAR_EL2.set(&raw const guest_vectors as u64);

    // An SError that is pending here is not the guest's: the host takes it as soon as it runs.
    let is_hosts_serror = is_serror_pending();
    let kind = loop {
        if is_hosts_serror {
            break IRQ;
        }
        // SAFETY: the guest's controls and state are in the CPU; the context lives until the guest is out again, and
        // `enter_vcpu` returns with this stack as it was.
        let kind = unsafe { enter_vcpu(&mut context.general) };
        if kind != SYNCHRONOUS {
            break kind;
        }
        match next(Syndrome(ESR_EL2.get()), context) {
            Next::Resume => {}
            Next::ResumeWithFp => {
                // SAFETY: the host's value traps nothing of FP at EL2 and below, and the guest's follows it at once.
                unsafe { controls::load_cptr(machine.host_controls.cptr_el2) };
                put_away = vector_registers::swap_in_late(machine, put_away, &context.fp);
                context.fp_enabled = 1;
                // SAFETY: from `TrapControls::guest`, with FP let through.
                unsafe { controls::load_cptr(context.traps.cptr_el2) };
            }
            Next::ResumeWithKeys => {
                host_keys.get_or_insert_with(|| exchange_keys(&context.keys));
                // SAFETY: from `TrapControls::guest`, with the keys, which are the guest's now, given to it.
                unsafe { controls::load_hcr(context.traps.hcr_el2) };
            }
            Next::Leave => break kind,
        }
    };
    let trap = guest_trap(if !is_hosts_serror && has_left_serror() { SERROR } else { kind });

    VBAR_EL2.set(&raw const host_vectors as u64);
    save_el1(&mut context.el1);
    if features.has(SwitchFeatures::RAS) {
        context.el1.disr_el1 = mrs!("S3_4_C12_C1_1"); // VDISR_EL2
    }
    save_timer(&mut context.timer);
    if features.has(SwitchFeatures::GIC) {
        interrupt_registers::save(&mut context.interrupts, machine);
    }
    // SAFETY: the host's controls name the host's stage 2, and the host runs next.
    unsafe { controls::load_host(&machine.host_controls, features) };
    barrier::isb();
    if put_away != HostVectors::InPlace {
        let guest = if context.fp_enabled != 0 { Some(&mut context.fp) } else { None };
        vector_registers::swap_out(&machine.features, put_away, guest);
    }
    load_el1(&host);
    load_timer(&host_timer);
    if let Some(keys) = &host_keys {
        context.keys = exchange_keys(keys);
    }
    if settings != HostSettings::NONE {
        settings.load();
    }
    if let Some(activity) = &activity {
        activity.resume(features);
    }
    barrier::isb();

    trap
}

/// ISR_EL1.A: a physical SError is pending (Arm ARM, ISR_EL1).
const SERROR_PENDING: u64 = 1 << 8;

/// True where a physical SError is pending for this CPU, though PSTATE masks it.
#[inline(always)]
fn is_serror_pending() -> bool {
    mrs!("isr_el1") & SERROR_PENDING != 0
}

/// Takes an SError that the guest has left behind, by what it wrote to a device or to bad memory: all that it did is
/// complete when it is asked for. It must not become the host's, which it would be once HCR_EL2.AMO is clear. ESR_EL2
/// describes it then.
#[inline(always)]
fn has_left_serror() -> bool {
    barrier::dsb_sy();
    // SAFETY: HCR_EL2.AMO and the vectors are the guest's still; the SError is taken at the one instruction where the
    // vectors expect it.
    is_serror_pending() && unsafe { take_serror() } != 0
}

/// Stage 1's translation of a virtual address, by the tables of the guest, whose state is in the CPU: what PAR_EL1
/// holds after it.
#[cold]
fn translate_stage1(address: u64) -> u64 {
    let guests = PAR_EL1.get();
    // SAFETY: with HCR_EL2.TGE clear this is the translation of EL1 (Arm ARM C5.4), with the rights of a read; it
    // writes PAR_EL1 alone. The walk reads what stage 2 gives to the guest, and no device (HCR_EL2.PTW).
    unsafe { core::arch::asm!("at s1e1r, {}", in(reg) address, options(nostack, preserves_flags)) };
    barrier::isb();
    let result = PAR_EL1.get();
    PAR_EL1.set(guests);
    result
}

/// What brought the guest out, from the kind that its vector gave. Where stage 1 does not translate any more what it
/// did when the guest faulted, the guest has come out for nothing, as for an interrupt, and is to make its access
/// again.
#[inline(always)]
fn guest_trap(kind: u64) -> GuestTrap {
    match kind {
        SYNCHRONOUS => {
            let exception = Exception { esr: ESR_EL2.get(), far: FAR_EL2.get(), hpfar: HPFAR_EL2.get() };
            if exception.is_page_unknown() {
                return exception.translated(translate_stage1).map_or(GuestTrap::Interrupt, GuestTrap::Synchronous);
            }
            GuestTrap::Synchronous(exception)
        }
        IRQ | FIQ => GuestTrap::Interrupt,
        _ => GuestTrap::SError { esr: ESR_EL2.get() },
    }
}
