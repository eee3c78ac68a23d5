//! One guest's memory: its stage 2, what its tables are made of, and how much it holds.

use crate::annotation::{Absence, is_device_mark};
use crate::lock::{Guard, Lock, Rank};
use crate::offer::Offers;
use crate::state::VmSlot;
use crate::table_pages::{Payer, TablePages};
use abi::host::VmHandle;
use abi::{Gfn, Ipa};
use pgtable::stage2::Stage2Regime;
use pgtable::{Leaf, Stage2, Stage2Attributes, Stage2Execute, TableError, TableFrames};

/// A guest's memory behind its own lock, of rank [`Rank::Guest`].
pub type GuestLock = Lock<GuestMemory>;

/// A guest's memory, and whose pages its tables are made of. A lock alone stands for [`Payer::Anyone`].
#[derive(Clone, Copy, Debug)]
pub struct GuestAccount<'a> {
    pub(crate) memory: &'a GuestLock,
    pub(crate) payer: Payer,
}

impl<'a> GuestAccount<'a> {
    /// The memory of a guest, with `payer` to pay.
    pub const fn new(memory: &'a GuestLock, payer: Payer) -> Self {
        Self { memory, payer }
    }

    /// The guest alone, for calls that make no tables.
    pub const fn guest(self) -> &'a GuestLock {
        self.memory
    }

    /// Waits for the lock and takes it. The order of [`Rank`] binds.
    pub fn lock(self) -> Guard<'a, GuestMemory> {
        let mut memory = self.memory.lock();
        memory.cache.charge(self.payer);
        memory
    }
}

impl<'a> From<&'a GuestLock> for GuestAccount<'a> {
    fn from(memory: &'a GuestLock) -> Self {
        Self::new(memory, Payer::Anyone)
    }
}

/// What a guest may do with a page that it borrows. Reading goes without saying.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rights {
    /// It may write.
    pub write: bool,
    /// It may fetch instructions.
    pub execute: bool,
}

impl Rights {
    /// All rights.
    pub const FULL: Self = Self { write: true, execute: true };

    /// The rights that the bits [`abi::host::RIGHT_READ`] and its fellows name; `None` where reading is not among them
    /// or a bit has no meaning.
    pub const fn from_bits(bits: u64) -> Option<Self> {
        use abi::host::{RIGHT_EXECUTE, RIGHT_READ, RIGHT_WRITE};
        if bits & RIGHT_READ == 0 || bits & !(RIGHT_READ | RIGHT_WRITE | RIGHT_EXECUTE) != 0 {
            return None;
        }
        Some(Self { write: bits & RIGHT_WRITE != 0, execute: bits & RIGHT_EXECUTE != 0 })
    }

    /// The attributes without the rights that are not among these.
    pub(crate) const fn limit(self, attributes: Stage2Attributes) -> Stage2Attributes {
        let execute = if self.execute { attributes.execute } else { Stage2Execute::None };
        Stage2Attributes { write: attributes.write && self.write, execute, ..attributes }
    }
}

/// What the software bits of a leaf of stage 2 say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Software {
    /// The guest owns the memory.
    Owned = 0,
    /// The guest, or the host, borrows the memory.
    Borrowed = 1,
    /// It is a device's.
    Device = 2,
}

impl Software {
    /// The bits.
    pub(crate) const fn bits(self) -> u8 {
        self as u8
    }

    /// True where a leaf with these attributes says this.
    pub const fn marks(self, attributes: &Stage2Attributes) -> bool {
        attributes.software == self as u8
    }
}

/// One guest's memory.
pub struct GuestMemory {
    pub(crate) stage2: Stage2,
    pub(crate) cache: TablePages,
    pub(crate) offers: Offers,
    slot: VmSlot,
    name: VmHandle,
    protected: bool,
    dying: bool,
    guards_devices: bool,
    pub(crate) pages_held: u64,
}

/// What a guest has at a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presence {
    /// Nothing, and the host may put something there.
    Nothing,
    /// The same, and the guest has said that it takes the frame for a device's.
    AwaitsDevice,
    /// Memory or a device.
    Mapped,
    /// Nothing, and nothing comes there.
    Absent(Absence),
}

