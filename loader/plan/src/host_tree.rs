//! The device tree that the host sees: the machine less what hyp keeps.

use crate::edit::Edits;
use crate::machine::Machine;
use crate::modules::Modules;
use crate::plan::Plan;
use crate::seed::{self, Seed};
use crate::tree::DeviceTree;
use abi::PhysRange;
use alloc::format;
use alloc::vec::Vec;

/// The node of what the boot stages tell each other.
const CHOSEN: &str = "/chosen";

/// Emits the host's version of `tree`, of which `machine` and `modules` were read:
///
/// - `/reserved-memory` keeps the host away from hyp's memory;
/// - `/chosen` has the host's arguments and RAM disk, and no modules; of a random seed it has the host's part;
/// - the timer has the physical timer's interrupt only: the virtual timer is for guests, those of EL2 and of the secure
///   world are not the host's;
/// - the GIC has neither the maintenance interrupt nor the virtualisation registers.
pub fn write(tree: &DeviceTree<'_>, machine: &Machine, modules: &Modules, plan: &Plan<'_>) -> Vec<u8> {
    let mut edits = Edits::default();
    reserve(&mut edits, machine.root_cells, &plan.carve_out.range());
    choose(&mut edits, modules);
    if let Some(seed) = Seed::find(tree) {
        edits.set(CHOSEN, seed::PROPERTY, seed.host);
    }

    let timer = &machine.timer;
    edits.set(&timer.path, timer.property, &timer.physical);
    edits.set(&timer.path, "interrupt-names", b"phys\0");

    let gic = &machine.gic;
    for property in ["interrupts", "interrupts-extended", "interrupt-names"] {
        edits.remove_property(&gic.path, property);
    }
    edits.set(&gic.path, "reg", &gic.kept_reg);
    edits.apply(tree)
}

/// Adds the carve-out to `/reserved-memory`, which writes addresses as the root does: Linux passes over the whole node
/// where it does not.
fn reserve(edits: &mut Edits, (address_cells, size_cells): (u32, u32), carve_out: &PhysRange) {
    const RESERVED_MEMORY: &str = "/reserved-memory";
    edits.set(RESERVED_MEMORY, "#address-cells", &address_cells.to_be_bytes());
    edits.set(RESERVED_MEMORY, "#size-cells", &size_cells.to_be_bytes());
    edits.set(RESERVED_MEMORY, "ranges", &[]);
    let mut reg = Vec::new();
    push_number(&mut reg, carve_out.start.raw(), address_cells);
    push_number(&mut reg, carve_out.size(), size_cells);
    let node = format!("{RESERVED_MEMORY}/freehold@{:x}", carve_out.start.raw());
    edits.set(&node, "reg", &reg);
    edits.set(&node, "no-map", &[]);
}

fn choose(edits: &mut Edits, modules: &Modules) {
    for path in &modules.nodes {
        edits.remove_node(path);
    }
    let mut arguments = Vec::from(modules.arguments.as_bytes());
    arguments.push(0);
    edits.set(CHOSEN, "bootargs", &arguments);
    match &modules.ramdisk {
        Some(ramdisk) => {
            edits.set(CHOSEN, "linux,initrd-start", &ramdisk.start.raw().to_be_bytes());
            edits.set(CHOSEN, "linux,initrd-end", &ramdisk.end.raw().to_be_bytes());
        }
        None => {
            edits.remove_property(CHOSEN, "linux,initrd-start");
            edits.remove_property(CHOSEN, "linux,initrd-end");
        }
    }
}

/// Appends `number` in one cell or two.
fn push_number(bytes: &mut Vec<u8>, number: u64, cells: u32) {
    match cells {
        1 => bytes.extend_from_slice(&(number as u32).to_be_bytes()),
        _ => bytes.extend_from_slice(&number.to_be_bytes()),
    }
}
