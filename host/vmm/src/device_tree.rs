//! The device tree that a guest starts with.

use crate::layout::{
    DEVICE_TREE_MAX, FIRST_PRIVATE_INTERRUPT, FIRST_SHARED_INTERRUPT, GIC_DISTRIBUTOR_BASE, GIC_DISTRIBUTOR_SIZE,
    GIC_REDISTRIBUTOR_BASE, GIC_REDISTRIBUTOR_SIZE, HYPERVISOR_TIMER_INTERRUPT, IpaRange, PHYSICAL_TIMER_INTERRUPT,
    RAM_BASE, RTC_BASE, RTC_INTERRUPT, RTC_SIZE, SECURE_TIMER_INTERRUPT, UART_BASE, UART_INTERRUPT, UART_SIZE,
    VIRTUAL_TIMER_INTERRUPT, affinity,
};
use abi::Ipa;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use dtoolkit::ToPropertyValue;
use dtoolkit::error::ModelError;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};

/// The phandle of the fixed clock that feeds the console and the real time clock.
const CLOCK_PHANDLE: u32 = 1;
/// The phandle of the interrupt controller.
const INTERRUPT_CONTROLLER_PHANDLE: u32 = 2;
/// First cell of an interrupt: it is shared.
const INTERRUPT_SHARED: u32 = 0;
/// First cell of an interrupt: it is private to a CPU.
const INTERRUPT_PRIVATE: u32 = 1;
/// Third cell of an interrupt: active high, level-sensitive.
const INTERRUPT_LEVEL_HIGH: u32 = 4;
/// The console's clock in hertz: what QEMU's `virt` machine has.
const CLOCK_FREQUENCY: u32 = 24_000_000;

/// What differs between one guest's tree and another's.
#[derive(Clone, Copy, Debug)]
pub struct GuestTree<'a> {
    /// Bytes of RAM from [`RAM_BASE`] up.
    pub ram_size: u64,
    /// How many vCPUs there are; vCPU n has the affinity that [`affinity`] says.
    pub vcpus: u32,
    /// The guest's `/chosen/bootargs`.
    pub bootargs: &'a str,
    /// Where the initrd lies, if there is one.
    pub initrd: Option<IpaRange>,
    /// A random number from which the kernel derives where it runs; none where it is to run where it was put.
    pub kaslr_seed: Option<u64>,
    /// Random bytes for the kernel's random number generator; may be empty.
    pub rng_seed: &'a [u8],
}

/// Why a tree cannot be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TreeError {
    /// A name in it is no device-tree name.
    BadName,
    /// It takes more than [`DEVICE_TREE_MAX`] bytes.
    TooLarge,
}

impl From<ModelError> for TreeError {
    fn from(_: ModelError) -> Self {
        TreeError::BadName
    }
}

/// A node under construction.
struct Node(DeviceTreeNode);

impl Node {
    fn new(name: impl Into<String>) -> Result<Self, TreeError> {
        Ok(Self(DeviceTreeNode::new(name)?))
    }

    fn set<T: ToPropertyValue>(mut self, name: &str, value: T) -> Result<Self, TreeError> {
        self.0.add_property(DeviceTreeProperty::new(name, value)?);
        Ok(self)
    }

    fn child(mut self, child: Node) -> Self {
        self.0.add_child(child.0);
        self
    }
}

/// A `reg` value with two cells for the address and two for the size.
fn region(base: Ipa, size: u64) -> [u32; 4] {
    let cells = |value: u64| [(value >> 32) as u32, value as u32];
    let ([base_high, base_low], [size_high, size_low]) = (cells(base.raw()), cells(size));
    [base_high, base_low, size_high, size_low]
}

/// The `interrupts` cells of the level-sensitive interrupt `intid`.
fn interrupt(intid: u32) -> [u32; 3] {
    match intid.checked_sub(FIRST_SHARED_INTERRUPT) {
        Some(number) => [INTERRUPT_SHARED, number, INTERRUPT_LEVEL_HIGH],
        None => [INTERRUPT_PRIVATE, intid.saturating_sub(FIRST_PRIVATE_INTERRUPT), INTERRUPT_LEVEL_HIGH],
    }
}

