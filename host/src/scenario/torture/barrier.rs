//! A place where all CPUs wait for each other.

use crate::cpu::Cpu;
use crate::interrupt;
use alloc::vec::Vec;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicUsize, Ordering};

/// CPUs that are awake before a race begins, where there are as many: more may never run at once, where CPUs are emulated.
const AWAKE: usize = 2;

/// The place.
pub struct Barrier {
    cpus: Vec<&'static Cpu>,
    arrived: AtomicUsize,
    /// How often all have met.
    meetings: AtomicUsize,
    /// CPUs that have come out, over all meetings.
    left: AtomicUsize,
}

impl Barrier {
    /// A place where these CPUs meet.
    pub fn new(cpus: &[&'static Cpu]) -> Self {
        let zero = || AtomicUsize::new(0);
        Self { cpus: cpus.to_vec(), arrived: zero(), meetings: zero(), left: zero() }
    }

    /// Returns when all CPUs are here.
    pub fn wait(&self) {
        let meeting = self.meetings.load(Ordering::Acquire);
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.cpus.len() {
            self.arrived.store(0, Ordering::Relaxed);
            self.meetings.store(meeting.wrapping_add(1), Ordering::Release);
            self.cpus.iter().for_each(|cpu| interrupt::wake(cpu.mpidr()));
        }
        let met = || self.meetings.load(Ordering::Acquire) != meeting;
        while !met() {
            interrupt::sleep_unless(met);
        }
        self.left.fetch_add(1, Ordering::AcqRel);
    }

    /// As [`wait`](Self::wait), and two CPUs at least go on at the same time.
    pub fn wait_and_start_together(&self) {
        self.wait();
        let count = self.cpus.len();
        let before = (self.meetings.load(Ordering::Acquire).wrapping_sub(1)).wrapping_mul(count);
        while self.left.load(Ordering::Acquire).wrapping_sub(before) < count.min(AWAKE) {
            spin_loop();
        }
    }
}
