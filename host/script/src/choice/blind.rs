//! Anything at all: mostly of the territory, now and then numbers that no honest caller has.

use super::host::FIRST_DEVICE_FRAME;
use super::{Random, Territory, guest};
use crate::executor::Access;
use crate::guest_step::{GuestAction, GuestFunction};
use crate::host_step::HostStep;
use crate::operand::{CountName, FrameName, IpaName, Kind, Operand, PageName, VmName, VmNumber};
use crate::resolve::Names;
use crate::step::{Action, HostAccess};
use abi::host::HostCall;
use abi::register::Register;
use alloc::vec::Vec;

/// One operand in so many is hostile.
const HOSTILE: u64 = 8;
/// Numbers that no honest caller has.
const NUMBERS: [u64; 7] = [u64::MAX, u64::MAX - 1, 1 << 63, 1 << 52, 1 << 40, (1 << 32) + 1, 0x7fff_ffff_ffff_ffff];
/// Guest addresses that no memory is ever at: not aligned, beyond all address spaces, and among the devices.
const ADDRESSES: [u64; 6] = [0x4800_0001, 0x4800_0ff8, u64::MAX, 1 << 32, 0x1000, !0xfff];
/// Calls that a blind chooser leaves alone: it might make VMs without end, run a guest beside its master, or lose one.
const LEFT_ALONE: [HostCall; 5] =
    [HostCall::VmReserve, HostCall::VmInit, HostCall::VcpuInit, HostCall::VcpuRun, HostCall::VmFinalise];

/// Any action. It depends on the numbers by chance, and on nothing else but which VMs there are.
pub fn blind(names: &Names, territory: &Territory, random: &mut Random) -> Action {
    let mut blind = Blind { names, territory, random };
    match blind.random.below(20) {
        0..=10 => blind.host_call(),
        11..=16 => blind.guest_action(),
        17..=18 => Action::Access(HostAccess { access: blind.access(), page: blind.page() }),
        _ => blind.unknown_call(),
    }
}

/// The action with one of its operands blind: what is nearly what would be done.
pub(super) fn alter(action: Action, names: &Names, territory: &Territory, random: &mut Random) -> Action {
    let mut blind = Blind { names, territory, random };
    match action {
        Action::Host(step) => {
            let mut operands = step.operands().to_vec();
            // There are devices that no one could take back.
            if step.call() != HostCall::VmGrantDevice {
                blind.alter_one(&mut operands, HostStep::kinds(step.call()));
            }
            Action::Host(HostStep::new(step.call(), operands).unwrap_or(step))
        }
        Action::Guest(mut step) => {
            if let GuestAction::Call(function, operands) = &mut step.action {
                blind.alter_one(operands, function.kinds());
            }
            Action::Guest(step)
        }
        other => other,
    }
}

struct Blind<'a> {
    names: &'a Names,
    territory: &'a Territory,
    random: &'a mut Random,
}

