//! What the payloads share: a small kernel at EL1, with interrupts for those that want them.
//!
//! A payload is an arm64 `Image` with a device tree in x0, so it runs as a guest and, for want of a hypervisor, directly
//! on QEMU's `virt` board. [`payload!`] makes one out of a function.
#![no_std]

pub mod console;
pub mod cpus;
pub mod gic;
pub mod hypervisor;
pub mod memory;
pub mod mmio;
pub mod panic;
pub mod platform;
pub mod probe;
pub mod report;
pub mod secondary;
pub mod timer;
pub mod vectors;

pub use image_start;

use memory::AddressSpace;
use platform::Platform;

/// What a payload's function gets.
pub struct Machine {
    /// What the device tree says.
    pub platform: Platform,
    /// The translation tables in use.
    pub address_space: AddressSpace,
}

/// Emits the entry of a payload whose work is `$main`, a `fn(&mut Machine)`. When it returns the machine is powered off.
#[macro_export]
macro_rules! payload {
    ($main:path) => {
        extern "C" fn payload_start(device_tree: u64, _counter: u64) -> ! {
            $crate::run(device_tree, $main)
        }
        $crate::image_start::entry!(payload_start);
    };
}

/// Brings the machine up, runs `main` and powers the machine off. `device_tree` is the address of the device tree, which
/// is what x0 held at entry; the MMU is off.
pub fn run(device_tree: u64, main: fn(&mut Machine)) -> ! {
    vectors::install();
    let platform = Platform::read(device_tree);
    platform::set_conduit(platform.conduit);
    if let Some(uart) = platform.uart {
        console::set_base(uart);
    }
    let address_space = match AddressSpace::new(&platform) {
        Ok(space) => space,
        Err(error) => panic!("no translation tables: {error:?}"),
    };
    address_space.activate();
    let mut machine = Machine { platform, address_space };
    main(&mut machine);
    hypervisor::power_off()
}
