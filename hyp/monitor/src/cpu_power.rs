//! Which CPUs the host has turned on, and where those that are on their way are to go.

use crate::platform::CpuIndex;
use abi::boot::MAX_CPUS;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// Where a CPU enters the host, and what it finds in x0 there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BootRequest {
    /// The host's entry point: an address in memory that is the host's.
    pub entry: u64,
    /// The host's context value.
    pub context: u64,
}

/// How far a CPU is (DEN0022, section 6.6 on AFFINITY_INFO and CPU_ON races).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum PowerState {
    /// Off, or on its way there.
    Off = 0,
    /// Claimed by a CPU_ON that is still filling in the request.
    Claimed = 1,
    /// Turned on, not yet in hyp.
    OnPending = 2,
    /// On.
    On = 3,
    /// On, and in a CPU_SUSPEND or SYSTEM_SUSPEND from which it comes back through hyp's entry.
    Suspended = 4,
}

/// One CPU's state. Only the CPU that moves `state` from `Off` to `Claimed`, or the CPU itself while it is `On`, writes
/// the request; the release and acquire of `state` order it.
struct Cpu {
    state: AtomicU8,
    entry: AtomicU64,
    context: AtomicU64,
}

impl Cpu {
    const fn new() -> Self {
        Self { state: AtomicU8::new(PowerState::Off as u8), entry: AtomicU64::new(0), context: AtomicU64::new(0) }
    }

    fn state(&self) -> PowerState {
        decode(self.state.load(Ordering::Acquire))
    }

    /// Moves from one state to another; the state that was found where it was not the first.
    fn transition(&self, from: PowerState, to: PowerState) -> Result<(), PowerState> {
        self.state
            .compare_exchange(from as u8, to as u8, Ordering::AcqRel, Ordering::Acquire)
            .map(|_| ())
            .map_err(decode)
    }

    fn set_request(&self, request: BootRequest) {
        self.entry.store(request.entry, Ordering::Relaxed);
        self.context.store(request.context, Ordering::Relaxed);
    }

    fn request(&self) -> BootRequest {
        BootRequest { entry: self.entry.load(Ordering::Relaxed), context: self.context.load(Ordering::Relaxed) }
    }
}

/// The state that a stored byte stands for.
const fn decode(raw: u8) -> PowerState {
    match raw {
        1 => PowerState::Claimed,
        2 => PowerState::OnPending,
        3 => PowerState::On,
        4 => PowerState::Suspended,
        _ => PowerState::Off,
    }
}

/// The power state of every CPU.
pub struct CpuPower {
    cpus: [Cpu; MAX_CPUS],
}

impl CpuPower {
    /// Every CPU off, save the one that boots.
    pub fn new(boot_cpu: CpuIndex) -> Self {
        let power = Self { cpus: [const { Cpu::new() }; MAX_CPUS] };
        if let Some(cpu) = power.cpus.get(boot_cpu.0) {
            cpu.state.store(PowerState::On as u8, Ordering::Release);
        }
        power
    }

    /// How far `cpu` is. A CPU that does not exist is off.
    pub fn state(&self, cpu: CpuIndex) -> PowerState {
        self.cpus.get(cpu.0).map_or(PowerState::Off, Cpu::state)
    }

    /// Claims a CPU that is off and files the request for it, which it takes when it is in hyp. The state that forbids
    /// it otherwise.
    pub fn begin_on(&self, cpu: CpuIndex, request: BootRequest) -> Result<(), PowerState> {
        let cpu = self.cpus.get(cpu.0).ok_or(PowerState::Off)?;
        cpu.transition(PowerState::Off, PowerState::Claimed)?;
        cpu.set_request(request);
        cpu.transition(PowerState::Claimed, PowerState::OnPending)
    }

    /// Takes a request back that the firmware refused.
    pub fn cancel_on(&self, cpu: CpuIndex) {
        if let Some(cpu) = self.cpus.get(cpu.0) {
            // A failure means that the CPU has come up after all, and is on.
            let _ = cpu.transition(PowerState::OnPending, PowerState::Off);
        }
    }

    /// The calling CPU is about to go off.
    pub fn begin_off(&self, cpu: CpuIndex) {
        if let Some(cpu) = self.cpus.get(cpu.0) {
            cpu.state.store(PowerState::Off as u8, Ordering::Release);
        }
    }

    /// The calling CPU is still on after all: the firmware refused. A CPU_ON that came meanwhile finds it on.
    pub fn cancel_off(&self, cpu: CpuIndex) {
        if let Some(cpu) = self.cpus.get(cpu.0) {
            cpu.state.store(PowerState::On as u8, Ordering::Release);
        }
    }

    /// The calling CPU is about to lose its state, and to come back through hyp's entry.
    pub fn begin_suspend(&self, cpu: CpuIndex, request: BootRequest) {
        if let Some(cpu) = self.cpus.get(cpu.0) {
            cpu.set_request(request);
            cpu.state.store(PowerState::Suspended as u8, Ordering::Release);
        }
    }

    /// The calling CPU has kept its state: the firmware refused, or a wake-up came first.
    pub fn cancel_suspend(&self, cpu: CpuIndex) {
        if let Some(cpu) = self.cpus.get(cpu.0) {
            cpu.state.store(PowerState::On as u8, Ordering::Release);
        }
    }

    /// The calling CPU has come through hyp's entry: it is on now, and this is where it goes. `None` where nobody asked
    /// for it; such a CPU must not enter the host.
    pub fn take_boot_request(&self, cpu: CpuIndex) -> Option<BootRequest> {
        let cpu = self.cpus.get(cpu.0)?;
        cpu.transition(PowerState::OnPending, PowerState::On)
            .or_else(|_| cpu.transition(PowerState::Suspended, PowerState::On))
            .ok()?;
        // Only now: the transition's acquire is what orders these reads behind the requester's writes.
        Some(cpu.request())
    }
}
