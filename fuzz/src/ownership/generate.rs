//! From a few bytes and the state that there is to a step of a script.
//!
//! Most bytes choose among what the state allows, so that a mutation leads to another call that is likely to succeed; and
//! a step depends on no bytes but its own.

use abi::guest::GuestCall;
use abi::host::HostCall;
use abi::register::Register;
use abi::{Gfn, PAGE_SHIFT, Pfn, guest, psci, smccc};
use call_script::{
    Access, Action, CountName, FrameName, GuestAction, GuestFunction, GuestStep, HostAccess, HostStep, IpaName, Names,
    Operand, PageName, Places, VmName, VmNumber,
};
use ownership_spec::{Borrower, Offer, Owner, Page, Vm};

use super::case::Seed;
use super::guest_calls::DEVICE_LIMIT;
use super::model::{Life, Model, Stuck, VmModel};

/// Frames that are filled while the state allows it.
const FRAMES: u64 = 24;
/// The first of those at which protected guests get devices.
const DEVICE_FRAMES: u64 = 0x1_0000;
/// Pages of a block.
const BLOCK: u64 = 512;

/// What a step may be, and how often, of 256.
const KINDS: &[(u8, What)] = &[
    (6, What::Host(HostCall::HypShare)),
    (5, What::Host(HostCall::HypShareRestricted)),
    (6, What::Host(HostCall::HypUnshare)),
    (5, What::Host(HostCall::VmReserve)),
    (5, What::Host(HostCall::VmInit)),
    (5, What::Host(HostCall::VcpuInit)),
    (5, What::Host(HostCall::VcpuTopUp)),
    (16, What::Host(HostCall::VmDonate)),
    (10, What::Host(HostCall::VmLend)),
    (14, What::Host(HostCall::VmShare)),
    (9, What::Host(HostCall::VmUnshare)),
    (7, What::Host(HostCall::VmReturn)),
    (7, What::Host(HostCall::VmForceReclaim)),
    (5, What::Host(HostCall::VmTeardown)),
    (10, What::Host(HostCall::VmReclaim)),
    (5, What::Host(HostCall::VmFinalise)),
    (5, What::Host(HostCall::VmEndShare)),
    (6, What::Host(HostCall::VmGrantDevice)),
    (5, What::Host(HostCall::VmReclaimDevice)),
    (1, What::Host(HostCall::Version)),
    (1, What::Host(HostCall::MemoryInfo)),
    (1, What::Host(HostCall::InterruptInfo)),
    (1, What::Host(HostCall::VcpuGetRegister)),
    (1, What::Host(HostCall::VcpuSetRegister)),
    (2, What::Host(HostCall::VmSizes)),
    (2, What::Host(HostCall::VcpuRun)),
    (2, What::RawHostCall),
    (7, What::Guest(GuestFunction::MemShare)),
    (6, What::Guest(GuestFunction::MemUnshare)),
    (6, What::Guest(GuestFunction::MemRelinquish)),
    (8, What::Guest(GuestFunction::Own(GuestCall::MemLend))),
    (6, What::Guest(GuestFunction::Own(GuestCall::MemReturn))),
    (9, What::Guest(GuestFunction::Own(GuestCall::MemOffer))),
    (9, What::Guest(GuestFunction::Own(GuestCall::MemAccept))),
    (6, What::Guest(GuestFunction::Own(GuestCall::MemWithdraw))),
    (6, What::Guest(GuestFunction::Own(GuestCall::MemDrop))),
    (1, What::Guest(GuestFunction::Own(GuestCall::VmName))),
    (1, What::Guest(GuestFunction::Features)),
    (1, What::Guest(GuestFunction::HypMeminfo)),
    (2, What::RawGuestCall),
    (6, What::GuestRead),
    (5, What::GuestWrite),
    (2, What::GuestExecute),
    (3, What::Resume),
    (6, What::HostRead),
    (6, What::HostWrite),
    (2, What::HostExecute),
    (4, What::Frames),
];

/// What a step is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    Host(HostCall),
    RawHostCall,
    Guest(GuestFunction),
    RawGuestCall,
    GuestRead,
    GuestWrite,
    GuestExecute,
    Resume,
    HostRead,
    HostWrite,
    HostExecute,
    Frames,
}

/// The step that a byte chooses.
fn what(byte: u8) -> What {
    let mut left = u32::from(byte);
    for (weight, what) in KINDS {
        match left.checked_sub(u32::from(*weight)) {
            Some(rest) => left = rest,
            None => return *what,
        }
    }
    What::HostRead
}

/// Numbers that a hostile caller might try. None is the number of a page that some machines have and others not, or of a
/// frame at which some guests have memory from the beginning.
const HOSTILE: [u64; 12] =
    [0, 1, 3, u64::MAX, 1 << 63, 1 << 52, (1 << 52) - 1, 1 << 32, 0xffff_ffff, 1 << 19, (1 << 18) - 1, 1 << 36];

/// What a seed says of who does the step, and when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timing {
    /// Which CPU.
    pub cpu: u8,
    /// The step after this one, another CPU's, happens at this lock boundary of this one.
    pub boundary: Option<u32>,
}

/// Who does the step of a seed, and when.
pub fn timing(seed: &Seed) -> Timing {
    let byte = seed[1];
    let boundary = (byte & 0b1100 == 0b1100).then_some(1 + u32::from(byte >> 4 & 0b11));
    Timing { cpu: byte & 0b11, boundary }
}

/// Makes steps.
pub struct Generator<'a> {
    /// The state.
    pub model: &'a Model,
    /// Which VM has which name.
    pub names: &'a Names,
    /// Where things are.
    pub places: &'a Places,
    /// From what.
    pub seed: Seed,
}

