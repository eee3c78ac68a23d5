//! What to do next, by chance: mostly what is likely to be done in the state that memory is in, and now and then anything
//! at all.
//!
//! A blind tester is refused nearly always, and sees little of what comes after success.

mod blind;
mod guest;
mod host;

pub use blind::blind;

use crate::guest_step::{GuestAction, GuestStep};
use crate::host_step::HostStep;
use crate::model::Model;
use crate::operand::{Operand, VmName, VmNumber};
use crate::resolve::Names;
use crate::step::Action;
use abi::host::{HostCall, VmHandle};
use abi::{Gfn, Pfn};
use alloc::vec::Vec;
use core::ops::Range;
use ownership_spec::{Guest, Page, Specification, Vm};

/// One choice in so many is blind.
const BLIND: u64 = 6;
/// One of the others in so many is changed in one operand.
const NEAR_MISSES: u64 = 12;
/// Attempts to find something that is likely to be done.
const ATTEMPTS: usize = 24;

/// Numbers by chance, the same ones for the same seed: SplitMix64 (Steele, Lea and Flood, 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The numbers of a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub const fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `limit`, which is not 0.
    pub const fn below(&mut self, limit: u64) -> u64 {
        self.number() % limit
    }

    /// True once in so many times.
    pub const fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of `choice`; `None` where there is none.
    pub fn pick<T: Clone>(&mut self, choice: &[T]) -> Option<T> {
        let count = u64::try_from(choice.len()).ok().filter(|count| *count != 0)?;
        choice.get(self.below(count) as usize).cloned()
    }
}

/// What a chooser may play with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Territory {
    /// Pages of the pool.
    pub pages: Range<u32>,
    /// Pages of the pool for objects of a VM; empty where none is to be given to hyp.
    pub objects: Range<u32>,
    /// The first page of a block of the pool, 2 MiB aligned, that may change hands as a whole.
    pub block: Option<u32>,
    /// A page of a device.
    pub device: Option<u32>,
    /// How many of the first frames of guests.
    pub frames: u32,
    /// VMs in which a guest acts.
    pub guests: Vec<VmNumber>,
    /// Other VMs that calls may be about.
    pub others: Vec<VmNumber>,
    /// The VM that may be made.
    pub made: Option<VmNumber>,
}

/// The next action, where memory is as in `model`.
pub fn choose(model: &Model, names: &Names, territory: &Territory, random: &mut Random) -> Action {
    let blindly = random.one_in(BLIND);
    let mut chooser = Chooser { model, names, territory, random };
    if !blindly {
        for _ in 0..ATTEMPTS {
            if let Some(action) = chooser.likely() {
                let near = chooser.random.one_in(NEAR_MISSES);
                return if near { blind::alter(action, names, territory, chooser.random) } else { action };
            }
        }
    }
    blind(names, territory, chooser.random)
}

/// What is left to be done before a dying VM can be finalised, or finalising it.
pub fn undo(model: &Model, names: &Names, number: VmNumber) -> Option<Action> {
    let territory = Territory {
        pages: 0..u32::try_from(model.places().pool_pages).unwrap_or(u32::MAX),
        objects: 0..0,
        block: None,
        device: None,
        frames: 0,
        guests: Vec::new(),
        others: Vec::new(),
        made: None,
    };
    let random = &mut Random::new(0);
    Chooser { model, names, territory: &territory, random }.undo(number)
}

/// One choice.
struct Chooser<'a> {
    model: &'a Model,
    names: &'a Names,
    territory: &'a Territory,
    random: &'a mut Random,
}

/// A VM that there is.
#[derive(Clone, Copy)]
struct KnownVm<'a> {
    number: VmNumber,
    handle: VmHandle,
    vm: Vm,
    guest: &'a Guest,
}

