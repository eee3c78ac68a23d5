//! What calls are about: what each operand means, how it prints, and how another takes its place.

use crate::guest::Vm;
use crate::page::Rights;
use abi::host::VmHandle;
use abi::{Gfn, Pfn};
use core::fmt;

/// What every operand of that name means.
macro_rules! meaning {
    (first) => {
        "The first page."
    };
    (page) => {
        "The page."
    };
    (count) => {
        "How many pages."
    };
    (restricted) => {
        "Meanwhile the host only reads them."
    };
    (vm) => {
        "The guest: in a call of a guest's, the one that calls."
    };
    (gfn) => {
        "The guest's frame; for several pages, the first."
    };
    (rights) => {
        "What the borrower may do."
    };
    (receiver) => {
        "For whom the offer is."
    };
    (owner) => {
        "The guest that made the offer."
    };
    (borrower) => {
        "The guest that accepted the offer."
    };
    (number) => {
        "The offer's number."
    };
    (name) => {
        "The VM's handle."
    };
    (protected) => {
        "The VM's memory is to be its own."
    };
    (gfn_limit) => {
        "The VM's frames below this one exist."
    };
}

/// What takes the place of an operand of that name.
macro_rules! substitute {
    (first, $with:ident, $value:expr) => {
        $with.page($value)
    };
    (page, $with:ident, $value:expr) => {
        $with.page($value)
    };
    (count, $with:ident, $value:expr) => {
        $with.count($value)
    };
    (vm, $with:ident, $value:expr) => {
        $with.vm($value)
    };
    (owner, $with:ident, $value:expr) => {
        $with.vm($value)
    };
    (borrower, $with:ident, $value:expr) => {
        $with.vm($value)
    };
    (gfn, $with:ident, $value:expr) => {
        $with.frame($value)
    };
    (gfn_limit, $with:ident, $value:expr) => {
        $value
    };
    (rights, $with:ident, $value:expr) => {
        $with.rights($value)
    };
    (number, $with:ident, $value:expr) => {
        $with.number($value)
    };
    (receiver, $with:ident, $value:expr) => {
        $with.name($value)
    };
    (name, $with:ident, $value:expr) => {
        $with.name($value)
    };
    (restricted, $with:ident, $value:expr) => {
        $with.flag($value)
    };
    (protected, $with:ident, $value:expr) => {
        $with.flag($value)
    };
}

/// Puts other operands in the place of a call's. What it does not say stays as it is.
pub trait Substitute {
    /// In the place of a page.
    fn page(&self, page: Pfn) -> Pfn {
        page
    }

    /// In the place of a count of pages.
    fn count(&self, count: u64) -> u64 {
        count
    }

    /// In the place of a VM.
    fn vm(&self, vm: Vm) -> Vm {
        vm
    }

    /// In the place of a guest's frame.
    fn frame(&self, gfn: Gfn) -> Gfn {
        gfn
    }

    /// In the place of rights.
    fn rights(&self, rights: Rights) -> Rights {
        rights
    }

    /// In the place of an offer's number.
    fn number(&self, number: u64) -> u64 {
        number
    }

    /// In the place of a VM's handle.
    fn name(&self, name: VmHandle) -> VmHandle {
        name
    }

    /// In the place of what is so or not.
    fn flag(&self, flag: bool) -> bool {
        flag
    }
}

/// Something that a call is about, as it prints.
pub(crate) trait Operand {
    /// Writes it with a blank before it.
    fn write(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result;
}

impl Operand for Pfn {
    fn write(&self, _name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " page {self}")
    }
}

impl Operand for Gfn {
    fn write(&self, _name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " frame {self}")
    }
}

impl Operand for Vm {
    fn write(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " {name} {self}")
    }
}

impl Operand for VmHandle {
    fn write(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " {name} {:#x}", self.0)
    }
}

impl Operand for u64 {
    fn write(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " {name} {self}")
    }
}

impl Operand for bool {
    fn write(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self { write!(f, " {name}") } else { Ok(()) }
    }
}

impl Operand for Rights {
    fn write(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " {name} {self}")
    }
}
