//! Device trees to test with, and a boot from a device tree's bytes to the host's device tree, without hardware.
//!
//! The trees in `fixtures` are QEMU's (made by `fixtures/generate`); tests change them through dtoolkit's
//! model, which shares no code with what is tested.
use abi::{PhysAddr, PhysRange};
use boot_plan::kernel::HEADER_SIZE;
use boot_plan::machine::BootCpu;
use boot_plan::plan::Occupied;
use boot_plan::{BootError, DeviceTree, KernelImage, Machine, Modules, Options, Plan, Survey, host_tree};
use dtoolkit::fdt::Fdt;
use dtoolkit::model::{DeviceTree as Model, DeviceTreeNode, DeviceTreeProperty};
use dtoolkit::{Node, Property, ToPropertyValue};

pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;

/// Bytes of hyp's image in these tests.
pub const HYP_SIZE: u64 = 0x5_0000;
/// The CPU that boots in these tests.
pub const BOOT_CPU: BootCpu = BootCpu { mpidr: 0x8000_0000, address_bits: 48 };

macro_rules! fixtures {
    ($($name:ident = $file:literal;)*) => {
        $(pub const $name: &[u8] = include_bytes!(concat!("fixtures/", $file, ".dtb"));)*
        pub const ALL: &[(&str, &[u8])] = &[$(($file, $name)),*];
    };
}
fixtures! {
    VIRT_1G = "1g";
    VIRT_8G = "8g";
    VIRT_256M = "256m";
    RAMDISK_MODULE = "ramdisk-module";
    GICV2 = "gicv2";
    EL1 = "el1";
    SECURE = "secure";
    NO_MODULES = "no-modules";
    TWO_NODES = "2-nodes";
    CPUS_64 = "64-cpus";
}

pub fn range(start: u64, end: u64) -> PhysRange {
    PhysRange { start: PhysAddr::new(start), end: PhysAddr::new(end) }
}

/// `bytes` after `change`.
pub fn changed(bytes: &[u8], change: impl FnOnce(&mut Model)) -> Vec<u8> {
    let mut model = model(bytes);
    change(&mut model);
    model.to_dtb()
}

pub fn model(bytes: &[u8]) -> Model {
    Model::from_fdt(&Fdt::new(bytes).unwrap())
}

pub fn node<'a>(model: &'a mut Model, path: &str) -> &'a mut DeviceTreeNode {
    model.find_node_mut(path).unwrap_or_else(|| panic!("no {path}"))
}

pub fn set(node: &mut DeviceTreeNode, name: &str, value: impl ToPropertyValue) {
    node.add_property(DeviceTreeProperty::new(name, value).unwrap());
}

pub fn value(model: &Model, path: &str, name: &str) -> Option<Vec<u8>> {
    model.find_node(path)?.property(name)?.value_as::<Vec<u8>>().ok()
}

/// Big-endian cells as bytes.
pub fn cells(cells: &[u32]) -> Vec<u8> {
    cells.iter().flat_map(|cell| cell.to_be_bytes()).collect()
}

/// Address and size in two cells each.
pub fn reg(start: u64, size: u64) -> Vec<u8> {
    [start.to_be_bytes(), size.to_be_bytes()].concat()
}

/// The header of an arm64 Image.
pub fn kernel_header(text_offset: u64, image_size: u64) -> [u8; HEADER_SIZE] {
    let mut header = [0; HEADER_SIZE];
    header[8..16].copy_from_slice(&text_offset.to_le_bytes());
    header[16..24].copy_from_slice(&image_size.to_le_bytes());
    header[24..32].copy_from_slice(&0xau64.to_le_bytes());
    header[56..60].copy_from_slice(b"ARM\x64");
    header
}

/// What a boot came to.
pub struct Booted {
    pub machine: Machine,
    pub modules: Modules,
    pub options: Options,
    pub carve_out: PhysRange,
    pub kernel: PhysRange,
    pub kernel_moves: bool,
    pub tree_place: PhysRange,
    pub tree: Vec<u8>,
    pub report: Vec<String>,
    pub info: abi::boot::BootInfo,
}

/// Where the loader and the device tree lie in these tests: where QEMU puts them.
pub fn occupied(tree_size: u64) -> Occupied {
    Occupied {
        loader: range(0x4020_0000, 0x4070_0000),
        device_tree: PhysRange::from_size(PhysAddr::new(0x4820_0000), tree_size).unwrap(),
    }
}

/// Boots from `tree` a kernel of 24 MiB that may run where QEMU puts it.
pub fn boot(tree: &[u8]) -> Result<Booted, BootError> {
    boot_kernel(tree, &kernel_header(0, 24 * MIB), MIB)
}

/// Boots from `tree`, which lies in `tree_size` bytes.
pub fn boot_kernel(bytes: &[u8], header: &[u8; HEADER_SIZE], tree_size: u64) -> Result<Booted, BootError> {
    let tree = DeviceTree::parse(bytes)?;
    let survey = Survey::of(&tree);
    let options = Options::parse(survey.arguments.as_deref().unwrap_or(""));
    let machine = Machine::new(&survey, BOOT_CPU)?;
    let modules = Modules::new(&survey, &options, &machine.memory)?;
    let kernel = KernelImage::parse(header, modules.kernel.size())?;
    let plan = Plan::new(&machine, &modules, kernel, occupied(tree_size), HYP_SIZE)?;
    let written = host_tree::write(&tree, &machine, &modules, &plan);
    let tree_place = plan.device_tree_place(written.len() as u64)?;
    let hyp_file = crate::elf::ElfFile::sound().bytes();
    let hyp = boot_plan::HypImage::parse(&hyp_file).unwrap();
    Ok(Booted {
        carve_out: plan.carve_out.range(),
        kernel: plan.kernel,
        kernel_moves: plan.kernel_moves(),
        report: plan.report(&tree_place),
        info: plan.boot_info(&hyp, tree_place.start),
        tree_place,
        tree: written,
        machine: machine.clone(),
        modules,
        options,
    })
}
