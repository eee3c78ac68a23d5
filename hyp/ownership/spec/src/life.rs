//! The life of a VM, as far as memory is concerned.

use crate::guest::{Guest, Vm};
use crate::page::Owner;
use crate::state::{Next, Specification};
use abi::Error;
use abi::host::VmHandle;

impl Specification {
    /// A VM comes to be, with no memory, in a slot and with a name that no other has.
    pub fn create(&self, vm: Vm, name: VmHandle, protected: bool, gfn_limit: u64) -> Next {
        if self.guests.contains_key(&vm) || self.guests.values().any(|guest| guest.name == name) {
            return Err(Error::WrongState);
        }
        let mut next = self.clone();
        next.guests.insert(vm, Guest::new(name, protected, gfn_limit));
        Ok(next)
    }

    /// A VM will not run again.
    pub fn start_teardown(&self, vm: Vm) -> Next {
        if self.guest(vm)?.dying {
            return Err(Error::WrongState);
        }
        Ok(self.clone().with_guest(vm, |guest| guest.dying = true))
    }

    /// A dying VM that has nothing any more is gone.
    pub fn finalise(&self, vm: Vm) -> Next {
        if !self.guest(vm)?.dying {
            return Err(Error::WrongState);
        }
        if self.holds_something(vm) {
            return Err(Error::Busy);
        }
        let mut next = self.clone();
        next.guests.remove(&vm);
        Ok(next)
    }

    /// True where a VM owns or borrows memory or has a device.
    pub fn holds_something(&self, vm: Vm) -> bool {
        let memory = self.pages.values().any(|page| page.frames().any(|(guest, _)| guest == vm));
        memory || self.devices.values().any(|device| device.owner == Owner::Guest(vm))
    }
}
