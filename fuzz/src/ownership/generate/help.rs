//! What leads to a state in which something can be done.

use abi::guest::GuestCall;
use abi::host::HostCall;
use call_script::{Action, GuestFunction, HostStep, Operand, VmName, VmNumber};
use ownership_spec::{Borrower, Frame, Owner};

use super::super::model::{Life, Stuck, VmModel};
use super::{Generator, What};

impl Generator<'_> {
    /// What the host does so that a guest comes past what it is stuck at.
    pub(super) fn help(&self, number: VmNumber) -> Option<Action> {
        let (_, vm) = self.vms().find(|(name, vm)| *name == number && vm.life == Life::Live)?;
        let handle = u64::from(self.names.handle(number)?.0);
        let (named, vcpu, one) = (Operand::Vm(VmName::Named(number)), Operand::Vcpu(0), Self::count_operand(1));
        let (call, operands) = match *self.model.stuck.get(&handle)? {
            // It may only read what it is to write: that is taken back first.
            Stuck::Memory(gfn) if !vm.protected && matches!(self.model.spec.frame(vm.vm(), gfn), Frame::Memory(_)) => {
                (HostCall::VmUnshare, vec![named, Operand::Frame(self.frame_name(gfn)), one])
            }
            Stuck::Memory(gfn) => {
                let operands = vec![named, vcpu, self.free_pages(3, 1, 1), Operand::Frame(self.frame_name(gfn)), one];
                match (vm.protected, self.seed[6] & 1) {
                    (true, 0) => (HostCall::VmDonate, operands),
                    (true, _) => (HostCall::VmLend, operands),
                    (false, _) => (HostCall::VmShare, [operands, vec![Operand::Rights(self.rights(6))]].concat()),
                }
            }
            Stuck::Tables(vcpu) => {
                (HostCall::VcpuTopUp, vec![named, Operand::Vcpu(vcpu), self.free_pages(3, 1, 1), one])
            }
            Stuck::ForGood => return None,
        };
        HostStep::new(call, operands).map(Action::Host)
    }

    /// What gives a VM pages for tables, where that is what a call needs.
    pub(super) fn helped(&self, step: &HostStep) -> Option<Action> {
        let needs = [HostCall::VmDonate, HostCall::VmLend, HostCall::VmShare, HostCall::VmGrantDevice];
        let Some(Operand::Vm(VmName::Named(number))) = step.operands().first() else { return None };
        let handle = u64::from(self.names.handle(*number)?.0);
        let lacks_tables = matches!(self.model.stuck.get(&handle), Some(Stuck::Tables(_)));
        if lacks_tables && needs.contains(&step.call()) { self.help(*number) } else { None }
    }

    /// The same kind of step where one can be done, and otherwise a kind that leads there.
    pub(super) fn instead(&self, what: What) -> What {
        let is_any = |suits: &dyn Fn(&VmModel) -> bool| self.vms().any(|(_, vm)| suits(vm));
        let is_live = |vm: &VmModel| vm.life == Life::Live && !vm.run_pages.is_empty();
        let is_possible = match what {
            What::Guest(function) => match function {
                GuestFunction::Features
                | GuestFunction::HypMeminfo
                | GuestFunction::GuardInfo
                | GuestFunction::GuardEnroll
                | GuestFunction::GuardMap
                | GuestFunction::Own(GuestCall::VmName) => true,
                GuestFunction::GuardUnmap => self.marker().is_some(),
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
    pub(super) fn before(&self, what: What) -> What {
        let has_dying = self.vms().any(|(_, vm)| vm.life == Life::Dying);
        match what {
            What::Guest(function) => match function {
                GuestFunction::MemUnshare => What::Guest(GuestFunction::MemShare),
                GuestFunction::GuardUnmap => What::Guest(GuestFunction::GuardMap),
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
}
