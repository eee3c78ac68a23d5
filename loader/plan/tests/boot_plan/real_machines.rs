//! QEMU's machines, from device tree to device tree.

use crate::support::*;
use abi::boot::PsciConduit;
use boot_plan::options::LogLevel;

/// Boots a fixture that must boot.
fn booted(tree: &[u8]) -> Booted {
    boot(tree).unwrap_or_else(|error| panic!("{error}"))
}

fn be64(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes.try_into().unwrap())
}

#[test]
fn a_gibibyte_with_four_cpus() {
    let booted = booted(VIRT_1G);
    let machine = &booted.machine;
    assert_eq!(machine.memory, [range(GIB, 2 * GIB)]);
    assert_eq!(machine.cpus, [0, 1, 2, 3]);
    assert_eq!(machine.psci_conduit, PsciConduit::Smc);
    assert_eq!(machine.uart, range(0x900_0000, 0x900_1000));
    assert_eq!(machine.gic.info.distributor, range(0x800_0000, 0x801_0000));
    assert_eq!(machine.gic.info.redistributor_count, 1);
    assert_eq!(machine.gic.info.redistributors[0], range(0x80a_0000, 0x900_0000));
    assert_eq!(machine.warnings, [""; 0]);
    assert_eq!(booted.options.log_level, LogLevel::Debug);
    assert_eq!(booted.modules.arguments, "scenario=story");
    assert_eq!(booted.modules.kernel, range(0x4200_0000, 0x4200_8000));
    assert_eq!(booted.modules.ramdisk, Some(range(0x4800_0000, 0x4801_0000)));
    assert_eq!(booted.kernel, range(0x4200_0000, 0x4200_0000 + 24 * MIB));
    assert!(!booted.kernel_moves);
    assert_eq!(booted.carve_out.end.raw(), 2 * GIB);
    assert_eq!(booted.tree_place.start.raw(), 0x4820_0000);
}

#[test]
fn other_sizes() {
    let large = booted(VIRT_8G);
    assert_eq!(large.machine.memory, [range(GIB, 9 * GIB)]);
    assert_eq!(large.machine.cpus.len(), 8);
    assert_eq!(large.carve_out.end.raw(), 9 * GIB);
    let small = booted(VIRT_256M);
    assert_eq!(small.machine.memory, [range(GIB, GIB + 256 * MIB)]);
    assert_eq!(small.machine.cpus, [0]);
    assert_eq!(small.carve_out.end.raw(), GIB + 256 * MIB);
}

#[test]
fn memory_nodes_that_touch_are_one_bank() {
    assert_eq!(booted(TWO_NODES).machine.memory, [range(GIB, 3 * GIB)]);
}

#[test]
fn secure_memory_is_not_ours() {
    assert_eq!(booted(SECURE).machine.memory, [range(GIB, 2 * GIB)]);
}

#[test]
fn sixty_four_cpus_have_their_affinities() {
    let cpus = booted(CPUS_64).machine.cpus;
    assert_eq!(cpus.len(), 64);
    assert_eq!(cpus[15..18], [0xf, 0x100, 0x101]);
}

#[test]
fn a_kernel_without_arguments_gets_the_rest_of_the_loaders() {
    let booted = booted(RAMDISK_MODULE);
    assert_eq!(booted.modules.arguments, "quiet");
    assert_eq!(booted.modules.ramdisk, Some(range(0x4400_0000, 0x4401_0000)));
    assert_eq!(value(&model(&booted.tree), "/chosen", "bootargs").unwrap(), b"quiet\0");
}

#[test]
fn boot_info_says_what_was_found() {
    let Booted { info, machine, kernel, tree_place, carve_out, .. } = booted(VIRT_8G);
    assert_eq!((info.magic, info.version), (abi::boot::MAGIC, abi::boot::VERSION));
    assert_eq!(info.virtual_timer, 27);
    assert_eq!(info.carve_out, carve_out);
    assert_eq!(info.image.start, carve_out.start);
    assert_eq!(info.segments().len(), 3);
    assert_eq!(info.segments()[0].range.start, carve_out.start);
    assert_eq!(info.memory(), machine.memory);
    assert_eq!(info.cpus(), machine.cpus);
    assert_eq!(info.uart, machine.uart);
    assert_eq!(info.redistributors().len(), 1);
    assert_eq!(info.psci_conduit, PsciConduit::Smc);
    assert_eq!(info.host_entry, kernel.start);
    assert_eq!(info.host_device_tree, tree_place.start);
}

