//! Every reason to give a boot up, with the words that tell the user what to do.

use crate::support::*;
use boot_plan::kernel::HEADER_SIZE;
use boot_plan::tree::{MAX_CONTENT_SIZE, MAX_DEPTH, MAX_NODES, MAX_SIZE, TreeError, total_size};
use boot_plan::{BootError, DeviceTree};
use dtoolkit::model::{DeviceTree as Model, DeviceTreeNode};

/// The message with which a boot from `tree` is given up.
fn refusal(tree: &[u8]) -> String {
    match boot(tree) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("booted"),
    }
}

/// The same for QEMU's tree for 1 GiB after a change.
fn refusal_of(change: impl FnOnce(&mut Model)) -> String {
    refusal(&changed(VIRT_1G, change))
}

/// The message for a kernel with this header.
fn kernel_refusal(change: impl FnOnce(&mut [u8; HEADER_SIZE])) -> String {
    let mut header = kernel_header(0, 24 * MIB);
    change(&mut header);
    match boot_kernel(VIRT_1G, &header, MIB) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("booted"),
    }
}

#[track_caller]
fn says(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "{message:?} does not say {word:?}");
    }
}

#[test]
fn no_device_tree() {
    assert_eq!(total_size(&[0; 8]), Err(TreeError::Magic(0)));
    says(&TreeError::Magic(0).to_string(), &["x0", "-kernel build/freehold.img"]);
}

#[test]
fn a_size_out_of_bounds() {
    let header = |size: u32| [[0xd0, 0x0d, 0xfe, 0xed], size.to_be_bytes()].concat().try_into().unwrap();
    assert_eq!(total_size(&header(39)), Err(TreeError::Size(39)));
    assert_eq!(total_size(&header(40)), Ok(40));
    assert_eq!(total_size(&header(MAX_SIZE as u32)), Ok(MAX_SIZE));
    assert_eq!(total_size(&header(MAX_SIZE as u32 + 1)), Err(TreeError::Size(MAX_SIZE + 1)));
    assert!(matches!(DeviceTree::parse(&VIRT_1G[..1000]), Err(TreeError::Size(1000))));
    assert!(matches!(DeviceTree::parse(&[]), Err(TreeError::Size(0))));
    says(&TreeError::Size(39).to_string(), &["39 bytes"]);
}

#[test]
fn a_tree_that_is_too_large_in_any_way() {
    let tree = |change: fn(&mut DeviceTreeNode)| changed(VIRT_1G, |model| change(&mut model.root));
    let deep = tree(|root| {
        let mut inner = DeviceTreeNode::new("n").unwrap();
        for _ in 2..MAX_DEPTH {
            let mut outer = DeviceTreeNode::new("n").unwrap();
            outer.add_child(inner);
            inner = outer;
        }
        root.add_child(inner);
    });
    assert!(boot(&deep).is_ok());
    let deeper = changed(&deep, |model| {
        let inner = model.root.remove_child("n").unwrap();
        let mut outer = DeviceTreeNode::new("n").unwrap();
        outer.add_child(inner);
        model.root.add_child(outer);
    });
    assert_eq!(boot(&deeper).err(), Some(BootError::Tree(TreeError::Depth)));

    let wide = tree(|root| (0..MAX_NODES).for_each(|n| root.add_child(DeviceTreeNode::new(format!("n@{n}")).unwrap())));
    assert_eq!(boot(&wide).err(), Some(BootError::Tree(TreeError::Nodes)));

    let heavy = tree(|root| set(root, "ballast", vec![0u8; MAX_CONTENT_SIZE]));
    assert!(matches!(boot(&heavy).err(), Some(BootError::Tree(TreeError::ContentSize(_)))));
}

#[test]
fn a_malformed_tree() {
    let mut tree = VIRT_1G.to_vec();
    let structure = u32::from_be_bytes(tree[8..12].try_into().unwrap()) as usize;
    tree[structure + 3] = 7;
    says(&refusal(&tree), &["malformed"]);
}

#[test]
fn a_gicv2_names_the_flag() {
    says(&refusal(GICV2), &["GICv2", "gic-version=3"]);
}

#[test]
fn no_gic_at_all() {
    says(&refusal_of(|model| drop(model.root.remove_child("intc@8000000"))), &["no GICv3"]);
}

