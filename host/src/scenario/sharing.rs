//! A guest shares a page, takes it back and gives another away, over and over; each time the host tries what it may do.

use super::{Context, take_apart};
use crate::probe::{self, Access};
use crate::run::{self, Exit, Exits, Stop};
use crate::vm::Vm;
use crate::{expect, report};
use abi::payloads::sharing::{HOSTS_FIRST, ROUNDS, WORDS, guest_word, host_word};
use abi::run::ExitReason;
use abi::{Gfn, PAGE_SIZE, Pfn, VirtAddr};

/// What the host saw.
#[derive(Default)]
struct Seen {
    round: u64,
    /// Words of a shared page that are not the guest's, or could not be written.
    wrong: u64,
    /// Accesses to a page that is private, or was taken back, that came through.
    leaks: u64,
    /// Words of a page that was given back that are not 0.
    dirty: u64,
}

/// See the module.
pub fn run(context: &Context) {
    let Some(mut vm) = context.guest("sharing") else { return };
    let (mut exits, mut seen) = (Exits::default(), Seen::default());
    let stop = run::run_watched(&mut vm, &mut exits, u64::MAX, |vm, exit| seen.look(vm, exit));
    expect!("guest-powers-off", stop, Stop::Off);
    expect!("shared-and-taken-back", (exits.shares, exits.unshares, exits.relinquished), (ROUNDS, ROUNDS, ROUNDS));
    expect!("shared-page-is-seen", seen.wrong, 0);
    expect!("private-page-is-not-seen", seen.leaks, 0);
    expect!("page-given-back-is-zero", seen.dirty, 0);
    let end = vm.spoken().lock().end;
    report::check(
        "guest-reports",
        end.is_some_and(|(passed, failed)| passed > 0 && failed == 0),
        format_args!("{end:?}"),
    );
    take_apart(vm);
}

impl Seen {
    /// Looks at the page of an exit, before the host serves it.
    fn look(&mut self, vm: &Vm, exit: &Exit) {
        let Some(page) = vm.map().page_of(Gfn::containing(exit.ipa)) else { return };
        match exit.reason {
            ExitReason::Shared => {
                for index in 0..WORDS {
                    self.wrong += u64::from(read(page, index) != Some(guest_word(self.round, index)));
                }
                for index in HOSTS_FIRST..WORDS {
                    self.wrong += u64::from(!write(page, index, host_word(self.round, index)));
                }
            }
            ExitReason::Unshared => {
                self.leaks +=
                    [0, HOSTS_FIRST, WORDS - 1].iter().filter(|index| read(page, **index).is_some()).count() as u64;
                // The probe writes something of its own.
                // SAFETY: the store is to abort; where it does not, the guest finds out, which is what the scenario is for.
                let stored = unsafe { probe::attempt(Access::Write, address(page, HOSTS_FIRST)) };
                self.leaks += u64::from(stored.is_ok());
                self.round += 1;
            }
            ExitReason::Relinquished => {
                self.dirty += (0..WORDS).filter(|index| read(page, *index) != Some(0)).count() as u64;
            }
            _ => {}
        }
    }
}

/// Where a word of a page is.
fn address(page: Pfn, index: u64) -> VirtAddr {
    VirtAddr::new(page.raw() * PAGE_SIZE + index * 8)
}

/// A word of a page, where the host may read it.
fn read(page: Pfn, index: u64) -> Option<u64> {
    // SAFETY: reading RAM has no effect.
    unsafe { probe::attempt(Access::Read, address(page, index)) }.ok()
}

/// Writes a word of a page that the guest shares; false where the page is not to be read even.
fn write(page: Pfn, index: u64, word: u64) -> bool {
    if read(page, index).is_none() {
        return false;
    }
    // SAFETY: the host maps all RAM; the page was readable just now, shared with it for reading and writing, and the
    // guest, which alone uses it, waits for the host.
    unsafe { (address(page, index).raw() as *mut u64).write_volatile(word) };
    true
}
