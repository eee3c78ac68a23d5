//! What guests do.

use abi::guest::GuestCall;
use abi::{Gfn, guest, psci, smccc};
use call_script::{Access, Action, GuestAction, GuestFunction, GuestStep, IpaName, Operand, VmNumber};
use ownership_spec::{Borrower, Offer, Owner, Page, Vm};

use super::super::model::{Life, Stuck, VmModel};
use super::Generator;
use super::names::DEVICE_FRAMES;

/// So many of them are marked and touched.
const DEVICE_CHOICE: u64 = 6;

impl Generator<'_> {
    pub(super) fn guest(&self, vm: Option<VmNumber>, action: GuestAction) -> Action {
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
    pub(super) fn is_able(&self, number: VmNumber, vm: &VmModel) -> bool {
        let handle = self.names.handle(number).map_or(0, |handle| u64::from(handle.0));
        let is_stuck = self.model.stuck.get(&handle) == Some(&Stuck::ForGood);
        vm.life == Life::Live && !vm.run_pages.is_empty() && !is_stuck
    }

    /// A protected VM that may do something.
    pub(super) fn actor(&self) -> Option<VmNumber> {
        let able =
            self.vms().filter(|(number, vm)| vm.protected && self.is_able(*number, vm)).map(|(number, _)| number);
        self.choose(2, able).or_else(|| self.vm(2, |vm| vm.life == Life::Live && vm.protected))
    }

    /// A frame at which a protected VM that may do something has a page that suits, and the VM.
    pub(super) fn frame_of_actor(&self, byte: usize, suits: impl Fn(Vm, &Page) -> bool) -> Option<(VmNumber, Gfn)> {
        let pages = self.model.spec.changed_pages();
        let frames = pages.flat_map(|(_, page)| page.frames().map(|(vm, gfn)| (vm, gfn, page)).collect::<Vec<_>>());
        let suitable = frames.filter_map(|(vm, gfn, page)| {
            let (number, model) = self.vms().find(|(_, model)| model.vm() == vm)?;
            (model.protected && self.is_able(number, model) && suits(vm, page)).then_some((number, gfn))
        });
        self.choose(byte, suitable)
    }

    /// The frame of an actor's that a call of this kind is about.
    pub(super) fn frame_for(&self, function: GuestFunction) -> Option<(VmNumber, Gfn)> {
        self.frame_of_actor(3, |vm, page| match function {
            GuestFunction::MemUnshare => {
                page.owner == Owner::Guest(vm) && page.borrowers.contains_key(&Borrower::Host) && !page.is_lent()
            }
            GuestFunction::Own(GuestCall::MemReturn) => page.owner == Owner::Host,
            _ => page.owner == Owner::Guest(vm) && page.borrowers.is_empty() && !page.offer,
        })
    }

    /// True where the VM in a slot may do something.
    pub(super) fn may_act(&self, vm: Vm) -> bool {
        self.vms().any(|(number, model)| model.vm() == vm && self.is_able(number, model))
    }

    /// An offer that its receiver may accept.
    pub(super) fn open_offer(&self) -> Option<(Vm, u64, Offer)> {
        let receiver = |offer: &Offer| self.names.name_of(offer.receiver);
        let is_there =
            |offer: &Offer| self.vms().any(|(number, vm)| Some(number) == receiver(offer) && self.is_able(number, vm));
        self.offer(3, |owner, offer| offer.accepted.is_none() && is_there(offer) && !self.is_dying(owner))
    }

    pub(super) fn hostile_ipa(&self, gfn: Gfn) -> IpaName {
        match self.seed[6] & 3 {
            0 => IpaName::Raw(gfn.raw() << 12 | 8),
            1 => IpaName::Raw(self.hostile(6) << 12),
            2 => IpaName::Raw(0x1000_0000),
            _ => self.ipa_name(self.any_frame(6)),
        }
    }

    pub(super) fn guest_call(&self, function: GuestFunction) -> Action {
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
            GuestFunction::Features
            | GuestFunction::HypMeminfo
            | GuestFunction::GuardInfo
            | GuestFunction::GuardEnroll => (vm, vec![]),
            GuestFunction::GuardMap => (vm, vec![Operand::Ipa(self.device_address(vm))]),
            GuestFunction::GuardUnmap => {
                let vm = self.marker().or(vm);
                (vm, vec![Operand::Ipa(self.marked_address(vm))])
            }
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

    /// A VM that has marked a frame and may do something.
    pub(super) fn marker(&self) -> Option<VmNumber> {
        let able = self.vms().filter(|(number, vm)| !vm.guard.marks.is_empty() && self.is_able(*number, vm));
        self.choose(2, able.map(|(number, _)| number))
    }

    /// A frame that a VM has marked, or else any where devices may be.
    pub(super) fn marked_address(&self, vm: Option<VmNumber>) -> IpaName {
        let marks = self.vms().filter(|(number, _)| Some(*number) == vm).flat_map(|(_, vm)| vm.guard.marks.iter());
        match self.choose(3, marks) {
            Some(gfn) if !self.is_hostile() => self.ipa_name(*gfn),
            _ => self.device_address(vm),
        }
    }

    /// An address where devices may be; a hostile one is none, or has memory.
    pub(super) fn device_address(&self, vm: Option<VmNumber>) -> IpaName {
        let gfn = Gfn::new(DEVICE_FRAMES + self.number(3) % DEVICE_CHOICE);
        match self.seed[4] {
            _ if self.is_hostile() => self.hostile_ipa(gfn),
            0xf0.. => self.ipa_name(self.held_frame(3, self.spec_vm(vm), |_| true).unwrap_or(gfn)),
            _ => self.ipa_name(gfn),
        }
    }

    pub(super) fn accept(&self, vm: Option<VmNumber>) -> (Option<VmNumber>, Vec<Operand>) {
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

    pub(super) fn raw_guest_call(&self) -> Action {
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

    pub(super) fn guest_access(&self, action: impl Fn(IpaName) -> GuestAction) -> Action {
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
            0xe0..0xf0 => Some(Gfn::new(DEVICE_FRAMES + self.number(3) % DEVICE_CHOICE)),
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
}
