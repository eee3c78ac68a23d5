//! Where things go, on chosen and on random layouts.

use crate::support::*;
use boot_plan::BootError;
use boot_plan::free_memory::FreeMemory;
use boot_plan::memory;
use boot_plan::plan::PlanError;
use dtoolkit::memreserve::MemoryReservation;
use proptest::prelude::*;

/// Boots QEMU's 1 GiB machine with the kernel's file of `file_size` bytes at `file`, which takes `image_size` bytes
/// `text_offset` above a 2 MiB boundary.
fn with_kernel(file: u64, file_size: u64, text_offset: u64, image_size: u64) -> Result<Booted, BootError> {
    let tree = changed(VIRT_1G, |model| set(node(model, "/chosen/module@0x42000000"), "reg", reg(file, file_size)));
    boot_kernel(&tree, &kernel_header(text_offset, image_size), MIB)
}

fn placed(file: u64, text_offset: u64, image_size: u64) -> (u64, bool) {
    let booted = with_kernel(file, 0x8000, text_offset, image_size).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(booted.kernel.size(), image_size);
    (booted.kernel.start.raw(), booted.kernel_moves)
}

#[test]
fn a_kernel_that_lies_right_stays() {
    assert_eq!(placed(0x4200_0000, 0, 24 * MIB), (0x4200_0000, false));
    assert_eq!(placed(0x4208_0000, 0x8_0000, 24 * MIB), (0x4208_0000, false));
}

#[test]
fn a_kernel_off_its_alignment_moves_to_the_lowest_free_place() {
    // The loader of these tests ends at 0x4070_0000.
    assert_eq!(placed(0x4200_1000, 0, 26 * MIB), (0x4220_0000, true));
    assert_eq!(placed(0x4200_1000, 0, 16 * MIB), (0x4080_0000, true));
    assert_eq!(placed(0x4200_0000, 0x8_0000, 16 * MIB), (0x4088_0000, true));
}

#[test]
fn a_kernel_whose_zeroed_data_would_cover_something_moves() {
    let ramdisk = 0x4800_0000 - 0x4200_0000;
    assert_eq!(placed(0x4200_0000, 0, ramdisk), (0x4200_0000, false));
    let (start, moves) = placed(0x4200_0000, 0, ramdisk + 0x1000);
    assert!(moves && start >= 0x4830_0000, "{start:#x}");
    let (start, moves) = placed(0x7f80_0000, 0, 16 * MIB);
    assert!(moves && start + 16 * MIB < 0x7f80_0000, "{start:#x}");
}

#[test]
fn a_file_larger_than_its_header_says_counts_as_large_as_it_is() {
    let booted = with_kernel(0x4200_0000, 5 * MIB, 0, MIB).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(booted.kernel.size(), 5 * MIB);
}

#[test]
fn hyp_gives_way_to_what_lies_at_the_top() {
    let tree = changed(VIRT_1G, |model| {
        set(node(model, "/chosen"), "linux,initrd-start", 0x7ff0_0000u32);
        set(node(model, "/chosen"), "linux,initrd-end", 0x8000_0000u32);
    });
    let booted = boot(&tree).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(booted.carve_out.end.raw(), 0x7ff0_0000);
}

#[test]
fn hyp_goes_to_the_highest_bank_that_is_large_enough() {
    let banks = |banks: &[(u64, u64)]| {
        let regions: Vec<u8> = banks.iter().flat_map(|(start, size)| reg(*start, *size)).collect();
        changed(VIRT_1G, |model| set(node(model, "/memory@40000000"), "reg", regions))
    };
    let high = boot(&banks(&[(0x88_0000_0000, GIB), (GIB, GIB)])).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(high.machine.memory, [range(GIB, 2 * GIB), range(0x88_0000_0000, 0x88_4000_0000)]);
    assert_eq!(high.carve_out.end.raw(), 0x88_4000_0000);
    let small = boot(&banks(&[(0x88_0000_0000, MIB), (GIB, GIB)])).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(small.carve_out.end.raw(), 2 * GIB);
}

#[test]
fn memory_beyond_the_cpus_addresses_is_left_out_with_a_warning() {
    let regions = [reg(GIB, GIB), reg((1 << 48) - GIB, 2 * GIB)].concat();
    let tree = changed(VIRT_1G, |model| set(node(model, "/memory@40000000"), "reg", regions));
    let booted = boot(&tree).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(booted.machine.memory[1], range((1 << 48) - GIB, 1 << 48));
    assert!(booted.machine.warnings[0].starts_with("1 GiB of memory lie beyond"), "{:?}", booted.machine.warnings);
}

