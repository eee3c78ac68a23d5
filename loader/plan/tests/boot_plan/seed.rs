//! Who gets which part of the machine's random seed.

use crate::support::{VIRT_1G, boot, changed, model, node, set, value};
use boot_plan::{DeviceTree, Seed, seed};

/// VIRT_1G with these bytes as the seed.
fn seeded(bytes: &[u8]) -> Vec<u8> {
    changed(VIRT_1G, |model| set(node(model, "/chosen"), "rng-seed", bytes))
}

/// Bytes that differ from each other.
fn bytes(count: u8) -> Vec<u8> {
    (1..=count).collect()
}

#[test]
fn the_first_half_is_hyps_and_the_second_the_hosts() {
    for (size, hyp) in [(32, 16), (33, 16), (63, 31), (64, 32), (65, 32), (200, 32)] {
        let bytes = bytes(size);
        let tree = seeded(&bytes);
        let seed = Seed::find(&DeviceTree::parse(&tree).unwrap()).unwrap();
        assert_eq!(seed.hyp, &bytes[..hyp], "{size}");
        assert_eq!(seed.host, &bytes[bytes.len() / 2..], "{size}");
        let host_tree = boot(&tree).unwrap().tree;
        assert_eq!(value(&model(&host_tree), "/chosen", "rng-seed").unwrap(), seed.host, "{size}");
        assert!(!host_tree.windows(8).any(|part| part == &bytes[..8]), "{size}");
    }
}

#[test]
fn a_short_seed_is_the_hosts_alone() {
    for size in [0, 1, 8, 31] {
        let bytes = bytes(size);
        let tree = seeded(&bytes);
        assert_eq!(Seed::find(&DeviceTree::parse(&tree).unwrap()), None);
        assert_eq!(value(&model(&boot(&tree).unwrap().tree), "/chosen", "rng-seed").unwrap(), bytes);
    }
}

#[test]
fn every_copy_is_found_and_no_other_nodes_property() {
    let taken = bytes(40);
    let tree = changed(&seeded(&taken), |model| {
        for path in ["/psci", "/timer"] {
            set(node(model, path), "rng-seed", [9u8; 32].as_slice());
        }
        let mut inside = dtoolkit::model::DeviceTreeNode::new("chosen").unwrap();
        set(&mut inside, "rng-seed", [8u8; 32].as_slice());
        node(model, "/chosen").add_child(inside);
    });
    let tree = DeviceTree::parse(&tree).unwrap();
    assert_eq!(seed::values(&tree).collect::<Vec<_>>(), [taken.as_slice()]);
}
