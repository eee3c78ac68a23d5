//! What the host is likely to be able to do.

use super::{Chooser, KnownVm, host, named};
use crate::executor::Access;
use crate::model::Life;
use crate::operand::{CountName, FrameName, Operand, PageName, VmNumber};
use crate::step::{Action, HostAccess};
use abi::host::{HostCall, RIGHT_EXECUTE, RIGHT_READ, RIGHT_RESTRICTED, RIGHT_WRITE};
use abi::{Gfn, Pfn};
use alloc::vec::Vec;
use ownership_spec::{Borrower, Frame, Owner, Page, Rights};

/// Pages of a 2 MiB block, and the alignment of frames that can hold one.
const BLOCK: u32 = 512;
/// Where protected guests get devices: below where their memory may be.
pub(super) const FIRST_DEVICE_FRAME: u64 = 0x1_0000;
/// One call in so many is about a whole block.
const WHOLE_BLOCKS: u64 = 400;

fn is_alone(page: &Page) -> bool {
    page.borrowers.is_empty() && page.owner_rights == Rights::FULL && !page.offer && page.pins == 0
}

/// A page that the host has to itself.
pub(super) fn is_hosts(page: &Page) -> bool {
    page.owner == Owner::Host && is_alone(page)
}

fn borrowed_by_hyp(page: &Page) -> bool {
    page.borrowers.contains_key(&Borrower::Hyp) && page.pins == 0
}

fn page(number: u32) -> Operand {
    Operand::Page(PageName::Pool(number))
}

fn frame(number: u32) -> Operand {
    Operand::Frame(FrameName::Test(number))
}

fn count(number: u32) -> Operand {
    Operand::Count(CountName::Number(number.into()))
}

