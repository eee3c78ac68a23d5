//! What the tests have in common.

use abi::{Error, Gfn, Pfn};
use ownership_spec::witness::{GFN_LIMIT, machine, name_of};
use ownership_spec::{Borrower, Page, Rights, Specification, Vm};

/// Two protected guests.
pub const ALICE: Vm = Vm(0);
pub const BOB: Vm = Vm(1);
/// Two that are not protected.
pub const CAROL: Vm = Vm(2);
pub const DAVE: Vm = Vm(3);

/// The machine of the witnesses and four guests.
pub fn start() -> Specification {
    let guests = [(ALICE, true), (BOB, true), (CAROL, false), (DAVE, false)];
    guests.into_iter().fold(Specification::new(machine()), |state, (vm, protected)| {
        state.create(vm, name_of(vm), protected, GFN_LIMIT).unwrap()
    })
}

/// The page of that number, among those that are the host's at the start.
pub const fn pfn(number: u64) -> Pfn {
    Pfn::new(0x40 + number)
}

pub const fn gfn(number: u64) -> Gfn {
    Gfn::new(number)
}

/// How a page is.
#[track_caller]
pub fn page(state: &Specification, number: u64) -> Page {
    state.page(pfn(number)).unwrap()
}

/// Who borrows a page.
#[track_caller]
pub fn borrowers(state: &Specification, number: u64) -> Vec<(Borrower, Rights)> {
    page(state, number).borrowers.into_iter().collect()
}

/// The refusal of what must be refused.
#[track_caller]
pub fn refusal<T>(result: Result<T, Error>) -> Error {
    match result {
        Ok(_) => panic!("done, and should be refused"),
        Err(error) => error,
    }
}
