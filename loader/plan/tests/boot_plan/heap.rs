//! The loader's heap is 4 MiB (linker/loader.ld). No device tree that is accepted for reading, however odd, makes a boot
//! take more; and what would is refused by name.

use crate::support::*;
use boot_plan::machine::MachineError;
use boot_plan::survey::{MAX_ARGUMENTS_SIZE, MAX_RANGES};
use boot_plan::tree::{MAX_NAME_SIZE, MAX_RESERVATIONS, TreeError};
use boot_plan::{BootError, DeviceTree};
use dtoolkit::model::{DeviceTree as Model, DeviceTreeNode};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Most bytes that a boot may hold at one time: what is left of the heap where its blocks lie at their worst.
const LIMIT: isize = 3 << 20;

thread_local! {
    /// Less than nothing where a thread frees what another allocated.
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// Counts what each thread holds, in blocks of the sizes that the loader's allocator hands out.
struct Counting;

fn block(layout: Layout) -> isize {
    layout.size().max(layout.align()).max(8).next_power_of_two() as isize
}

// SAFETY: everything is the system's allocator's doing; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.get() + block(layout);
        HELD.set(held);
        PEAK.set(PEAK.get().max(held));
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.set(HELD.get() - block(layout));
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Boots from `tree`, and checks what that held at most.
#[track_caller]
fn bounded(tree: &[u8]) -> Option<BootError> {
    let before = HELD.get();
    PEAK.set(before);
    let error = boot(tree).err();
    let peak = PEAK.get() - before;
    assert!(peak <= LIMIT, "{peak} bytes: {error:?}");
    error
}

/// QEMU's tree for 1 GiB after a change.
fn tree(change: impl FnOnce(&mut Model)) -> Vec<u8> {
    changed(VIRT_1G, change)
}

fn child(name: String, properties: &[(&str, Vec<u8>)]) -> DeviceTreeNode {
    let mut node = DeviceTreeNode::new(name).unwrap();
    for (name, value) in properties {
        set(&mut node, name, value.clone());
    }
    node
}

fn too_much(what: &'static str) -> Option<BootError> {
    Some(BootError::Machine(MachineError::TooMuch(what)))
}

#[test]
fn ordinary_trees() {
    for (name, bytes) in ALL {
        let outcome = bounded(bytes);
        assert!(outcome.is_none() || ["gicv2", "el1", "no-modules"].contains(name), "{name}: {outcome:?}");
    }
}

#[test]
fn long_names_over_many_devices() {
    let devices = |length: usize| {
        tree(|model| {
            let two = cells(&[2]);
            let bus = [("ranges", vec![]), ("#address-cells", two.clone()), ("#size-cells", two)];
            let mut bus = child(format!("b@{}", "b".repeat(length - 2)), &bus);
            for number in 0..2000 {
                let registers = reg(0x1_0000_0000 + number * 0x1000, 0x1000);
                bus.add_child(child(
                    format!("u@{number}"),
                    &[("compatible", b"arm,pl011\0".into()), ("reg", registers)],
                ));
            }
            model.root.add_child(bus);
        })
    };
    assert_eq!(bounded(&devices(MAX_NAME_SIZE)), None);
    assert_eq!(bounded(&devices(100_000)), Some(BootError::Tree(TreeError::NameSize(100_000))));
}

#[test]
fn memory_in_crumbs() {
    let crumbs =
        |count: usize| (0..count as u64).flat_map(|n| reg(0x10_0000_0000 + n * 0x2000, 0x1000)).collect::<Vec<u8>>();
    let memory = tree(|model| set(node(model, "/memory@40000000"), "reg", crumbs(30_000)));
    assert_eq!(bounded(&memory), too_much("ranges of memory"));
    let reserved = |count: usize| {
        tree(|model| {
            let cells = cells(&[2]);
            let mut parent =
                child("reserved-memory".into(), &[("#address-cells", cells.clone()), ("#size-cells", cells)]);
            parent.add_child(child("r@0".into(), &[("reg", crumbs(count))]));
            model.root.add_child(parent);
        })
    };
    assert_eq!(bounded(&reserved(MAX_RANGES)), None);
    assert_eq!(bounded(&reserved(MAX_RANGES + 1)), too_much("reserved ranges of memory"));
    assert_eq!(bounded(&reserved(30_000)), too_much("reserved ranges of memory"));
}

#[test]
fn reservations_by_the_thousand() {
    let with = |count: usize| {
        let mut bytes = VIRT_1G.to_vec();
        let block = u32::from_be_bytes(bytes[16..20].try_into().unwrap()) as usize;
        let entries: Vec<u8> = (0..count as u64).flat_map(|n| reg(0x10_0000_0000 + n * 0x2000, 0x1000)).collect();
        // Total size, structure and strings: all of it moves.
        for field in [4, 8, 12] {
            let value = u32::from_be_bytes(bytes[field..field + 4].try_into().unwrap()) + entries.len() as u32;
            bytes[field..field + 4].copy_from_slice(&value.to_be_bytes());
        }
        bytes.splice(block..block, entries);
        bytes
    };
    assert_eq!(DeviceTree::parse(&with(MAX_RESERVATIONS)).map(|tree| tree.reservations().len()), Ok(MAX_RESERVATIONS));
    assert_eq!(bounded(&with(MAX_RESERVATIONS)), None);
    assert_eq!(bounded(&with(MAX_RESERVATIONS + 1)), Some(BootError::Tree(TreeError::Reservations)));
    assert_eq!(bounded(&with(100_000)), Some(BootError::Tree(TreeError::Reservations)));
}

#[test]
fn long_values() {
    let long = |byte: u8, length: usize| [vec![byte; length], vec![0]].concat();
    let arguments = |length| tree(|model| set(node(model, "/chosen"), "bootargs", long(b'a', length)));
    assert_eq!(bounded(&arguments(MAX_ARGUMENTS_SIZE)), None);
    assert_eq!(bounded(&arguments(MAX_ARGUMENTS_SIZE + 1)), too_much("boot arguments"));
    assert_eq!(bounded(&arguments(400_000)), too_much("boot arguments"));
    for (path, name) in [
        ("/chosen/module@0x42000000", "bootargs"),
        ("/chosen", "stdout-path"),
        ("/psci", "method"),
        ("/cpus/cpu@1", "enable-method"),
        ("/timer", "interrupts"),
        ("/timer", "interrupt-names"),
        ("/intc@8000000", "reg"),
        ("/aliases", "serial0"),
    ] {
        for value in [long(b'a', 400_000), vec![0; 400_000], b"a\0".repeat(200_000)] {
            bounded(&tree(|model| set(node(model, path), name, value)));
        }
    }
}

#[test]
fn many_of_everything() {
    let modules = tree(|model| {
        for number in 0..3000 {
            let properties = [("compatible", b"multiboot,module\0".to_vec()), ("bootargs", vec![b'x'; 64])];
            node(model, "/chosen").add_child(child(format!("module@{number}"), &properties));
        }
    });
    assert_eq!(bounded(&modules), too_much("boot modules"));
    for compatible in ["arm,gic-v3", "arm,armv8-timer", "arm,psci-1.0"] {
        let many = tree(|model| {
            let mut bus = child(format!("c@{}", "c".repeat(200)), &[]);
            for number in 0..3000 {
                let compatible = format!("{compatible}\0").into_bytes();
                bus.add_child(child(format!("d@{number}"), &[("compatible", compatible), ("reg", reg(0, 1))]));
            }
            model.root.add_child(bus);
        });
        bounded(&many);
    }
    let cpus = tree(|model| {
        for number in 8..4000u32 {
            let affinity = cells(&[(number & 0xff) | (number & 0xff00) << 8]);
            let properties = [("device_type", b"cpu\0".to_vec()), ("reg", affinity)];
            node(model, "/cpus").add_child(child(format!("cpu@{number:x}"), &properties));
        }
    });
    bounded(&cpus);
}