#[test]
fn the_report_names_places_and_sizes() {
    let booted = booted(VIRT_1G);
    let taken = booted.carve_out;
    assert_eq!(booted.report[0], "RAM 0x40000000..0x80000000 (1 GiB)");
    assert_eq!(booted.report[1], "4 CPUs, GICv3 at 0x8000000, PL011 at 0x9000000");
    assert_eq!(booted.report[2], "host kernel 0x42000000..0x43800000 (24 MiB)");
    assert_eq!(booted.report[3], "host RAM disk 0x48000000..0x48010000 (64 KiB)");
    assert!(booted.report[5].starts_with(&format!("hyp takes {taken} (4.")), "{}", booted.report[5]);
    assert!(booted.report[5].ends_with("its image 320 KiB)"), "{}", booted.report[5]);
}

/// What every host device tree must look like, whichever machine it came from.
fn check_host_tree(name: &str, original: &[u8], booted: &Booted) {
    let (before, after) = (model(original), model(&booted.tree));

    let taken = booted.carve_out;
    let path = format!("/reserved-memory/freehold@{:x}", taken.start.raw());
    assert_eq!(value(&after, &path, "reg").unwrap(), reg(taken.start.raw(), taken.size()), "{name}");
    assert_eq!(value(&after, &path, "no-map").unwrap(), b"", "{name}");
    assert_eq!(value(&after, "/reserved-memory", "#address-cells"), value(&after, "/", "#address-cells"));
    assert_eq!(value(&after, "/reserved-memory", "#size-cells"), value(&after, "/", "#size-cells"));
    assert_eq!(value(&after, "/reserved-memory", "ranges").unwrap(), b"");

    assert_eq!(value(&after, "/timer", "interrupts").unwrap(), cells(&[1, 14, 4]), "{name}");
    assert_eq!(value(&after, "/timer", "interrupt-names").unwrap(), b"phys\0", "{name}");
    assert_eq!(value(&after, "/intc@8000000", "interrupts"), None, "{name}");
    assert_eq!(value(&after, "/psci", "method").unwrap(), b"smc\0", "{name}");

    let chosen = after.find_node("/chosen").unwrap();
    assert_eq!(dtoolkit::Node::children(chosen).count(), 0, "{name}");
    for kept in ["kaslr-seed", "stdout-path"] {
        assert_eq!(value(&after, "/chosen", kept), value(&before, "/chosen", kept), "{name}");
    }
    let seed = value(&before, "/chosen", "rng-seed").unwrap();
    assert_eq!(value(&after, "/chosen", "rng-seed").unwrap(), seed[seed.len() / 2..], "{name}: the host's half");
    assert!(!booted.tree.windows(seed.len() / 2).any(|part| part == &seed[..seed.len() / 2]), "{name}: hyp's half");
    assert_eq!(booted.info.seed(), None, "{name}: it goes where it lies in the end");
    let initrd = |end| value(&after, "/chosen", end).map(|bytes| be64(&bytes));
    let ramdisk = booted.modules.ramdisk;
    assert_eq!(initrd("linux,initrd-start"), ramdisk.map(|range| range.start.raw()), "{name}");
    assert_eq!(initrd("linux,initrd-end"), ramdisk.map(|range| range.end.raw()), "{name}");

    // Everything else is as it was.
    let mut restored = after.clone();
    restored.root.remove_child("reserved-memory").unwrap();
    for path in ["chosen", "timer", "intc@8000000"] {
        restored.root.remove_child(path).unwrap();
    }
    let mut rest = before.clone();
    for path in ["chosen", "timer", "intc@8000000"] {
        rest.root.remove_child(path).unwrap();
    }
    assert_eq!(restored, rest, "{name}");
}

#[test]
fn every_host_tree_has_what_it_must() {
    for (name, tree) in ALL {
        if let Ok(booted) = boot(tree) {
            check_host_tree(name, tree, &booted);
        }
    }
}

