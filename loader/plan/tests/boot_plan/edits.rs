//! Edits of a device tree, against dtoolkit's model of the same edits.

use crate::support::*;
use boot_plan::DeviceTree;
use boot_plan::edit::Edits;
use dtoolkit::model::{DeviceTree as Model, DeviceTreeNode};
use proptest::prelude::*;

/// One change, as a value.
#[derive(Clone, Debug)]
enum Change {
    Set(&'static str, &'static str, Vec<u8>),
    RemoveProperty(&'static str, &'static str),
    RemoveNode(&'static str),
}

/// Paths that edits may name, of nodes that exist and of some that do not.
const PATHS: [&str; 8] =
    ["/cpus", "/cpus/cpu@0", "/psci", "/chosen", "/chosen/new@1", "/new", "/new/child@2", "/new/child@2/grandchild"];
const REMOVABLE: [&str; 4] = ["/cpus/cpu@1", "/pmu", "/gpio-keys", "/cpus/cpu-map"];
const NAMES: [&str; 5] = ["reg", "compatible", "brand-new", "bootargs", "enable-method"];

fn change() -> impl Strategy<Value = Change> {
    let path = || prop::sample::select(PATHS.to_vec());
    let name = || prop::sample::select(NAMES.to_vec());
    prop_oneof![
        4 => (path(), name(), prop::collection::vec(any::<u8>(), 0..9)).prop_map(|(p, n, v)| Change::Set(p, n, v)),
        1 => (prop::sample::select(PATHS[..4].to_vec()), name()).prop_map(|(p, n)| Change::RemoveProperty(p, n)),
        1 => prop::sample::select(REMOVABLE.to_vec()).prop_map(Change::RemoveNode),
    ]
}

/// The node at `path` in the model, made with its parents where it does not exist.
fn reach<'a>(model: &'a mut Model, path: &str) -> &'a mut DeviceTreeNode {
    path.split('/').skip(1).fold(&mut model.root, |node, name| node.add_child_mut(DeviceTreeNode::new(name).unwrap()))
}

/// Properties and children, sorted: an edit may move a property to its node's end.
fn sorted(node: &DeviceTreeNode) -> String {
    use dtoolkit::{Node, Property};
    let mut parts: Vec<String> = node.properties().map(|p| format!("{}={:?};", p.name(), p.value())).collect();
    parts.sort();
    let mut children: Vec<String> = node.children().map(sorted).collect();
    children.sort();
    format!("{}{{{}{}}}", node.name(), parts.concat(), children.concat())
}

proptest! {
    #[test]
    fn a_model_of_the_same_edits_agrees(changes in prop::collection::vec(change(), 0..12)) {
        let tree = DeviceTree::parse(VIRT_1G).unwrap();
        let mut expected = model(VIRT_1G);
        let mut edits = Edits::default();
        for change in &changes {
            match change {
                Change::Set(path, name, value) => {
                    edits.set(path, name, value);
                    set(reach(&mut expected, path), name, value.clone());
                }
                Change::RemoveProperty(path, name) => {
                    edits.remove_property(path, name);
                    reach(&mut expected, path).remove_property(name);
                }
                Change::RemoveNode(path) => {
                    edits.remove_node(path);
                    let (parent, name) = path.rsplit_once('/').unwrap();
                    expected.find_node_mut(if parent.is_empty() { "/" } else { parent }).unwrap().remove_child(name);
                }
            }
        }
        let written = edits.apply(&tree);
        prop_assert_eq!(sorted(&model(&written).root), sorted(&expected.root));
    }
}

#[test]
fn removing_from_a_node_that_does_not_exist_makes_none() {
    let mut edits = Edits::default();
    edits.remove_property("/nowhere", "reg");
    edits.remove_node("/nowhere-either");
    assert_eq!(model(&edits.apply(&DeviceTree::parse(VIRT_1G).unwrap())), model(VIRT_1G));
}

#[test]
fn without_edits_nothing_changes() {
    for (name, bytes) in ALL {
        let written = Edits::default().apply(&DeviceTree::parse(bytes).unwrap());
        assert_eq!(model(&written), model(bytes), "{name}");
    }
}
