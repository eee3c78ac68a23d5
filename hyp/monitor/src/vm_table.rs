//! Which VMs there are, and how far each is in its life: reserved, live, dying, gone.

use crate::object::Object;
use crate::vm::Vm;
use abi::Error;
use abi::host::{MAX_VMS, VmHandle};
use core::ops::Deref;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};
use ownership::{Lock, Rank, VmSlot};

/// How far a VM is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Life {
    /// The handle exists, nothing else.
    Reserved,
    /// A CPU is initialising it, or finalising it.
    Changing,
    /// It has memory and vCPUs, and may run.
    Live,
    /// It does not run any more; its pages may be taken back.
    Dying,
}

/// One place in the table.
struct Entry {
    name: Option<(VmHandle, Life)>,
    object: Option<Object<Vm>>,
}

struct Entries {
    entries: [Entry; MAX_VMS],
    last_handle: u32,
}

/// All VMs.
pub struct VmTable {
    entries: Lock<Entries>,
    /// How many [`VmReference`]s to each VM there are. They are counted up under the lock, and down without it.
    users: [AtomicU32; MAX_VMS],
}

impl VmTable {
    /// No VM.
    pub const fn new() -> Self {
        Self {
            entries: Lock::new(
                Rank::VmTable,
                Entries { entries: [const { Entry { name: None, object: None } }; MAX_VMS], last_handle: 0 },
            ),
            users: [const { AtomicU32::new(0) }; MAX_VMS],
        }
    }

    /// Makes a handle, and reserves a place for its VM.
    ///
    /// # Errors
    /// [`Error::Limit`] where every place is taken.
    pub fn reserve(&self) -> Result<VmHandle, Error> {
        let mut table = self.entries.lock();
        let slot = table.entries.iter().position(|entry| entry.name.is_none()).ok_or(Error::Limit)?;
        let handle = table.next_handle(slot);
        table.set(slot, Some((handle, Life::Reserved)), None);
        table.last_handle = handle.0;
        Ok(handle)
    }