#[test]
fn another_reader_understands_the_host_tree() {
    for tree in [VIRT_1G, VIRT_8G, VIRT_256M, TWO_NODES, CPUS_64] {
        let booted = booted(tree);
        let fdt = fdt::Fdt::new(&booted.tree).unwrap();
        assert_eq!(fdt.total_size(), booted.tree.len());
        assert_eq!(fdt.cpus().count(), booted.machine.cpus.len());
        assert_eq!(fdt.chosen().bootargs(), Some("scenario=story"));
        assert_eq!(fdt.chosen().stdout().map(|node| node.name), Some("pl011@9000000"));
        let reserved = fdt.find_node("/reserved-memory").unwrap();
        let carve_out = reserved.children().next().unwrap().reg().unwrap().next().unwrap();
        assert_eq!(carve_out.starting_address as u64, booted.carve_out.start.raw());
        assert_eq!(carve_out.size, Some(booted.carve_out.size() as usize));
        let timer = fdt.find_compatible(&["arm,armv8-timer"]).unwrap();
        assert_eq!(timer.property("interrupts").unwrap().value, cells(&[1, 14, 4]));
    }
}

#[test]
fn reservations_and_reserved_memory_survive() {
    let tree = changed(VIRT_1G, |model| {
        model.memory_reservations.push(dtoolkit::memreserve::MemoryReservation::new(0x5000_0000, 0x1000));
        let mut reserved = dtoolkit::model::DeviceTreeNode::new("reserved-memory").unwrap();
        set(&mut reserved, "#address-cells", 2u32);
        set(&mut reserved, "#size-cells", 2u32);
        set(&mut reserved, "ranges", [0u8; 0]);
        let mut firmware = dtoolkit::model::DeviceTreeNode::new("firmware@7ff00000").unwrap();
        set(&mut firmware, "reg", reg(0x7ff0_0000, 0x10_0000));
        reserved.add_child(firmware);
        model.root.add_child(reserved);
    });
    let booted = booted(&tree);
    assert_eq!(booted.machine.reserved, [range(0x5000_0000, 0x5000_1000), range(0x7ff0_0000, 0x8000_0000)]);
    assert_eq!(booted.carve_out.end.raw(), 0x7ff0_0000);
    let after = model(&booted.tree);
    assert_eq!(after.memory_reservations, model(&tree).memory_reservations);
    assert_eq!(value(&after, "/reserved-memory/firmware@7ff00000", "reg").unwrap(), reg(0x7ff0_0000, 0x10_0000));
    let path = format!("/reserved-memory/freehold@{:x}", booted.carve_out.start.raw());
    assert!(value(&after, &path, "no-map").is_some());
}

#[test]
fn a_tree_with_one_cell_addresses() {
    let tree = changed(VIRT_1G, |model| {
        set(&mut model.root, "#address-cells", 1u32);
        set(&mut model.root, "#size-cells", 1u32);
        set(node(model, "/memory@40000000"), "reg", cells(&[0x4000_0000, 0x4000_0000]));
        set(node(model, "/pl011@9000000"), "reg", cells(&[0x900_0000, 0x1000]));
        set(node(model, "/intc@8000000"), "reg", cells(&[0x800_0000, 0x1_0000, 0x80a_0000, 0xf6_0000]));
    });
    let booted = booted(&tree);
    assert_eq!(booted.machine.memory, [range(GIB, 2 * GIB)]);
    assert_eq!(booted.machine.gic.info.redistributors[0], range(0x80a_0000, 0x900_0000));
    let after = model(&booted.tree);
    let taken = booted.carve_out;
    let path = format!("/reserved-memory/freehold@{:x}", taken.start.raw());
    let expected = cells(&[taken.start.raw() as u32, taken.size() as u32]);
    assert_eq!(value(&after, &path, "reg").unwrap(), expected);
    assert_eq!(value(&after, "/reserved-memory", "#address-cells").unwrap(), cells(&[1]));
    assert_eq!(value(&after, "/reserved-memory", "#size-cells").unwrap(), cells(&[1]));
}

#[test]
fn a_tree_without_chosen_still_says_what_is_missing() {
    let tree = changed(VIRT_1G, |model| drop(model.root.remove_child("chosen")));
    let error = boot(&tree).err().unwrap().to_string();
    assert!(error.contains("no host kernel was given"), "{error}");
}

/// What cannot be a PL011's registers is not written to.
#[test]
fn consoles_that_cannot_be() {
    for (start, size) in
        [(0x900_0002, 0x1000), (0x900_0000, 0x10), (1 << 48, 0x1000), (u64::MAX - 0xfff, 0xfff), (0, 0)]
    {
        let tree = changed(VIRT_1G, |model| set(node(model, "/pl011@9000000"), "reg", reg(start, size)));
        let booted = boot(&tree).unwrap();
        assert!(booted.machine.uart.is_empty(), "{start:#x}, {size:#x}");
    }
}
