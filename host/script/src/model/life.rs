//! The life of VMs: who is there, and what may be asked of it.

use super::Model;
use super::guard::Guard;
use abi::Error;
use abi::host::VmHandle;
use abi::{Gfn, PAGE_SHIFT, Pfn};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;
use ownership_spec::Vm;

/// How far a VM is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Life {
    /// There is its handle, and nothing else.
    Reserved {
        /// It will never be initialised.
        dying: bool,
    },
    /// It has been initialised.
    Initialised(Initialised),
}

/// A VM that has been initialised.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Initialised {
    /// What the specification knows it by.
    pub vm: Vm,
    /// Bits of its address space.
    pub ipa_bits: u32,
    /// Most vCPUs.
    pub vcpu_limit: u64,
    /// vCPUs that there are.
    pub vcpus: u64,
    /// Frames of which nothing is known: whoever made the VM put something there.
    pub opaque: Range<Gfn>,
    /// What the guest takes for devices.
    pub guard: Guard,
    /// Pages that the host gave to hyp for it, as ranges, and shared for run pages.
    pub(super) objects: Vec<(Pfn, u64)>,
    pub(super) run_pages: Vec<Pfn>,
}

/// Frames of a VM of a setup of which nothing is known: its RAM below the frames for scripts.
const OPAQUE: u64 = 0x4_0000;

impl Model {
    /// Takes note of a VM that is there from the beginning, with all its vCPUs, and with memory below the frames for
    /// scripts that no request is about.
    ///
    /// # Errors
    /// Where there is one of that name, or there are too many.
    pub fn add_vm(&mut self, handle: VmHandle, protected: bool, vcpus: u64) -> Result<(), String> {
        let ipa_bits = u32::try_from(self.places.ipa_bits).map_err(|_| String::from("addresses are too wide"))?;
        let vm = self.free_slot().ok_or_else(|| String::from("there are too many VMs"))?;
        let limit = gfn_limit(ipa_bits);
        let next = self.specification.create(vm, handle, protected, limit);
        self.specification = next.map_err(|error| format!("VM {:#x} cannot be added: {error}", handle.0))?;
        let opaque = Gfn::new(OPAQUE)..self.places.frames;
        let (objects, run_pages) = (Vec::new(), Vec::new());
        let life =
            Initialised { vm, ipa_bits, vcpu_limit: vcpus, vcpus, opaque, guard: Guard::default(), objects, run_pages };
        self.vms.insert(handle, Life::Initialised(life));
        Ok(())
    }

    /// A number that no VM has in the specification.
    pub(super) fn free_slot(&self) -> Option<Vm> {
        let taken = |vm: &Vm| self.specification.guest(*vm).is_ok();
        (0..abi::host::MAX_VMS as u8).map(Vm).find(|vm| !taken(vm))
    }

    /// True where a VM will not run again.
    pub fn is_dying(&self, handle: VmHandle) -> bool {
        match self.vms.get(&handle) {
            Some(Life::Reserved { dying }) => *dying,
            Some(Life::Initialised(life)) => self.specification.guest(life.vm).is_ok_and(|guest| guest.dying),
            None => false,
        }
    }

    /// A VM by the handle in a register.
    fn named(&self, register: u64) -> Result<(VmHandle, &Life), Error> {
        let handle = u32::try_from(register).map(VmHandle).map_err(|_| Error::VmGone)?;
        self.vms.get(&handle).map(|life| (handle, life)).ok_or(Error::VmGone)
    }

    /// A VM that lives and has been initialised.
    pub(super) fn live(&self, register: u64) -> Result<&Initialised, Error> {
        let (handle, life) = self.named(register)?;
        match life {
            _ if self.is_dying(handle) => Err(Error::VmGone),
            Life::Reserved { .. } => Err(Error::WrongState),
            Life::Initialised(vm) => Ok(vm),
        }
    }

    /// A VM that has been initialised, dying or not.
    pub(super) fn initialised(&self, register: u64) -> Result<&Initialised, Error> {
        match self.named(register)?.1 {
            Life::Reserved { .. } => Err(Error::WrongState),
            Life::Initialised(vm) => Ok(vm),
        }
    }

    /// A VM that has been initialised and is dying.
    pub(super) fn dying(&self, register: u64) -> Result<&Initialised, Error> {
        let (handle, life) = self.named(register)?;
        match life {
            Life::Initialised(vm) if self.is_dying(handle) => Ok(vm),
            _ => Err(Error::WrongState),
        }
    }
}

impl Initialised {
    /// Refuses where there is no such vCPU.
    pub(super) fn vcpu(&self, index: u64) -> Result<(), Error> {
        if index < self.vcpus { Ok(()) } else { Err(Error::VmGone) }
    }
}

/// Frames of an address space of so many bits.
pub(super) const fn gfn_limit(ipa_bits: u32) -> u64 {
    1 << (ipa_bits - PAGE_SHIFT)
}
