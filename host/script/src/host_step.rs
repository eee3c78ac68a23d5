//! A host call of a script: which one, and its operands.

use crate::operand::{Kind, Operand};
use crate::words::{Words, Wrong};
use abi::host::HostCall;
use alloc::vec::Vec;
use core::fmt;

/// A host call with operands of the kinds that it takes.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct HostStep {
    call: HostCall,
    operands: Vec<Operand>,
}

/// Each call, its word, and what it takes. But for a VM's new name, the operands are the registers from x1 on.
const CALLS: &[(HostCall, &str, &[Kind])] = &[
    (HostCall::Version, "version", &[]),
    (HostCall::MemoryInfo, "memory_info", &[]),
    (HostCall::InterruptInfo, "interrupt_info", &[]),
    (HostCall::HypShare, "hyp_share", &[Kind::Page, Kind::Count]),
    (HostCall::HypShareRestricted, "hyp_share_restricted", &[Kind::Page, Kind::Count]),
    (HostCall::HypUnshare, "hyp_unshare", &[Kind::Page, Kind::Count]),
    (HostCall::VmSizes, "vm_sizes", &[Kind::Number("bits"), Kind::Number("vcpus")]),
    (HostCall::VmReserve, "vm_reserve", &[Kind::NewVm]),
    (
        HostCall::VmInit,
        "vm_init",
        &[
            Kind::Vm,
            Kind::Flags("protected"),
            Kind::Shape,
            Kind::Page,
            Kind::Count,
            Kind::OptionalNumber("entry"),
            Kind::OptionalNumber("argument"),
        ],
    ),
    (HostCall::VcpuInit, "vcpu_init", &[Kind::Vm, Kind::Vcpu, Kind::Page, Kind::Count, Kind::RunPage]),
    (HostCall::VcpuTopUp, "vcpu_top_up", &[Kind::Vm, Kind::Vcpu, Kind::Page, Kind::Count]),
    (HostCall::VmDonate, "vm_donate", &[Kind::Vm, Kind::Vcpu, Kind::Page, Kind::Frame, Kind::Count]),
    (HostCall::VmShare, "vm_share", &[Kind::Vm, Kind::Vcpu, Kind::Page, Kind::Frame, Kind::Count, Kind::Rights]),
    (HostCall::VmUnshare, "vm_unshare", &[Kind::Vm, Kind::Frame, Kind::Count]),
    (HostCall::VcpuRun, "vcpu_run", &[Kind::Vm, Kind::Vcpu]),
    (HostCall::VcpuGetRegister, "vcpu_get_register", &[Kind::Vm, Kind::Vcpu, Kind::Number("register")]),
    (
        HostCall::VcpuSetRegister,
        "vcpu_set_register",
        &[Kind::Vm, Kind::Vcpu, Kind::Number("register"), Kind::Number("value")],
    ),
    (HostCall::VmTeardown, "vm_teardown", &[Kind::Vm]),
    (HostCall::VmReclaim, "vm_reclaim", &[Kind::Vm, Kind::Page, Kind::Count]),
    (HostCall::VmFinalise, "vm_finalise", &[Kind::Vm]),
    (HostCall::VmLend, "vm_lend", &[Kind::Vm, Kind::Vcpu, Kind::Page, Kind::Frame, Kind::Count]),
    (HostCall::VmReturn, "vm_return", &[Kind::Vm, Kind::Page, Kind::Count]),
    (HostCall::VmForceReclaim, "vm_force_reclaim", &[Kind::Vm, Kind::Page, Kind::Count]),
    (HostCall::VmEndShare, "vm_end_share", &[Kind::Vm, Kind::Vm, Kind::Number("offer")]),
    (HostCall::VmGrantDevice, "vm_grant_device", &[Kind::Vm, Kind::Vcpu, Kind::Page, Kind::Frame, Kind::Count]),
    (HostCall::VmReclaimDevice, "vm_reclaim_device", &[Kind::Vm, Kind::Page, Kind::Count]),
];

/// The entry of a call.
fn entry(call: HostCall) -> Option<&'static (HostCall, &'static str, &'static [Kind])> {
    CALLS.iter().find(|(known, ..)| *known == call)
}

impl HostStep {
    /// The call with these operands; `None` where they are not what it takes.
    pub fn new(call: HostCall, operands: impl Into<Vec<Operand>>) -> Option<Self> {
        let operands = operands.into();
        let kinds = Self::kinds(call);
        let fit =
            kinds.len() == operands.len() && kinds.iter().zip(&operands).all(|(kind, operand)| kind.fits(operand));
        fit.then_some(Self { call, operands })
    }

    /// Which call it is.
    pub const fn call(&self) -> HostCall {
        self.call
    }

    /// Its operands.
    pub fn operands(&self) -> &[Operand] {
        &self.operands
    }

    /// What a call takes, in order.
    pub fn kinds(call: HostCall) -> &'static [Kind] {
        entry(call).map_or(&[], |(_, _, kinds)| kinds)
    }

    /// A call's word.
    pub fn word(call: HostCall) -> &'static str {
        entry(call).map_or("?", |(_, word, _)| word)
    }

    /// The call that starts with `word`, if one does; the rest is read from `words`.
    pub(crate) fn parse(word: &str, words: &mut Words<'_>) -> Option<Result<Self, Wrong>> {
        let (call, _, kinds) = CALLS.iter().find(|(_, known, _)| *known == word)?;
        let operands: Result<Vec<Operand>, Wrong> = kinds.iter().map(|kind| kind.parse(words)).collect();
        Some(operands.map(|operands| Self { call: *call, operands }))
    }
}

impl fmt::Display for HostStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::word(self.call))?;
        Self::kinds(self.call).iter().zip(&self.operands).try_for_each(|(kind, operand)| kind.write(operand, f))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_host_call_can_be_said() {
        for call in HostCall::ALL {
            assert_eq!(CALLS.iter().filter(|(known, ..)| known == call).count(), 1, "{call:?}");
        }
        assert_eq!(CALLS.len(), HostCall::ALL.len());
    }

    #[test]
    fn operands_of_another_call_are_refused() {
        assert_eq!(HostStep::new(HostCall::VcpuRun, [Operand::Number(0)]), None);
        assert_eq!(HostStep::new(HostCall::Version, [Operand::Vcpu(0)]), None);
    }
}
