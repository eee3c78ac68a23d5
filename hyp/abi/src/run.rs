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
    /// The guest waits for an interrupt (WFI): nothing to do until one comes, or until `virtual_deadline` or
    /// `physical_deadline`.
    Wait = 1,
    /// The guest touched an IPA that no memory backs, or one that is not protected wrote what it may only read, with a
    /// syndrome that hyp could decode: `ipa`, `size`, `write`, and for a write `data`. For a read the host puts the
    /// value in `data` before it runs the vCPU again.
    Mmio = 2,
    /// The guest needs memory at `ipa`; `write` says for what. Running it again without any repeats the exit. A guest
    /// that is not protected also comes out so where it writes what it may only read.
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
    /// The guest set its physical timer, which is the host's to keep: see `timer_lines` and `physical_deadline`.
    Timer = 19,
    /// The guest sends an SGI: `data` is what it wrote to ICC_SGI1R_EL1 (Arm IHI 0069, section 12.2.19).
    Sgi = 20,
    /// The guest waits for an event (WFE), which another of its vCPUs may bring about: another is to run, if there is one.
    Yield = 21,
}

/// List registers that a run page has room for: as many as a CPU can have (Arm IHI 0069, ICH_VTR_EL2.ListRegs).
pub const MAX_LIST_REGISTERS: usize = 16;

/// [`RunPage::response`]: nothing is at the IPA of the MMIO access or memory fault that the last exit reported; the guest takes
/// an external abort there, or where a call of its own named the IPA, the call is refused. Without this bit the access is
/// answered, or access and call are made again.
pub const RESPONSE_ABORT: u64 = 1 << 0;

/// [`RunPage::interrupt_control`]: exit as soon as at most one list register is in use (ICH_HCR_EL2.UIE), since the host has
/// more interrupts than there are registers.
pub const NOTIFY_UNDERFLOW: u64 = 1 << 0;
/// [`RunPage::interrupt_control`]: exit as soon as no list register holds a pending interrupt (ICH_HCR_EL2.NPIE).
pub const NOTIFY_NONE_PENDING: u64 = 1 << 1;

/// [`RunPage::timer_lines`]: the virtual timer asserts its interrupt.
pub const VIRTUAL_TIMER_LINE: u64 = 1 << 0;
/// [`RunPage::timer_lines`]: the physical timer asserts its interrupt.
pub const PHYSICAL_TIMER_LINE: u64 = 1 << 1;
/// A deadline that never comes.
pub const NO_DEADLINE: u64 = u64::MAX;

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
    /// Out: which of the guest's timers assert their interrupts: [`VIRTUAL_TIMER_LINE`], [`PHYSICAL_TIMER_LINE`].
    pub timer_lines: u64,
    /// Out, for [`ExitReason::Wait`] only: CNTPCT_EL0 from which on the virtual timer asserts its interrupt, or
    /// [`NO_DEADLINE`]. Other exits: [`NO_DEADLINE`].
    pub virtual_deadline: u64,
    /// Out: CNTPCT_EL0 from which on the guest's physical timer asserts its interrupt, or [`NO_DEADLINE`].
    pub physical_deadline: u64,
    /// Zero.
    pub reserved_out: [u64; 7],
    /// In: what came of the last exit: [`RESPONSE_ABORT`], or zero. Every other bit is zero.
    pub response: u64,
    /// In: when to come back for more interrupts: [`NOTIFY_UNDERFLOW`], [`NOTIFY_NONE_PENDING`]. Every other bit is zero.
    pub interrupt_control: u64,
    /// Zero.
    pub reserved_in: [u64; 14],
    /// In and out: ICH_LR0_EL2 upwards (Arm IHI 0069, section 12.4.6), as many as `INTERRUPT_INFO` says; the others are
    /// not looked at. What may be in one is checked at entry, where [`InvalidParameter`](crate::Error) refuses
    /// VCPU_RUN: an INTID below 1020, none twice; a physical interrupt behind it (HW) only where both are the virtual
    /// timer's, and then not active and pending at once; fields that are RES0 zero. A register whose state is invalid
    /// counts as empty, whatever else it holds; those behind the last that is not empty stay as they are.
    pub list_registers: [u64; MAX_LIST_REGISTERS],
    /// Zero.
    pub reserved: [u64; 464],
}

impl RunPage {
    /// A page of zeroes.
    pub const fn new() -> Self {
        Self {
            exit_reason: 0,
            ipa: 0,
            size: 0,
            write: 0,
            data: 0,
            peer: 0,
            timer_lines: 0,
            virtual_deadline: 0,
            physical_deadline: 0,
            reserved_out: [0; 7],
            response: 0,
            interrupt_control: 0,
            reserved_in: [0; 14],
            list_registers: [0; MAX_LIST_REGISTERS],
            reserved: [0; 464],
        }
    }
}

impl Default for RunPage {
    fn default() -> Self {
        Self::new()
    }
}

const _: () = assert!(size_of::<RunPage>() == crate::PAGE_SIZE as usize);
