//! The first difference between two states, to be read by people.

use crate::device::Device;
use crate::guest::{Guest, Vm};
use crate::page::Page;
use crate::state::Specification;
use abi::Pfn;
use core::fmt;

/// The first difference between two states: what is, and what was expected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Difference {
    /// A page of RAM.
    Page(Pfn, Option<Page>, Option<Page>),
    /// A page of a device.
    Device(Pfn, Option<Device>, Option<Device>),
    /// A VM.
    Guest(Vm, Option<Guest>, Option<Guest>),
    /// The machines themselves.
    Machine,
}

impl Specification {
    /// The first difference between this state, which is, and another, which was expected; `None` where there is none.
    /// Whether pages are wiped is not compared: no table says that.
    pub fn difference(&self, expected: &Self) -> Option<Difference> {
        if self.machine != expected.machine {
            return Some(Difference::Machine);
        }
        let unlike_page = self.pages.keys().chain(expected.pages.keys()).copied().filter(|pfn| {
            // Most pages are equal with all that there is to them; only others are copied.
            self.pages.get(pfn) != expected.pages.get(pfn) && self.seen_page(*pfn) != expected.seen_page(*pfn)
        });
        let unlike_device = self.devices.keys().chain(expected.devices.keys()).copied();
        let unlike_device = unlike_device.filter(|pfn| self.device(*pfn) != expected.device(*pfn));
        let unlike_guest = self.guests.keys().chain(expected.guests.keys()).copied();
        let unlike_guest = unlike_guest.filter(|vm| self.guests.get(vm) != expected.guests.get(vm));
        if let Some(pfn) = unlike_page.min() {
            return Some(Difference::Page(pfn, self.seen_page(pfn), expected.seen_page(pfn)));
        }
        if let Some(pfn) = unlike_device.min() {
            return Some(Difference::Device(pfn, self.device(pfn), expected.device(pfn)));
        }
        let guest = |state: &Self, vm| state.guests.get(&vm).cloned();
        unlike_guest.min().map(|vm| Difference::Guest(vm, guest(self, vm), guest(expected, vm)))
    }

    /// A page without what no table says.
    fn seen_page(&self, pfn: Pfn) -> Option<Page> {
        self.page(pfn).map(|page| Page { wiped: false, ..page })
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Difference::Page(pfn, seen, expected) => {
                write!(f, "page {pfn}: {} | expected {}", OrNone(seen), OrNone(expected))
            }
            Difference::Device(pfn, seen, expected) => {
                write!(f, "device page {pfn}: {} | expected {}", OrNone(seen), OrNone(expected))
            }
            Difference::Guest(vm, seen, expected) => {
                write!(f, "guest {vm}: {} | expected {}", OrNone(seen), OrNone(expected))
            }
            Difference::Machine => f.write_str("another machine"),
        }
    }
}

/// Prints what there is, or that there is nothing.
struct OrNone<'a, T>(&'a Option<T>);

impl<T: fmt::Display> fmt::Display for OrNone<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(something) => something.fmt(f),
            None => f.write_str("none"),
        }
    }
}
