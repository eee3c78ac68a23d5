//! What the host does.

use abi::host::HostCall;
use abi::register::Register;
use abi::{Gfn, PAGE_SHIFT, Pfn};
use call_script::{Access, Action, CountName, FrameName, HostAccess, HostStep, Operand, PageName, VmName, VmNumber};
use ownership_spec::{Borrower, Offer, Owner, Page, Vm};

use super::super::guest_calls::DEVICE_LIMIT;
use super::super::model::{Life, VmModel};
use super::Generator;
use super::names::{DEVICE_FRAMES, FRAMES};

impl Generator<'_> {
    pub(super) fn host_call(&self, call: HostCall) -> Action {
        let mut operands = self.host_operands(call);
        // A guest's script lives in its general registers.
        if self.is_hostile() && !operands.is_empty() && call != HostCall::VcpuSetRegister {
            let index = self.select(7) % operands.len();
            operands[index] = self.make_hostile(operands[index]);
        }
        let step = HostStep::new(call, operands);
        Action::Host(step.unwrap_or_else(|| panic!("{call:?} takes other operands")))
    }

    pub(super) fn host_operands(&self, call: HostCall) -> Vec<Operand> {
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
                let (index, upper) = (self.number(4) % 3, !self.number(3).is_multiple_of(2));
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
    pub(super) fn make_hostile(&self, operand: Operand) -> Operand {
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

    /// A page that suits, of a VM of which it suits whether it is dying.
    pub(super) fn page_of_guest(&self, byte: usize, dying: bool) -> Option<(VmNumber, Pfn)> {
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

    /// A page of a device that a dying VM has, and the VM.
    pub(super) fn device_of_dying(&self) -> Option<(VmNumber, Pfn)> {
        let held = self.model.spec.changed_devices().filter_map(|(pfn, device)| {
            let (vm, _) = device.frame()?;
            self.is_dying(vm).then_some((self.name_of(vm)?, pfn))
        });
        self.choose(3, held)
    }

    /// A share of two guests of which one is dying: the owner, the borrower and the offer's number.
    pub(super) fn ending_share(&self) -> Option<(Vm, Vm, u64)> {
        let dies = |owner: Vm, offer: &Offer| {
            offer.accepted.is_some_and(|(borrower, _)| self.is_dying(owner) || self.is_dying(borrower))
        };
        let (owner, number, offer) = self.offer(3, dies)?;
        Some((owner, offer.accepted?.0, number))
    }

    pub(super) fn host_access(&self, access: Access) -> Action {
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
