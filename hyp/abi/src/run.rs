//! The run page: how the registers that an exit exposes cross between hyp and the host.
//!
//! The page is the host's, shared with and pinned by hyp. Hyp copies from it once at entry and to it once at exit; what
//! the host writes while the guest runs has no effect.

use core::mem::size_of;

macro_rules! exit_reasons {
    ($($(#[$meta:meta])* $name:ident = $number:literal,)*) => {
        /// Why `VCPU_RUN` came back.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        #[repr(u64)]
        pub enum ExitReason {
            $($(#[$meta])* $name = $number,)*
        }

        impl ExitReason {
            /// The reason that x1 holds, or `None` where the number names none.
            pub const fn from_register(x1: u64) -> Option<Self> {
                match x1 {
                    $($number => Some(ExitReason::$name),)*
                    _ => None,
                }
            }
        }
    };
}

exit_reasons! {
    /// A physical interrupt is pending for the host, which takes it on return.
    Interrupt = 0,
    /// The guest waits for an interrupt (WFI or WFE): nothing to do until one comes.
    Wait = 1,
    /// The guest touched an IPA that no memory backs, with a syndrome that hyp could decode: `ipa`, `size`, `write`,
    /// and for a write `data`. For a read the host puts the value in `data` before it runs the vCPU again.
    Mmio = 2,
    /// The guest needs memory at `ipa`; `write` says for what. Running it again without any repeats the exit.
    MemoryFault = 3,
    /// The guest shared the page at `ipa` with the host, which may use it from now on.
    Shared = 4,
    /// The guest took back the page at `ipa`.
    Unshared = 5,
    /// The guest gave the page at `ipa` back; it is the host's again, wiped.
    Relinquished = 6,
    /// PSCI SYSTEM_OFF.
    SystemOff = 7,
    /// PSCI SYSTEM_RESET.
    SystemReset = 8,
    /// PSCI CPU_OFF: this vCPU is off until another turns it on.
    CpuOff = 9,
    /// PSCI CPU_ON: vCPU `data` is to be run.
    CpuOn = 10,
    /// The guest did what hyp cannot go on from; the vCPU will not run again. `data` holds ESR_EL2 for a
    /// non-protected guest.
    Error = 11,
    /// The guest touched the page at `ipa`, which was taken from it by force, or which it borrowed from another guest until
    /// somebody else ended that. Running it again repeats the exit.
    Poisoned = 12,
    /// The guest lent the page at `ipa` to the host, which has it until it gives it back.
    Lent = 13,
    /// The guest gave back the page at `ipa`, which the host had lent; it is wiped.
    Returned = 14,
    /// The guest offered the page at `ipa` to the VM `peer`, which may accept it by the number `data`.
    Offered = 15,
    /// The guest accepted offer `data` of the VM `peer`, and borrows the page at `ipa`.
    Accepted = 16,
    /// The guest ended the share of offer `data`: its own, where `peer` is 0, or one of the VM `peer`.
    Ended = 17,
    /// A call of the guest's needs pages for tables. It makes the call again when it is run.
    TopUp = 18,
}

/// The run page as both sides lay it out: one 4 KiB page, fields in the byte order of the CPU.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct RunPage {
    /// Out: the [`ExitReason`] again.
    pub exit_reason: u64,
    /// Out: the IPA of a memory fault or MMIO access. For MMIO the byte address; otherwise the page.
    pub ipa: u64,
    /// Out: width of an MMIO access in bytes: 1, 2, 4 or 8.
    pub size: u64,
    /// Out: 1 for a write, 0 for a read.
    pub write: u64,
    /// MMIO data, zero-extended: out for a write, in for a read. Other exits: as their reason says.
    pub data: u64,
    /// Out: the handle of the other VM, for exits that name one.
    pub peer: u64,
    /// Zero.
    pub reserved: [u64; 506],
}

impl RunPage {
    /// A page of zeroes.
    pub const fn new() -> Self {
        Self { exit_reason: 0, ipa: 0, size: 0, write: 0, data: 0, peer: 0, reserved: [0; 506] }
    }
}

impl Default for RunPage {
    fn default() -> Self {
        Self::new()
    }
}

const _: () = assert!(size_of::<RunPage>() == crate::PAGE_SIZE as usize);