    /// Uses a live VM.
    ///
    /// # Errors
    /// [`Error::VmGone`] where there is none of that name, or it is dying; [`Error::WrongState`] where it has not been
    /// initialised.
    pub fn live(&self, handle: VmHandle) -> Result<VmReference<'_>, Error> {
        self.reference(handle, |life| match life {
            Life::Live => Ok(()),
            Life::Reserved | Life::Changing => Err(Error::WrongState),
            Life::Dying => Err(Error::VmGone),
        })
    }

    /// Uses a dying VM.
    ///
    /// # Errors
    /// [`Error::VmGone`] where there is none of that name; [`Error::WrongState`] where it is not dying.
    pub fn dying(&self, handle: VmHandle) -> Result<VmReference<'_>, Error> {
        self.reference(handle, |life| if life == Life::Dying { Ok(()) } else { Err(Error::WrongState) })
    }

    /// Uses a VM that has been initialised, live or dying.
    ///
    /// # Errors
    /// [`Error::VmGone`] where there is none of that name; [`Error::WrongState`] where it has not been initialised.
    pub fn initialised(&self, handle: VmHandle) -> Result<VmReference<'_>, Error> {
        self.reference(handle, |life| match life {
            Life::Live | Life::Dying => Ok(()),
            Life::Reserved | Life::Changing => Err(Error::WrongState),
        })
    }

    /// Uses the VM in a slot, whatever its name: one that has been initialised, live or dying.
    pub fn in_slot(&self, slot: VmSlot) -> Option<VmReference<'_>> {
        let table = self.entries.lock();
        let object = table.entries.get(slot.number())?.object.as_ref()?;
        let users = self.users.get(slot.number())?;
        users.fetch_add(1, Ordering::Acquire);
        Some(VmReference { vm: object.pointer(), users })
    }

    fn reference(
        &self,
        handle: VmHandle,
        allow: impl FnOnce(Life) -> Result<(), Error>,
    ) -> Result<VmReference<'_>, Error> {
        let table = self.entries.lock();
        let (slot, entry, life) = table.find(handle)?;
        allow(life)?;
        let object = entry.object.as_ref().ok_or(Error::WrongState)?;
        let users = self.users.get(slot).ok_or(Error::VmGone)?;
        users.fetch_add(1, Ordering::Acquire);
        Ok(VmReference { vm: object.pointer(), users })
    }

    /// Lets one CPU initialise a reserved VM, in the slot that comes with the guard.
    ///
    /// # Errors
    /// [`Error::VmGone`] where there is none of that name; [`Error::WrongState`] where it is initialised already, or
    /// about to be.
    pub fn begin_init(&self, handle: VmHandle) -> Result<Initialising<'_>, Error> {
        let mut table = self.entries.lock();
        let (index, life) = table.find(handle).map(|(index, _, life)| (index, life))?;
        let slot = VmSlot::new(index).ok_or(Error::VmGone)?;
        match life {
            Life::Reserved => {}
            Life::Dying => return Err(Error::VmGone),
            Life::Changing | Life::Live => return Err(Error::WrongState),
        }
        table.set(index, Some((handle, Life::Changing)), None);
        Ok(Initialising { table: self, handle, slot, object: None })
    }

    /// Starts the end of a VM: from here on no vCPU of it runs.
    ///
    /// # Errors
    /// [`Error::VmGone`] where there is none of that name; [`Error::WrongState`] where it is dying already;
    /// [`Error::Busy`] while a vCPU runs, or another CPU works on it.
    pub fn teardown(&self, handle: VmHandle) -> Result<(), Error> {
        let mut table = self.entries.lock();
        let (index, life) = table.find(handle).map(|(index, _, life)| (index, life))?;
        match life {
            Life::Reserved => {}
            Life::Live if self.is_used(index) => return Err(Error::Busy),
            Life::Live => {}
            Life::Changing => return Err(Error::Busy),
            Life::Dying => return Err(Error::WrongState),
        }
        if let Some(entry) = table.entries.get_mut(index) {
            entry.name = Some((handle, Life::Dying));
            if let Some(vm) = &entry.object {
                vm.memory().lock().start_teardown();
            }
        }
        Ok(())
    }

    /// Lets one CPU take a dying VM apart.
    ///
    /// # Errors
    /// [`Error::VmGone`] where there is none of that name; [`Error::WrongState`] where it is not dying;
    /// [`Error::Busy`] while another CPU works on it.
    pub fn begin_finalise(&self, handle: VmHandle) -> Result<Finalising<'_>, Error> {
        let mut table = self.entries.lock();
        let (index, life) = table.find(handle).map(|(index, _, life)| (index, life))?;
        match life {
            Life::Dying if self.is_used(index) => return Err(Error::Busy),
            Life::Dying => {}
            Life::Changing => return Err(Error::Busy),
            Life::Reserved | Life::Live => return Err(Error::WrongState),
        }
        let entry = table.entries.get_mut(index).ok_or(Error::VmGone)?;
        entry.name = Some((handle, Life::Changing));
        Ok(Finalising { table: self, handle, index, object: entry.object.take(), finished: false })
    }

    /// How far a VM is; `None` where there is none of that name.
    pub fn life(&self, handle: VmHandle) -> Option<Life> {
        self.entries.lock().find(handle).ok().map(|(_, _, life)| life)
    }

    /// True while somebody has a reference to the VM in a slot. The lock is held, so nobody makes a new one.
    fn is_used(&self, index: usize) -> bool {
        self.users.get(index).is_none_or(|users| users.load(Ordering::Acquire) != 0)
    }
}

impl Default for VmTable {
    fn default() -> Self {
        Self::new()
    }
}

impl Entries {
    fn find(&self, handle: VmHandle) -> Result<(usize, &Entry, Life), Error> {
        let slot = slot_of(handle);
        match self.entries.get(slot) {
            Some(entry) => match entry.name {
                Some((name, life)) if name == handle => Ok((slot, entry, life)),
                _ => Err(Error::VmGone),
            },
            None => Err(Error::VmGone),
        }
    }

    fn set(&mut self, index: usize, name: Option<(VmHandle, Life)>, object: Option<Object<Vm>>) {
        if let Some(entry) = self.entries.get_mut(index) {
            entry.name = name;
            entry.object = object;
        }
    }

    /// The first handle after the last one that names a free slot. Never 0. No VM has it: it would be in that slot.
    fn next_handle(&self, slot: usize) -> VmHandle {
        let next = self.last_handle.wrapping_add(1);
        let steps = (slot as u32).wrapping_sub(slot_of(VmHandle(next)) as u32) % MAX_VMS as u32;
        match next.wrapping_add(steps) {
            0 => VmHandle(MAX_VMS as u32),
            number => VmHandle(number),
        }
    }
}

