//! Which pages, frames and VMs are whose, and how a request is made.

use crate::call;
use crate::scenario::actor::Actor;
use crate::scenario::machine;
use abi::host::HostCall;
use abi::{PAGE_SHIFT, Pfn, PhysAddr};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use call_script::choice::Territory;
use call_script::model::Model;
use call_script::{
    Access, Action, CountName, GuestAction, GuestStep, HostStep, Names, Operand, Outcome, PageName, Places, Request,
    Status, VmName, VmNumber,
};
use ownership_spec::{Borrower, Owner, Page};

/// Pages of a 2 MiB block.
const BLOCK: u32 = 512;
/// Blocks of each CPU's own: one for single pages, one to be moved as a whole.
const BLOCKS_EACH: u32 = 2;
/// Pages of the first that change hands one by one.
const PAGES: u32 = 16;
/// Pages of it for the objects of a VM.
const OBJECTS: core::ops::Range<u32> = 32..96;
/// Frames of each guest.
const FRAMES: u32 = 8;
/// VMs of each CPU's own in which guests act: whether they are protected.
pub const OWN_VMS: [bool; 3] = [true, true, false];
/// VM numbers of each CPU: those, and one that is made of the CPU's own pages.
const NUMBERS_EACH: usize = OWN_VMS.len() + 1;
/// Pages that all CPUs fight over.
const CONTESTED_PAGES: u32 = 4;
/// Frames of the guests that they fight over.
const CONTESTED_FRAMES: u32 = 3;
/// Most CPUs that fight: with more, explaining what they saw takes longer than it is worth.
pub const MOST_FIGHTERS: usize = 4;

/// Pages of the pool for so many CPUs.
pub fn pool_pages(cpus: usize) -> u64 {
    (cpus as u64 * u64::from(BLOCKS_EACH) + 1) * u64::from(BLOCK)
}

/// What is a CPU's own.
pub fn own(cpu: usize, places: &Places) -> Territory {
    let first = cpu as u32 * BLOCKS_EACH * BLOCK;
    let number = |index: usize| (cpu * NUMBERS_EACH + index) as VmNumber;
    Territory {
        pages: first..first + PAGES,
        objects: first + OBJECTS.start..first + OBJECTS.end,
        block: Some(first + BLOCK),
        device: u32::try_from(cpu).ok().filter(|device| u64::from(*device) < places.device_pages),
        frames: FRAMES,
        guests: (0..OWN_VMS.len()).map(number).collect(),
        others: Vec::new(),
        made: Some(number(OWN_VMS.len())),
    }
}

/// The number of the VM that CPU `cpu` of `cpus` fights with.
pub fn contested_vm(cpu: usize, cpus: usize) -> VmNumber {
    (cpus * NUMBERS_EACH + cpu) as VmNumber
}

/// Whether that VM is protected: one in four is not.
pub const fn is_contested_vm_protected(cpu: usize) -> bool {
    cpu % 4 != 3
}

/// What CPU `cpu` of `cpus` may do when all fight: its guest acts, and the others' are named.
pub fn contested(cpu: usize, cpus: usize) -> Territory {
    let first = cpus as u32 * BLOCKS_EACH * BLOCK;
    let others = (0..cpus.min(MOST_FIGHTERS)).filter(|other| *other != cpu);
    Territory {
        pages: first..first + CONTESTED_PAGES,
        objects: 0..0,
        block: None,
        device: None,
        frames: CONTESTED_FRAMES,
        guests: [contested_vm(cpu, cpus)].into(),
        others: others.map(|other| contested_vm(other, cpus)).collect(),
        made: None,
    }
}

/// The pages that all fight over.
pub fn contested_pages(cpus: usize) -> core::ops::Range<u32> {
    contested(0, cpus).pages
}

