//! What the host learns when a vCPU comes out.

use crate::platform::RunExit;
use crate::vcpu::VcpuState;
use abi::Ipa;
use abi::host::VmHandle;
use abi::run::ExitReason;

/// Why a vCPU stops running, and all that the host learns of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// A physical interrupt.
    Interrupt,
    /// WFI, or a CPU_SUSPEND to standby.
    Wait,
    /// A load from a device.
    MmioRead {
        /// Byte address.
        ipa: Ipa,
        /// Bytes.
        size: u64,
    },
    /// A store to a device.
    MmioWrite {
        /// Byte address.
        ipa: Ipa,
        /// Bytes.
        size: u64,
        /// The value.
        data: u64,
    },
    /// No memory at a page.
    MemoryFault {
        /// The page.
        ipa: Ipa,
        /// For a write.
        write: bool,
    },
    /// The guest shared a page.
    Shared(Ipa),
    /// The guest took a page back.
    Unshared(Ipa),
    /// The guest gave a page back.
    Relinquished(Ipa),
    /// The guest lent a page to the host.
    Lent(Ipa),
    /// The guest returned a page that the host had lent.
    Returned(Ipa),
    /// The guest offered a page to another.
    Offered {
        /// The page.
        ipa: Ipa,
        /// The offer's number.
        number: u64,
        /// Whom it is for.
        receiver: VmHandle,
    },
    /// The guest accepted another's offer.
    Accepted {
        /// Where it has the page.
        ipa: Ipa,
        /// The offer's number.
        number: u64,
        /// Whose it was.
        owner: VmHandle,
    },
    /// The guest ended a share: its own, or one of another's.
    Ended {
        /// The offer's number.
        number: u64,
        /// Whose it was, where it was not its own.
        owner: Option<VmHandle>,
    },
    /// A call of the guest's needs pages for tables.
    TopUp,
    /// The guest touched a page that was taken from it by force.
    Poisoned(Ipa),
    /// The VM has ended by SYSTEM_OFF.
    SystemOff,
    /// The VM has ended by SYSTEM_RESET.
    SystemReset,
    /// This vCPU is off.
    CpuOff,
    /// This vCPU turned another on: its index.
    CpuOn(u64),
    /// This vCPU cannot go on. ESR_EL2, for a VM that is not protected.
    Error(u64),
    /// The guest set its physical timer.
    Timer,
    /// The guest sends an SGI: the value of ICC_SGI1R_EL1.
    Sgi(u64),
    /// The guest waits for an event, which none but it can know of.
    Yield,
}

impl Exit {
    /// The exit's reason.
    #[inline(always)]
    pub const fn reason(&self) -> ExitReason {
        match self {
            Exit::Interrupt => ExitReason::Interrupt,
            Exit::Wait => ExitReason::Wait,
            Exit::MmioRead { .. } | Exit::MmioWrite { .. } => ExitReason::Mmio,
            Exit::MemoryFault { .. } => ExitReason::MemoryFault,
            Exit::Shared(_) => ExitReason::Shared,
            Exit::Unshared(_) => ExitReason::Unshared,
            Exit::Relinquished(_) => ExitReason::Relinquished,
            Exit::Lent(_) => ExitReason::Lent,
            Exit::Returned(_) => ExitReason::Returned,
            Exit::Offered { .. } => ExitReason::Offered,
            Exit::Accepted { .. } => ExitReason::Accepted,
            Exit::Ended { .. } => ExitReason::Ended,
            Exit::TopUp => ExitReason::TopUp,
            Exit::Poisoned(_) => ExitReason::Poisoned,
            Exit::SystemOff => ExitReason::SystemOff,
            Exit::SystemReset => ExitReason::SystemReset,
            Exit::CpuOff => ExitReason::CpuOff,
            Exit::CpuOn(_) => ExitReason::CpuOn,
            Exit::Error(_) => ExitReason::Error,
            Exit::Timer => ExitReason::Timer,
            Exit::Sgi(_) => ExitReason::Sgi,
            Exit::Yield => ExitReason::Yield,
        }
    }

    /// What goes to the run page, with the exit's own `reason`. What an exit does not name is zero, so that nothing of
    /// an earlier exit is left.
    #[inline(always)]
    pub(crate) fn run_exit(&self, reason: ExitReason) -> RunExit {
        let blank = RunExit { exit_reason: reason as u64, ..RunExit::default() };
        match *self {
            Exit::MmioRead { ipa, size } => RunExit { ipa: ipa.raw(), size, ..blank },
            Exit::MmioWrite { ipa, size, data } => RunExit { ipa: ipa.raw(), size, write: 1, data, ..blank },
            Exit::MemoryFault { ipa, write } => RunExit { ipa: ipa.raw(), write: u64::from(write), ..blank },
            Exit::Shared(ipa)
            | Exit::Unshared(ipa)
            | Exit::Relinquished(ipa)
            | Exit::Lent(ipa)
            | Exit::Returned(ipa)
            | Exit::Poisoned(ipa) => RunExit { ipa: ipa.raw(), ..blank },
            Exit::Offered { ipa, number, receiver: peer } | Exit::Accepted { ipa, number, owner: peer } => {
                RunExit { ipa: ipa.raw(), data: number, peer: u64::from(peer.0), ..blank }
            }
            Exit::Ended { number, owner } => {
                RunExit { data: number, peer: owner.map_or(0, |owner| u64::from(owner.0)), ..blank }
            }
            Exit::CpuOn(data) | Exit::Error(data) | Exit::Sgi(data) => RunExit { data, ..blank },
            Exit::Interrupt
            | Exit::Wait
            | Exit::SystemOff
            | Exit::SystemReset
            | Exit::CpuOff
            | Exit::TopUp
            | Exit::Timer
            | Exit::Yield => blank,
        }
    }

    /// What the vCPU does next.
    pub(crate) const fn next_state(&self) -> VcpuState {
        match self {
            Exit::CpuOff => VcpuState::Off,
            Exit::SystemOff | Exit::SystemReset | Exit::Error(_) => VcpuState::Stopped,
            _ => VcpuState::Ready,
        }
    }
}
