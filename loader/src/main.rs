//! Stage 0. Entered at EL2 by the arm64 Linux boot protocol with the MMU off, it reads the device tree, moves hyp to the
//! top of memory and the host kernel to where it may run, writes the host's device tree, and enters hyp. Its own memory
//! is free from then on.
//!
//! What it decides lies in the crate `boot-plan`; here is what needs the hardware.
//!
//! With the MMU off every data access is to Device memory: none may be unaligned (the target is built with strict
//! alignment), and none may be exclusive, so that there is no lock here and no atomic read-modify-write. One CPU runs,
//! with interrupts masked.
#![no_std]
#![no_main]

extern crate alloc;

mod console;
mod exception;
mod firmware;
mod heap;
mod memory;
mod processor;

use abi::boot::BootInfo;
use abi::{PhysAddr, PhysRange};
use boot_plan::hyp_image::HypImageError;
use boot_plan::kernel::KernelError;
use boot_plan::options::LogLevel;
use boot_plan::plan::{Occupied, PlanError};
use boot_plan::tree::{self, TreeError};
use boot_plan::{
    BootError, DeviceTree, HypImage, KernelImage, Machine, Modules, Options, Plan, Seed, Survey, host_tree, seed,
};
use console::say;
use core::convert::Infallible;
use core::mem::offset_of;
use core::panic::PanicInfo;
use firmware::Conduit;
use processor::ExceptionLevel;

image_start::entry!(start);

/// Hyp's ELF file, aligned such that its pages are copied word by word.
static HYP: &Aligned<[u8]> = &Aligned(*include_bytes!(env!("FREEHOLD_HYP_ELF")));

/// Page aligned.
#[repr(C, align(4096))]
struct Aligned<T: ?Sized>(T);

/// The device tree as it was handed over.
struct Given {
    tree: DeviceTree<'static>,
    survey: Survey,
    range: PhysRange,
}

/// The first Rust code: `device_tree` is x0 at entry, `counter` was CNTVCT_EL0 then.
extern "C" fn start(device_tree: u64, counter: u64) -> ! {
    let level = processor::exception_level();
    exception::install(level);
    heap::initialise();

    let given = match read_device_tree(PhysAddr::new(device_tree)) {
        Ok(given) => given,
        Err(error) => {
            console::use_default();
            say!("{error}");
            processor::wait_forever();
        }
    };
    if let Some(uart) = given.survey.console() {
        console::use_registers(uart.registers.start);
    }
    let conduit = Conduit::of(&given.survey);
    if level != ExceptionLevel::El2 {
        say!("entered at {level}; Freehold needs EL2 (QEMU: -M virt,virtualization=on,gic-version=3)");
        firmware::power_off(conduit);
    }
    if !processor::has_plain_el2() {
        say!("this CPU's EL2 is always that of the virtualization host extensions; Freehold needs HCR_EL2.E2H = 0");
        firmware::power_off(conduit);
    }
    let Err(error) = boot(given, conduit, counter);
    say!("{error}");
    firmware::power_off(conduit);
}

/// Reads and validates the device tree at `start`.
fn read_device_tree(start: PhysAddr) -> Result<Given, BootError> {
    let size = tree::total_size(&memory::read(start).ok_or(TreeError::Magic(0))?)?;
    let range = PhysRange::from_size(start, size as u64).ok_or(TreeError::Size(size))?;
    let loader = memory::loader_range();
    if loader.overlaps(&range) {
        // The heap would grow over it while it is read.
        return Err(PlanError::Overlap(("loader", loader), ("device tree", range)).into());
    }
    // SAFETY: the boot protocol has x0 point at the device tree, which nothing writes while this slice lives; its
    // header bounds it to 2 MiB.
    let bytes = unsafe { memory::bytes(&range) };
    let tree = DeviceTree::parse(bytes)?;
    let survey = Survey::of(&tree);
    Ok(Given { tree, survey, range })
}

/// Everything from the device tree to hyp's entry; returns only where the boot is given up.
fn boot(given: Given, conduit: Conduit, counter: u64) -> Result<Infallible, BootError> {
    let Given { tree, survey, range } = given;
    let options = Options::parse(survey.arguments.as_deref().unwrap_or(""));
    let machine = Machine::new(&survey, processor::boot_cpu())?;
    let modules = Modules::new(&survey, &options, &machine.memory)?;
    if options.log_level >= LogLevel::Warn {
        for argument in &options.unknown {
            say!("warning: unknown argument {argument}");
        }
        for warning in machine.warnings.iter().chain(&modules.warnings) {
            say!("warning: {warning}");
        }
    }

    let header = memory::read(modules.kernel.start).ok_or(KernelError::NoImage)?;
    let kernel = KernelImage::parse(&header, modules.kernel.size())?;
    let hyp = HypImage::parse(&HYP.0)?;
    let occupied = Occupied { loader: memory::loader_range(), device_tree: range };
    let plan = Plan::new(&machine, &modules, kernel, occupied, hyp.size())?;
    let host_tree = host_tree::write(&tree, &machine, &modules, &plan);
    let host_tree_range = plan.device_tree_place(host_tree.len() as u64)?;
    if options.log_level >= LogLevel::Info {
        for line in plan.report(&host_tree_range) {
            say!("{line}");
        }
    }

    if plan.kernel_moves() {
        // SAFETY: the plan's places are RAM that nothing else uses, and the kernel's file is at most as large as the
        // kernel.
        unsafe { memory::copy(&plan.kernel_file, plan.kernel.start) };
    }
    let image = plan.carve_out.image;
    // SAFETY: the carve-out is RAM that nothing else uses.
    hyp.load(unsafe { memory::bytes_mut(&image) }, image.start)?;
    memory::publish(&image);

    let mut info = plan.boot_info(&hyp, host_tree_range.start);
    info.log_level = options.log_level as u32;
    info.self_test = options.self_test.map_or(0, |test| test as u32);
    info.ghost_one_in = options.ghost_one_in;
    info.psci_version = firmware::psci_version(conduit);
    info.counter_at_entry = processor::physical_counter(counter);
    let boot_info = plan.carve_out.boot_info;
    // SAFETY: the page is the carve-out's own, 4 KiB aligned, and holds a `BootInfo`.
    unsafe { memory::write_value(boot_info.start, info) };
    hand_over_seed(&tree, boot_info.start);
    // SAFETY: as above; the old device tree, over which the host's may lie, is not looked at any more.
    unsafe { memory::write(host_tree_range.start, &host_tree) };

    let entry = hyp.entry(image.start).ok_or(HypImageError::Target)?;
    // SAFETY: the entry point lies in the image just loaded, published and relocated, and x0 is its `BootInfo`.
    unsafe { processor::enter(entry, boot_info.start) }
}

/// Gives hyp its part of the machine's seed, and leaves it nowhere else: what the loader has, the host finds.
fn hand_over_seed(tree: &DeviceTree<'_>, boot_info: PhysAddr) {
    let Some(Seed { hyp, .. }) = Seed::find(tree) else { return };
    let field = |offset: usize| PhysAddr::new(boot_info.raw() + offset as u64);
    // SAFETY: both are fields of the `BootInfo` that was written there, and aligned; the seed fits in, by its contract.
    unsafe {
        memory::write(field(offset_of!(BootInfo, seed)), hyp);
        memory::write_value(field(offset_of!(BootInfo, seed_size)), hyp.len() as u64);
    }
    for value in seed::values(tree) {
        // SAFETY: it is part of the old device tree, and from here on nobody reads it there.
        unsafe { memory::erase(value) };
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    say!("{info}");
    processor::wait_forever();
}
