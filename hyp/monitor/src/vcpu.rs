//! One virtual CPU: who may run it, and its registers.

use crate::mmio::Pending;
use crate::platform::CpuIndex;
use crate::registers::VcpuContext;
use abi::{Error, Pfn};
use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};

/// What a vCPU is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VcpuState {
    /// Off, until another vCPU turns it on (PSCI CPU_ON).
    Off,
    /// A CPU_ON is filling in its registers.
    Starting,
    /// Turned on, and not run since.
    OnPending,
    /// It may be run.
    Ready,
    /// It runs on this CPU.
    Running(CpuIndex),
    /// It will not run again.
    Stopped,
    /// The host looks at its registers, or sets one, which is over in a moment.
    Examined,
}

/// States without a CPU, as they are stored; a running vCPU is stored as `RUNNING` plus the CPU's index.
const OFF: u32 = 0;
const STARTING: u32 = 1;
const ON_PENDING: u32 = 2;
const READY: u32 = 3;
const STOPPED: u32 = 4;
const RUNNING: u32 = 0x100;
/// Besides the state that a vCPU has again once the host has dealt with a register.
const EXAMINED: u32 = 0x200;

impl VcpuState {
    const fn encode(self) -> u32 {
        match self {
            VcpuState::Off => OFF,
            VcpuState::Starting => STARTING,
            VcpuState::OnPending => ON_PENDING,
            VcpuState::Ready => READY,
            VcpuState::Stopped => STOPPED,
            VcpuState::Examined => EXAMINED,
            VcpuState::Running(cpu) => RUNNING | (cpu.0 & 0xff) as u32,
        }
    }

    const fn decode(raw: u32) -> Self {
        match raw {
            OFF => VcpuState::Off,
            STARTING => VcpuState::Starting,
            ON_PENDING => VcpuState::OnPending,
            READY => VcpuState::Ready,
            STOPPED => VcpuState::Stopped,
            examined if examined & EXAMINED != 0 => VcpuState::Examined,
            running => VcpuState::Running(CpuIndex((running & 0xff) as usize)),
        }
    }
}

const _: () = assert!(abi::boot::MAX_CPUS <= 0x100);

/// What only the holder of a [`Claim`] sees of a vCPU.
#[derive(Debug)]
pub struct VcpuRegisters {
    /// The guest's registers.
    pub context: VcpuContext,
    /// What the host is to answer before the guest goes on.
    pub pending: Option<Pending>,
}

/// A vCPU, in memory that the host donated for it.
pub struct Vcpu {
    index: u64,
    run_page: Pfn,
    state: AtomicU32,
    registers: UnsafeCell<VcpuRegisters>,
}

// SAFETY: `registers` is reached only through a `Claim`, and `state` lets one CPU at a time have that: a claim is made
// by a compare-exchange out of a state that nobody holds into one that nobody else leaves.
unsafe impl Sync for Vcpu {}

impl Vcpu {
    /// vCPU `index`, with the registers that it starts with, off or ready to run.
    pub fn new(index: u64, run_page: Pfn, context: VcpuContext, ready: bool) -> Self {
        let state = if ready { VcpuState::Ready } else { VcpuState::Off };
        Self {
            index,
            run_page,
            state: AtomicU32::new(state.encode()),
            registers: UnsafeCell::new(VcpuRegisters { context, pending: None }),
        }
    }

    /// Its number in the VM.
    pub const fn index(&self) -> u64 {
        self.index
    }

    /// The page through which its exits reach the host; pinned by hyp while the vCPU exists.
    pub const fn run_page(&self) -> Pfn {
        self.run_page
    }

    /// What it is doing, the host's examinations aside. Without a claim this is what was true a moment ago.
    pub fn state(&self) -> VcpuState {
        VcpuState::decode(self.state.load(Ordering::Acquire) & !EXAMINED)
    }

    /// Claims the vCPU in order to run it on `cpu`. Where it is not run after all, it is again what it was.
    ///
    /// # Errors
    /// [`Error::Busy`] where it runs, or is being turned on, elsewhere; [`Error::WrongState`] where it is off or has
    /// stopped.
    pub fn claim_to_run(&self, cpu: CpuIndex) -> Result<Claim<'_>, Error> {
        let running = VcpuState::Running(cpu);
        let found = match self.transition(VcpuState::Ready, running) {
            Ok(()) => return Ok(Claim { vcpu: self, next: READY }),
            Err(VcpuState::OnPending) => match self.transition(VcpuState::OnPending, running) {
                Ok(()) => return Ok(Claim { vcpu: self, next: ON_PENDING }),
                Err(found) => found,
            },
            Err(found) => found,
        };
        Err(match found {
            VcpuState::Off | VcpuState::Stopped => Error::WrongState,
            _ => Error::Busy,
        })
    }

    /// Claims the vCPU in order to turn it on. The state that forbids it otherwise.
    pub fn claim_to_start(&self) -> Result<Claim<'_>, VcpuState> {
        self.transition(VcpuState::Off, VcpuState::Starting)?;
        Ok(Claim { vcpu: self, next: OFF })
    }

    /// Claims the vCPU, on or off, in order to look at its registers or to set them.
    ///
    /// # Errors
    /// [`Error::Busy`] while it runs, is being turned on, or is examined elsewhere.
    pub fn claim_to_examine(&self) -> Result<Claim<'_>, Error> {
        let raw = self.state.load(Ordering::Relaxed);
        match VcpuState::decode(raw) {
            VcpuState::Starting | VcpuState::Running(_) | VcpuState::Examined => Err(Error::Busy),
            VcpuState::Off | VcpuState::OnPending | VcpuState::Ready | VcpuState::Stopped => {
                let claimed = self.state.compare_exchange(raw, raw | EXAMINED, Ordering::AcqRel, Ordering::Relaxed);
                claimed.map(|_| Claim { vcpu: self, next: raw }).map_err(|_| Error::Busy)
            }
        }
    }

    fn transition(&self, from: VcpuState, to: VcpuState) -> Result<(), VcpuState> {
        self.state
            .compare_exchange(from.encode(), to.encode(), Ordering::AcqRel, Ordering::Acquire)
            .map(|_| ())
            .map_err(VcpuState::decode)
    }
}

/// The exclusive use of a vCPU's registers. Dropping it releases the vCPU.
pub struct Claim<'a> {
    vcpu: &'a Vcpu,
    /// The state from then on, as it is stored.
    next: u32,
}

impl<'a> Claim<'a> {
    /// The vCPU.
    #[inline(always)]
    pub const fn vcpu(&self) -> &'a Vcpu {
        self.vcpu
    }

    /// What the vCPU is to do once the claim is released.
    #[inline(always)]
    pub fn set_next(&mut self, next: VcpuState) {
        self.next = next.encode();
    }
}

impl Deref for Claim<'_> {
    type Target = VcpuRegisters;

    fn deref(&self) -> &VcpuRegisters {
        // SAFETY: this claim exists, so `state` is one that only its drop leaves, and no other claim can be made
        // meanwhile: nobody else has a reference to the registers, and this one ends before `self` is borrowed mutably.
        unsafe { &*self.vcpu.registers.get() }
    }
}

impl DerefMut for Claim<'_> {
    fn deref_mut(&mut self) -> &mut VcpuRegisters {
        // SAFETY: as for `deref`, and the claim is borrowed mutably for as long as the reference lives.
        unsafe { &mut *self.vcpu.registers.get() }
    }
}

impl Drop for Claim<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.vcpu.state.store(self.next, Ordering::Release);
    }
}