/// Makes a request on the calling CPU; `actor` is the guest of the VM that it is about, where it is about one's end or what
/// one does.
pub fn perform(places: &Places, request: &Request, actor: Option<&mut Actor>) -> Outcome {
    match (request, actor) {
        (Request::Call { function, arguments, .. }, actor) => {
            if let Some(actor) = actor.filter(|_| *function == HostCall::VmFinalise as u64)
                && let Err(error) = actor.take_memory_back()
            {
                crate::println!("torture: a guest keeps memory: {error}");
            }
            // SAFETY: requests are chosen from territories, which hold nothing that the host relies on, and otherwise name
            // pages that are hyp's or that there are not.
            Outcome::of_call(unsafe { call::raw_with_all(*function, *arguments) })
        }
        (Request::Access { access, address }, _) => touch(places, *access, *address),
        (Request::Guest { vcpu, request, .. }, Some(actor)) => actor.act(*vcpu, request),
        (Request::Guest { .. } | Request::Frames(_), _) => Outcome::of(Status::Skipped("there is no guest in this VM")),
    }
}

/// What a guest does instead of `action`, where it has not come past what it was told before: it goes on with that.
pub fn first_things_first(action: Action, actor: Option<&Actor>) -> Action {
    match action {
        Action::Guest(step) if actor.is_some_and(|actor| actor.is_stopped(0)) => {
            Action::Guest(GuestStep { action: GuestAction::Resume, ..step })
        }
        action => action,
    }
}

/// The VM that a request is about, where its actor is needed.
pub fn subject(request: &Request, names: &Names) -> Option<VmNumber> {
    match request {
        Request::Guest { vm, .. } => Some(*vm),
        Request::Call { function, arguments, .. } if *function == HostCall::VmFinalise as u64 => {
            names.name_of(abi::host::VmHandle(u32::try_from(arguments[0]).ok()?))
        }
        _ => None,
    }
}

/// Touches memory: the pool at its own address, everything else through a window.
pub fn touch(places: &Places, access: Access, address: PhysAddr) -> Outcome {
    let page = Pfn::containing(address).raw();
    let in_pool = (places.pool.raw()..places.pool.raw() + places.pool_pages).contains(&page);
    // SAFETY: the pool is RAM that nothing else is in; what is touched outside of it is not the host's, or a device that the
    // host does not use.
    unsafe {
        let at_itself = if in_pool { machine::touch_ram(access, address) } else { None };
        at_itself.unwrap_or_else(|| machine::touch(places, access, address))
    }
}

/// The first page of the pool that the host cannot write and read, if there is one.
pub fn pages_out_of_reach(places: &Places) -> Option<u64> {
    (0..places.pool_pages).find(|number| {
        let address = PhysAddr::new((places.pool.raw() + number) << PAGE_SHIFT);
        let written = touch(places, Access::Write(*number), address).status;
        let read = touch(places, Access::Read, address);
        written != Status::Ok || read.status != Status::Ok || read.results[0] != Access::word(*number)
    })
}

/// Pages of the pool that the host shares with hyp.
pub fn shared_with_hyp(model: &Model) -> Vec<u32> {
    let shared = model.specification().changed_pages().filter(|(_, page)| page.borrowers.contains_key(&Borrower::Hyp));
    shared.filter_map(|(at, _)| u32::try_from(at.raw().checked_sub(model.places().pool.raw())?).ok()).collect()
}

/// A page that the host does not have to itself, if there is one, in words.
pub fn kept_from_host(model: &Model) -> Option<String> {
    let hosts = |page: &Page| page.owner == Owner::Host && page.borrowers.is_empty();
    let mut kept = model.specification().changed_pages().filter(|(_, page)| !hosts(page));
    kept.next().map(|(at, page)| format!("page {at}: {page}"))
}

/// HYP_UNSHARE of a page.
pub fn unshare(page: u32) -> Option<Action> {
    let operands = [Operand::Page(PageName::Pool(page)), Operand::Count(CountName::Number(1))];
    HostStep::new(HostCall::HypUnshare, operands).map(Action::Host)
}

/// VM_TEARDOWN of a VM.
pub fn teardown(vm: VmNumber) -> Option<Action> {
    HostStep::new(HostCall::VmTeardown, [Operand::Vm(VmName::Named(vm))]).map(Action::Host)
}
