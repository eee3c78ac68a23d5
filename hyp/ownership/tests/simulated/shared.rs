//! Memory of the host's that guests which are not protected borrow.

use crate::common::calls::*;
use crate::common::step::host_fault;
use crate::common::*;
use abi::Error;
use ownership::Access;
use ownership_spec::Rights;

#[test]
fn a_page_may_be_shared_with_guests_many_times() {
    let mut world = World::with_guests(&[true, false, false], 12);
    let share =
        |vm, gfn, write, execute| host_share_guest_with(vm, LOW + 3, gfn, 2, Rights { read: true, write, execute });
    world.done(share(SECOND, 0x10, true, true));
    world.done(share(SECOND, 0x20, false, true));
    world.done(share(THIRD, 0x10, true, false));
    world.done(host_fault(LOW + 3, Access::Execute));
    for call in [
        host_share_hyp(LOW + 3, 1),
        host_donate_hyp(LOW + 3, 1),
        host_donate_guest(FIRST, LOW + 3, 0, 1),
        host_unshare_hyp(LOW + 3, 1),
        hyp_pin(LOW + 3),
    ] {
        world.refused(call, Error::WrongState);
    }
    world.done(host_unshare_guest(SECOND, 0x10, 2));
    world.refused(host_unshare_guest(SECOND, 0x10, 1), Error::WrongState);
    world.refused(host_unshare_guest(THIRD, 0x10, 3), Error::WrongState);
    world.done(host_unshare_guest(THIRD, 0x11, 1));
    world.done(host_unshare_guest(THIRD, 0x10, 1));
    world.refused(host_donate_hyp(LOW + 3, 1), Error::WrongState);
    world.done(host_unshare_guest(SECOND, 0x20, 2));
    world.done(host_donate_hyp(LOW + 3, 2));
    world.done(hyp_donate_host(LOW + 3, 2));
    world.tear_down();
}

#[test]
fn pages_that_hyp_borrows_are_not_shared_with_guests() {
    let mut world = World::with_two_guests();
    let share = host_share_guest(SECOND, LOW, 0, 1);
    world.done(host_share_hyp(LOW, 1));
    world.refused(share.clone(), Error::WrongState);
    world.done(hyp_pin(LOW));
    world.refused(share, Error::Busy);
    world.refused(host_donate_guest(FIRST, LOW, 0, 1), Error::Busy);
    world.done(hyp_unpin(LOW));
    world.refused(host_donate_guest(FIRST, LOW, 0, 1), Error::WrongState);
    world.tear_down();
}