impl Generator<'_> {
    /// The step of the seed.
    pub fn action(&self) -> Action {
        let action = self.wish();
        match &action {
            // A guest that is stuck does nothing else; most often it is helped.
            Action::Guest(GuestStep { vm, .. }) if self.seed[7] & 7 != 0 => self.help(*vm).unwrap_or(action),
            Action::Host(step) if self.seed[7] & 7 != 0 => self.helped(step).unwrap_or(action),
            _ => action,
        }
    }

    /// What the host does so that a guest comes past what it is stuck at.
    fn help(&self, number: VmNumber) -> Option<Action> {
        let (_, vm) = self.vms().find(|(name, vm)| *name == number && vm.life == Life::Live)?;
        let handle = u64::from(self.names.handle(number)?.0);
        let (named, vcpu, one) = (Operand::Vm(VmName::Named(number)), Operand::Vcpu(0), Self::count_operand(1));
        let (call, operands) = match *self.model.stuck.get(&handle)? {
            Stuck::Memory(gfn) => {
                let operands = vec![named, vcpu, self.free_pages(3, 1, 1), Operand::Frame(self.frame_name(gfn)), one];
                match (vm.protected, self.seed[6] & 1) {
                    (true, 0) => (HostCall::VmDonate, operands),
                    (true, _) => (HostCall::VmLend, operands),
                    (false, _) => (HostCall::VmShare, [operands, vec![Operand::Rights(self.rights(6))]].concat()),
                }
            }
            Stuck::Tables => (HostCall::VcpuTopUp, vec![named, vcpu, self.free_pages(3, 1, 1), one]),
            Stuck::ForGood => return None,
        };
        HostStep::new(call, operands).map(Action::Host)
    }

    /// What gives a VM pages for tables, where that is what a call needs.
    fn helped(&self, step: &HostStep) -> Option<Action> {
        let needs = [HostCall::VmDonate, HostCall::VmLend, HostCall::VmShare, HostCall::VmGrantDevice];
        let Some(Operand::Vm(VmName::Named(number))) = step.operands().first() else { return None };
        let handle = u64::from(self.names.handle(*number)?.0);
        let lacks_tables = self.model.stuck.get(&handle) == Some(&Stuck::Tables);
        if lacks_tables && needs.contains(&step.call()) { self.help(*number) } else { None }
    }

    /// The step of the seed; where nothing of that kind can be done, most often one that leads there.
    fn wish(&self) -> Action {
        let mut what = what(self.seed[0]);
        if self.model.has_few_frames && self.seed[7] & 7 == 7 {
            return Action::Frames(None);
        }
        if !self.is_hostile() && self.seed[7] & 0xf != 0xf {
            // One step may be needed for another; the chain is not longer than this.
            for _ in 0..4 {
                what = self.instead(what);
            }
        }
        match what {
            What::Host(call) => self.host_call(call),
            What::RawHostCall => {
                let base = [0xc600_0100_u64, 0x8600_ff00, 0xc600_0000, 0x4600_0100][self.select(2) % 4];
                Action::RawCall(base + self.number(3) % 0x40, [self.hostile(4), self.hostile(5), 1, 0, 0, 0, 0])
            }
            What::Guest(function) => self.guest_call(function),
            What::RawGuestCall => self.raw_guest_call(),
            What::GuestRead => self.guest_access(GuestAction::Read),
            What::GuestWrite => self.guest_access(|ipa| GuestAction::Write(ipa, 1 + self.number(7))),
            What::GuestExecute => self.guest_access(GuestAction::Execute),
            What::Resume => self.guest(self.vm(2, |vm| vm.life == Life::Live), GuestAction::Resume),
            What::HostRead => self.host_access(Access::Read),
            What::HostWrite => self.host_access(Access::Write(0x100 + self.number(7))),
            What::HostExecute => self.host_access(Access::Execute),
            What::Frames => {
                let count = self.seed[2] & 7;
                Action::Frames((count < 4 && !self.model.has_few_frames).then_some(count.into()))
            }
        }
    }

    fn number(&self, byte: usize) -> u64 {
        self.seed[byte].into()
    }

    fn select(&self, byte: usize) -> usize {
        self.seed[byte].into()
    }

    fn hostile(&self, byte: usize) -> u64 {
        HOSTILE[self.select(byte) % HOSTILE.len()]
    }

    fn is_hostile(&self) -> bool {
        self.seed[1] >= 0xe0
    }

    /// One of these that the byte chooses.
    fn choose<T>(&self, byte: usize, candidates: impl Iterator<Item = T>) -> Option<T> {
        let mut candidates: Vec<T> = candidates.collect();
        let index = self.select(byte).checked_rem(candidates.len())?;
        Some(candidates.swap_remove(index))
    }

    /// The names of the VMs, with what they are.
    fn vms(&self) -> impl Iterator<Item = (VmNumber, &VmModel)> {
        self.names.iter().filter_map(|(number, handle)| Some((number, self.model.vm(handle)?)))
    }

    /// A VM that suits, or else any.
    fn vm(&self, byte: usize, suits: impl Fn(&VmModel) -> bool) -> Option<VmNumber> {
        let suitable = self.vms().filter(|(_, vm)| suits(vm)).map(|(number, _)| number);
        self.choose(byte, suitable).or_else(|| self.choose(byte, self.vms().map(|(number, _)| number)))
    }

    fn name(&self, number: Option<VmNumber>) -> Operand {
        Operand::Vm(number.map_or(VmName::Raw(self.hostile(2)), VmName::Named))
    }

    /// The name of the VM in a slot.
    fn name_of(&self, vm: Vm) -> Option<VmNumber> {
        self.vms().find(|(_, model)| model.vm() == vm).map(|(number, _)| number)
    }

    /// What the specification calls a VM.
    fn spec_vm(&self, number: Option<VmNumber>) -> Option<Vm> {
        let number = number?;
        self.vms().find(|(name, _)| *name == number).map(|(_, vm)| vm.vm())
    }

    /// How a page is called.
    fn page_name(&self, pfn: Pfn) -> PageName {
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

    fn frame_name(&self, gfn: Gfn) -> FrameName {
        match gfn.raw().checked_sub(self.places.frames.raw()).and_then(|number| u32::try_from(number).ok()) {
            Some(number) => FrameName::Test(number),
            None => FrameName::Raw(gfn.raw()),
        }
    }

    fn ipa_name(&self, gfn: Gfn) -> IpaName {
        match self.frame_name(gfn) {
            FrameName::Test(number) => IpaName::Frame(number),
            FrameName::Raw(gfn) => IpaName::Raw(gfn << 12),
        }
    }

    fn in_pool(&self, pfn: Pfn) -> bool {
        pfn.raw().wrapping_sub(self.places.pool.raw()) < self.places.pool_pages
    }

    /// A page that has a state other than at the start, and suits.
    fn changed_page(&self, byte: usize, suits: impl Fn(&Page) -> bool) -> Option<Pfn> {
        self.page_that(byte, |pfn, page| self.in_pool(pfn) && suits(page))
    }

    /// The same, wherever it is.
    fn page_that(&self, byte: usize, suits: impl Fn(Pfn, &Page) -> bool) -> Option<Pfn> {
        let suitable = self.model.spec.changed_pages().filter(|(pfn, page)| suits(*pfn, page));
        self.choose(byte, suitable.map(|(pfn, _)| pfn))
    }

    /// The first of `count` pages in a row that are the host's alone, at a number that `alignment` divides.
    fn free_pages(&self, byte: usize, count: u64, alignment: u64) -> Operand {
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

    fn any_page(&self, byte: usize) -> Operand {
        Operand::Page(PageName::Pool((self.number(byte) % self.places.pool_pages) as u32))
    }

    fn page(&self, pfn: Option<Pfn>, byte: usize) -> Operand {
        pfn.map_or(self.any_page(byte), |pfn| Operand::Page(self.page_name(pfn)))
    }

    /// How many pages, and a number that divides that of the first.
    fn count(&self) -> (u64, u64) {
        let has_blocks = self.places.pool_pages >= BLOCK;
        match self.seed[5] {
            0..0x90 => (1, 1),
            0x90..0xc0 => (2 + self.number(5) % 3, 1),
            0xc0..0xf0 if has_blocks => (BLOCK, BLOCK),
            0xf0..=0xff if has_blocks => (BLOCK - 2 + self.number(5) % 5, 1),
            byte => (1 + u64::from(byte) % 8, 1),
        }
    }

    fn count_operand(count: u64) -> Operand {
        Operand::Count(CountName::Number(count))
    }

    /// A frame of a VM's from which on `count` frames are vacant, at a number that `alignment` divides.
    fn vacant_frame(&self, byte: usize, vm: Option<Vm>, count: u64, alignment: u64) -> Gfn {
        self.vacant_frame_from(self.places.frames.raw(), byte, vm, count, alignment)
    }

    /// The same, of the frames from `base` on.
    fn vacant_frame_from(&self, base: u64, byte: usize, vm: Option<Vm>, count: u64, alignment: u64) -> Gfn {
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
    fn held_frame(&self, byte: usize, vm: Option<Vm>, suits: impl Fn(&Page) -> bool) -> Option<Gfn> {
        let vm = vm?;
        let pages = self.model.spec.changed_pages().filter(|(_, page)| suits(page));
        self.choose(
            byte,
            pages.flat_map(|(_, page)| page.frames().collect::<Vec<_>>()).filter(|(guest, _)| *guest == vm),
        )
        .map(|(_, gfn)| gfn)
    }

    /// Any frame.
    fn any_frame(&self, byte: usize) -> Gfn {
        Gfn::new(self.places.frames.raw() + self.number(byte) % FRAMES)
    }

    /// An offer, with the number and its owner.
    fn offer(&self, byte: usize, suits: impl Fn(Vm, &Offer) -> bool) -> Option<(Vm, u64, Offer)> {
        let guests = self.model.spec.guests();
        let offers =
            guests.flat_map(|(vm, guest)| guest.offers.iter().map(move |(number, offer)| (vm, *number, *offer)));
        self.choose(byte, offers.filter(|(vm, _, offer)| suits(*vm, offer)))
    }

    fn rights(&self, byte: usize) -> u64 {
        [7, 3, 1, 5][self.select(byte) % 4]
    }

    /// Bits of a guest's addresses, that every machine has or none.
    fn ipa_bits(&self, byte: usize) -> u64 {
        match 30 + self.number(byte) % 20 {
            bits @ 30..=40 => bits,
            bits => bits + 8,
        }
    }

    fn host_call(&self, call: HostCall) -> Action {
        let mut operands = self.host_operands(call);
        // A guest's script lives in its general registers.
        if self.is_hostile() && !operands.is_empty() && call != HostCall::VcpuSetRegister {
            let index = self.select(7) % operands.len();
            operands[index] = self.make_hostile(operands[index]);
        }
        let step = HostStep::new(call, operands);
        Action::Host(step.unwrap_or_else(|| panic!("{call:?} takes other operands")))
    }

    fn host_operands(&self, call: HostCall) -> Vec<Operand> {
        let (count, alignment) = self.count();
        let is_live = |vm: &VmModel| vm.life == Life::Live && !vm.run_pages.is_empty();
        let named = Self::count_operand;
        let vcpu = Operand::Vcpu(0);
        match call {
            HostCall::Version | HostCall::MemoryInfo | HostCall::InterruptInfo => vec![],
            HostCall::HypShare | HostCall::HypShareRestricted => {
                vec![self.free_pages(3, count, alignment), named(count)]
            }
            HostCall::HypUnshare => {
                // Also the run pages of the setup's VMs, which are in no pool.
                let everywhere = self.seed[4] >= 0xc0;
                let shared = |page: &Page| page.borrowers.contains_key(&Borrower::Hyp);
                let page = self.page_that(3, |pfn, page| (everywhere || self.in_pool(pfn)) && shared(page));
                vec![self.page(page, 3), named(if alignment == 1 { 1 } else { count })]
            }
            HostCall::VmSizes => vec![Operand::Number(self.ipa_bits(3)), Operand::Number(self.number(4) % 20)],
            HostCall::VmReserve => {
                let number = (0..64).find(|number| self.names.handle(*number).is_none()).unwrap_or(63);
                vec![Operand::NewVm(number)]
            }
            HostCall::VmInit => {
                let vm = self.vm(2, |vm| vm.life == Life::Reserved);
                let flags = Operand::Flags(self.number(6) & 1);
                let bits = if self.seed[6] >= 0xf0 { self.ipa_bits(7) } else { self.places.ipa_bits };
                let shape = Operand::Shape(bits | (1 + self.number(4) % 3) << 32);
                let page = self.free_pages(3, self.places.vm_pages, self.places.vm_alignment);
                let entry = Operand::Number(0x4000_0000);
                vec![self.name(vm), flags, shape, page, Operand::Count(CountName::VmObject), entry, Operand::Number(0)]
            }
            HostCall::VcpuInit => {
                let wants = |vm: &VmModel| vm.life == Life::Live && (vm.run_pages.len() as u64) < vm.vcpu_limit;
                let vm = self.vm(2, wants);
                let index = self.vms().find(|(number, _)| Some(*number) == vm).map_or(0, |(_, vm)| vm.run_pages.len());
                let page = self.free_pages(3, 1 + self.places.vcpu_pages, 1);
                let run_page = match page {
                    Operand::Page(PageName::Pool(number)) => {
                        let behind = u64::from(number) + self.places.vcpu_pages;
                        PageName::Pool((behind % self.places.pool_pages) as u32)
                    }
                    _ => PageName::Pool(0),
                };
                let run_page = if self.seed[6] < 0xe0 {
                    run_page
                } else {
                    PageName::Pool(u32::from(self.seed[6]) % self.places.pool_pages as u32)
                };
                let pages = Operand::Count(CountName::VcpuObject);
                vec![self.name(vm), Operand::Vcpu(index as u64), page, pages, Operand::RunPage(run_page)]
            }
            HostCall::VcpuTopUp => {
                let vm = self.vm(2, is_live);
                vec![self.name(vm), vcpu, self.free_pages(3, count.min(8), 1), named(count.min(8))]
            }
            HostCall::VmDonate | HostCall::VmLend => {
                let vm = self.vm(2, |vm| is_live(vm) && vm.protected);
                let frame = self.frame_name(self.vacant_frame(4, self.spec_vm(vm), count, alignment));
                let page = self.free_pages(3, count, alignment);
                vec![self.name(vm), vcpu, page, Operand::Frame(frame), named(count)]
            }
            HostCall::VmShare => {
                let vm = self.vm(2, |vm| is_live(vm) && !vm.protected);
                let frame = self.frame_name(self.vacant_frame(4, self.spec_vm(vm), count, alignment));
                // Every second time a page that is shared already, if there is one.
                let shared = self.changed_page(3, |page| page.guest_borrowers().next().is_some() && !page.is_lent());
                let page = match shared.filter(|_| self.seed[6] & 0x20 != 0 && count == 1) {
                    Some(pfn) => Operand::Page(self.page_name(pfn)),
                    None => self.free_pages(3, count, alignment),
                };
                let rights = Operand::Rights(self.rights(6) | self.number(6) & 8);
                vec![self.name(vm), vcpu, page, Operand::Frame(frame), named(count), rights]
            }
            HostCall::VmUnshare => {
                let vm = self.vm(2, |vm| {
                    let holds = || self.held_frame(4, Some(vm.vm()), |page| page.owner == Owner::Host).is_some();
                    vm.has_object && !vm.protected && holds()
                });
                let gfn = self.held_frame(4, self.spec_vm(vm), |_| true).unwrap_or(self.any_frame(4));
                let gfn = Gfn::new(gfn.raw() & !(alignment - 1));
                vec![
                    self.name(vm),
                    Operand::Frame(self.frame_name(gfn)),
                    named(if alignment == 1 { count.min(2) } else { count }),
                ]
            }
            HostCall::VcpuRun => {
                let index = self.number(4) % 3;
                vec![self.name(self.vm(2, is_live)), Operand::Vcpu(index)]
            }
            HostCall::VcpuGetRegister => {
                let (index, register) = (self.number(4) % 3, self.number(3) % 0x100);
                vec![self.name(self.vm(2, is_live)), Operand::Vcpu(index), Operand::Number(register)]
            }
            HostCall::VcpuSetRegister => {
                let (index, upper) = (self.number(4) % 3, self.number(3) % 2 != 0);
                let register = Register::Vector { index: (self.number(3) % 32) as u8, upper };
                let numbers = [register.number(), self.hostile(6)].map(Operand::Number);
                [self.name(self.vm(2, is_live)), Operand::Vcpu(index)].into_iter().chain(numbers).collect()
            }
            HostCall::VmTeardown => vec![self.name(self.vm(2, is_live))],
            HostCall::VmFinalise => {
                let is_empty = |vm: &VmModel| vm.life == Life::Dying && !self.model.spec.holds_something(vm.vm());
                let any = self.seed[4] >= 0xe0;
                vec![self.name(self.vm(2, |vm| is_empty(vm) || any && vm.life == Life::Dying))]
            }
            HostCall::VmReclaim | HostCall::VmForceReclaim => {
                let dying = call == HostCall::VmReclaim;
                let wanted = if dying { Life::Dying } else { Life::Live };
                let found = self.page_of_guest(3, dying).filter(|_| self.seed[4] < 0xf0);
                let vm = found.map(|(vm, _)| vm).or_else(|| self.vm(2, |vm| vm.life == wanted && vm.has_object));
                let page =
                    found.map(|(_, pfn)| pfn).or_else(|| self.changed_page(3, |page| page.frames().next().is_some()));
                let first = page.map(|pfn| Pfn::new(pfn.raw() & !(alignment - 1)));
                vec![self.name(vm), self.page(first, 3), named(if self.seed[5] < 0x80 { 1 } else { count })]
            }
            HostCall::VmReturn => {
                let lent = |page: &Page| page.borrowers.contains_key(&Borrower::Host) && page.is_lent();
                let page = self.changed_page(3, lent);
                let owner = page.and_then(|pfn| self.model.spec.page(pfn)).map(|page| page.owner);
                let vm = match owner {
                    Some(Owner::Guest(vm)) if self.seed[2] < 0xe0 => self.name_of(vm),
                    _ => self.vm(2, is_live),
                };
                vec![self.name(vm), self.page(page, 3), named(if self.seed[5] < 0xc0 { 1 } else { count })]
            }
            HostCall::VmEndShare => {
                let found = self.ending_share().or_else(|| {
                    let (owner, number, offer) = self.offer(3, |_, _| true)?;
                    Some((owner, offer.accepted.map_or(owner, |(borrower, _)| borrower), number))
                });
                let owner = found.and_then(|(owner, ..)| self.name_of(owner)).or(self.vm(2, is_live));
                let borrower = found.and_then(|(_, borrower, _)| self.name_of(borrower)).or(self.vm(4, is_live));
                let number = found.map_or(self.number(5) % 4, |(_, _, number)| number);
                vec![self.name(owner), self.name(borrower), Operand::Number(number)]
            }
            HostCall::VmGrantDevice => {
                let vm = self.vm(2, is_live);
                let count = count.min(4);
                let protected = self.vms().any(|(number, model)| Some(number) == vm && model.protected);
                let base = match (protected, self.seed[6]) {
                    (true, 0..0xe0) => DEVICE_FRAMES,
                    // Across the end of where it may be.
                    (true, 0xe0..0xf0) => (DEVICE_LIMIT >> PAGE_SHIFT) - FRAMES / 2,
                    _ => self.places.frames.raw(),
                };
                let frame = self.frame_name(self.vacant_frame_from(base, 4, self.spec_vm(vm), count, 1));
                let page = Operand::Page(PageName::Device((self.number(3) % (self.places.device_pages - 1)) as u32));
                vec![self.name(vm), vcpu, page, Operand::Frame(frame), named(count)]
            }
            HostCall::VmReclaimDevice => {
                let held = self.device_of_dying().or_else(|| {
                    let any = self.choose(3, self.model.spec.changed_devices())?;
                    Some((self.name_of(any.1.frame()?.0)?, any.0))
                });
                let page = held.map_or(PageName::Device(0), |(_, pfn)| self.page_name(pfn));
                let vm = held.map(|(vm, _)| vm).or(self.vm(2, |vm| vm.life == Life::Dying));
                vec![self.name(vm), Operand::Page(page), named(if self.seed[5] < 0xc0 { 1 } else { count.min(4) })]
            }
        }
    }

    /// A hostile operand in the place of another.
    fn make_hostile(&self, operand: Operand) -> Operand {
        let number = self.hostile(6);
        let small = self.select(6) % 16;
        match operand {
            Operand::Vm(VmName::Named(vm)) if small < 8 => {
                let handle = self.names.handle(vm).map_or(0, |handle| u64::from(handle.0));
                Operand::Vm(VmName::Raw(handle | 1 << 32))
            }
            Operand::Vm(_) => Operand::Vm(VmName::Raw(number)),
            Operand::Vcpu(_) => Operand::Vcpu(number),
            Operand::Page(_) if small < 4 => Operand::Page(PageName::Hyp(small as u32)),
            Operand::Page(_) if small < 7 => Operand::Page(PageName::Device(small as u32 - 4)),
            Operand::Page(_) if small < 10 => Operand::Page(PageName::Raw(self.places.pool.raw() - 1)),
            Operand::Page(_) => Operand::Page(self.page_name(Pfn::new(number))),
            Operand::RunPage(_) if small < 4 => Operand::RunPage(PageName::Hyp(small as u32)),
            Operand::RunPage(_) => Operand::RunPage(self.page_name(Pfn::new(number))),
            Operand::Frame(_) => Operand::Frame(FrameName::Raw(number)),
            Operand::Count(_) => Self::count_operand(number),
            Operand::Rights(_) => Operand::Rights(number),
            Operand::Flags(_) => Operand::Flags(number),
            Operand::Shape(shape) if small < 8 => Operand::Shape(shape & 0xffff_ffff | number << 32),
            Operand::Shape(shape) => Operand::Shape(number & 0xffff_ffff | shape & !0xffff_ffff),
            Operand::Number(_) => Operand::Number(number),
            other => other,
        }
    }

    fn guest(&self, vm: Option<VmNumber>, action: GuestAction) -> Action {
        match vm {
            Some(vm) => {
                let vcpus = self.vms().find(|(number, _)| *number == vm).map_or(1, |(_, vm)| vm.run_pages.len().max(1));
                // vCPU 0 nearly always: the others are off until it turns them on.
                let vcpu = if self.seed[7] < 0xf0 { 0 } else { self.number(7) % vcpus as u64 };
                Action::Guest(GuestStep { vm, vcpu, action })
            }
            None => self.host_access(Access::Read),
        }
    }

    /// True of a VM whose vCPU 0 may come to do something.
    fn is_able(&self, number: VmNumber, vm: &VmModel) -> bool {
        let handle = self.names.handle(number).map_or(0, |handle| u64::from(handle.0));
        let is_stuck = self.model.stuck.get(&handle) == Some(&Stuck::ForGood);
        vm.life == Life::Live && !vm.run_pages.is_empty() && !is_stuck
    }

    /// A protected VM that may do something.
    fn actor(&self) -> Option<VmNumber> {
        let able =
            self.vms().filter(|(number, vm)| vm.protected && self.is_able(*number, vm)).map(|(number, _)| number);
        self.choose(2, able).or_else(|| self.vm(2, |vm| vm.life == Life::Live && vm.protected))
    }

    /// A frame at which a protected VM that may do something has a page that suits, and the VM.
    fn frame_of_actor(&self, byte: usize, suits: impl Fn(Vm, &Page) -> bool) -> Option<(VmNumber, Gfn)> {
        let pages = self.model.spec.changed_pages();
        let frames = pages.flat_map(|(_, page)| page.frames().map(|(vm, gfn)| (vm, gfn, page)).collect::<Vec<_>>());
        let suitable = frames.filter_map(|(vm, gfn, page)| {
            let (number, model) = self.vms().find(|(_, model)| model.vm() == vm)?;
            (model.protected && self.is_able(number, model) && suits(vm, page)).then_some((number, gfn))
        });
        self.choose(byte, suitable)
    }

    /// The frame of an actor's that a call of this kind is about.
    fn frame_for(&self, function: GuestFunction) -> Option<(VmNumber, Gfn)> {
        self.frame_of_actor(3, |vm, page| match function {
            GuestFunction::MemUnshare => {
                page.owner == Owner::Guest(vm) && page.borrowers.contains_key(&Borrower::Host) && !page.is_lent()
            }
            GuestFunction::Own(GuestCall::MemReturn) => page.owner == Owner::Host,
            _ => page.owner == Owner::Guest(vm) && page.borrowers.is_empty() && !page.offer,
        })
    }

    /// True where the VM in a slot may do something.
    fn may_act(&self, vm: Vm) -> bool {
        self.vms().any(|(number, model)| model.vm() == vm && self.is_able(number, model))
    }

    fn is_dying(&self, vm: Vm) -> bool {
        self.model.spec.guest(vm).is_ok_and(|guest| guest.dying)
    }

    /// An offer that its receiver may accept.
    fn open_offer(&self) -> Option<(Vm, u64, Offer)> {
        let receiver = |offer: &Offer| self.names.name_of(offer.receiver);
        let is_there =
            |offer: &Offer| self.vms().any(|(number, vm)| Some(number) == receiver(offer) && self.is_able(number, vm));
        self.offer(3, |owner, offer| offer.accepted.is_none() && is_there(offer) && !self.is_dying(owner))
    }

    /// A page that suits, of a VM of which it suits whether it is dying.
    fn page_of_guest(&self, byte: usize, dying: bool) -> Option<(VmNumber, Pfn)> {
        let pages = self.model.spec.changed_pages().filter_map(|(pfn, page)| {
            let holder = match page.owner {
                Owner::Guest(vm) => vm,
                Owner::Host if page.is_lent() => page.guest_borrowers().next()?.0,
                Owner::Host | Owner::Hyp => return None,
            };
            (self.is_dying(holder) == dying).then_some((self.name_of(holder)?, pfn))
        });
        self.choose(byte, pages)
    }

    /// The same kind of step where one can be done, and otherwise a kind that leads there.
    fn instead(&self, what: What) -> What {
        let is_any = |suits: &dyn Fn(&VmModel) -> bool| self.vms().any(|(_, vm)| suits(vm));
        let is_live = |vm: &VmModel| vm.life == Life::Live && !vm.run_pages.is_empty();
        let is_possible = match what {
            What::Guest(function) => match function {
                GuestFunction::Features | GuestFunction::HypMeminfo | GuestFunction::Own(GuestCall::VmName) => true,
                GuestFunction::Own(GuestCall::MemAccept) => self.open_offer().is_some(),
                GuestFunction::Own(GuestCall::MemWithdraw) => self.offer(3, |owner, _| self.may_act(owner)).is_some(),
                GuestFunction::Own(GuestCall::MemDrop) => {
                    self.offer(3, |_, offer| offer.accepted.is_some_and(|(vm, _)| self.may_act(vm))).is_some()
                }
                function => self.frame_for(function).is_some(),
            },
            What::Host(call) => match call {
                HostCall::VmInit => is_any(&|vm| vm.life == Life::Reserved),
                HostCall::VcpuInit => {
                    is_any(&|vm| vm.life == Life::Live && (vm.run_pages.len() as u64) < vm.vcpu_limit)
                }
                HostCall::VcpuTopUp | HostCall::VmGrantDevice | HostCall::VmTeardown => is_any(&is_live),
                HostCall::VmDonate | HostCall::VmLend => is_any(&|vm| is_live(vm) && vm.protected),
                HostCall::VmShare => is_any(&|vm| is_live(vm) && !vm.protected),
                HostCall::VmUnshare => self
                    .changed_page(3, |page| {
                        page.owner == Owner::Host && !page.is_lent() && page.frames().next().is_some()
                    })
                    .is_some(),
                HostCall::VmReturn => {
                    self.changed_page(3, |page| page.owner != Owner::Host && page.is_lent()).is_some()
                }
                HostCall::VmForceReclaim => self.page_of_guest(3, false).is_some(),
                HostCall::VmReclaim => self.page_of_guest(3, true).is_some(),
                HostCall::VmReclaimDevice => self.device_of_dying().is_some(),
                HostCall::VmEndShare => self.ending_share().is_some(),
                HostCall::VmFinalise => {
                    is_any(&|vm| vm.life == Life::Dying && !self.model.spec.holds_something(vm.vm()))
                }
                HostCall::HypUnshare => {
                    self.changed_page(3, |page| page.borrowers.contains_key(&Borrower::Hyp)).is_some()
                }
                _ => true,
            },
            What::Resume => self.vms().any(|(number, _)| self.help(number).is_some()),
            _ => true,
        };
        if is_possible { what } else { self.before(what) }
    }

    /// What leads to a state in which a step can be done.
    fn before(&self, what: What) -> What {
        let has_dying = self.vms().any(|(_, vm)| vm.life == Life::Dying);
        match what {
            What::Guest(function) => match function {
                GuestFunction::MemUnshare => What::Guest(GuestFunction::MemShare),
                GuestFunction::Own(GuestCall::MemReturn) => What::Host(HostCall::VmLend),
                GuestFunction::Own(GuestCall::MemDrop) => What::Guest(GuestFunction::Own(GuestCall::MemAccept)),
                GuestFunction::Own(GuestCall::MemAccept | GuestCall::MemWithdraw) => {
                    What::Guest(GuestFunction::Own(GuestCall::MemOffer))
                }
                _ => What::Host(HostCall::VmDonate),
            },
            What::Host(call) => What::Host(match call {
                HostCall::VmInit => HostCall::VmReserve,
                HostCall::VcpuInit | HostCall::VcpuTopUp | HostCall::VmTeardown => HostCall::VmInit,
                HostCall::VmDonate | HostCall::VmLend | HostCall::VmShare | HostCall::VmGrantDevice => {
                    HostCall::VcpuInit
                }
                HostCall::VmUnshare => HostCall::VmShare,
                HostCall::VmReturn => return What::Guest(GuestFunction::Own(GuestCall::MemLend)),
                HostCall::VmForceReclaim => HostCall::VmDonate,
                HostCall::VmFinalise if has_dying => HostCall::VmReclaim,
                // The end of a VM ends much.
                HostCall::VmFinalise | HostCall::VmReclaim if self.seed[6] & 3 != 0 => HostCall::VmForceReclaim,
                HostCall::VmReclaimDevice if !has_dying => HostCall::VmGrantDevice,
                HostCall::VmEndShare if self.offer(3, |_, offer| offer.accepted.is_some()).is_none() => {
                    return What::Guest(GuestFunction::Own(GuestCall::MemAccept));
                }
                HostCall::HypUnshare => HostCall::HypShare,
                _ => HostCall::VmTeardown,
            }),
            What::Resume => What::GuestRead,
            other => other,
        }
    }

    /// A page of a device that a dying VM has, and the VM.
    fn device_of_dying(&self) -> Option<(VmNumber, Pfn)> {
        let held = self.model.spec.changed_devices().filter_map(|(pfn, device)| {
            let (vm, _) = device.frame()?;
            self.is_dying(vm).then_some((self.name_of(vm)?, pfn))
        });
        self.choose(3, held)
    }

    /// A share of two guests of which one is dying: the owner, the borrower and the offer's number.
    fn ending_share(&self) -> Option<(Vm, Vm, u64)> {
        let dies = |owner: Vm, offer: &Offer| {
            offer.accepted.is_some_and(|(borrower, _)| self.is_dying(owner) || self.is_dying(borrower))
        };
        let (owner, number, offer) = self.offer(3, dies)?;
        Some((owner, offer.accepted?.0, number))
    }

    fn hostile_ipa(&self, gfn: Gfn) -> IpaName {
        match self.seed[6] & 3 {
            0 => IpaName::Raw(gfn.raw() << 12 | 8),
            1 => IpaName::Raw(self.hostile(6) << 12),
            2 => IpaName::Raw(0x1000_0000),
            _ => self.ipa_name(self.any_frame(6)),
        }
    }

    fn guest_call(&self, function: GuestFunction) -> Action {
        let found = self.frame_for(function);
        let vm = found.map(|(vm, _)| vm).or_else(|| self.actor());
        // Sometimes any page that it has, or none.
        let gfn = match (found, self.seed[4] & 0xf) {
            (Some((_, gfn)), 0..14) => gfn,
            (_, 14) => self.held_frame(3, self.spec_vm(vm), |_| true).unwrap_or(self.any_frame(3)),
            _ => self.any_frame(3),
        };
        let ipa = Operand::Ipa(if self.is_hostile() { self.hostile_ipa(gfn) } else { self.ipa_name(gfn) });
        let (vm, operands) = match function {
            GuestFunction::Features | GuestFunction::HypMeminfo => (vm, vec![]),
            GuestFunction::MemShare | GuestFunction::MemRelinquish | GuestFunction::MemUnshare => (vm, vec![ipa]),
            GuestFunction::Own(call) => match call {
                GuestCall::VmName => (vm, vec![]),
                GuestCall::MemLend | GuestCall::MemReturn => (vm, vec![ipa]),
                GuestCall::MemOffer => {
                    let own = self.spec_vm(vm);
                    let receiver =
                        self.vm(4, |other| other.life == Life::Live && other.protected && Some(other.vm()) != own);
                    (vm, vec![ipa, self.name(receiver), Operand::Rights(self.rights(6))])
                }
                GuestCall::MemAccept => self.accept(vm),
                GuestCall::MemWithdraw => {
                    let found = self.offer(3, |owner, _| self.may_act(owner)).or_else(|| self.offer(3, |_, _| true));
                    let vm = found.and_then(|(owner, ..)| self.name_of(owner)).or(vm);
                    (vm, vec![Operand::Number(found.map_or(self.number(4) % 4, |(_, number, _)| number))])
                }
                GuestCall::MemDrop => {
                    let by_able = |offer: &Offer| offer.accepted.is_some_and(|(vm, _)| self.may_act(vm));
                    let found = self.offer(3, |_, offer| by_able(offer));
                    let borrower = found.and_then(|(_, _, offer)| self.name_of(offer.accepted?.0)).or(vm);
                    let owner = found.and_then(|(owner, ..)| self.name_of(owner)).or(self.actor());
                    let number = found.map_or(self.number(4) % 4, |(_, number, _)| number);
                    (borrower, vec![self.name(owner), Operand::Number(number)])
                }
            },
        };
        // Calls of those who should not make them.
        let vm = if self.seed[7] % 16 == 15 { self.vm(7, |vm| vm.life == Life::Live) } else { vm };
        self.guest(vm, GuestAction::Call(function, operands))
    }

    fn accept(&self, vm: Option<VmNumber>) -> (Option<VmNumber>, Vec<Operand>) {
        let found = self.open_offer().or_else(|| self.offer(3, |_, _| true));
        let receiver = found.and_then(|(_, _, offer)| self.names.name_of(offer.receiver)).or(vm);
        let owner = found.and_then(|(owner, ..)| self.name_of(owner)).or(self.actor());
        let number = found.map_or(self.number(4) % 4, |(_, number, _)| number);
        let frame = self.vacant_frame(4, self.spec_vm(receiver), 1, 1);
        let frame = if self.is_hostile() { self.hostile_ipa(frame) } else { self.ipa_name(frame) };
        let rights = found.map_or(1, |(_, _, Offer { rights, .. })| {
            u64::from(rights.read) | u64::from(rights.write) << 1 | u64::from(rights.execute) << 2
        });
        let rights = if self.seed[6] < 0xe0 { rights } else { self.number(6) & 0xf };
        (receiver, vec![self.name(owner), Operand::Number(number), Operand::Ipa(frame), Operand::Rights(rights)])
    }

    fn raw_guest_call(&self) -> Action {
        let functions = [
            psci::PSCI_VERSION,
            psci::CPU_ON_64,
            psci::CPU_OFF,
            psci::AFFINITY_INFO_64,
            psci::SYSTEM_OFF,
            psci::SYSTEM_RESET,
            psci::CPU_SUSPEND_64,
            smccc::VENDOR_HYP_CALL_UID,
            smccc::VERSION,
            smccc::ARCH_FEATURES,
            guest::HYP_MEMINFO,
            guest::MEM_SHARE,
            guest::MEM_RELINQUISH,
            GuestCall::MemOffer as u32,
            GuestCall::MemAccept as u32,
            0xc600_0000 | u32::from(self.seed[4]),
            0x4600_0000,
            0x8600_0000 | u32::from(self.seed[4]),
        ];
        let function = functions[self.select(3) % functions.len()];
        let first = if psci::CPU_ON_64 == function { self.number(5) & 3 } else { self.hostile(5) };
        let arguments = [first, 0x4800_0000 | self.hostile(6), self.number(6), self.number(6) & 7, 0, 0, 0];
        let vm = self.vm(2, |vm| vm.life == Life::Live && !vm.run_pages.is_empty());
        self.guest(vm, GuestAction::RawCall(function.into(), arguments))
    }

    fn guest_access(&self, action: impl Fn(IpaName) -> GuestAction) -> Action {
        let able = self.vms().filter(|(number, vm)| self.is_able(*number, vm));
        let has_page = |vm: &VmModel| self.held_frame(3, Some(vm.vm()), |_| true).is_some();
        let vm = self.choose(2, able.filter(|(_, vm)| has_page(vm)).map(|(number, _)| number));
        let vm = vm.or_else(|| self.vm(2, |vm| vm.life == Life::Live && !vm.run_pages.is_empty()));
        let spec_vm = self.spec_vm(vm);
        let device = self.choose(3, self.model.spec.changed_devices().filter_map(|(_, device)| device.frame()));
        let device = device.filter(|(guest, _)| Some(*guest) == spec_vm).map(|(_, gfn)| gfn);
        let gfn = match self.seed[4] {
            0..0xc0 => self.held_frame(3, spec_vm, |_| true),
            0xc0..0xe0 => device.or_else(|| self.held_frame(3, spec_vm, |_| true)),
            _ => None,
        };
        let gfn = gfn.unwrap_or(self.any_frame(3));
        let ipa = match (self.is_hostile(), self.seed[6] & 3) {
            (true, 0) => IpaName::Raw(0x1000_0000 | self.number(6) << 12),
            (true, 1) => IpaName::Raw(self.hostile(6) << 12),
            _ => self.ipa_name(gfn),
        };
        self.guest(vm, action(ipa))
    }

    fn host_access(&self, access: Access) -> Action {
        let page = match (self.is_hostile(), self.seed[4]) {
            // The number of a page that has an address.
            (true, _) => self.page_name(Pfn::new(self.hostile(6) & ((1 << 52) - 1))),
            (false, 0..0x60) => match self.changed_page(3, |_| true) {
                Some(pfn) => self.page_name(pfn),
                None => PageName::Pool((self.number(3) % self.places.pool_pages) as u32),
            },
            (false, 0x60..0xd0) => PageName::Pool((self.number(3) % self.places.pool_pages) as u32),
            (false, 0xd0..0xf0) => PageName::Device((self.number(3) % self.places.device_pages) as u32),
            (false, _) => PageName::Hyp((self.number(3) % self.places.hyp_pages) as u32),
        };
        Action::Access(HostAccess { access, page })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_chooses_a_step() {
        let total: u32 = KINDS.iter().map(|(weight, _)| u32::from(*weight)).sum();
        assert!((240..=256).contains(&total), "{total}");
        let all: Vec<What> = (0..=255).map(what).collect();
        for (_, kind) in KINDS {
            assert!(all.contains(kind), "{kind:?}");
        }
    }
}