impl Chooser<'_> {
    pub(super) fn likely_host_call(&mut self) -> Option<Action> {
        match self.random.below(100) {
            0..=9 => {
                let call = if self.random.one_in(3) { HostCall::HypShareRestricted } else { HostCall::HypShare };
                let first = self.page(is_hosts)?;
                let length = self.run(first, is_hosts);
                host(call, [page(first), count(length)])
            }
            10..=18 => {
                let first = self.page(borrowed_by_hyp)?;
                let length = self.run(first, borrowed_by_hyp);
                host(HostCall::HypUnshare, [page(first), count(length)])
            }
            19..=38 => self.give(HostCall::VmDonate),
            39..=50 => self.give(HostCall::VmLend),
            51..=66 => self.share(),
            67..=77 => self.unshare(),
            78..=85 => self.give_back(),
            86..=93 => self.take_from_dying(),
            94..=95 => self.force(),
            _ => self.grant(),
        }
    }

    /// How many pages from `first` on to take, of those that suit; mostly one.
    fn run(&mut self, first: u32, suits: impl Fn(&Page) -> bool) -> u32 {
        let most = if self.random.one_in(4) { self.random.below(4) as u32 + 1 } else { 1 };
        let ahead = self.pages().skip_while(|(number, _)| *number <= first).take(most as usize - 1);
        ahead.take_while(|(_, page)| suits(page)).count() as u32 + 1
    }

    /// How many frames from `first` on are vacant, up to `most`.
    fn vacant(&self, vm: &KnownVm<'_>, first: u32, most: u32) -> u32 {
        let is_vacant = |frame: &u32| self.memory().frame(vm.vm, self.gfn(*frame)) == Frame::Vacant;
        (first..first.saturating_add(most)).take_while(is_vacant).count() as u32
    }

    /// A frame at which a VM has nothing: the one that its vCPU waits for, where it does.
    pub(super) fn vacant_frame(&mut self, vm: &KnownVm<'_>) -> Option<u32> {
        let awaited = self.awaited_frame(vm.handle).filter(|frame| self.vacant(vm, *frame, 1) == 1);
        if awaited.is_some() {
            return awaited;
        }
        let first = self.random.below(self.territory.frames.into()) as u32;
        (self.vacant(vm, first, 1) == 1).then_some(first)
    }

    /// Donates or lends pages to a protected VM.
    fn give(&mut self, call: HostCall) -> Option<Action> {
        let vm = self.vm_where(|vm| vm.guest.protected && !vm.guest.dying)?;
        if let Some(first) = self.whole_block() {
            let free = self.vacant(&vm, BLOCK, BLOCK) == BLOCK;
            return if free { self.put(call, &vm, first, BLOCK, BLOCK) } else { None };
        }
        let (first, at) = (self.page(is_hosts)?, self.vacant_frame(&vm)?);
        let length = self.run(first, is_hosts);
        let length = self.vacant(&vm, at, length);
        self.put(call, &vm, first, at, length)
    }

    fn put(&mut self, call: HostCall, vm: &KnownVm<'_>, first: u32, at: u32, length: u32) -> Option<Action> {
        let vcpus = match self.model.vm(vm.handle) {
            Some(Life::Initialised(life)) => life.vcpus,
            _ => 0,
        };
        if vcpus == 0 {
            return None;
        }
        let vcpu = Operand::Vcpu(self.random.below(vcpus));
        host(call, [named(vm.number), vcpu, page(first), frame(at), count(length)])
    }

    /// The first page of the whole block, now and then, where the host has all of it to itself.
    fn whole_block(&mut self) -> Option<u32> {
        let first = self.territory.block.filter(|_| self.random.one_in(WHOLE_BLOCKS))?;
        let base = self.model.places().pool.raw() + u64::from(first);
        let pages = base..base + u64::from(BLOCK);
        let taken = self.memory().changed_pages().any(|(at, page)| pages.contains(&at.raw()) && !is_hosts(page));
        (!taken).then_some(first)
    }

    fn share(&mut self) -> Option<Action> {
        let vm = self.vm_where(|vm| !vm.guest.protected && !vm.guest.dying)?;
        let rights = RIGHT_READ
            | if self.random.one_in(2) { RIGHT_WRITE } else { 0 }
            | if self.random.one_in(3) { RIGHT_EXECUTE } else { 0 };
        if let Some(first) = self.whole_block() {
            let free = self.vacant(&vm, BLOCK, BLOCK) == BLOCK;
            let operands =
                [named(vm.number), Operand::Vcpu(0), page(first), frame(BLOCK), count(BLOCK), Operand::Rights(rights)];
            return if free { host(HostCall::VmShare, operands) } else { None };
        }
        let shareable = |page: &Page| {
            page.owner == Owner::Host
                && page.pins == 0
                && !page.is_lent()
                && !page.borrowers.contains_key(&Borrower::Hyp)
        };
        let (first, at) = (self.page(shareable)?, self.vacant_frame(&vm)?);
        // Whoever shares it already decides whether the host is restricted.
        let (_, shared) = self.pages().find(|(number, _)| *number == first)?;
        let restricted = match shared.borrowers.is_empty() {
            true => self.random.one_in(3),
            false => shared.owner_rights == Rights::READ,
        };
        let rights = rights | if restricted { RIGHT_RESTRICTED } else { 0 };
        host(
            HostCall::VmShare,
            [named(vm.number), Operand::Vcpu(0), page(first), frame(at), count(1), Operand::Rights(rights)],
        )
    }

    fn unshare(&mut self) -> Option<Action> {
        let vm = self.vm_where(|vm| !vm.guest.protected)?;
        let frames: Vec<u32> =
            self.memory().memory_of(vm.vm).keys().filter_map(|gfn| self.frame_number(*gfn)).collect();
        let at = self.random.pick(&frames)?;
        // A whole block goes as it came.
        let length = if at >= BLOCK { self.mapped(&frames, at) } else { 1 };
        host(HostCall::VmUnshare, [named(vm.number), frame(at), count(length)])
    }

    /// How many frames from `first` on are among `frames`.
    fn mapped(&self, frames: &[u32], first: u32) -> u32 {
        (first..).take_while(|frame| frames.contains(frame)).count() as u32
    }

    /// Gives a page back that a guest lent to the host.
    fn give_back(&mut self) -> Option<Action> {
        let vm = self.vm_where(|vm| vm.guest.protected && !vm.guest.dying)?;
        let first = self.page(|page| page.owner == Owner::Guest(vm.vm) && page.is_lent())?;
        host(HostCall::VmReturn, [named(vm.number), page(first), count(1)])
    }

    /// Takes something from a VM that is dying.
    fn take_from_dying(&mut self) -> Option<Action> {
        let vm = self.vm_where(|vm| vm.guest.dying)?;
        self.undo(vm.number)
    }

    /// The next step towards the end of a VM that is dying.
    pub(super) fn undo(&self, number: VmNumber) -> Option<Action> {
        let Some(vm) = self.vm(number) else {
            let handle = self.names.handle(number)?;
            return if self.model.is_dying(handle) { host(HostCall::VmFinalise, [named(number)]) } else { None };
        };
        if !vm.guest.dying {
            return None;
        }
        self.end_share(&vm)
            .or_else(|| self.reclaim(&vm))
            .or_else(|| self.take_shared_back(&vm))
            .or_else(|| self.reclaim_device(&vm))
            .or_else(|| host(HostCall::VmFinalise, [named(number)]))
    }

    /// Ends a share between a dying VM and another.
    fn end_share(&self, dying: &KnownVm<'_>) -> Option<Action> {
        for (owner, guest) in self.memory().guests() {
            for (number, offer) in &guest.offers {
                let Some((borrower, _)) = offer.accepted else { continue };
                if owner == dying.vm || borrower == dying.vm {
                    let name = |vm| self.memory().guest(vm).ok().and_then(|guest| self.names.name_of(guest.name));
                    let operands = [named(name(owner)?), named(name(borrower)?), Operand::Number(*number)];
                    return host(HostCall::VmEndShare, operands);
                }
            }
        }
        None
    }

    fn reclaim(&self, vm: &KnownVm<'_>) -> Option<Action> {
        let its = |page: &Page| {
            let lent = page.is_lent() && page.guest_borrowers().any(|(guest, _)| guest == vm.vm);
            page.owner == Owner::Guest(vm.vm) || (page.owner == Owner::Host && lent)
        };
        let mut pages = self.memory().changed_pages().filter(|(_, page)| its(page)).map(|(at, _)| at);
        let first = pages.next()?;
        let length = pages.zip(1..).take_while(|(at, ahead)| at.raw() == first.raw() + ahead).count() as u32 + 1;
        host(HostCall::VmReclaim, [named(vm.number), page(self.pool_number(first)?), count(length)])
    }

    fn take_shared_back(&self, vm: &KnownVm<'_>) -> Option<Action> {
        if vm.guest.protected {
            return None;
        }
        let memory = self.memory().memory_of(vm.vm);
        let frames: Vec<u32> = memory.keys().filter_map(|gfn| self.frame_number(*gfn)).collect();
        let first = *frames.first()?;
        let length = self.mapped(&frames, first);
        host(HostCall::VmUnshare, [named(vm.number), frame(first), count(length)])
    }

    fn reclaim_device(&self, vm: &KnownVm<'_>) -> Option<Action> {
        let (at, _) = self.memory().changed_devices().find(|(_, device)| device.owner == Owner::Guest(vm.vm))?;
        let number = u32::try_from(at.raw().checked_sub(self.model.places().device.raw())?).ok()?;
        host(HostCall::VmReclaimDevice, [named(vm.number), Operand::Page(PageName::Device(number)), count(1)])
    }

    fn force(&mut self) -> Option<Action> {
        let vm = self.vm_where(|vm| vm.guest.protected && !vm.guest.dying)?;
        let first = self.page(|page| {
            let lent = page.owner == Owner::Host && page.is_lent();
            let its = page.frames().any(|(guest, _)| guest == vm.vm) && (page.owner == Owner::Guest(vm.vm) || lent);
            its && (lent || page.guest_borrowers().next().is_none())
        })?;
        host(HostCall::VmForceReclaim, [named(vm.number), page(first), count(1)])
    }

    fn grant(&mut self) -> Option<Action> {
        let device = self.territory.device?;
        let at = Pfn::new(self.model.places().device.raw() + u64::from(device));
        self.memory().device(at).filter(|device| device.owner == Owner::Host)?;
        let vm = self.vm_where(|vm| !vm.guest.dying)?;
        let at = if vm.guest.protected {
            let first = FIRST_DEVICE_FRAME + self.random.below(self.territory.frames.into());
            let is_vacant = self.memory().frame(vm.vm, Gfn::new(first)) == Frame::Vacant;
            Operand::Frame(FrameName::Raw(is_vacant.then_some(first)?))
        } else {
            frame(self.vacant_frame(&vm)?)
        };
        let device = Operand::Page(PageName::Device(device));
        host(HostCall::VmGrantDevice, [named(vm.number), Operand::Vcpu(0), device, at, count(1)])
    }

    /// Begins or ends the life of a VM.
    pub(super) fn life(&mut self) -> Option<Action> {
        match self.random.below(12) {
            0 => {
                let lost: Vec<_> = self.vms().into_iter().filter(|vm| !vm.guest.dying && self.is_lost(vm)).collect();
                let lost = self.random.pick(&lost);
                let any = self.random.one_in(3);
                let vm = lost.or_else(|| if any { self.vm_where(|vm| !vm.guest.dying) } else { None })?;
                host(HostCall::VmTeardown, [named(vm.number)])
            }
            1..=2 => {
                let vm = self.acting_guest(|_| true)?;
                let first = self.page(is_hosts)?;
                host(HostCall::VcpuTopUp, [named(vm.number), Operand::Vcpu(0), page(first), count(1)])
            }
            3 => host(HostCall::Version, []),
            4 => host(HostCall::MemoryInfo, []),
            5 => host(HostCall::VmSizes, [Operand::Number(self.model.places().ipa_bits), Operand::Number(1)]),
            _ => self.make_vm(),
        }
    }

    /// True where a guest is stopped for good, or has few frames left at which something may come.
    fn is_lost(&self, vm: &KnownVm<'_>) -> bool {
        let stopped = self.awaited_frame(vm.handle).is_some_and(|frame| vm.guest.poisoned.contains(&self.gfn(frame)));
        stopped || vm.guest.poisoned.len() as u64 * 2 > u64::from(self.territory.frames)
    }

    /// The next step in making a VM of the territory's own pages.
    fn make_vm(&mut self) -> Option<Action> {
        let number = self.territory.made?;
        let objects = self.territory.objects.clone();
        let vm_pages = u32::try_from(self.model.places().vm_pages).ok()?;
        let vcpu_first = objects.start.checked_add(vm_pages)?;
        let Some(handle) = self.names.handle(number) else {
            return host(HostCall::VmReserve, [Operand::NewVm(number)]);
        };
        match self.model.vm(handle)? {
            Life::Reserved { dying: true } => host(HostCall::VmFinalise, [named(number)]),
            Life::Reserved { dying: false } if self.random.one_in(8) => host(HostCall::VmTeardown, [named(number)]),
            Life::Reserved { dying: false } => {
                let flags = Operand::Flags(self.random.below(2));
                let shape = Operand::Shape(self.model.places().ipa_bits | 1 << 32);
                let operands = [
                    named(number),
                    flags,
                    shape,
                    page(objects.start),
                    Operand::Count(CountName::VmObject),
                    Operand::Number(0x4020_0000),
                    Operand::Number(0),
                ];
                host(HostCall::VmInit, operands)
            }
            Life::Initialised(life) if life.vcpus == 0 => {
                let run_page = Operand::RunPage(PageName::Pool(objects.end.checked_sub(1)?));
                let operands = [
                    named(number),
                    Operand::Vcpu(0),
                    page(vcpu_first),
                    Operand::Count(CountName::VcpuObject),
                    run_page,
                ];
                host(HostCall::VcpuInit, operands)
            }
            Life::Initialised(_) if self.model.is_dying(handle) => self.undo(number),
            Life::Initialised(_) => {
                let first = self.page(is_hosts)?;
                host(HostCall::VcpuTopUp, [named(number), Operand::Vcpu(0), page(first), count(1)])
            }
        }
    }

    /// An access of the host's to a page of the territory: in most cases one that it may make, in the others any.
    pub(super) fn likely_access(&mut self) -> Option<Action> {
        let access = self.access();
        let granted = |page: &Page| page.owner_rights != Rights::NONE && page.owner == Owner::Host;
        let number = if self.random.one_in(3) { self.page(|_| true) } else { self.page(granted) }?;
        Some(Action::Access(HostAccess { access, page: PageName::Pool(number) }))
    }

    pub(super) fn access(&mut self) -> Access {
        match self.random.below(8) {
            0..=3 => Access::Read,
            4..=6 => Access::Write(self.random.below(1 << 16)),
            _ => Access::Execute,
        }
    }
}
