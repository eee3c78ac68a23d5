//! What guests are likely to be able to do.

use super::host::FIRST_DEVICE_FRAME;
use super::{Chooser, KnownVm, guest, named};
use crate::executor::{Access, GuestRequest};
use crate::guest_step::{GuestAction, GuestFunction};
use crate::operand::{IpaName, Operand};
use crate::step::Action;
use abi::guest::GuestCall;
use abi::host::{RIGHT_EXECUTE, RIGHT_READ, RIGHT_WRITE, VmHandle};
use abi::{Gfn, PAGE_SHIFT};
use alloc::vec::Vec;
use ownership_spec::{Borrower, Owner, Page, Rights};

/// How many frames for devices a guest plays with.
const DEVICE_FRAMES: u64 = 8;
/// Of so many steps with the guard one enrols, for which there is no way back.
const ENROLMENTS: u64 = 12;

/// The bits of rights.
fn bits(rights: Rights) -> u64 {
    let bit = |has, bit| if has { bit } else { 0 };
    bit(rights.read, RIGHT_READ) | bit(rights.write, RIGHT_WRITE) | bit(rights.execute, RIGHT_EXECUTE)
}

fn call(vm: u8, function: GuestFunction, operands: impl Into<Vec<Operand>>) -> Option<Action> {
    Some(guest(vm, GuestAction::Call(function, operands.into())))
}

fn own(vm: u8, function: GuestCall, operands: impl Into<Vec<Operand>>) -> Option<Action> {
    call(vm, GuestFunction::Own(function), operands)
}

const fn ipa(frame: u32) -> Operand {
    Operand::Ipa(IpaName::Frame(frame))
}

impl<'a> Chooser<'a> {
    pub(super) fn likely_guest_action(&mut self) -> Option<Action> {
        if let Some(action) = self.resume() {
            return Some(action);
        }
        match self.random.below(100) {
            0..=11 => self.with_own_page(GuestFunction::MemShare, is_alone),
            12..=21 => {
                let shared = |page: &Page| page.borrowers.contains_key(&Borrower::Host) && !page.is_lent();
                self.with_own_page(GuestFunction::MemUnshare, shared)
            }
            22..=29 => self.with_own_page(GuestFunction::MemRelinquish, is_alone),
            30..=39 => self.with_own_page(GuestFunction::Own(GuestCall::MemLend), is_alone),
            40..=49 => self.give_loan_back(),
            50..=58 => self.offer(),
            59..=69 => self.accept(),
            70..=72 => self.withdraw(),
            73..=75 => self.drop_share(),
            76 => self.ask(),
            77 => self.guard(),
            78..=79 => self.touch_vacant(),
            _ => self.touch(),
        }
    }

    /// Goes on with a vCPU that is stopped, where it may come further now.
    fn resume(&mut self) -> Option<Action> {
        let (guests, model, memory) = (&self.territory.guests, self.model, self.memory());
        let vm = self.vm_where(|vm| {
            let Some(stopped) = model.stopped_at(vm.handle, 0) else { return false };
            let goes_on = match *stopped {
                // Where it may only read, it does not come past a write.
                GuestRequest::Access { access: access @ Access::Write(_), ipa } if !vm.guest.protected => {
                    model.guest_may(vm.vm, access, Gfn::containing(ipa))
                }
                _ => frame_of(stopped).is_none_or(|gfn| memory.memory_of(vm.vm).contains_key(&gfn)),
            };
            guests.contains(&vm.number) && !vm.guest.dying && goes_on
        })?;
        Some(guest(vm.number, GuestAction::Resume))
    }

    /// The frame that a vCPU waits for.
    pub(super) fn awaited_frame(&self, handle: VmHandle) -> Option<u32> {
        self.model.stopped_at(handle, 0).and_then(frame_of).and_then(|gfn| self.frame_number(gfn))
    }

    /// A call with a page that the guest owns, in a state that suits.
    fn with_own_page(&mut self, function: GuestFunction, suits: impl Fn(&Page) -> bool) -> Option<Action> {
        let vm = self.acting_guest(|vm| vm.guest.protected)?;
        let frame = self.own_frame(&vm, suits)?;
        call(vm.number, function, [ipa(frame)])
    }

    fn own_frame(&mut self, vm: &KnownVm<'a>, suits: impl Fn(&Page) -> bool) -> Option<u32> {
        let own = self.memory().changed_pages().filter(|(_, page)| page.owner == Owner::Guest(vm.vm) && suits(page));
        let frames: Vec<u32> = own.filter_map(|(_, page)| self.frame_number(page.at?)).collect();
        self.random.pick(&frames)
    }

    fn give_loan_back(&mut self) -> Option<Action> {
        let vm = self.acting_guest(|vm| vm.guest.protected)?;
        let lent = self.memory().changed_pages().filter(|(_, page)| page.owner == Owner::Host && page.is_lent());
        let its = lent.flat_map(|(_, page)| page.guest_borrowers()).filter(|(guest, _)| *guest == vm.vm);
        let frames: Vec<u32> = its.filter_map(|(_, gfn)| self.frame_number(gfn)).collect();
        own(vm.number, GuestCall::MemReturn, [ipa(self.random.pick(&frames)?)])
    }

