//! The tale that `make run` tells: a protected guest's life, and the host's attempt on it.

use super::{Context, take_apart};
use crate::hypercall;
use crate::paging::{Window, WindowKind};
use crate::probe::{self, Access};
use crate::run::{self, Exits, Stop};
use crate::vm::Vm;
use crate::{expect, frames, interrupt, println, report};
use abi::{PAGE_SIZE, PhysAddr, VirtAddr};

/// MiB of `bytes`.
const fn mib(bytes: u64) -> u64 {
    bytes >> 20
}

/// See the module.
pub fn run(context: &Context) {
    println!("host: Freehold's reference host at EL1, {} of {} CPUs on", context.online, context.machine.cpus.len());
    println!(
        "host: {} MiB of RAM, {} MiB of it free; tick {} Hz by the physical timer",
        mib(context.machine.memory_size()),
        mib(frames::free_count() * PAGE_SIZE),
        interrupt::TICKS_PER_SECOND,
    );
    expect!("cpus-online", context.online, context.machine.cpus.len());
    if !report::check("hypervisor-present", hypercall::is_present(), format_args!("no Freehold below")) {
        println!("host: there is no Freehold below, so there is nothing to show");
        return;
    }
    tell_hypervisor();
    let Some(mut vm) = context.guest("hello") else { return };
    tell_guest(&vm);

    let mut exits = Exits::default();
    let stop = run::run(&mut vm, &mut exits, u64::MAX);
    expect!("guest-powers-off", stop, Stop::Off);
    expect!("guest-shared-a-page", (exits.shares, exits.unshares), (1, 1));
    report::check("guest-spoke", vm.spoken().lock().line_count > 0, format_args!("silence"));
    println!(
        "host: guest hello stopped ({stop:?}) after {} exits: {} MMIO, {} page faults, {} interrupts",
        exits.total, exits.mmio, exits.faults, exits.interrupts
    );

    reach_into_guest(&vm);
    reach_into_hypervisor();
    if let Some(returned) = take_apart(vm) {
        println!("host: guest hello is gone");
        println!(
            "host: {} pages of its memory and {} of its objects and tables are back; {} of them hold anything but zeroes",
            returned.memory, returned.objects, returned.dirty
        );
    }
    println!("host: power off");
}

fn tell_hypervisor() {
    match (hypercall::version(), hypercall::memory_info()) {
        (Ok(version), Ok(info)) => {
            expect!("interface-version", version.major, abi::host::REVISION_MAJOR);
            expect!("host-calls", version.calls.count_ones() as usize, abi::host::HostCall::ALL.len());
            println!(
                "host: Freehold is below, interface {}.{}; it keeps {} ({} KiB) to itself, {} pages of it free",
                version.major,
                version.minor,
                info.carve_out,
                info.carve_out.size() >> 10,
                info.free_pages
            );
        }
        (version, info) => {
            report::check("interface-version", false, format_args!("{:?} {:?}", version.err(), info.err()));
        }
    }
}

fn tell_guest(vm: &Vm) {
    println!(
        "host: created VM {:#x}, protected, for guest hello: {} vCPU, {} MiB of RAM at IPA {:#x}",
        vm.handle().0,
        vm.vcpus.len(),
        mib(vm.layout().ram_size()),
        vmm::layout::RAM_BASE.raw(),
    );
    println!("host: donated {} pages with kernel and device tree to it:", vm.map().len());
    for (first, count) in vm.map().runs() {
        println!("host:   {count} from {:#x}", first.raw() * PAGE_SIZE);
    }
}

/// Touches one page of the guest's: reads and writes it where all RAM is mapped, and calls it through a window that
/// stage 1 lets the host execute from.
fn reach_into_guest(vm: &Vm) {
    let Some(page) = vm.map().page_of(abi::Gfn::containing(vm.layout().image())) else { return };
    let address = PhysAddr::new(page.raw() * PAGE_SIZE);
    println!("host: now I reach for the guest's page at {address}, which was mine once");
    for access in [Access::Read, Access::Write] {
        show(access, VirtAddr::new(address.raw()), "guest");
    }
    let window = Window::open(address, WindowKind::Code);
    show(Access::Execute, window.address(address), "guest");
}

/// Touches hyp's first page, which the device tree says not even to map.
fn reach_into_hypervisor() {
    let Ok(info) = hypercall::memory_info() else { return };
    let address = info.carve_out.start;
    let window = Window::open(address, WindowKind::Data);
    println!("host: and for the hypervisor's memory at {address}, mapped at {}", window.address(address));
    show(Access::Read, window.address(address), "hypervisor");
}

/// Touches memory at `address`, which must not be the host's, and says what came of it.
fn show(access: Access, address: VirtAddr, owner: &str) {
    // SAFETY: the page is not the host's: the access aborts. If it does not, that is the failure to find, and no memory
    // of the host is touched.
    let outcome = unsafe { probe::attempt(access, address) };
    match &outcome {
        Ok(value) => println!("host:   {}: it worked, {value:#x}", access.name()),
        Err(abort) => println!("host:   {}: {abort}", access.name()),
    }
    let aborted = outcome.is_err_and(|abort| abort.syndrome.is_external_abort());
    report::check(&alloc::format!("{owner}-page-{}", access.name()), aborted, format_args!("{outcome:?}"));
}
