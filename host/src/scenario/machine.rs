//! This machine as scripts and models know it: where the places are, and how the host touches memory.

use super::Context;
use crate::frames::Pages;
use crate::hypercall;
use crate::paging::{Window, WindowKind, physical_address_bits};
use crate::probe::{self, Abort};
use abi::{Error, Pfn, PhysAddr, PhysRange, VirtAddr};
use call_script::{Access, Outcome, Places, Status};
use core::ops::Range;
use ownership_spec::Machine;
use spin::Mutex;
use vmm::layout::IPA_BITS;

/// Pages of a 2 MiB block.
const BLOCK_PAGES: u64 = 512;

/// The pages of a range.
fn pages_of(range: &PhysRange) -> Range<Pfn> {
    Pfn::containing(range.start)..Pfn::containing(range.end)
}

/// A pool of at least `count` pages of zeroes, the first of them 2 MiB aligned; it takes up whole blocks.
pub fn pool(count: u64) -> Option<Pages> {
    Pages::zeroed(count.next_multiple_of(BLOCK_PAGES))
}

/// Where the places are, with a pool of `count` pages from `pool` on.
///
/// # Errors
/// What hyp said when it was asked.
pub fn places(context: &Context, pool: Pfn, count: u64) -> Result<Places, Error> {
    let carve_out = pages_of(&hypercall::memory_info()?.carve_out);
    let device = pages_of(&context.machine.spare_device);
    let sizes = hypercall::vm_sizes(IPA_BITS, 1)?;
    Ok(Places {
        pool,
        pool_pages: count,
        hyp: carve_out.start,
        hyp_pages: carve_out.end.raw() - carve_out.start.raw(),
        device: device.start,
        device_pages: device.end.raw() - device.start.raw(),
        frames: Places::FRAMES,
        ipa_bits: IPA_BITS,
        vm_pages: sizes.vm_pages,
        vm_alignment: sizes.vm_alignment,
        vcpu_pages: sizes.vcpu_pages,
    })
}

/// The machine, as the specification sees it.
pub fn specified(context: &Context, places: &Places) -> Machine {
    let ram: alloc::vec::Vec<Range<Pfn>> = context.machine.memory.iter().map(pages_of).collect();
    let end = Pfn::new(places.hyp.raw() + places.hyp_pages);
    Machine::new(&ram, &[places.hyp..end], 1 << (physical_address_bits() - abi::PAGE_SHIFT))
}

/// Held while a window is open: no two CPUs open one on the same page.
static WINDOW: Mutex<()> = Mutex::new(());

/// Touches memory through a window, as memory or, where it is the spare device's, as a device.
///
/// # Safety
/// Nothing that the host relies on may be in the page, nor code that does not return.
pub unsafe fn touch(places: &Places, access: Access, address: PhysAddr) -> Outcome {
    let page = Pfn::containing(address);
    let is_device = (places.device.raw()..places.device.raw() + places.device_pages).contains(&page.raw());
    let kind = match access {
        Access::Execute => WindowKind::Code,
        _ if is_device => WindowKind::Device,
        _ => WindowKind::Data,
    };
    if !Window::reaches(address) {
        return Outcome::of(Status::Skipped("the host's tables do not reach so far"));
    }
    let _alone = WINDOW.lock();
    let window = Window::open(address, kind);
    let at = window.address(address);
    // SAFETY: the caller vouches for the page.
    let result = unsafe {
        match access {
            Access::Read if is_device => probe::attempt(probe::Access::ReadRegister, at),
            Access::Read => probe::attempt(probe::Access::Read, at),
            Access::Write(value) => probe::store(at, Access::word(value)).map(|()| 0),
            Access::Execute => probe::attempt(probe::Access::Execute, at),
        }
    };
    outcome(result)
}

/// Loads or stores at RAM's own address.
///
/// # Safety
/// As for [`touch`]; the page must be RAM that stage 1 maps.
pub unsafe fn touch_ram(access: Access, address: PhysAddr) -> Option<Outcome> {
    let at = VirtAddr::new(address.raw());
    // SAFETY: the caller vouches for the page.
    let result = unsafe {
        match access {
            Access::Read => probe::attempt(probe::Access::Read, at),
            Access::Write(value) => probe::store(at, Access::word(value)).map(|()| 0),
            Access::Execute => return None,
        }
    };
    Some(outcome(result))
}

/// What an access came to.
fn outcome(result: Result<u64, Abort>) -> Outcome {
    match result {
        Ok(value) => Outcome { results: [value, 0, 0], ..Outcome::of(Status::Ok) },
        Err(abort) if abort.syndrome.is_external_abort() => Outcome::of(Status::Abort),
        Err(abort) => Outcome::of(Status::Value(abort.syndrome.0)),
    }
}
