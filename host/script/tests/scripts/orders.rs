//! What the model takes for possible: alone, and where several CPUs act at once.

use abi::host::{HostCall, VmHandle};
use abi::run::ExitReason;
use abi::{Error, Pfn, PhysAddr};
use call_script::model::{Company, Model, Observed, orders};
use call_script::{Access, GuestFunction, GuestRequest, Names, Notice, Outcome, Places, Request, Status};
use ownership_spec::Machine;

const POOL: u64 = 0x4_0000;
const VM: VmHandle = VmHandle(5);

fn model() -> (Model, Names) {
    let page = Pfn::new;
    let machine = Machine::new(&[page(POOL)..page(POOL + 0x100)], &[page(POOL + 0xf0)..page(POOL + 0x100)], 1 << 24);
    let places = Places {
        pool: page(POOL),
        pool_pages: 0x40,
        hyp: page(POOL + 0xf0),
        hyp_pages: 0x10,
        device: page(0x9000),
        device_pages: 1,
        frames: Places::FRAMES,
        ipa_bits: 32,
        vm_pages: 5,
        vm_alignment: 4,
        vcpu_pages: 3,
    };
    let mut model = Model::new(machine, places);
    model.add_vm(VM, true, 1).unwrap();
    let mut names = Names::default();
    names.insert(0, VM);
    (model, names)
}

fn call(call: HostCall, operands: &[u64]) -> Request {
    let mut arguments = [0; 7];
    arguments[..operands.len()].copy_from_slice(operands);
    Request::Call { function: call as u64, arguments, names: None }
}

fn share() -> Request {
    call(HostCall::HypShare, &[POOL, 1])
}

fn donate(frame: u64) -> Request {
    call(HostCall::VmDonate, &[5, 0, POOL, Places::FRAMES.raw() + frame, 1])
}

fn access(access: Access) -> Request {
    Request::Access { access, address: PhysAddr::new(POOL << 12) }
}

fn read(value: u64) -> Outcome {
    Outcome { results: [value, 0, 0], ..Outcome::of(Status::Ok) }
}

const OK: Outcome = Outcome::of(Status::Ok);

fn refused(error: Error) -> Outcome {
    Outcome::of(Status::Error(error))
}

/// How many states explain what was seen by CPUs that did these.
fn explanations(cpus: &[&[(Request, Outcome)]]) -> usize {
    let (model, names) = model();
    let observed = |seen: &(Request, Outcome)| Observed { request: seen.0, outcome: seen.1 };
    let cpus: Vec<Vec<Observed>> = cpus.iter().map(|seen| seen.iter().map(observed).collect()).collect();
    orders(&[model], &names, &cpus).len()
}

#[test]
fn one_of_two_who_take_the_same_page_is_refused() {
    assert_eq!(explanations(&[&[(share(), OK)], &[(share(), refused(Error::WrongState))]]), 1);
    assert_eq!(explanations(&[&[(share(), OK)], &[(share(), OK)]]), 0);
    assert_eq!(
        explanations(&[&[(share(), refused(Error::WrongState))], &[(share(), refused(Error::WrongState))]]),
        0,
        "somebody comes first"
    );
    assert_eq!(explanations(&[&[(donate(0), OK)], &[(donate(1), refused(Error::NotYours))]]), 1);
    assert_eq!(explanations(&[&[(donate(0), OK)], &[(donate(1), refused(Error::WrongState))]]), 0);
}

#[test]
fn each_cpus_own_order_is_kept() {
    let unshare = call(HostCall::HypUnshare, &[POOL, 1]);
    // Shared, taken back and shared again: by two, only with the second in between.
    assert_eq!(explanations(&[&[(share(), OK), (share(), OK)], &[(unshare, OK)]]), 1);
    assert_eq!(explanations(&[&[(share(), OK), (unshare, OK)], &[(unshare, OK)]]), 0);
    assert_eq!(explanations(&[&[(unshare, OK), (share(), OK)], &[(unshare, refused(Error::WrongState))]]), 0);
}

#[test]
fn what_an_access_sees_has_its_place_in_the_order() {
    let abort = Outcome::of(Status::Abort);
    for seen in [read(0), abort] {
        assert_eq!(explanations(&[&[(donate(0), OK)], &[(access(Access::Read), seen)]]), 1, "{seen}");
    }
    assert_eq!(explanations(&[&[(donate(0), OK)], &[(access(Access::Read), read(7))]]), 0);
    // Once the page is gone it does not come back.
    assert_eq!(
        explanations(&[&[(donate(0), OK)], &[(access(Access::Read), abort), (access(Access::Read), read(0))]]),
        0
    );
    let stores = [(access(Access::Write(7)), OK)];
    assert_eq!(explanations(&[&stores, &[(access(Access::Read), read(0)), (access(Access::Read), read(7))]]), 1);
    assert_eq!(explanations(&[&stores, &[(access(Access::Read), read(7)), (access(Access::Read), read(0))]]), 0);
    // Two stores: either may be the last.
    assert_eq!(explanations(&[&stores, &[(access(Access::Write(8)), OK)]]), 2);
}

#[test]
fn only_in_company_may_others_be_in_the_way() {
    let (model, names) = model();
    let teardown = call(HostCall::VmTeardown, &[5]);
    let busy = refused(Error::Busy);
    assert!(model.judge(&names, &teardown, &busy, Company::Alone).is_err());
    assert_eq!(model.judge(&names, &teardown, &busy, Company::Others), Ok(None));
    // Not every call may be refused for that.
    assert!(model.judge(&names, &share(), &busy, Company::Others).is_err());
}

#[test]
fn what_a_guest_did_before_it_was_torn_down_has_happened() {
    let (model, names) = model();
    let donated = model.judge(&names, &donate(0), &OK, Company::Alone).unwrap().unwrap();
    let ipa = Places::FRAMES.raw() << 12;
    let function = GuestFunction::MemShare.number().into();
    let request = GuestRequest::Call { function, arguments: [ipa, 0, 0, 0, 0, 0, 0] };
    let request = Request::Guest { vm: 0, vcpu: 0, request };
    let notice = Notice { reason: ExitReason::Shared, ipa, data: 0, peer: 0 };
    let gone = Outcome { notice: Some(notice), ..Outcome::of(Status::NotRun(Error::VmGone)) };
    let after = donated.judge(&names, &request, &gone, Company::Others).unwrap().unwrap();
    assert!(after.host_may(Access::Read, Pfn::new(POOL)) && !donated.host_may(Access::Read, Pfn::new(POOL)));
    assert!(donated.judge(&names, &request, &Outcome { notice: None, ..gone }, Company::Alone).is_err());
    assert!(model.judge(&names, &request, &gone, Company::Others).is_err(), "there was nothing to share");
    let told_otherwise = Notice { ipa: ipa + 0x1000, ..notice };
    let otherwise = Outcome { notice: Some(told_otherwise), ..OK };
    assert!(donated.judge(&names, &request, &otherwise, Company::Alone).is_err());
}
