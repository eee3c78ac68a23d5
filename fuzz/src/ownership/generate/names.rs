//! Things that there are, by the names that a script gives them.

use abi::{Gfn, Pfn};
use call_script::{CountName, FrameName, IpaName, Operand, PageName, Places, VmName, VmNumber};
use ownership_spec::{Offer, Page, Vm};

use super::super::model::VmModel;
use super::Generator;

/// Frames that are filled while the state allows it.
pub(super) const FRAMES: u64 = 24;
/// The first of those at which protected guests get devices.
pub(super) const DEVICE_FRAMES: u64 = 0x1_0000;
/// Pages of a block.
const BLOCK: u64 = 512;
/// Numbers that a hostile caller might try. None is the number of a page that some machines have and others not, or of a
/// frame at which some guests have memory from the beginning.
const HOSTILE: [u64; 12] =
    [0, 1, 3, u64::MAX, 1 << 63, 1 << 52, (1 << 52) - 1, 1 << 32, 0xffff_ffff, 1 << 19, (1 << 18) - 1, 1 << 36];

impl Generator<'_> {
    pub(super) fn number(&self, byte: usize) -> u64 {
        self.seed[byte].into()
    }

    pub(super) fn select(&self, byte: usize) -> usize {
        self.seed[byte].into()
    }

    pub(super) fn hostile(&self, byte: usize) -> u64 {
        HOSTILE[self.select(byte) % HOSTILE.len()]
    }

    pub(super) fn is_hostile(&self) -> bool {
        self.seed[1] >= 0xe0
    }

    /// One of these that the byte chooses.
    pub(super) fn choose<T>(&self, byte: usize, candidates: impl Iterator<Item = T>) -> Option<T> {
        let mut candidates: Vec<T> = candidates.collect();
        let index = self.select(byte).checked_rem(candidates.len())?;
        Some(candidates.swap_remove(index))
    }

    /// The names of the VMs, with what they are.
    pub(super) fn vms(&self) -> impl Iterator<Item = (VmNumber, &VmModel)> {
        self.names.iter().filter_map(|(number, handle)| Some((number, self.model.vm(handle)?)))
    }

    /// A VM that suits, or else any.
    pub(super) fn vm(&self, byte: usize, suits: impl Fn(&VmModel) -> bool) -> Option<VmNumber> {
        let suitable = self.vms().filter(|(_, vm)| suits(vm)).map(|(number, _)| number);
        self.choose(byte, suitable).or_else(|| self.choose(byte, self.vms().map(|(number, _)| number)))
    }

    pub(super) fn name(&self, number: Option<VmNumber>) -> Operand {
        Operand::Vm(number.map_or(VmName::Raw(self.hostile(2)), VmName::Named))
    }

    /// The name of the VM in a slot.
    pub(super) fn name_of(&self, vm: Vm) -> Option<VmNumber> {
        self.vms().find(|(_, model)| model.vm() == vm).map(|(number, _)| number)
    }

    /// What the specification calls a VM.
    pub(super) fn spec_vm(&self, number: Option<VmNumber>) -> Option<Vm> {
        let number = number?;
        self.vms().find(|(name, _)| *name == number).map(|(_, vm)| vm.vm())
    }

    /// How a page is called.
    pub(super) fn page_name(&self, pfn: Pfn) -> PageName {
        let within = |first: Pfn, count: u64| {
            pfn.raw().checked_sub(first.raw()).filter(|number| *number < count).map(|number| number as u32)
        };
        let Places { pool, pool_pages, device, device_pages, hyp, hyp_pages, .. } = *self.places;
        if let Some(number) = within(pool, pool_pages) {
            PageName::Pool(number)
        } else if let Some(number) = within(device, device_pages) {
            PageName::Device(number)
        } else if let Some(number) = within(hyp, hyp_pages) {
            PageName::Hyp(number)
        } else {
            PageName::Raw(pfn.raw())
        }
    }

    pub(super) fn frame_name(&self, gfn: Gfn) -> FrameName {
        match gfn.raw().checked_sub(self.places.frames.raw()).and_then(|number| u32::try_from(number).ok()) {
            Some(number) => FrameName::Test(number),
            None => FrameName::Raw(gfn.raw()),
        }
    }

    pub(super) fn ipa_name(&self, gfn: Gfn) -> IpaName {
        match self.frame_name(gfn) {
            FrameName::Test(number) => IpaName::Frame(number),
            FrameName::Raw(gfn) => IpaName::Raw(gfn << 12),
        }
    }

    pub(super) fn in_pool(&self, pfn: Pfn) -> bool {
        pfn.raw().wrapping_sub(self.places.pool.raw()) < self.places.pool_pages
    }

    /// A page that has a state other than at the start, and suits.
    pub(super) fn changed_page(&self, byte: usize, suits: impl Fn(&Page) -> bool) -> Option<Pfn> {
        self.page_that(byte, |pfn, page| self.in_pool(pfn) && suits(page))
    }

    /// The same, wherever it is.
    pub(super) fn page_that(&self, byte: usize, suits: impl Fn(Pfn, &Page) -> bool) -> Option<Pfn> {
        let suitable = self.model.spec.changed_pages().filter(|(pfn, page)| suits(*pfn, page));
        self.choose(byte, suitable.map(|(pfn, _)| pfn))
    }

    /// The first of `count` pages in a row that are the host's alone, at a number that `alignment` divides.
    pub(super) fn free_pages(&self, byte: usize, count: u64, alignment: u64) -> Operand {
        let changed: Vec<u64> = self.model.spec.changed_pages().map(|(pfn, _)| pfn.raw()).collect();
        let Places { pool, pool_pages, .. } = *self.places;
        let start = self.number(byte) * alignment;
        let candidates = (0..pool_pages).step_by(alignment as usize).map(|offset| (start + offset) % pool_pages);
        let is_free = |first: &u64| {
            let pages = pool.raw() + first..pool.raw() + first + count;
            first + count <= pool_pages && !changed.iter().any(|page| pages.contains(page))
        };
        let found = candidates.filter(|first| first % alignment == 0).find(is_free);
        Operand::Page(PageName::Pool(found.unwrap_or(start % pool_pages) as u32))
    }

    pub(super) fn any_page(&self, byte: usize) -> Operand {
        Operand::Page(PageName::Pool((self.number(byte) % self.places.pool_pages) as u32))
    }

    pub(super) fn page(&self, pfn: Option<Pfn>, byte: usize) -> Operand {
        pfn.map_or(self.any_page(byte), |pfn| Operand::Page(self.page_name(pfn)))
    }

    /// How many pages, and a number that divides that of the first.
    pub(super) fn count(&self) -> (u64, u64) {
        let has_blocks = self.places.pool_pages >= BLOCK;
        match self.seed[5] {
            0..0x90 => (1, 1),
            0x90..0xc0 => (2 + self.number(5) % 3, 1),
            0xc0..0xf0 if has_blocks => (BLOCK, BLOCK),
            0xf0..=0xff if has_blocks => (BLOCK - 2 + self.number(5) % 5, 1),
            byte => (1 + u64::from(byte) % 8, 1),
        }
    }

    pub(super) fn count_operand(count: u64) -> Operand {
        Operand::Count(CountName::Number(count))
    }

    /// A frame of a VM's from which on `count` frames are vacant, at a number that `alignment` divides.
    pub(super) fn vacant_frame(&self, byte: usize, vm: Option<Vm>, count: u64, alignment: u64) -> Gfn {
        self.vacant_frame_from(self.places.frames.raw(), byte, vm, count, alignment)
    }

    /// The same, of the frames from `base` on.
    pub(super) fn vacant_frame_from(&self, base: u64, byte: usize, vm: Option<Vm>, count: u64, alignment: u64) -> Gfn {
        let taken: Vec<u64> = vm.map_or(Vec::new(), |vm| {
            let spec = &self.model.spec;
            let memory = spec.changed_pages().flat_map(|(_, page)| page.frames().collect::<Vec<_>>());
            let devices = spec.changed_devices().filter_map(|(_, device)| device.frame());
            let held = memory.chain(devices).filter(|(guest, _)| *guest == vm).map(|(_, gfn)| gfn.raw());
            let poisoned = spec.guest(vm).map(|guest| guest.poisoned.iter().map(|gfn| gfn.raw()).collect::<Vec<_>>());
            held.chain(poisoned.unwrap_or_default()).collect()
        });
        let frames = if alignment == 1 { FRAMES } else { 4 };
        let start = self.number(byte) % frames;
        let candidates = (0..frames).map(|offset| base + (start + offset) % frames * alignment);
        let vacant =
            candidates.into_iter().find(|first| !taken.iter().any(|gfn| (*first..first + count).contains(gfn)));
        Gfn::new(vacant.unwrap_or(base + start))
    }

    /// A frame at which a VM has a page that suits.
    pub(super) fn held_frame(&self, byte: usize, vm: Option<Vm>, suits: impl Fn(&Page) -> bool) -> Option<Gfn> {
        let vm = vm?;
        let pages = self.model.spec.changed_pages().filter(|(_, page)| suits(page));
        self.choose(
            byte,
            pages.flat_map(|(_, page)| page.frames().collect::<Vec<_>>()).filter(|(guest, _)| *guest == vm),
        )
        .map(|(_, gfn)| gfn)
    }

    /// Any frame.
    pub(super) fn any_frame(&self, byte: usize) -> Gfn {
        Gfn::new(self.places.frames.raw() + self.number(byte) % FRAMES)
    }

    /// An offer, with the number and its owner.
    pub(super) fn offer(&self, byte: usize, suits: impl Fn(Vm, &Offer) -> bool) -> Option<(Vm, u64, Offer)> {
        let guests = self.model.spec.guests();
        let offers =
            guests.flat_map(|(vm, guest)| guest.offers.iter().map(move |(number, offer)| (vm, *number, *offer)));
        self.choose(byte, offers.filter(|(vm, _, offer)| suits(*vm, offer)))
    }

    pub(super) fn rights(&self, byte: usize) -> u64 {
        [7, 3, 1, 5][self.select(byte) % 4]
    }

    /// Bits of a guest's addresses, that every machine has or none.
    pub(super) fn ipa_bits(&self, byte: usize) -> u64 {
        match 30 + self.number(byte) % 20 {
            bits @ 30..=40 => bits,
            bits => bits + 8,
        }
    }

    pub(super) fn is_dying(&self, vm: Vm) -> bool {
        self.model.spec.guest(vm).is_ok_and(|guest| guest.dying)
    }
}
