//! The world switch: the host's EL1 state out, a guest's in, and back.
//!
//! All of a guest's state is in its [`VcpuContext`] while it is not in; all of the host's is on this stack while the
//! guest is. Interrupts stay masked at EL2 throughout; one that comes while the guest runs brings it out.

use crate::machine;
use crate::system_register::{mrs, msr};
use crate::{barrier, controls, vector_registers};
use monitor::features::CpuFeatures;
use monitor::platform::GuestTrap;
use monitor::registers::{El1Registers, PointerAuthenticationKeys, TimerRegisters, VcpuContext};
use monitor::syndrome::Exception;

unsafe extern "C" {
    /// In `world_switch.S`.
    fn enter_vcpu(context: *mut VcpuContext) -> u64;
}

/// Kinds of exception that the guest vectors tell apart.
const SYNCHRONOUS: u64 = 0;
const IRQ: u64 = 1;
const FIQ: u64 = 2;

macro_rules! el1_registers {
    ($($field:ident = $name:literal,)*) => {
        fn save_el1() -> El1Registers {
            El1Registers { $($field: mrs!($name),)* ..El1Registers::default() }
        }

        fn load_el1(registers: &El1Registers) {
            // SAFETY: registers of EL1 and EL0 have no effect on EL2 but the thread registers' values, which EL2 does
            // not read.
            unsafe { $(msr!($name, registers.$field);)* }
        }
    };
}

el1_registers! {
    sp_el0 = "sp_el0",
    sp_el1 = "sp_el1",
    sctlr_el1 = "sctlr_el1",
    actlr_el1 = "actlr_el1",
    cpacr_el1 = "cpacr_el1",
    ttbr0_el1 = "ttbr0_el1",
    ttbr1_el1 = "ttbr1_el1",
    tcr_el1 = "tcr_el1",
    esr_el1 = "esr_el1",
    afsr0_el1 = "afsr0_el1",
    afsr1_el1 = "afsr1_el1",
    far_el1 = "far_el1",
    mair_el1 = "mair_el1",
    amair_el1 = "amair_el1",
    vbar_el1 = "vbar_el1",
    contextidr_el1 = "contextidr_el1",
    tpidr_el0 = "tpidr_el0",
    tpidrro_el0 = "tpidrro_el0",
    tpidr_el1 = "tpidr_el1",
    elr_el1 = "elr_el1",
    spsr_el1 = "spsr_el1",
    par_el1 = "par_el1",
    cntkctl_el1 = "cntkctl_el1",
    csselr_el1 = "csselr_el1",
    mdscr_el1 = "mdscr_el1",
}

fn save_timer() -> TimerRegisters {
    TimerRegisters {
        cntv_ctl_el0: mrs!("cntv_ctl_el0"),
        cntv_cval_el0: mrs!("cntv_cval_el0"),
        cntvoff_el2: mrs!("cntvoff_el2"),
    }
}

fn load_timer(timer: &TimerRegisters) {
    // SAFETY: EL2 takes no interrupt and reads no virtual time.
    unsafe {
        msr!("cntv_ctl_el0", 0);
        barrier::isb();
        msr!("cntvoff_el2", timer.cntvoff_el2);
        msr!("cntv_cval_el0", timer.cntv_cval_el0);
        barrier::isb();
        msr!("cntv_ctl_el0", timer.cntv_ctl_el0);
    }
}

