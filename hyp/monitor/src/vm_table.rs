//! Which VMs there are, and how far each is in its life: reserved, live, dying, gone.

use crate::object::Object;
use crate::vm::Vm;
use abi::Error;
use abi::host::{MAX_VMS, VmHandle};
use core::ops::Deref;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicPtr, Ordering};
use ownership::door::{Door, Inside};
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
    /// The way in to each VM. While nobody holds the lock, it is open to those that are live or dying and have memory, and
    /// to no others. Who holds the lock opens and closes it.
    ways: [Way; MAX_VMS],
}

/// The way in to the VM of one slot.
struct Way {
    /// Its name is the VM's handle, and its flag says that the VM is dying.
    door: Door,
    /// Where the VM is while the door is open.
    vm: AtomicPtr<Vm>,
}

impl Way {
    const fn closed() -> Self {
        Self { door: Door::closed(), vm: AtomicPtr::new(null_mut()) }
    }

    /// Opens it, closed until now, to a VM that is live or dying.
    fn open(&self, handle: VmHandle, life: Life, vm: NonNull<Vm>) {
        self.vm.store(vm.as_ptr(), Ordering::Relaxed);
        self.door.open(handle.0, life == Life::Dying);
    }

    #[inline(always)]
    fn enter(&self, handle: VmHandle, allow: impl Fn(Life) -> bool) -> Option<VmReference<'_>> {
        let inside = self.door.enter(handle.0, |dying| allow(if dying { Life::Dying } else { Life::Live }))?;
        Some(VmReference { vm: self.vm.load(Ordering::Relaxed), _inside: inside })
    }
}

impl VmTable {
    /// No VM.
    pub const fn new() -> Self {
        Self {
            entries: Lock::new(
                Rank::VmTable,
                Entries { entries: [const { Entry { name: None, object: None } }; MAX_VMS], last_handle: 0 },
            ),
            ways: [const { Way::closed() }; MAX_VMS],
        }
    }

    /// Makes a handle, and reserves a place for its VM.
    ///
    /// # Errors
    /// [`Error::Limit`] where every place is taken, or every name has been given out that there is.
    pub fn reserve(&self) -> Result<VmHandle, Error> {
        let mut table = self.entries.lock();
        let slot = table.entries.iter().position(|entry| entry.name.is_none()).ok_or(Error::Limit)?;
        let handle = table.next_handle(slot).ok_or(Error::Limit)?;
        table.set(slot, Some((handle, Life::Reserved)), None);
        table.last_handle = handle.0;
        Ok(handle)
    }

    /// Uses a live VM.
    ///
    /// # Errors
    /// [`Error::VmGone`] where there is none of that name, or it is dying; [`Error::WrongState`] where it has not been
    /// initialised.
    #[inline(always)]
    pub fn live(&self, handle: VmHandle) -> Result<VmReference<'_>, Error> {
        match self.enter(handle, |life| life == Life::Live) {
            Some(reference) => Ok(reference),
            None => self.closed_but_live(handle),
        }
    }

    /// [`live`](Self::live) for a VM that it has found closed.
    #[cold]
    fn closed_but_live(&self, handle: VmHandle) -> Result<VmReference<'_>, Error> {
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
        let (name, _) = table.entries.get(slot.number())?.name?;
        self.enter(name, |_| true)
    }

    fn reference(&self, handle: VmHandle, allow: impl Fn(Life) -> Result<(), Error>) -> Result<VmReference<'_>, Error> {
        if let Some(reference) = self.enter(handle, |life| allow(life).is_ok()) {
            return Ok(reference);
        }
        // It may be closed only for the time of a change; the lock tells.
        let table = self.entries.lock();
        let (_, _, life) = table.find(handle)?;
        allow(life)?;
        self.enter(handle, |_| true).ok_or(Error::WrongState)
    }

    #[inline(always)]
    fn enter(&self, handle: VmHandle, allow: impl Fn(Life) -> bool) -> Option<VmReference<'_>> {
        self.ways.get(slot_of(handle))?.enter(handle, allow)
    }

    /// Opens the way to an initialised VM. The lock is held.
    fn open(&self, handle: VmHandle, life: Life, object: Option<&Object<Vm>>) {
        if let (Some(way), Some(object)) = (self.ways.get(slot_of(handle)), object) {
            way.open(handle, life, object.pointer());
        }
    }

    /// Closes the way to a VM, and says whether it is closed: not while somebody uses the VM. The lock is held.
    fn close(&self, index: usize) -> bool {
        self.ways.get(index).is_some_and(|way| way.door.close())
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
            Life::Live if self.close(index) => {}
            Life::Live => return Err(Error::Busy),
            Life::Changing => return Err(Error::Busy),
            Life::Dying => return Err(Error::WrongState),
        }
        if let Some(entry) = table.entries.get_mut(index) {
            entry.name = Some((handle, Life::Dying));
            if let Some(vm) = &entry.object {
                vm.memory().lock().start_teardown();
            }
            self.open(handle, Life::Dying, entry.object.as_ref());
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
            Life::Dying if self.close(index) => {}
            Life::Dying | Life::Changing => return Err(Error::Busy),
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

    /// The first handle after the last one that names a slot; `None` where there is none left. A guest knows others by their
    /// handles, so that none is ever given out twice.
    fn next_handle(&self, slot: usize) -> Option<VmHandle> {
        let next = self.last_handle.checked_add(1)?;
        let steps = (slot as u32).wrapping_sub(slot_of(VmHandle(next)) as u32) % MAX_VMS as u32;
        next.checked_add(steps).map(VmHandle)
    }
}

