//! What all CPUs share once the boot CPU has set it up.

use crate::{environment, frame_pool::FramePool};
use monitor::Monitor;
use monitor::features::CpuFeatures;
use monitor::switch_features::SwitchFeatures;
use monitor::traps::TrapControls;
use spin::Once;

/// The machine under hyp.
pub struct Machine {
    /// The boot CPU's features, which every CPU is taken to have.
    pub features: CpuFeatures,
    /// Those of them that the world switch asks about.
    pub switch_features: SwitchFeatures,
    /// The controls under which the host runs, but for its identity, which is each CPU's own.
    pub host_controls: TrapControls,
    /// All that hyp decides.
    pub monitor: Monitor,
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
