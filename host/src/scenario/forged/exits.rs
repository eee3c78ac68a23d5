//! What the host learns by the exits of a protected guest: the run page tells what an exit is about, and the registers
//! are closed.

use super::words;
use crate::hypercall;
use crate::run::Exit;
use crate::vm::Vm;
use abi::Error;
use abi::register::{NamedRegister, Register};
use abi::run::{ExitReason, MAX_LIST_REGISTERS, NO_DEADLINE, RunPage};
use core::sync::atomic::Ordering;

/// Registers that are asked for and set: of each class one at least.
const REGISTERS: [Register; 7] = [
    Register::Named(NamedRegister::Pc),
    Register::Named(NamedRegister::Pstate),
    Register::General(0),
    Register::General(30),
    Register::Named(NamedRegister::Ttbr0El1),
    Register::Named(NamedRegister::CntvCvalEl0),
    Register::Vector { index: 0, upper: true },
];
/// What they are set to.
const FORGERY: u64 = 0x4000_1000;

/// Kinds of exits. Those of MMIO are two, for reads and writes.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Kinds(u64);

impl Kinds {
    /// No exit.
    pub const NONE: Self = Self(0);

    /// Exits for `reason`, of either kind where there are two.
    pub const fn of(reason: ExitReason) -> Self {
        match reason {
            ExitReason::Mmio => Self(Self::mmio(false).0 | Self::mmio(true).0),
            _ => Self(1 << (2 * reason as u64)),
        }
    }

    /// Exits for MMIO, by writes or by reads.
    pub const fn mmio(write: bool) -> Self {
        Self(1 << (2 * ExitReason::Mmio as u64 + write as u64))
    }

    /// The kind of that exit.
    pub const fn of_exit(exit: &Exit) -> Self {
        match exit.reason {
            ExitReason::Mmio => Self::mmio(exit.write),
            reason => Self::of(reason),
        }
    }

    /// True where the exit is of one of these kinds.
    pub const fn has(self, exit: &Exit) -> bool {
        self.intersects(Self::of_exit(exit))
    }

    /// True where some kind is in both.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// How many there are.
    pub const fn count(self) -> u32 {
        self.0.count_ones()
    }
}

/// What the exits of protected guests came to.
#[derive(Clone, Copy, Default)]
pub struct Seen {
    /// Kinds of those that were due.
    pub kinds: Kinds,
    /// Exits for which there was no reason, and the last of them.
    pub undue: usize,
    /// See `undue`.
    pub last_undue: Option<ExitReason>,
    /// Words of run pages that an exit left something in, and that it says nothing about.
    pub leaks: usize,
    /// The last exit that leaked, or opened a register.
    pub last: Option<ExitReason>,
    /// Registers that were read or set.
    pub opened: u64,
    /// Attempts to do so.
    pub attempts: u64,
    /// Those that were refused for whose registers they are.
    pub not_yours: u64,
}

impl Seen {
    /// Looks at what an exit of a protected guest leaves to the host, before it is served. `is_due` is what the host makes
    /// of what hyp calls it: one that is not due exposes nothing.
    pub fn look(&mut self, vm: &Vm, exit: &Exit, is_due: bool) {
        let page = vm.vcpus[exit.vcpu].run_page();
        let is_told = words(page)[word!(exit_reason)].load(Ordering::Relaxed) == exit.reason as u64;
        if is_due && is_told {
            self.kinds.0 |= Kinds::of_exit(exit).0;
        } else {
            self.undue += 1;
            self.last_undue = Some(exit.reason);
        }
        let may_fill = if is_due { exposed(exit.reason) } else { &[] };
        let leaks = leaked(page, exit.reason, may_fill) + usize::from(tells_too_much(exit));
        let opened = self.opened;
        for index in 0..vm.vcpus.len() as u64 {
            for register in REGISTERS {
                let read = hypercall::vcpu_get_register(vm.handle(), index, register).map(drop);
                self.note(read);
                // Once one is open the finding is made, and a guest that is led astray would not end.
                if self.is_closed() {
                    self.note(hypercall::vcpu_set_register(vm.handle(), index, register, FORGERY));
                }
            }
        }
        self.leaks += leaks;
        if leaks != 0 || opened != self.opened {
            self.last = Some(exit.reason);
        }
    }

    fn note(&mut self, result: Result<(), Error>) {
        self.attempts += 1;
        self.opened += u64::from(result.is_ok());
        self.not_yours += u64::from(result == Err(Error::NotYours));
    }

    /// True while no register could be read or set.
    pub fn is_closed(&self) -> bool {
        self.opened == 0
    }

    /// Adds what others saw.
    pub fn add(&mut self, other: &Self) {
        self.kinds.0 |= other.kinds.0;
        self.undue += other.undue;
        self.last_undue = other.last_undue.or(self.last_undue);
        self.leaks += other.leaks;
        self.last = other.last.or(self.last);
        self.opened += other.opened;
        self.attempts += other.attempts;
        self.not_yours += other.not_yours;
    }
}

/// What of a run page an exit may fill besides its reason and the list registers: words by their number.
fn exposed(reason: ExitReason) -> &'static [usize] {
    match reason {
        ExitReason::Mmio => &[word!(ipa), word!(size), word!(write), word!(data)],
        ExitReason::MemoryFault => &[word!(ipa), word!(write)],
        ExitReason::Shared | ExitReason::Unshared | ExitReason::Relinquished | ExitReason::Poisoned => &[word!(ipa)],
        ExitReason::Lent | ExitReason::Returned => &[word!(ipa)],
        ExitReason::CpuOn | ExitReason::Sgi => &[word!(data)],
        ExitReason::Offered | ExitReason::Accepted => &[word!(ipa), word!(data), word!(peer)],
        ExitReason::Ended => &[word!(data), word!(peer)],
        _ => &[],
    }
}

/// True where a word that the exit may fill says more than it is for: what a register holds beyond an access's width,
/// what the guest had in it before a read, where in a page it is at work.
fn tells_too_much(exit: &Exit) -> bool {
    if exit.reason != ExitReason::Mmio {
        return exit.ipa.page_offset() != 0;
    }
    let beyond = exit.data.checked_shr(8 * exit.size as u32).unwrap_or(0);
    !matches!(exit.size, 1 | 2 | 4 | 8) || beyond != 0 || !exit.write && exit.data != 0
}

/// Words of the run page that the exit left something in, besides those that it may fill and those that each does.
fn leaked(page: *mut RunPage, reason: ExitReason, may_fill: &[usize]) -> usize {
    let words = words(page);
    let lines_and_deadlines = [word!(timer_lines), word!(virtual_deadline), word!(physical_deadline)];
    let is_known = |index: usize| {
        index == word!(exit_reason)
            || lines_and_deadlines.contains(&index)
            || may_fill.contains(&index)
            || (word!(list_registers)..word!(list_registers) + MAX_LIST_REGISTERS).contains(&index)
    };
    let stray = (0..words.len()).filter(|index| !is_known(*index) && words[*index].load(Ordering::Relaxed) != 0);
    let deadline = words[word!(virtual_deadline)].load(Ordering::Relaxed);
    stray.count() + usize::from(reason != ExitReason::Wait && deadline != NO_DEADLINE)
}