macro_rules! key_registers {
    ($($field:ident = $low:literal, $high:literal;)*) => {
        fn save_keys() -> PointerAuthenticationKeys {
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

/// What the CPU may go on doing for the host at EL1's expense while a guest is in: profiling, tracing, branch records,
/// tagging, speculation contexts.
#[derive(Default)]
struct HostActivity {
    pmscr_el1: u64,
    pmblimitr_el1: u64,
    trblimitr_el1: u64,
    trfcr_el1: u64,
    brbcr_el1: u64,
    scxtnum_el0: u64,
    scxtnum_el1: u64,
    tpidr2_el0: u64,
}

impl HostActivity {
    /// Stops it all, and waits until what was under way has reached the host's memory. The buffers are switched off too:
    /// while a guest is in they are EL2's (MDCR_EL2.E2PB, E2TB), whose addresses the host's pointers must not become.
    fn suspend(features: &CpuFeatures) -> Self {
        let mut activity = Self::default();
        // SAFETY: registers of EL1 that exist on this CPU; stopping the host's own profiling and tracing affects no one
        // else.
        unsafe {
            if features.spe && !features.spe_owned_above {
                activity.pmscr_el1 = mrs!("S3_0_C9_C9_0");
                msr!("S3_0_C9_C9_0", 0);
                barrier::isb();
                core::arch::asm!("hint #17", options(nostack, preserves_flags)); // PSB CSYNC
                barrier::dsb_nsh();
                activity.pmblimitr_el1 = mrs!("S3_0_C9_C10_0");
                msr!("S3_0_C9_C10_0", 0);
                barrier::isb();
            }
            if features.trf {
                activity.trfcr_el1 = mrs!("S3_0_C1_C2_1");
                msr!("S3_0_C1_C2_1", 0);
                barrier::isb();
                core::arch::asm!("hint #18", options(nostack, preserves_flags)); // TSB CSYNC
                barrier::dsb_nsh();
            }
            if features.trbe && !features.trbe_owned_above {
                activity.trblimitr_el1 = mrs!("S3_0_C9_C11_0");
                msr!("S3_0_C9_C11_0", 0);
                barrier::isb();
            }
            if features.brbe {
                activity.brbcr_el1 = mrs!("S2_1_C9_C0_0");
                msr!("S2_1_C9_C0_0", 0);
            }
            if features.scxtnum {
                activity.scxtnum_el0 = mrs!("S3_3_C13_C0_7");
                activity.scxtnum_el1 = mrs!("S3_0_C13_C0_7");
                msr!("S3_3_C13_C0_7", 0);
                msr!("S3_0_C13_C0_7", 0);
            }
            if features.sme {
                activity.tpidr2_el0 = mrs!("S3_3_C13_C0_5");
                msr!("S3_3_C13_C0_5", 0);
            }
        }
        activity
    }

    /// Lets the host go on where it was. The host's controls are in force, so that the buffers are the host's again.
    fn resume(&self, features: &CpuFeatures) {
        // SAFETY: as in `suspend`; the values are those that were found.
        unsafe {
            if features.spe && !features.spe_owned_above {
                msr!("S3_0_C9_C10_0", self.pmblimitr_el1);
                barrier::isb();
                msr!("S3_0_C9_C9_0", self.pmscr_el1);
            }
            if features.trbe && !features.trbe_owned_above {
                msr!("S3_0_C9_C11_0", self.trblimitr_el1);
                barrier::isb();
            }
            if features.trf {
                msr!("S3_0_C1_C2_1", self.trfcr_el1);
            }
            if features.brbe {
                msr!("S2_1_C9_C0_0", self.brbcr_el1);
            }
            if features.scxtnum {
                msr!("S3_3_C13_C0_7", self.scxtnum_el0);
                msr!("S3_0_C13_C0_7", self.scxtnum_el1);
            }
            if features.sme {
                msr!("S3_3_C13_C0_5", self.tpidr2_el0);
            }
        }
    }
}

/// Runs the guest until it traps.
pub fn enter(context: &mut VcpuContext) -> GuestTrap {
    // No guest exists before the machine does; a caller that got here all the same comes back at once.
    let Some(machine) = machine::get() else { return GuestTrap::Interrupt };
    let features = &machine.features;
    let activity = HostActivity::suspend(features);
    let host = save_el1();
    let host_timer = save_timer();
    let host_keys = features.pauth.then(save_keys);
    let with_fp = context.fp_enabled != 0;
    let host_vectors = vector_registers::swap_in(features, with_fp.then_some(&context.fp));

    load_el1(&context.el1);
    load_timer(&context.timer);
    if features.pauth {
        load_keys(&context.keys);
    }
    // SAFETY: the context's controls come from `TrapControls::guest` for this machine's features and the guest's own
    // stage 2; the context lives until the guest is out again, and `enter_vcpu` returns with this stack as it was.
    let kind = unsafe {
        if features.ras {
            msr!("S3_4_C12_C1_1", context.el1.disr_el1); // VDISR_EL2
        }
        controls::load(&context.traps, features);
        barrier::isb();
        enter_vcpu(context)
    };

    let esr = mrs!("esr_el2");
    let exception = Exception { esr, far: mrs!("far_el2"), hpfar: mrs!("hpfar_el2") };
    context.el1 = save_el1();
    if features.ras {
        context.el1.disr_el1 = mrs!("S3_4_C12_C1_1"); // VDISR_EL2
    }
    context.timer = save_timer();
    if features.pauth {
        context.keys = save_keys();
    }
    // SAFETY: the host's controls name the host's stage 2, and the host runs next.
    unsafe { controls::load(&machine.host_controls(), features) };
    barrier::isb();
    vector_registers::swap_out(features, host_vectors, with_fp.then_some(&mut context.fp));
    load_el1(&host);
    load_timer(&host_timer);
    if let Some(keys) = &host_keys {
        load_keys(keys);
    }
    activity.resume(features);
    barrier::isb();

    match kind {
        SYNCHRONOUS => GuestTrap::Synchronous(exception),
        IRQ | FIQ => GuestTrap::Interrupt,
        _ => GuestTrap::SError { esr },
    }
}