    fn offer(&mut self) -> Option<Action> {
        let vm = self.acting_guest(|vm| vm.guest.protected)?;
        let receiver = self.vm_where(|other| other.guest.protected && other.number != vm.number)?;
        let frame = self.own_frame(&vm, is_alone)?;
        let rights =
            self.random.pick(&[RIGHT_READ, RIGHT_READ | RIGHT_WRITE, RIGHT_READ | RIGHT_WRITE | RIGHT_EXECUTE])?;
        own(vm.number, GuestCall::MemOffer, [ipa(frame), named(receiver.number), Operand::Rights(rights)])
    }

    fn accept(&mut self) -> Option<Action> {
        let mut open = Vec::new();
        for owner in self.vms().into_iter().filter(|owner| !owner.guest.dying) {
            let waiting = owner.guest.offers.iter().filter(|(_, offer)| offer.accepted.is_none());
            open.extend(waiting.map(|(number, offer)| (owner.number, *number, *offer)));
        }
        let (owner, number, offer) = self.random.pick(&open)?;
        let vm = self.acting_guest(|vm| vm.guest.name == offer.receiver)?;
        let frame = self.vacant_frame(&vm)?;
        let operands = [named(owner), Operand::Number(number), ipa(frame), Operand::Rights(bits(offer.rights))];
        own(vm.number, GuestCall::MemAccept, operands)
    }

    fn withdraw(&mut self) -> Option<Action> {
        let vm = self.acting_guest(|vm| !vm.guest.offers.is_empty())?;
        let numbers: Vec<u64> = vm.guest.offers.keys().copied().collect();
        own(vm.number, GuestCall::MemWithdraw, [Operand::Number(self.random.pick(&numbers)?)])
    }

    fn drop_share(&mut self) -> Option<Action> {
        let mut borrowed = Vec::new();
        for owner in self.vms() {
            let accepted = owner.guest.offers.iter();
            borrowed.extend(accepted.filter_map(|(number, offer)| Some((owner.number, *number, offer.accepted?.0))));
        }
        let (owner, number, borrower) = self.random.pick(&borrowed)?;
        let vm = self.acting_guest(|vm| vm.vm == borrower)?;
        own(vm.number, GuestCall::MemDrop, [named(owner), Operand::Number(number)])
    }

    fn ask(&mut self) -> Option<Action> {
        let vm = self.acting_guest(|_| true)?;
        let questions = [
            GuestFunction::Features,
            GuestFunction::HypMeminfo,
            GuestFunction::GuardInfo,
            GuestFunction::Own(GuestCall::VmName),
        ];
        call(vm.number, self.random.pick(&questions)?, [])
    }

    /// Where devices of guests for scripts may be.
    fn device_address(&mut self) -> IpaName {
        IpaName::Raw((FIRST_DEVICE_FRAME + self.random.below(DEVICE_FRAMES)) << PAGE_SHIFT)
    }

    /// Marks a frame as a device's, or a mark is removed; once in a while the guest enrols.
    fn guard(&mut self) -> Option<Action> {
        let vm = self.acting_guest(|vm| vm.guest.protected)?;
        if self.random.one_in(ENROLMENTS) {
            return call(vm.number, GuestFunction::GuardEnroll, []);
        }
        let marks = &self.model.guard(vm.handle)?.marks;
        let marked = self.random.pick(&marks.iter().copied().collect::<Vec<Gfn>>());
        match marked.filter(|_| self.random.one_in(2)) {
            Some(gfn) => {
                call(vm.number, GuestFunction::GuardUnmap, [Operand::Ipa(IpaName::Raw(gfn.raw() << PAGE_SHIFT))])
            }
            None => call(vm.number, GuestFunction::GuardMap, [Operand::Ipa(self.device_address())]),
        }
    }

    /// Touches a frame that has nothing, so that the vCPU waits for memory, or the host answers.
    fn touch_vacant(&mut self) -> Option<Action> {
        let vm = self.acting_guest(|_| true)?;
        let frame = self.random.below(self.territory.frames.into()) as u32;
        let at = if self.random.one_in(4) { self.device_address() } else { IpaName::Frame(frame) };
        Some(self.access_at(&vm, at))
    }

    /// Touches memory that the guest has, whatever it may do with it.
    fn touch(&mut self) -> Option<Action> {
        let vm = self.acting_guest(|_| true)?;
        let frames: Vec<u32> =
            self.memory().memory_of(vm.vm).keys().filter_map(|gfn| self.frame_number(*gfn)).collect();
        let frame = self.random.pick(&frames)?;
        self.access_of(&vm, frame)
    }

    fn access_of(&mut self, vm: &KnownVm<'a>, frame: u32) -> Option<Action> {
        Some(self.access_at(vm, IpaName::Frame(frame)))
    }

    fn access_at(&mut self, vm: &KnownVm<'a>, at: IpaName) -> Action {
        guest(
            vm.number,
            match self.access() {
                Access::Read => GuestAction::Read(at),
                Access::Write(value) => GuestAction::Write(at, value),
                Access::Execute => GuestAction::Execute(at),
            },
        )
    }
}

fn is_alone(page: &Page) -> bool {
    page.borrowers.is_empty() && !page.offer
}

/// The frame that a request is about.
fn frame_of(request: &GuestRequest) -> Option<Gfn> {
    match request {
        GuestRequest::Access { ipa, .. } => Some(Gfn::containing(*ipa)),
        GuestRequest::Call { arguments: [x1, _, x3, ..], function, .. } => {
            let accepts = *function == GuestCall::MemAccept as u64;
            Some(Gfn::containing(abi::Ipa::new(if accepts { *x3 } else { *x1 })))
        }
        GuestRequest::Resume => None,
    }
}