#[test]
fn a_gic_with_too_few_or_odd_regions() {
    for regions in [reg(0x800_0000, 0x1_0000), [reg(0x800_0000, 0x1_0000), reg(0x80a_0800, 0xf6_0000)].concat()] {
        says(&refusal_of(|model| set(node(model, "/intc@8000000"), "reg", regions)), &["/intc@8000000", "reg"]);
    }
    // As many regions as it says, but more than are handled.
    let many: Vec<u8> = (0..10u64).flat_map(|n| reg(0x800_0000 + n * 0x2_0000, 0x2_0000)).collect();
    let message = refusal_of(|model| {
        set(node(model, "/intc@8000000"), "reg", many);
        set(node(model, "/intc@8000000"), "#redistributor-regions", 9u32);
    });
    says(&message, &["/intc@8000000"]);
    for count in [0, 2, 9, u32::MAX] {
        let message = refusal_of(|model| set(node(model, "/intc@8000000"), "#redistributor-regions", count));
        says(&message, &["/intc@8000000"]);
    }
}

#[test]
fn no_memory() {
    let path = "/memory@40000000";
    says(&refusal_of(|model| drop(model.root.remove_child("memory@40000000"))), &["no memory"]);
    says(&refusal_of(|model| set(node(model, path), "reg", reg(GIB + 1, 0xffe))), &["no memory"]);
    says(&refusal_of(|model| set(node(model, path), "reg", reg(u64::MAX - 5, 0x1000))), &["no memory"]);
    says(&refusal_of(|model| set(node(model, path), "reg", reg(1 << 48, GIB))), &["no memory"]);
    says(&refusal_of(|model| set(node(model, path), "status", "disabled")), &["no memory"]);
    says(&refusal_of(|model| set(&mut model.root, "#address-cells", 3u32)), &["no memory"]);
}

#[test]
fn too_many_banks() {
    let banks: Vec<u8> = (0..33u64).flat_map(|bank| reg(GIB + bank * 0x10000, 0x8000)).collect();
    says(&refusal_of(|model| set(node(model, "/memory@40000000"), "reg", banks)), &["33 banks", "32"]);
}

#[test]
fn a_device_in_memory() {
    for (path, device) in [("/pl011@9000000", "PL011"), ("/intc@8000000", "GIC")] {
        let regions = [reg(0x5000_0000, 0x1_0000), reg(0x80a_0000, 0xf6_0000)].concat();
        says(&refusal_of(|model| set(node(model, path), "reg", regions)), &[device, "0x50000000"]);
    }
}

#[test]
fn cpus_that_cannot_be() {
    says(&refusal_of(|model| set(node(model, "/cpus/cpu@2"), "reg", 1u32)), &["CPU 0x1 twice"]);
    says(&refusal_of(|model| set(node(model, "/cpus/cpu@2"), "reg", 0x0100_0002u32)), &["cpu node", "reg"]);
    says(&refusal_of(|model| drop(node(model, "/cpus/cpu@2").remove_property("reg"))), &["cpu node", "reg"]);
    says(&refusal_of(|model| drop(node(model, "/cpus").remove_child("cpu@0"))), &["does not list CPU 0x0"]);
}

#[test]
fn cpus_that_the_host_could_start_at_el2() {
    let message = refusal_of(|model| set(node(model, "/cpus/cpu@3"), "enable-method", "spin-table"));
    says(&message, &["CPU 0x3", "spin-table", "EL2", "psci"]);
}

/// A CPU that is not to be used is no CPU of the machine; but the host must not be able to start it.
#[test]
fn cpus_that_are_disabled() {
    let disabled = |method: &'static str| {
        changed(VIRT_1G, |model| {
            set(node(model, "/cpus/cpu@3"), "status", "disabled");
            set(node(model, "/cpus/cpu@3"), "enable-method", method);
        })
    };
    assert_eq!(boot(&disabled("psci")).unwrap().machine.cpus, [0, 1, 2]);
    says(&refusal(&disabled("spin-table")), &["CPU 0x3", "spin-table"]);
}

#[test]
fn psci_that_cannot_be_called() {
    says(&refusal(EL1), &["smc", "hvc"]);
    says(&refusal_of(|model| set(node(model, "/psci"), "compatible", "arm,psci")), &["0.2 or later"]);
    says(&refusal_of(|model| drop(node(model, "/psci").remove_property("method"))), &["smc"]);
}

