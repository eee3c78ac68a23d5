//! What all CPUs share once the boot CPU has set it up.

use crate::{environment, frame_pool::FramePool};
use aarch64_cpu::registers::{MIDR_EL1, MPIDR_EL1, Readable};
use monitor::Monitor;
use monitor::features::CpuFeatures;
use monitor::traps::{Translation, TrapControls};
use spin::Once;

/// The machine under hyp.
pub struct Machine {
    /// The boot CPU's features, which every CPU is taken to have.
    pub features: CpuFeatures,
    /// The host's stage 2.
    pub host_translation: Translation,
    /// All that hyp decides.
    pub monitor: Monitor,
}

impl Machine {
    /// The controls under which the host runs on the calling CPU: its identity is the CPU's own.
    pub fn host_controls(&self) -> TrapControls {
        TrapControls::host(&self.features, MIDR_EL1.get(), MPIDR_EL1.get(), self.host_translation)
    }
}

static MACHINE: Once<Machine> = Once::new();

/// The machine; `None` until the boot CPU has set it up.
pub fn get() -> Option<&'static Machine> {
    MACHINE.get()
}

/// Makes the machine known to all CPUs.
pub fn set(machine: Machine) -> &'static Machine {
    MACHINE.call_once(|| machine)
}

/// Gives the pool to its users.
pub fn set_pool(pool: FramePool) {
    *environment::POOL.lock() = Some(pool);
}
