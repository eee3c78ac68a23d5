//! The reference host: a small kernel at EL1 that runs guests under Freehold, and attacks it.
//!
//! It owns a machine as Linux would: device tree, MMU, console, heap, interrupts, all CPUs. What it then does is one of
//! the scenarios, by the boot argument `scenario=`.
#![no_std]
#![no_main]

extern crate alloc;

mod call;
mod console;
mod cpu;
mod device_tree;
mod entropy;
mod exception;
mod frames;
mod guest_console;
mod guests;
mod heap;
mod hypercall;
mod interrupt;
mod paging;
mod panic;
mod probe;
mod psci;
mod ramdisk;
mod report;
mod run;
mod scenario;
mod smp;
mod user_registers;
mod vectors;
mod vm;

use abi::{PhysAddr, PhysRange};
use device_tree::Machine;
use ramdisk::Ramdisk;
use spin::Once;

image_start::entry!(boot);

/// The machine, once it is known.
static MACHINE: Once<Machine> = Once::new();

/// The boot CPU's way from the image's entry code to the scenario; `device_tree` is x0 and `counter` CNTVCT_EL0 as
/// they were at entry.
extern "C" fn boot(device_tree: u64, counter: u64) -> ! {
    vectors::install();
    // SAFETY: the boot protocol puts the device tree's address in x0, and nobody writes the tree.
    let machine = unsafe { Machine::read(PhysAddr::new(device_tree)) };
    console::set_base(machine.uart.start);
    psci::set_conduit(machine.conduit);
    // SAFETY: this is the boot CPU's only pass through here, with the MMU off.
    unsafe { paging::init(&machine) };
    let machine = MACHINE.call_once(|| machine);
    // SAFETY: the console was named by the device tree and is mapped; it is opened once.
    unsafe { console::open() };
    cpu::init(&machine.cpus);
    take_memory(machine);
    entropy::init(machine);
    // SAFETY: the GIC was named by the device tree and is mapped; it is set up once.
    unsafe { interrupt::init(machine) };
    // SAFETY: the clock was named by the device tree and is mapped, where there is one.
    unsafe { interrupt::read_clock(machine.clock) };
    let online = smp::start_all();
    // SAFETY: the ramdisk is in RAM, mapped, and was kept from the allocators.
    let ramdisk = unsafe { Ramdisk::new(machine.ramdisk) };
    scenario::run(&scenario::Context { machine, ramdisk, online, counter_at_entry: counter })
}

/// Puts all free RAM under the heap and the page allocator.
fn take_memory(machine: &Machine) {
    let sections = image_start::sections();
    let mut reserved = machine.reserved.clone();
    reserved.push(PhysRange { start: PhysAddr::new(sections.text.start), end: PhysAddr::new(sections.data.end) });

    let mut largest = PhysRange::default();
    for bank in &machine.memory {
        vmm::ranges::free_pages(*bank, &reserved, |range| {
            if range.size() > largest.size() {
                largest = range;
            }
        });
    }
    let end = largest.start.checked_add(heap::HEAP_SIZE).filter(|end| *end <= largest.end).expect("too little RAM");
    let heap = PhysRange { start: largest.start, end };
    // SAFETY: free RAM, mapped, and from here on reserved.
    unsafe { heap::init(heap) };
    reserved.push(heap);

    for bank in &machine.memory {
        vmm::ranges::free_pages(*bank, &reserved, |range| {
            // SAFETY: free RAM, mapped, given to the allocator once.
            unsafe { frames::add(range) };
        });
    }
}