/// The slot that a handle names, so that a VM is found however many there are. The first VM's is 1.
const fn slot_of(handle: VmHandle) -> usize {
    handle.0.wrapping_sub(1) as usize % MAX_VMS
}

/// The use of a VM; while there is one, the VM is neither torn down nor taken apart.
#[derive(Debug)]
pub struct VmReference<'a> {
    vm: *const Vm,
    _inside: Inside<'a>,
}

impl Deref for VmReference<'_> {
    type Target = Vm;

    fn deref(&self) -> &Vm {
        // SAFETY: the pointer was stored before the door was opened, to the table's `Object<Vm>`, and is not changed
        // while the door is open, which it is for as long as this reference is inside. `begin_finalise`, the only one
        // to take the object out, closes it first or refuses; so the VM stays where it is, and is not borrowed mutably,
        // until this reference is dropped.
        unsafe { &*self.vm }
    }
}

// A reference is good on every CPU.
const _: () = {
    const fn is_sync<T: Sync>() {}
    is_sync::<Vm>();
};

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
        let mut table = self.table.entries.lock();
        self.table.open(self.handle, life, object.as_ref());
        table.set(self.slot.number(), Some((self.handle, life)), object);
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
        let object = self.object.take().filter(|_| !self.finished);
        let mut table = self.table.entries.lock();
        self.table.open(self.handle, Life::Dying, object.as_ref());
        table.set(self.index, name, object);
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;
    use std::vec::Vec;

    fn entries(last_handle: u32) -> Entries {
        Entries { entries: [const { Entry { name: None, object: None } }; MAX_VMS], last_handle }
    }

    #[test]
    fn a_handle_names_its_slot_and_comes_after_the_last_one() {
        for last in [0, 1, 63, 64, 65, 1000, u32::MAX - 64] {
            for slot in 0..MAX_VMS {
                let handle = entries(last).next_handle(slot).unwrap();
                assert_eq!(slot_of(handle), slot, "{handle:?} after {last:#x}");
                assert!((1..=MAX_VMS as u32).contains(&(handle.0 - last)), "{handle:?} after {last:#x}");
            }
        }
        assert_eq!(entries(0).next_handle(0), Some(VmHandle(1)));
        assert_eq!(entries(7).next_handle(7), Some(VmHandle(8)));
        assert_eq!(entries(1).next_handle(0), Some(VmHandle(65)));
    }

    #[test]
    fn no_handle_is_given_out_twice() {
        let slot = slot_of(VmHandle(u32::MAX));
        assert_eq!(entries(u32::MAX - 1).next_handle(slot), Some(VmHandle(u32::MAX)));
        for slot in 0..MAX_VMS {
            assert_eq!(entries(u32::MAX).next_handle(slot), None);
        }
        let table = VmTable::new();
        table.entries.lock().last_handle = u32::MAX - 70;
        let given: Vec<_> = core::iter::from_fn(|| {
            let handle = table.reserve();
            if let Ok(handle) = handle {
                table.entries.lock().set(slot_of(handle), None, None);
            }
            Some(handle)
        })
        .take(100)
        .collect();
        let (done, refused): (Vec<_>, Vec<_>) = given.into_iter().partition(Result::is_ok);
        assert!(done.is_sorted_by(|one, next| one.unwrap().0 < next.unwrap().0) && !done.is_empty());
        assert!(!refused.is_empty() && refused.iter().all(|handle| *handle == Err(Error::Limit)));
    }

    /// Who waits at each run of a vCPU may find the next interrupt pending each time, and the guest gets nowhere.
    #[test]
    fn who_uses_a_vm_does_not_wait_for_who_holds_the_table() {
        let table = VmTable::new();
        let handle = table.reserve().unwrap();
        // Nobody looks at the VM.
        table.ways[slot_of(handle)].open(handle, Life::Live, NonNull::dangling());
        let (tell, told) = mpsc::channel();
        thread::scope(|scope| {
            let held = table.entries.lock();
            scope.spawn(|| tell.send(table.live(handle).is_ok()).unwrap());
            let answer = told.recv_timeout(Duration::from_secs(20));
            drop(held);
            assert_eq!(answer, Ok(true));
        });
    }
}
