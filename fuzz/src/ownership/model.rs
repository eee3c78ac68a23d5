//! What hyp should make of everything: the specification of memory, with the life of VMs around it.

use std::collections::{BTreeMap, BTreeSet};

use abi::host::VmHandle;
use abi::{Error, Gfn, Pfn};
use call_script::Access;
use memsim::Machine;
use ownership_spec::{Call, Owner, Specification, Vm};

use super::guard::Guard;

/// How far a VM is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Life {
    /// It has a handle and a slot.
    Reserved,
    /// A CPU initialises it, or takes it apart.
    Changing,
    /// It has memory and vCPUs.
    Live,
    /// It does not run any more.
    Dying,
}

/// A VM.
#[derive(Clone, Debug)]
pub struct VmModel {
    /// Its slot.
    pub slot: u8,
    /// How far it is.
    pub life: Life,
    /// It was initialised, so that there is something to take apart.
    pub has_object: bool,
    /// Its memory is its own.
    pub protected: bool,
    /// Bits of its addresses.
    pub ipa_bits: u32,
    /// vCPUs that it may have.
    pub vcpu_limit: u64,
    /// The run page of each vCPU.
    pub run_pages: Vec<Pfn>,
    /// How many calls use it now: not 0 only for a step in the midst of another.
    pub users: u32,
    /// What its guest takes for devices.
    pub guard: Guard,
}

impl VmModel {
    /// By which the specification knows it.
    pub fn vm(&self) -> Vm {
        Vm(self.slot)
    }
}

/// Why a guest does not come past an action.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stuck {
    /// It needs memory at a frame.
    Memory(Gfn),
    /// It needs pages for tables, in the name of this vCPU.
    Tables(u64),
    /// It will not.
    ForGood,
}

/// The state that everything should be in.
#[derive(Clone, Debug)]
pub struct Model {
    /// Memory.
    pub spec: Specification,
    /// VMs, by handle.
    pub vms: BTreeMap<u64, VmModel>,
    /// The last handle that was given out.
    pub last_handle: u32,
    /// What the first word of a page holds where it is not 0.
    pub words: BTreeMap<Pfn, u64>,
    /// Pages that hyp may have written to.
    pub unknown: BTreeSet<Pfn>,
    /// Since this was set to false, a guest's cache was found too small, and it was.
    pub cache_was_short: bool,
    /// The VMs, by handle, of which a guest does not come past an action.
    pub stuck: BTreeMap<u64, Stuck>,
    /// Hyp does not find as many frames as it likes.
    pub has_few_frames: bool,
    /// Transitions so far.
    pub transitions: u64,
}

impl Model {
    /// A machine at its start, in a state of memory that was read from it.
    pub fn new(spec: Specification) -> Self {
        Self {
            spec,
            vms: BTreeMap::new(),
            last_handle: 0,
            words: BTreeMap::new(),
            unknown: BTreeSet::new(),
            cache_was_short: false,
            stuck: BTreeMap::new(),
            has_few_frames: false,
            transitions: 0,
        }
    }

    /// A VM by its handle.
    pub fn vm(&self, handle: VmHandle) -> Option<&VmModel> {
        self.vms.get(&u64::from(handle.0))
    }

    /// The VM in a slot, with its handle.
    pub fn in_slot(&self, vm: Vm) -> Option<(u64, &VmModel)> {
        self.vms.iter().find(|(_, model)| model.vm() == vm).map(|(handle, model)| (*handle, model))
    }

    /// What a transition would come to.
    ///
    /// # Errors
    /// The refusal.
    pub fn would(&self, call: &Call) -> Result<(), Error> {
        self.spec.apply(call).map(drop)
    }

    /// Makes a transition, which `machine` has made, or refused, by now.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn transition(&mut self, machine: &Machine, call: &Call, result: Result<(), Error>) -> Result<(), String> {
        self.transitions += 1;
        let next = match (result, self.spec.apply(call)) {
            (Ok(()), Ok((next, _))) => next,
            (Err(Error::OutOfMemory), Ok(_)) => return Ok(()),
            (Err(error), Err(expected)) if error == expected => return Ok(()),
            (result, expected) => {
                let expected = expected.map(drop);
                return Err(format!("{call}: {result:?}, where the state of everything asks for {expected:?}"));
            }
        };
        for (pfn, page) in next.changed_pages() {
            let was_wiped = self.spec.page(pfn).is_some_and(|before| before.wiped);
            if page.wiped && !was_wiped {
                self.words.remove(&pfn);
                self.unknown.remove(&pfn);
                check_wiped(machine, pfn).map_err(|wrong| format!("{call}: page {pfn} {wrong}"))?;
            }
            if page.owner == Owner::Hyp || page.pins != 0 {
                self.unknown.insert(pfn);
            }
        }
        self.vms.values_mut().for_each(|vm| vm.forget_marks(&next));
        self.spec = next;
        // From here on the host may write to them.
        self.spec.forget_wipes();
        Ok(())
    }

    /// Makes a change that is no transition of hyp's: a VM comes or goes.
    ///
    /// # Panics
    /// Where the specification refuses it.
    pub fn change(&mut self, call: &Call) {
        match self.spec.apply(call) {
            Ok((next, _)) => self.spec = next,
            Err(error) => panic!("{call} was done, where the state of everything asks for {error:?}"),
        }
    }

    /// What the first word of a page holds, if that is known.
    pub fn word(&self, pfn: Pfn) -> Option<u64> {
        (!self.unknown.contains(&pfn)).then(|| self.words.get(&pfn).copied().unwrap_or(0))
    }

    /// Somebody touched the first word of a page, and read this there if he did.
    ///
    /// # Panics
    /// Where he read something that is not there.
    pub fn accessed(&mut self, pfn: Pfn, access: Access, read: u64) {
        match access {
            Access::Write(value) => {
                self.unknown.remove(&pfn);
                self.words.insert(pfn, Access::word(value));
            }
            Access::Read => {
                if let Some(word) = self.word(pfn) {
                    assert_eq!(read, word, "what is read from page {pfn}");
                }
            }
            Access::Execute => {}
        }
    }

    /// True where an access to what is no RAM by that number is one to a device of the host's.
    pub fn is_hosts_device(&self, pfn: Pfn) -> bool {
        self.spec.device(pfn).is_some_and(|device| device.owner == Owner::Host)
    }
}

/// A page that goes back to the host is empty for every observer.
fn check_wiped(machine: &Machine, pfn: Pfn) -> Result<(), String> {
    if machine.read_page(pfn).iter().any(|byte| *byte != 0) {
        return Err("came back to the host with something in it".to_owned());
    }
    if machine.is_dirty(pfn) {
        return Err("came back to the host wiped in a cache alone".to_owned());
    }
    if machine.may_fetch_stale(pfn) {
        return Err("came back to the host, and what was in it may still be executed".to_owned());
    }
    Ok(())
}