#[test]
fn the_host_tree_goes_elsewhere_where_the_old_place_is_too_small_or_reserved() {
    let boot_with =
        |tree: &[u8], size| boot_kernel(tree, &kernel_header(0, 24 * MIB), size).unwrap_or_else(|e| panic!("{e}"));
    let tight = boot_with(VIRT_1G, 0x1000);
    assert_eq!(tight.tree_place.start.raw(), GIB);
    assert_eq!(tight.tree_place.size(), tight.tree.len() as u64);
    let reserved =
        changed(VIRT_1G, |model| model.memory_reservations.push(MemoryReservation::new(0x4820_0000, 0x1000)));
    assert_eq!(boot_with(&reserved, MIB).tree_place.start.raw(), GIB);
}

#[test]
fn a_tree_outside_memory_is_not_written_over() {
    let tree = changed(VIRT_1G, |model| set(node(model, "/memory@40000000"), "reg", reg(GIB, 128 * MIB)));
    let tree = changed(&tree, |model| {
        let chosen = node(model, "/chosen");
        chosen.remove_property("linux,initrd-start");
        chosen.remove_property("linux,initrd-end");
    });
    let booted = boot(&tree).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(booted.tree_place.start.raw(), GIB);
}

#[test]
fn more_cpus_than_are_handled_run_without_the_rest_but_with_the_boot_cpu() {
    let tree = changed(CPUS_64, |model| {
        let cpus = node(model, "/cpus");
        let mut first = cpus.remove_child("cpu@0").unwrap();
        for affinity in [0x400u32, 0x401] {
            let mut cpu = first.clone();
            set(&mut cpu, "reg", affinity);
            cpus.add_child(renamed(cpu, &format!("cpu@{affinity:x}")));
        }
        set(&mut first, "reg", 0u32);
        cpus.add_child(renamed(first, "cpu@0"));
    });
    let booted = boot(&tree).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(booted.machine.cpus.len(), 64);
    assert!(booted.machine.cpus.contains(&0));
    assert!(booted.machine.warnings[0].starts_with("66 CPUs"), "{:?}", booted.machine.warnings);
}

fn renamed(node: dtoolkit::model::DeviceTreeNode, name: &str) -> dtoolkit::model::DeviceTreeNode {
    let mut renamed = dtoolkit::model::DeviceTreeNode::new(name).unwrap();
    for property in dtoolkit::Node::properties(&node) {
        renamed.add_property(property.clone());
    }
    renamed
}

#[test]
fn one_cpu_without_psci_runs_with_no_conduit() {
    let tree = changed(VIRT_256M, |model| drop(model.root.remove_child("psci")));
    let booted = boot(&tree).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(booted.info.psci_conduit, abi::boot::PsciConduit::None);
    let tree = changed(VIRT_1G, |model| drop(model.root.remove_child("psci")));
    let booted = boot(&tree).unwrap_or_else(|error| panic!("{error}"));
    assert!(booted.machine.warnings[0].contains("only the boot CPU"), "{:?}", booted.machine.warnings);
}

#[test]
fn addresses_behind_buses_are_translated() {
    let tree = changed(VIRT_1G, |model| {
        let mut uart = model.root.remove_child("pl011@9000000").unwrap();
        set(&mut uart, "reg", cells(&[0x1000, 0x1000]));
        let mut inner = dtoolkit::model::DeviceTreeNode::new("inner").unwrap();
        set(&mut inner, "#address-cells", 1u32);
        set(&mut inner, "#size-cells", 1u32);
        set(&mut inner, "ranges", cells(&[0x0, 0x10_0000, 0x1000, 0x1000, 0x20_0000, 0x1000]));
        inner.add_child(uart);
        let mut outer = dtoolkit::model::DeviceTreeNode::new("outer").unwrap();
        set(&mut outer, "#address-cells", 1u32);
        set(&mut outer, "#size-cells", 1u32);
        set(&mut outer, "ranges", cells(&[0x20_0000, 0, 0x900_0000, 0x10_0000]));
        outer.add_child(inner);
        model.root.add_child(outer);
        set(node(model, "/chosen"), "stdout-path", "serial0:115200n8");
        set(node(model, "/aliases"), "serial0", "/outer/inner/pl011@9000000");
    });
    let booted = boot(&tree).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(booted.machine.uart, range(0x900_0000, 0x900_1000));
    // Without a window the CPU cannot see it.
    let hidden = changed(&tree, |model| drop(node(model, "/outer/inner").remove_property("ranges")));
    assert!(boot(&hidden).unwrap_or_else(|error| panic!("{error}")).machine.uart.is_empty());
}