impl GuestMemory {
    /// The memory of a guest that has none yet, around an empty stage 2 with a VMID of its own. No other guest ever
    /// has the same name, but another may have the same slot as soon as it is gone.
    pub const fn new(stage2: Stage2, slot: VmSlot, name: VmHandle, protected: bool) -> Self {
        let (cache, offers) = (TablePages::new(), Offers::new());
        Self { stage2, cache, offers, slot, name, protected, dying: false, guards_devices: false, pages_held: 0 }
    }

    /// The same, behind its lock.
    pub const fn locked(stage2: Stage2, slot: VmSlot, name: VmHandle, protected: bool) -> GuestLock {
        Lock::new(Rank::Guest, Self::new(stage2, slot, name, protected))
    }

    /// By which ledger and annotations know the guest.
    pub const fn slot(&self) -> VmSlot {
        self.slot
    }

    /// By which host and guests know it.
    pub const fn name(&self) -> VmHandle {
        self.name
    }

    /// True where memory is donated to the guest, false where it is shared with it.
    pub const fn is_protected(&self) -> bool {
        self.protected
    }

    /// True from [`start_teardown`](Self::start_teardown) on.
    pub const fn is_dying(&self) -> bool {
        self.dying
    }

    /// From here on the guest gets no more memory, and its pages may be taken back. No vCPU of it runs, or will.
    pub fn start_teardown(&mut self) {
        self.dying = true;
    }

    /// From here on no access of the guest's is the host's to answer but at frames that it has
    /// [marked](Self::mark_device). What is mapped there, be it a device that the host has granted, is reached as
    /// before. There is no way back.
    pub const fn guard_devices(&mut self) {
        self.guards_devices = true;
    }

    /// True from [`guard_devices`](Self::guard_devices) on.
    pub const fn guards_devices(&self) -> bool {
        self.guards_devices
    }

    /// What the guest offers to others.
    pub const fn offers(&self) -> &Offers {
        &self.offers
    }

    /// Pages that the guest owns, mappings of pages that it borrows, and pages of devices. A guest that holds some
    /// cannot be forgotten.
    pub const fn pages_held(&self) -> u64 {
        self.pages_held
    }

    /// Donated pages that wait to become tables, of all vCPUs.
    pub const fn cached_pages(&self) -> u64 {
        self.cache.count()
    }

    /// Those of them that the last call which took the lock for an account can use.
    pub fn available_pages(&self) -> u64 {
        self.cache.available()
    }

    /// The guest's translation table, to read.
    pub const fn stage2(&self) -> &Stage2 {
        &self.stage2
    }

    /// What decides for an IPA of the guest's.
    ///
    /// # Errors
    /// Those of the table: the IPA is beyond the guest's address size.
    pub fn lookup<E: TableFrames>(&self, env: &E, ipa: Ipa) -> Result<Leaf<Stage2Regime>, TableError> {
        self.stage2.lookup(env, ipa)
    }

    /// What the guest has at an IPA.
    ///
    /// # Errors
    /// Those of the table: the IPA is beyond the guest's address size.
    pub fn presence<E: TableFrames>(&self, env: &E, ipa: Ipa) -> Result<Presence, TableError> {
        let leaf = self.lookup(env, ipa)?;
        Ok(match leaf.annotation() {
            Some(annotation) if is_device_mark(annotation) => Presence::AwaitsDevice,
            Some(annotation) => Absence::of(annotation).map_or(Presence::Nothing, Presence::Absent),
            None if leaf.is_valid() => Presence::Mapped,
            None => Presence::Nothing,
        })
    }

    /// Guest frames below this one exist.
    pub fn gfn_limit(&self) -> u64 {
        Gfn::containing(Ipa::new(self.stage2.geometry().input_size())).raw()
    }
}

#[cfg(test)]
mod tests {
    use super::Rights;

    #[test]
    fn rights_without_reading_or_with_unknown_bits_are_none() {
        assert_eq!(Rights::from_bits(7), Some(Rights::FULL));
        assert_eq!(Rights::from_bits(1), Some(Rights::default()));
        assert_eq!(Rights::from_bits(3), Some(Rights { write: true, execute: false }));
        for bits in [0, 2, 4, 6, 8, 9, u64::MAX] {
            assert_eq!(Rights::from_bits(bits), None);
        }
    }
}
