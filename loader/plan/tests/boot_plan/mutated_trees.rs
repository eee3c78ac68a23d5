//! Device trees with damage: none makes the boot plan panic, and what it accepts is still sound.

use crate::support::*;
use boot_plan::BootError;
use boot_plan::tree::{MAX_SIZE, total_size};
use dtoolkit::fdt::Fdt;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// Boots from `tree`: why not, or else a check of what must hold of any boot.
fn boot_and_check(tree: &[u8]) -> Option<BootError> {
    let booted = match boot(tree) {
        Ok(booted) => booted,
        Err(error) => return Some(error),
    };
    let host = Fdt::new(&booted.tree).expect("the host's tree is well formed");
    assert!(host.data().len() <= MAX_SIZE);
    let path = format!("/reserved-memory/freehold@{:x}", booted.carve_out.start.raw());
    assert!(host.find_node(&path).is_some(), "{path} is missing");
    assert!(booted.machine.memory.iter().any(|bank| bank.contains_range(&booted.carve_out)));
    assert!(!booted.carve_out.overlaps(&booted.kernel));
    assert!(!booted.carve_out.overlaps(&booted.tree_place));
    None
}

fn fixture() -> impl Strategy<Value = &'static [u8]> {
    (0..ALL.len()).prop_map(|index| ALL[index].1)
}

#[test]
fn every_truncation_is_refused() {
    for length in 0..VIRT_256M.len() {
        assert!(boot(&VIRT_256M[..length]).is_err(), "{length} bytes");
        // A header that admits to the length.
        let mut tree = VIRT_256M[..length].to_vec();
        if length >= 8 {
            tree[4..8].copy_from_slice(&(length as u32).to_be_bytes());
            assert!(boot(&tree).is_err(), "{length} bytes");
        }
    }
}

#[test]
fn every_word_of_the_header_may_be_anything() {
    for word in 0..10 {
        for value in [0, 1, 4, 7, 8, 39, 40, 0x2000, 0x7fff_ffff, 0x8000_0000, u32::MAX - 3, u32::MAX] {
            let mut tree = VIRT_1G.to_vec();
            tree[word * 4..word * 4 + 4].copy_from_slice(&value.to_be_bytes());
            boot_and_check(&tree);
        }
    }
}

#[test]
fn every_cell_of_the_structure_may_be_anything() {
    let structure = u32::from_be_bytes(VIRT_256M[8..12].try_into().unwrap()) as usize;
    let mut outcomes = BTreeSet::new();
    for offset in (structure..VIRT_256M.len() - 4).step_by(4) {
        for value in [0, u32::MAX] {
            let mut tree = VIRT_256M.to_vec();
            tree[offset..offset + 4].copy_from_slice(&u32::to_be_bytes(value));
            outcomes.insert(boot_and_check(&tree).map(|error| error.to_string()));
        }
    }
    // The damage reaches many of the checks, not the format's alone.
    assert!(outcomes.len() > 20, "{outcomes:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn flipped_bits(tree in fixture(), flips in prop::collection::vec((any::<prop::sample::Index>(), 0u8..8), 1..12)) {
        let mut tree = tree.to_vec();
        for (index, bit) in flips {
            let length = tree.len();
            tree[index.index(length)] ^= 1 << bit;
        }
        boot_and_check(&tree);
    }

    #[test]
    fn pasted_pieces(
        tree in fixture(),
        from in any::<prop::sample::Index>(),
        to in any::<prop::sample::Index>(),
        length in 1usize..256,
    ) {
        let mut damaged = tree.to_vec();
        let (from, to) = (from.index(tree.len()), to.index(tree.len()));
        let length = length.min(tree.len() - from).min(tree.len() - to);
        damaged[to..to + length].copy_from_slice(&tree[from..from + length]);
        boot_and_check(&damaged);
    }

    #[test]
    fn odd_cells_and_values(
        tree in fixture(),
        path in prop::sample::select(vec![
            "/", "/cpus", "/cpus/cpu@0", "/memory@40000000", "/intc@8000000", "/timer", "/psci", "/chosen",
            "/chosen/module@0x42000000", "/pl011@9000000", "/aliases",
        ]),
        name in prop::sample::select(vec![
            "reg", "ranges", "#address-cells", "#size-cells", "#interrupt-cells", "#redistributor-regions", "interrupts",
            "interrupt-names", "interrupts-extended", "compatible", "status", "device_type", "method", "enable-method",
            "bootargs", "stdout-path", "linux,initrd-start", "linux,initrd-end",
        ]),
        value in prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0xff), any::<u8>()], 0..40),
    ) {
        let tree = changed(tree, |model| {
            if let Some(node) = model.find_node_mut(path) {
                set(node, name, value);
            }
        });
        boot_and_check(&tree);
    }

    #[test]
    fn noise(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Some(header) = bytes.first_chunk() {
            let _ = total_size(header);
        }
        boot_and_check(&bytes);
    }
}