#[test]
fn the_console_is_the_one_that_stdout_path_names() {
    let second = |model: &mut dtoolkit::model::DeviceTree| {
        let mut uart = model.find_node("/pl011@9000000").unwrap().clone();
        set(&mut uart, "reg", reg(0x904_0000, 0x1000));
        model.root.add_child(renamed(uart, "pl011@9040000"));
    };
    let uart = |path: Option<&str>| {
        let tree = changed(VIRT_1G, |model| {
            second(model);
            let chosen = node(model, "/chosen");
            match path {
                Some(path) => set(chosen, "stdout-path", path),
                None => drop(chosen.remove_property("stdout-path")),
            }
        });
        boot(&tree).unwrap_or_else(|error| panic!("{error}")).machine.uart.start.raw()
    };
    assert_eq!(uart(Some("/pl011@9040000:115200")), 0x904_0000);
    assert_eq!(uart(Some("serial0")), 0x900_0000);
    assert_eq!(uart(Some("/elsewhere")), 0x900_0000);
    assert_eq!(uart(None), 0x900_0000);
}

#[test]
fn named_and_extended_timer_interrupts() {
    let names = b"virt\0phys\0".to_vec();
    let tree = changed(VIRT_1G, |model| {
        let timer = node(model, "/timer");
        timer.remove_property("interrupts");
        set(timer, "interrupts-extended", cells(&[0x8005, 1, 11, 4, 0x8005, 1, 14, 8]));
        set(timer, "interrupt-names", names);
    });
    let booted = boot(&tree).unwrap_or_else(|error| panic!("{error}"));
    let after = model(&booted.tree);
    assert_eq!(value(&after, "/timer", "interrupts-extended").unwrap(), cells(&[0x8005, 1, 14, 8]));
    assert_eq!(value(&after, "/timer", "interrupt-names").unwrap(), b"phys\0");
}

#[test]
fn gicv2_compatibility_regions_are_not_the_hosts() {
    let regions = [reg(0x800_0000, 0x1_0000), reg(0x80a_0000, 0xf6_0000)].concat();
    let all = [regions.clone(), reg(0x803_0000, 0x1_0000), reg(0x804_0000, 0x1_0000)].concat();
    let tree = changed(VIRT_1G, |model| set(node(model, "/intc@8000000"), "reg", all));
    let booted = boot(&tree).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(value(&model(&booted.tree), "/intc@8000000", "reg").unwrap(), regions);
}