impl<'a> Chooser<'a> {
    /// Something of a kind taken by chance, if there is something of that kind that is likely to be done.
    fn likely(&mut self) -> Option<Action> {
        match self.random.below(100) {
            0..=44 => self.likely_host_call(),
            45..=79 => self.likely_guest_action(),
            80..=97 => self.likely_access(),
            _ => self.life(),
        }
    }

    fn memory(&self) -> &'a Specification {
        self.model.specification()
    }

    /// The number of a page of the pool, if it is one.
    fn pool_number(&self, page: Pfn) -> Option<u32> {
        let number = page.raw().checked_sub(self.model.places().pool.raw())?;
        u32::try_from(number).ok()
    }

    /// A page of the territory that suits.
    fn page(&mut self, suits: impl Fn(&Page) -> bool) -> Option<u32> {
        let suiting: Vec<u32> = self.pages().filter(|(_, page)| suits(page)).map(|(number, _)| number).collect();
        self.random.pick(&suiting)
    }

    /// The pages of the territory, in order, as they are.
    fn pages(&self) -> impl Iterator<Item = (u32, &'a Page)> + use<'a> {
        static AS_AT_START: Page = Page::HOST_ALONE;
        let (model, numbers) = (self.model, self.territory.pages.clone());
        let first = model.places().pool.raw();
        let number = move |at: Pfn| u32::try_from(at.raw().checked_sub(first)?).ok();
        let changed = self.memory().changed_pages().filter_map(move |(at, page)| Some((number(at)?, page)));
        let mut changed = changed
            .skip_while({
                let start = numbers.start;
                move |(number, _)| *number < start
            })
            .peekable();
        numbers.map(move |number| {
            let here = changed.next_if(|(changed, _)| *changed == number);
            here.unwrap_or((number, &AS_AT_START))
        })
    }

    /// All VMs of the territory that have been initialised.
    fn vms(&self) -> Vec<KnownVm<'a>> {
        let Territory { guests, others, made, .. } = self.territory;
        let numbers = guests.iter().chain(others).copied().chain(*made);
        numbers.filter_map(|number| self.vm(number)).collect()
    }

    fn vm(&self, number: VmNumber) -> Option<KnownVm<'a>> {
        let handle = self.names.handle(number)?;
        let vm = self.model.slot(handle)?;
        Some(KnownVm { number, handle, vm, guest: self.memory().guest(vm).ok()? })
    }

    /// A VM that suits.
    fn vm_where(&mut self, suits: impl Fn(&KnownVm<'a>) -> bool) -> Option<KnownVm<'a>> {
        let suiting: Vec<KnownVm<'a>> = self.vms().into_iter().filter(suits).collect();
        self.random.pick(&suiting)
    }

    /// A guest that lives, suits, and is not stopped.
    fn acting_guest(&mut self, suits: impl Fn(&KnownVm<'a>) -> bool) -> Option<KnownVm<'a>> {
        let (guests, model) = (&self.territory.guests, self.model);
        self.vm_where(|vm| {
            let free = model.stopped_at(vm.handle, 0).is_none();
            guests.contains(&vm.number) && !vm.guest.dying && free && suits(vm)
        })
    }

    /// The number of a frame for scripts, if it is one.
    fn frame_number(&self, gfn: Gfn) -> Option<u32> {
        u32::try_from(gfn.raw().checked_sub(self.model.places().frames.raw())?).ok()
    }

    fn gfn(&self, frame: u32) -> Gfn {
        Gfn::new(self.model.places().frames.raw() + u64::from(frame))
    }
}

/// A host call.
fn host(call: HostCall, operands: impl Into<Vec<Operand>>) -> Option<Action> {
    HostStep::new(call, operands).map(Action::Host)
}

fn named(number: VmNumber) -> Operand {
    Operand::Vm(VmName::Named(number))
}

/// A guest's action by its first vCPU.
fn guest(vm: VmNumber, action: GuestAction) -> Action {
    Action::Guest(GuestStep { vm, vcpu: 0, action })
}