/// The name of the node of the device at `base`.
fn node_name(name: &str, base: Ipa) -> String {
    format!("{name}@{:x}", base.raw())
}

/// The node of a PrimeCell device, which has the clocks `clock_names`.
fn primecell(name: &str, base: Ipa, size: u64, intid: u32, clock_names: &[&str]) -> Result<Node, TreeError> {
    Node::new(node_name(name, base))?
        .set("compatible", [format!("arm,{name}").as_str(), "arm,primecell"].as_slice())?
        .set("reg", region(base, size))?
        .set("interrupts", interrupt(intid))?
        .set("clocks", alloc::vec![CLOCK_PHANDLE; clock_names.len()])?
        .set("clock-names", clock_names)
}

impl GuestTree<'_> {
    /// The tree as a device-tree blob.
    ///
    /// # Errors
    /// See [`TreeError`].
    pub fn to_blob(&self) -> Result<Vec<u8>, TreeError> {
        let mut tree = DeviceTree::new();
        let root = Node::new("")?
            .set("#address-cells", 2u32)?
            .set("#size-cells", 2u32)?
            .set("compatible", "linux,dummy-virt")?
            .set("model", "freehold-guest")?
            .set("interrupt-parent", INTERRUPT_CONTROLLER_PHANDLE)?
            .child(self.chosen()?)
            .child(
                Node::new(node_name("memory", RAM_BASE))?
                    .set("device_type", "memory")?
                    .set("reg", region(RAM_BASE, self.ram_size))?,
            )
            .child(self.cpus()?)
            .child(
                Node::new("psci")?
                    .set("compatible", ["arm,psci-1.0", "arm,psci-0.2"].as_slice())?
                    .set("method", "hvc")?,
            )
            .child(timer()?)
            .child(self.interrupt_controller()?)
            .child(
                Node::new("apb-pclk")?
                    .set("compatible", "fixed-clock")?
                    .set("#clock-cells", 0u32)?
                    .set("clock-frequency", CLOCK_FREQUENCY)?
                    .set("clock-output-names", "clk24mhz")?
                    .set("phandle", CLOCK_PHANDLE)?,
            )
            .child(primecell("pl011", UART_BASE, UART_SIZE, UART_INTERRUPT, &["uartclk", "apb_pclk"])?)
            .child(primecell("pl031", RTC_BASE, RTC_SIZE, RTC_INTERRUPT, &["apb_pclk"])?);
        tree.root = root.0;
        let blob = tree.to_dtb();
        if blob.len() as u64 > DEVICE_TREE_MAX {
            return Err(TreeError::TooLarge);
        }
        Ok(blob)
    }

    fn chosen(&self) -> Result<Node, TreeError> {
        let mut chosen = Node::new("chosen")?
            .set("bootargs", self.bootargs)?
            .set("stdout-path", format!("/{}", node_name("pl011", UART_BASE)).as_str())?;
        if let Some(initrd) = self.initrd {
            chosen = chosen.set("linux,initrd-start", initrd.start.raw())?.set("linux,initrd-end", initrd.end.raw())?;
        }
        if let Some(seed) = self.kaslr_seed {
            chosen = chosen.set("kaslr-seed", seed)?;
        }
        if !self.rng_seed.is_empty() {
            chosen = chosen.set("rng-seed", self.rng_seed)?;
        }
        Ok(chosen)
    }

    fn cpus(&self) -> Result<Node, TreeError> {
        let mut cpus = Node::new("cpus")?.set("#address-cells", 1u32)?.set("#size-cells", 0u32)?;
        for affinity in (0..self.vcpus).map(affinity) {
            let cpu = Node::new(format!("cpu@{affinity:x}"))?
                .set("device_type", "cpu")?
                .set("compatible", "arm,armv8")?
                .set("reg", affinity)?
                .set("enable-method", "psci")?;
            cpus = cpus.child(cpu);
        }
        Ok(cpus)
    }

    fn interrupt_controller(&self) -> Result<Node, TreeError> {
        let redistributors = GIC_REDISTRIBUTOR_SIZE.saturating_mul(self.vcpus.into());
        let frames =
            [region(GIC_DISTRIBUTOR_BASE, GIC_DISTRIBUTOR_SIZE), region(GIC_REDISTRIBUTOR_BASE, redistributors)];
        Node::new(node_name("intc", GIC_DISTRIBUTOR_BASE))?
            .set("compatible", "arm,gic-v3")?
            .set("reg", frames.as_flattened())?
            .set("#interrupt-cells", 3u32)?
            .set("#address-cells", 0u32)?
            .set("interrupt-controller", [].as_slice() as &[u8])?
            .set("phandle", INTERRUPT_CONTROLLER_PHANDLE)
    }
}