impl Blind<'_> {
    fn host_call(&mut self) -> Action {
        loop {
            let Some(call) = self.random.pick(HostCall::ALL) else { continue };
            // A VM that is torn down is of no more use, and pages for its tables come back with its end.
            let costly = match call {
                HostCall::VmTeardown => !self.random.one_in(16),
                HostCall::VcpuTopUp => self.territory.objects.is_empty() || !self.random.one_in(8),
                _ => false,
            };
            if LEFT_ALONE.contains(&call) || costly {
                continue;
            }
            let mut operands: Vec<Operand> = HostStep::kinds(call).iter().map(|kind| self.operand(*kind)).collect();
            if call == HostCall::VmGrantDevice {
                // There are devices that no one could take back, and next to the territory's there are others'.
                operands[2] = Operand::Page(self.safe_device());
                operands[4] = Operand::Count(CountName::Number(1));
                // Protected guests have devices below their memory only.
                if self.random.one_in(2) {
                    operands[3] = Operand::Frame(FrameName::Raw(FIRST_DEVICE_FRAME + u64::from(self.frame())));
                }
            }
            if call == HostCall::VcpuSetRegister {
                // A guest's script lives in its other registers.
                let index = self.random.below(32) as u8;
                operands[2] = Operand::Number(Register::Vector { index, upper: self.random.one_in(2) }.number());
            }
            if let Some(step) = HostStep::new(call, operands) {
                return Action::Host(step);
            }
        }
    }

    fn guest_action(&mut self) -> Action {
        let Some(vm) = self.known_vm(true) else { return self.host_call() };
        let functions: Vec<GuestFunction> = GuestFunction::all().collect();
        let action = match self.random.below(6) {
            0 => {
                let at = self.ipa();
                match self.access() {
                    Access::Read => GuestAction::Read(at),
                    Access::Write(value) => GuestAction::Write(at, value),
                    Access::Execute => GuestAction::Execute(at),
                }
            }
            1 => {
                let numbers = [0xc600_0187, 0xc600_01ff, 0xc600_0102, 0xc600_0110, 1 << 32 | 0xc600_0003];
                let number = self.random.pick(&numbers).unwrap_or_default();
                GuestAction::RawCall(number, [self.number(), self.number(), 0, 0, 0, 0, 0])
            }
            _ => {
                let function = self.random.pick(&functions).unwrap_or(GuestFunction::Features);
                let operands = function.kinds().iter().map(|kind| self.operand(*kind)).collect();
                GuestAction::Call(function, operands)
            }
        };
        guest(vm, action)
    }

    /// A host call that there is not, or that is not the host's.
    fn unknown_call(&mut self) -> Action {
        let numbers =
            [0xc600_010f, 0xc600_0122, 0xc600_017f, 0xc600_0183, 1 << 32 | 0xc600_0102, 1 << 63 | 0xc600_0115];
        let number = self.random.pick(&numbers).unwrap_or_default();
        Action::RawCall(number, [self.number(), self.number(), self.number(), 0, 0, 0, 0])
    }

    /// Makes one of a call's operands blind; not the name that it gives.
    fn alter_one(&mut self, operands: &mut [Operand], kinds: &[Kind]) {
        let places: Vec<usize> = (0..kinds.len()).filter(|place| kinds.get(*place) != Some(&Kind::NewVm)).collect();
        if let Some(place) = self.random.pick(&places)
            && let (Some(operand), Some(kind)) = (operands.get_mut(place), kinds.get(place))
        {
            *operand = self.operand(*kind);
        }
    }

    fn operand(&mut self, kind: Kind) -> Operand {
        match kind {
            Kind::NewVm => Operand::NewVm(0),
            Kind::Vm => Operand::Vm(self.vm()),
            Kind::Vcpu if self.hostile() => Operand::Vcpu(self.number()),
            Kind::Vcpu => Operand::Vcpu(0),
            Kind::Page => Operand::Page(self.page()),
            Kind::RunPage => Operand::RunPage(self.page()),
            Kind::Frame if self.hostile() => Operand::Frame(FrameName::Raw(self.number())),
            Kind::Frame => Operand::Frame(FrameName::Test(self.frame())),
            Kind::Count => Operand::Count(CountName::Number(self.count())),
            Kind::Rights if self.hostile() => Operand::Rights(self.number()),
            Kind::Rights => Operand::Rights(self.random.below(16)),
            Kind::Flags(_) => Operand::Flags(self.random.below(4)),
            Kind::Shape => Operand::Shape(self.number()),
            Kind::Ipa => Operand::Ipa(self.ipa()),
            Kind::Number(_) | Kind::OptionalNumber(_) if self.hostile() => Operand::Number(self.number()),
            Kind::Number(_) | Kind::OptionalNumber(_) => Operand::Number(self.random.below(6)),
        }
    }

    fn hostile(&mut self) -> bool {
        self.random.one_in(HOSTILE)
    }

    fn number(&mut self) -> u64 {
        self.random.pick(&NUMBERS).unwrap_or(u64::MAX)
    }

    fn count(&mut self) -> u64 {
        match self.random.below(10) {
            0..=6 => 1,
            7..=8 => self.random.below(4),
            _ if self.hostile() => self.number(),
            _ => 2,
        }
    }

    /// A VM that there is, one that acts where `acting`.
    fn known_vm(&mut self, acting: bool) -> Option<VmNumber> {
        let Territory { guests, others, made, .. } = self.territory;
        let others = others.iter().copied().chain(*made).filter(|_| !acting);
        let all = guests.iter().copied().chain(others);
        let there: Vec<VmNumber> = all.filter(|number| self.names.handle(*number).is_some()).collect();
        self.random.pick(&there)
    }

    fn vm(&mut self) -> VmName {
        match self.known_vm(false) {
            Some(number) if !self.hostile() => VmName::Named(number),
            // Handles of real VMs are small and not 0.
            _ => VmName::Raw(self.random.pick(&[0, u32::MAX.into(), 1 << 32, u64::MAX]).unwrap_or(0)),
        }
    }

    fn page(&mut self) -> PageName {
        if !self.hostile() {
            let pages = &self.territory.pages;
            return PageName::Pool(pages.start + self.random.below((pages.end - pages.start).into()) as u32);
        }
        match self.random.below(4) {
            0 => PageName::Hyp(self.random.below(16) as u32),
            1 => self.safe_device(),
            2 if !self.territory.objects.is_empty() => {
                // The last of them is a run page, the first a VM's root.
                PageName::Pool(if self.random.one_in(2) {
                    self.territory.objects.end - 1
                } else {
                    self.territory.objects.start
                })
            }
            _ => PageName::Raw(self.number()),
        }
    }

    /// The territory's device, or a page that there is not.
    fn safe_device(&mut self) -> PageName {
        let hostile = self.hostile();
        match self.territory.device {
            Some(device) if !hostile => PageName::Device(device),
            _ => PageName::Raw(self.random.pick(&[u64::MAX, 1 << 52]).unwrap_or(u64::MAX)),
        }
    }

    fn frame(&mut self) -> u32 {
        self.random.below(self.territory.frames.into()) as u32
    }

    fn ipa(&mut self) -> IpaName {
        if self.hostile() {
            return IpaName::Raw(self.random.pick(&ADDRESSES).unwrap_or(u64::MAX));
        }
        IpaName::Frame(self.frame())
    }

    fn access(&mut self) -> Access {
        match self.random.below(3) {
            0 => Access::Write(self.random.below(1 << 16)),
            _ => Access::Read,
        }
    }
}