#[test]
fn no_physical_timer() {
    let timer = "the non-secure physical timer";
    says(&refusal_of(|model| drop(model.root.remove_child("timer"))), &[timer]);
    says(&refusal_of(|model| set(node(model, "/timer"), "interrupts", cells(&[1, 13, 4]))), &[timer]);
    says(&refusal_of(|model| set(node(model, "/timer"), "interrupt-names", "virt")), &[timer]);
    says(&refusal_of(|model| set(node(model, "/intc@8000000"), "#interrupt-cells", 0u32)), &[timer]);
    says(&refusal_of(|model| set(node(model, "/intc@8000000"), "#interrupt-cells", u32::MAX)), &[timer]);
}

#[test]
fn no_kernel_says_how_to_give_one() {
    says(&refusal(NO_MODULES), &["no host kernel", "guest-loader", "addr=", "kernel="]);
}

#[test]
fn two_kernels() {
    let compatible = b"multiboot,module\0multiboot,kernel\0";
    let message = refusal(&changed(RAMDISK_MODULE, |model| {
        set(node(model, "/chosen/module@0x44000000"), "compatible", compatible.to_vec());
    }));
    says(&message, &["more than one host kernel"]);
}

#[test]
fn modules_outside_memory() {
    let kernel = "/chosen/module@0x42000000";
    for place in [reg(0x1000, 0x1000), reg(0x7fff_f000, 0x2000), reg(0x4200_0000, 0), reg(u64::MAX, 1)] {
        says(&refusal_of(|model| set(node(model, kernel), "reg", place)), &["host kernel", "lie"]);
    }
    says(&refusal_of(|model| set(node(model, kernel), "reg", [0u8; 7])), &["does not say where the host kernel lies"]);
    let message = refusal_of(|model| set(node(model, "/chosen"), "linux,initrd-end", u64::MAX));
    says(&message, &["RAM disk", "-m"]);
    let message = refusal_of(|model| set(node(model, "/chosen"), "linux,initrd-end", 0x4800_0000u32));
    says(&message, &["RAM disk"]);
}

#[test]
fn modules_over_each_other() {
    let kernel = "/chosen/module@0x42000000";
    let message = refusal_of(|model| set(node(model, kernel), "reg", reg(0x4800_f000, 0x8000)));
    says(&message, &["host kernel", "RAM disk", "over each other"]);
    let message = refusal_of(|model| set(node(model, kernel), "reg", reg(0x4020_0000, 0x8000)));
    says(&message, &["loader", "host kernel", "over each other"]);
    let message = refusal_of(|model| set(node(model, kernel), "reg", reg(0x4820_1000, 0x8000)));
    says(&message, &["device tree", "host kernel", "over each other"]);
}

#[test]
fn kernels_that_are_something_else() {
    let starting_with = |bytes: &'static [u8]| {
        kernel_refusal(move |header| {
            *header = [0; HEADER_SIZE];
            header[..bytes.len()].copy_from_slice(bytes);
        })
    };
    says(&starting_with(b"MZ\0\0zimg"), &["EFI zboot", "unpacked Image", "make setup"]);
    says(&starting_with(&[0x1f, 0x8b]), &["gzip", "unpack"]);
    says(&starting_with(&[0x28, 0xb5, 0x2f, 0xfd]), &["zstd"]);
    says(&starting_with(b"\xfd7zXZ"), &["xz"]);
    says(&starting_with(b"\x7fELF"), &["ELF", "Image"]);
    says(&starting_with(b"MZ"), &["magic number at byte 56"]);
}

#[test]
fn kernels_that_cannot_run() {
    says(&kernel_refusal(|header| header[24] |= 1), &["big endian"]);
    says(&kernel_refusal(|header| header[16..24].fill(0)), &["older than Linux 3.17"]);
    says(&kernel_refusal(|header| header[10] = 0x20), &["text offset of 0x200000"]);
    says(&kernel_refusal(|header| header[8] = 0x80), &["text offset of 0x80"]);
    let message = refusal_of(|model| set(node(model, "/chosen/module@0x42000000"), "reg", reg(0x4200_0000, 63)));
    says(&message, &["63 bytes"]);
}

#[test]
fn too_little_memory() {
    let message = kernel_refusal(|header| header[16..24].copy_from_slice(&(2 * GIB).to_le_bytes()));
    says(&message, &["2 GiB", "host kernel", "-m"]);
    let message = kernel_refusal(|header| header[16..24].copy_from_slice(&u64::MAX.to_le_bytes()));
    says(&message, &["host kernel"]);
    let message = refusal_of(|model| {
        model.memory_reservations.push(dtoolkit::memreserve::MemoryReservation::new(GIB, GIB));
    });
    says(&message, &["hypervisor"]);
}