/// The binding gives each timer its place, so that those which a guest has not got are named too.
fn timer() -> Result<Node, TreeError> {
    let interrupts = [
        interrupt(SECURE_TIMER_INTERRUPT),
        interrupt(PHYSICAL_TIMER_INTERRUPT),
        interrupt(VIRTUAL_TIMER_INTERRUPT),
        interrupt(HYPERVISOR_TIMER_INTERRUPT),
    ];
    Node::new("timer")?
        .set("compatible", "arm,armv8-timer")?
        .set("interrupts", interrupts.as_flattened())?
        .set("always-on", [].as_slice() as &[u8])
}

#[cfg(test)]
mod tests {
    use super::*;
    use dtoolkit::fdt::Fdt;
    use dtoolkit::{Node as _, Property as _};

    const SMALL: GuestTree<'static> = GuestTree {
        ram_size: 0x1_2345_6000,
        vcpus: 12,
        bootargs: "scenario=hello quiet",
        initrd: None,
        kaslr_seed: None,
        rng_seed: &[],
    };

    fn text<'a>(fdt: Fdt<'a>, path: &str, property: &str) -> &'a str {
        fdt.find_node(path).unwrap().property(property).unwrap().value_as::<&str>().unwrap()
    }

    /// A property's big-endian cells.
    fn cells(fdt: Fdt<'_>, path: &str, property: &str) -> Vec<u32> {
        let value = fdt.find_node(path).unwrap().property(property).unwrap().value().to_vec();
        assert_eq!(value.len() % 4, 0);
        value.chunks(4).map(|cell| u32::from_be_bytes(cell.try_into().unwrap())).collect()
    }

    fn has(fdt: Fdt<'_>, path: &str, property: &str) -> bool {
        fdt.find_node(path).unwrap().property(property).is_some()
    }

    #[test]
    fn a_guest_finds_its_memory_cpus_console_and_arguments() {
        let blob = SMALL.to_blob().unwrap();
        let fdt = Fdt::new(&blob).unwrap();
        assert_eq!(text(fdt, "/chosen", "bootargs"), "scenario=hello quiet");
        assert_eq!(text(fdt, "/chosen", "stdout-path"), "/pl011@9000000");
        assert_eq!(text(fdt, "/psci", "method"), "hvc");
        assert_eq!(cells(fdt, "/memory@40000000", "reg"), [0, 0x4000_0000, 1, 0x2345_6000]);
        assert_eq!(text(fdt, "/cpus/cpu@b", "enable-method"), "psci");
    }

    #[test]
    fn each_cpu_has_its_affinity() {
        let blob = GuestTree { vcpus: 18, ..SMALL }.to_blob().unwrap();
        let fdt = Fdt::new(&blob).unwrap();
        let cpus = fdt.find_node("/cpus").unwrap();
        let affinities: Vec<u32> =
            cpus.children().map(|cpu| cpu.property("reg").unwrap().value_as::<u32>().unwrap()).collect();
        assert_eq!(affinities, (0..16).chain([0x100, 0x101]).collect::<Vec<_>>());
        assert_eq!(text(fdt, "/cpus/cpu@101", "device_type"), "cpu");
    }

    #[test]
    fn the_interrupt_controller_has_a_redistributor_for_each_cpu() {
        for vcpus in [1, 4] {
            let blob = GuestTree { vcpus, ..SMALL }.to_blob().unwrap();
            let fdt = Fdt::new(&blob).unwrap();
            let path = "/intc@8000000";
            assert_eq!(text(fdt, path, "compatible"), "arm,gic-v3");
            let expected = [0, 0x0800_0000, 0, 0x1_0000, 0, 0x080a_0000, 0, vcpus * 0x2_0000];
            assert_eq!(cells(fdt, path, "reg"), expected);
            assert_eq!(cells(fdt, path, "#interrupt-cells"), [3]);
            assert!(has(fdt, path, "interrupt-controller"));
            assert_eq!(cells(fdt, path, "phandle"), cells(fdt, "/", "interrupt-parent"));
        }
    }

    #[test]
    fn timers_console_and_clock_interrupt_where_they_do_on_qemus_virt_machine() {
        let blob = SMALL.to_blob().unwrap();
        let fdt = Fdt::new(&blob).unwrap();
        assert_eq!(text(fdt, "/timer", "compatible"), "arm,armv8-timer");
        assert_eq!(cells(fdt, "/timer", "interrupts"), [1, 13, 4, 1, 14, 4, 1, 11, 4, 1, 10, 4]);
        assert!(has(fdt, "/timer", "always-on"));
        for (path, compatible, base, number, clocks) in [
            ("/pl011@9000000", b"arm,pl011\0arm,primecell\0", 0x0900_0000, 1, 2),
            ("/pl031@9010000", b"arm,pl031\0arm,primecell\0", 0x0901_0000, 2, 1),
        ] {
            let node = fdt.find_node(path).unwrap();
            assert_eq!(node.property("compatible").unwrap().value(), compatible);
            assert_eq!(cells(fdt, path, "reg"), [0, base, 0, 0x1000]);
            assert_eq!(cells(fdt, path, "interrupts"), [0, number, 4]);
            let clock = cells(fdt, "/apb-pclk", "phandle")[0];
            assert_eq!(cells(fdt, path, "clocks"), alloc::vec![clock; clocks]);
        }
        assert_eq!(
            fdt.find_node("/pl011@9000000").unwrap().property("clock-names").unwrap().value(),
            b"uartclk\0apb_pclk\0"
        );
        assert_ne!(cells(fdt, "/apb-pclk", "phandle"), cells(fdt, "/", "interrupt-parent"));
    }

    #[test]
    fn initrd_and_seeds_are_there_only_where_they_are_given() {
        let blob = SMALL.to_blob().unwrap();
        for name in ["linux,initrd-start", "linux,initrd-end", "kaslr-seed", "rng-seed"] {
            assert!(!has(Fdt::new(&blob).unwrap(), "/chosen", name), "{name}");
        }
        let tree = GuestTree {
            initrd: Some(IpaRange { start: Ipa::new(0x8_1234_5000), end: Ipa::new(0x8_2345_6789) }),
            kaslr_seed: Some(0x0123_4567_89ab_cdef),
            rng_seed: &[1, 2, 3, 4, 5],
            ..SMALL
        };
        let blob = tree.to_blob().unwrap();
        let fdt = Fdt::new(&blob).unwrap();
        assert_eq!(cells(fdt, "/chosen", "linux,initrd-start"), [8, 0x1234_5000]);
        assert_eq!(cells(fdt, "/chosen", "linux,initrd-end"), [8, 0x2345_6789]);
        assert_eq!(cells(fdt, "/chosen", "kaslr-seed"), [0x0123_4567, 0x89ab_cdef]);
        let chosen = fdt.find_node("/chosen").unwrap();
        assert_eq!(chosen.property("rng-seed").unwrap().value(), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn arguments_beyond_the_room_are_refused() {
        let bootargs = "x".repeat(DEVICE_TREE_MAX as usize);
        let tree = GuestTree { bootargs: &bootargs, ..SMALL };
        assert_eq!(tree.to_blob(), Err(TreeError::TooLarge));
    }
}
