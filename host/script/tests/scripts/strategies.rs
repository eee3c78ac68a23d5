//! Any script.

use abi::Error;
use abi::host::HostCall;
use abi::run::ExitReason;
use call_script::{
    Access, Action, CountName, Expectation, FrameName, GuestAction, GuestFunction, GuestStep, HostAccess, HostStep,
    IpaName, Kind, Operand, PageName, Script, Setup, Status, Step, VmName, VmSetup,
};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

/// Numbers of every size.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..4_u64, 0..5000_u64, any::<u64>(), Just(u64::MAX)]
}

fn page() -> impl Strategy<Value = PageName> {
    prop_oneof![
        any::<u32>().prop_map(PageName::Pool),
        any::<u32>().prop_map(PageName::Hyp),
        any::<u32>().prop_map(PageName::Device),
        number().prop_map(PageName::Raw),
    ]
}

fn ipa() -> impl Strategy<Value = IpaName> {
    prop_oneof![any::<u32>().prop_map(IpaName::Frame), number().prop_map(IpaName::Raw)]
}

fn operand(kind: Kind) -> BoxedStrategy<Operand> {
    let count =
        prop_oneof![number().prop_map(CountName::Number), Just(CountName::VmObject), Just(CountName::VcpuObject)];
    match kind {
        Kind::NewVm => any::<u8>().prop_map(Operand::NewVm).boxed(),
        Kind::Vm => prop_oneof![any::<u8>().prop_map(VmName::Named), number().prop_map(VmName::Raw)]
            .prop_map(Operand::Vm)
            .boxed(),
        Kind::Vcpu => number().prop_map(Operand::Vcpu).boxed(),
        Kind::Page => page().prop_map(Operand::Page).boxed(),
        Kind::RunPage => page().prop_map(Operand::RunPage).boxed(),
        Kind::Frame => {
            let frame = prop_oneof![any::<u32>().prop_map(FrameName::Test), number().prop_map(FrameName::Raw)];
            frame.prop_map(Operand::Frame).boxed()
        }
        Kind::Count => count.prop_map(Operand::Count).boxed(),
        Kind::Rights => prop_oneof![0..20_u64, number()].prop_map(Operand::Rights).boxed(),
        Kind::Flags(_) => number().prop_map(Operand::Flags).boxed(),
        Kind::Shape => number().prop_map(Operand::Shape).boxed(),
        Kind::Ipa => ipa().prop_map(Operand::Ipa).boxed(),
        Kind::Number(_) | Kind::OptionalNumber(_) => number().prop_map(Operand::Number).boxed(),
    }
}

fn operands(kinds: &[Kind]) -> BoxedStrategy<Vec<Operand>> {
    kinds.iter().map(|kind| operand(*kind)).collect::<Vec<_>>().boxed()
}

fn access() -> impl Strategy<Value = Access> {
    prop_oneof![Just(Access::Read), number().prop_map(Access::Write), Just(Access::Execute)]
}

fn guest_action() -> impl Strategy<Value = GuestAction> {
    let functions: Vec<GuestFunction> = GuestFunction::all().collect();
    let call = select(functions).prop_flat_map(|function| {
        operands(function.kinds()).prop_map(move |operands| GuestAction::Call(function, operands))
    });
    prop_oneof![
        4 => call,
        1 => (number(), any::<[u64; 7]>()).prop_map(|(function, arguments)| GuestAction::RawCall(function, arguments)),
        1 => ipa().prop_map(GuestAction::Read),
        1 => (ipa(), number()).prop_map(|(ipa, value)| GuestAction::Write(ipa, value)),
        1 => ipa().prop_map(GuestAction::Execute),
        1 => Just(GuestAction::Resume),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    let call = select(HostCall::ALL).prop_flat_map(|call| {
        operands(HostStep::kinds(call)).prop_map(move |operands| Action::Host(HostStep::new(call, operands).unwrap()))
    });
    let guest = (any::<u8>(), number(), guest_action());
    prop_oneof![
        8 => call,
        1 => (number(), any::<[u64; 7]>()).prop_map(|(function, arguments)| Action::RawCall(function, arguments)),
        2 => (access(), page()).prop_map(|(access, page)| Action::Access(HostAccess { access, page })),
        4 => guest.prop_map(|(vm, vcpu, action)| Action::Guest(GuestStep { vm, vcpu, action })),
        1 => option::of(any::<u32>()).prop_map(Action::Frames),
        1 => any::<u32>().prop_map(Action::Interleave),
    ]
}

fn status() -> impl Strategy<Value = Status> {
    let unknown =
        number().prop_filter("a result that is no error of the interface", |x0| Error::from_register(*x0).is_none());
    prop_oneof![
        Just(Status::Ok),
        select(&Error::ALL[..]).prop_map(Status::Error),
        unknown.prop_map(Status::Value),
        Just(Status::Abort),
        Just(Status::Stopped),
        select(&Error::ALL[..]).prop_map(Status::NotRun),
    ]
}

fn expectation() -> impl Strategy<Value = Expectation> {
    let exit = option::of((0..13_u64).prop_map(|number| ExitReason::from_register(number).unwrap()));
    let some = (option::of(status()), exit, vec((1..4_u8, number()), 0..3));
    let some = some.prop_map(|(status, exit, results)| Expectation { status, exit, results });
    some.prop_filter("it says something", |expected| *expected != Expectation::default())
}

fn step() -> impl Strategy<Value = Step> {
    (any::<u8>(), action(), option::of(expectation())).prop_map(|(cpu, action, expected)| {
        let expected = expected.filter(|_| !matches!(action, Action::Frames(_) | Action::Interleave(_)));
        Step { cpu, action, expected }
    })
}

/// Any script.
pub(crate) fn scripts() -> impl Strategy<Value = Script> {
    let vm = (any::<bool>(), number()).prop_map(|(protected, vcpus)| VmSetup { protected, vcpus });
    let setup = (1..=u64::from(u32::MAX), btree_map(0..64_u8, vm, 0..3));
    let setup = setup.prop_map(|(pages, vms)| Setup { pages, vms });
    (setup, vec(step(), 0..12)).prop_map(|(setup, steps)| Script { setup, steps })
}