/// The slot that a handle names, so that a VM is found however many there are. The first VM's is 1.
const fn slot_of(handle: VmHandle) -> usize {
    handle.0.wrapping_sub(1) as usize % MAX_VMS
}

// Else handles that wrap would name another slot.
const _: () = assert!(MAX_VMS.is_power_of_two());

/// The use of a VM; while there is one, the VM is neither torn down nor taken apart.
#[derive(Debug)]
pub struct VmReference<'a> {
    vm: NonNull<Vm>,
    users: &'a AtomicU32,
}

impl Deref for VmReference<'_> {
    type Target = Vm;

    fn deref(&self) -> &Vm {
        // SAFETY: the pointer came from the table's `Object<Vm>` under the table's lock, where this reference was
        // counted. `begin_finalise`, the only one to take the object out, refuses while the count is not zero, so the
        // VM stays where it is, and is not borrowed mutably, until this reference is dropped.
        unsafe { self.vm.as_ref() }
    }
}

impl Drop for VmReference<'_> {
    fn drop(&mut self) {
        self.users.fetch_sub(1, Ordering::Release);
    }
}

/// The right to initialise a VM. Dropping it leaves the VM reserved as it was.
pub struct Initialising<'a> {
    table: &'a VmTable,
    handle: VmHandle,
    slot: VmSlot,
    object: Option<Object<Vm>>,
}

impl Initialising<'_> {
    /// The VM's slot, which no other VM has.
    pub const fn slot(&self) -> VmSlot {
        self.slot
    }

    /// Makes the VM live.
    pub fn publish(mut self, object: Object<Vm>) {
        self.object = Some(object);
    }
}

impl Drop for Initialising<'_> {
    fn drop(&mut self) {
        let object = self.object.take();
        let life = if object.is_some() { Life::Live } else { Life::Reserved };
        self.table.entries.lock().set(self.slot.number(), Some((self.handle, life)), object);
    }
}

/// The right to take a VM apart. Dropping it unfinished leaves the VM dying, with what is left of it.
pub struct Finalising<'a> {
    table: &'a VmTable,
    handle: VmHandle,
    index: usize,
    object: Option<Object<Vm>>,
    finished: bool,
}

impl Finalising<'_> {
    /// The VM; `None` where it was never initialised.
    pub fn object(&mut self) -> Option<&mut Object<Vm>> {
        self.object.as_mut()
    }

    /// Forgets the object, whose pages are hyp's no more.
    pub fn forget_object(&mut self) {
        self.object = None;
    }

    /// Forgets the handle.
    pub fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for Finalising<'_> {
    fn drop(&mut self) {
        let name = if self.finished { None } else { Some((self.handle, Life::Dying)) };
        let object = self.object.take();
        self.table.entries.lock().set(self.index, name, object);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(last_handle: u32) -> Entries {
        Entries { entries: [const { Entry { name: None, object: None } }; MAX_VMS], last_handle }
    }

    #[test]
    fn a_handle_names_its_slot_and_comes_after_the_last_one() {
        for last in [0, 1, 63, 64, 65, 1000, u32::MAX - 64, u32::MAX - 1, u32::MAX] {
            for slot in 0..MAX_VMS {
                let handle = entries(last).next_handle(slot);
                let ahead = handle.0.wrapping_sub(last);
                assert_eq!(slot_of(handle), slot, "{handle:?} after {last:#x}");
                assert!(handle.0 != 0 && (1..=2 * MAX_VMS as u32).contains(&ahead), "{handle:?} after {last:#x}");
            }
        }
        assert_eq!(entries(0).next_handle(0), VmHandle(1));
        assert_eq!(entries(7).next_handle(7), VmHandle(8));
        assert_eq!(entries(1).next_handle(0), VmHandle(65));
        assert_eq!(entries(u32::MAX).next_handle(63), VmHandle(64));
    }

    #[test]
    fn handles_are_not_given_out_again_soon() {
        let mut table = entries(0);
        let mut last = 0;
        for round in 0..1000 {
            let handle = table.next_handle(round % 3);
            assert!(handle.0 > last);
            last = handle.0;
            table.last_handle = last;
        }
    }
}