proptest! {
    /// Whatever lies wherever: either the plan says why not, or nothing overlaps.
    #[test]
    fn no_two_things_share_a_byte(
        kernel in (0x4000_0000u64..0x8000_0000, 1u64..0x40_0000),
        image_size in 1u64..0x2000_0000,
        text_offset in (0u64..0x200).prop_map(|pages| pages << 12),
        initrd in (0x4000_0000u64..0x8000_0000, 1u64..0x400_0000),
        reserved in prop::collection::vec((0x4000_0000u64..0x8000_0000, 0u64..0x400_0000), 0..6),
        hole in (0x4000_0000u64..0x8000_0000, 0u64..0x400_0000),
    ) {
        let tree = changed(VIRT_1G, |model| {
            set(node(model, "/chosen/module@0x42000000"), "reg", reg(kernel.0, kernel.1));
            set(node(model, "/chosen"), "linux,initrd-start", initrd.0);
            set(node(model, "/chosen"), "linux,initrd-end", initrd.0 + initrd.1);
            for (start, size) in &reserved {
                model.memory_reservations.push(MemoryReservation::new(*start, *size));
            }
            let end = (hole.0 + hole.1).min(0x8000_0000);
            let banks = [reg(GIB, hole.0 - GIB), reg(end, 0x8000_0000 - end)].concat();
            set(node(model, "/memory@40000000"), "reg", banks);
        });
        match boot_kernel(&tree, &kernel_header(text_offset, image_size), MIB) {
            Err(BootError::Plan(PlanError::NoRoom(..) | PlanError::Overlap(..)) | BootError::Module(_)) => {}
            Err(error) => prop_assert!(false, "{error}"),
            Ok(booted) => {
                let occupied = occupied(MIB);
                let ramdisk = booted.modules.ramdisk.unwrap();
                let file = booted.modules.kernel;
                let run = booted.kernel;
                let place = booted.tree_place;
                let mut disjoint = vec![
                    ("hyp, kernel", booted.carve_out, run),
                    ("hyp, kernel's file", booted.carve_out, file),
                    ("hyp, ramdisk", booted.carve_out, ramdisk),
                    ("hyp, tree", booted.carve_out, place),
                    ("hyp, loader", booted.carve_out, occupied.loader),
                    ("kernel, ramdisk", run, ramdisk),
                    ("kernel, loader", run, occupied.loader),
                    ("kernel, tree", run, place),
                    ("kernel's file, tree", file, place),
                    ("ramdisk, tree", ramdisk, place),
                    ("loader, tree", occupied.loader, place),
                ];
                if booted.kernel_moves {
                    disjoint.push(("kernel, its file", run, file));
                }
                for range in &booted.machine.reserved {
                    disjoint.push(("reserved, hyp", *range, booted.carve_out));
                    disjoint.push(("reserved, kernel", *range, run));
                    disjoint.push(("reserved, tree", *range, place));
                }
                for (what, one, other) in disjoint {
                    prop_assert!(!one.overlaps(&other), "{what}: {one} {other}");
                }
                for range in [booted.carve_out, run, ramdisk, place] {
                    prop_assert!(booted.machine.memory.iter().any(|bank| bank.contains_range(&range)), "{range}");
                }
                prop_assert_eq!(run.start.raw() % (2 * MIB), text_offset);
                prop_assert!(booted.carve_out.start.is_aligned(4096));
            }
        }
    }

    /// The first fit from either end, against a search page by page.
    #[test]
    fn free_memory_finds_what_a_plain_search_finds(
        busy in prop::collection::vec((0u64..64, 1u64..12), 0..8),
        split in 1u64..63,
        size in 1u64..24,
        alignment in 0u32..4,
        offset in 0u64..4,
    ) {
        const PAGE: u64 = 4096;
        let banks = [range(0, split * PAGE), range((split + 1) * PAGE, 64 * PAGE)];
        let mut free = FreeMemory::new(&banks);
        for (start, pages) in &busy {
            free.take(range(start * PAGE + 1, (start + pages) * PAGE - 1));
        }
        let alignment = 1 << alignment;
        let offset = offset % alignment;
        let is_free = |start: u64| (start..start + size).all(|page| {
            page < 64 && page != split && !busy.iter().any(|(from, pages)| (*from..from + pages).contains(&page))
        });
        let lowest = (0..64).find(|start| is_free(*start) && start % alignment == offset).map(|page| page * PAGE);
        let found = free.lowest(size * PAGE, alignment * PAGE, offset * PAGE);
        prop_assert_eq!(found.map(|range| range.start.raw()), lowest);
        let highest = (0..64).rev().find(|start| is_free(*start)).map(|page| page * PAGE);
        prop_assert_eq!(free.highest(size * PAGE).map(|range| range.start.raw()), highest);
    }

    /// Merged banks hold exactly the whole pages that the listed ranges cover.
    #[test]
    fn banks_are_sorted_disjoint_and_cover_the_same_pages(
        listed in prop::collection::vec((0u64..0x80, 0u64..0x20), 0..8),
        limit in 0u64..0xa0,
    ) {
        const STEP: u64 = 0x400;
        let ranges: Vec<_> = listed.iter().map(|(start, size)| range(start * STEP, (start + size) * STEP)).collect();
        let limit = limit * STEP;
        let banks = memory::banks(&ranges, abi::PhysAddr::new(limit));
        for pair in banks.windows(2) {
            prop_assert!(pair[0].end < pair[1].start);
        }
        let covered = |byte: u64| byte < limit && ranges.iter().any(|range| range.contains(abi::PhysAddr::new(byte)));
        for page in 0..0x28u64 {
            let start = page << 12;
            let whole = (start..start + 4096).step_by(STEP as usize).all(covered);
            let inside = banks.iter().any(|bank| bank.contains(abi::PhysAddr::new(start)));
            prop_assert_eq!(whole, inside, "page {}", page);
        }
    }
}
