//! The device tree that a guest starts with.

use crate::layout::{DEVICE_TREE_MAX, RAM_BASE, UART_BASE, UART_SIZE};
use abi::Ipa;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use dtoolkit::ToPropertyValue;
use dtoolkit::error::ModelError;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};

/// The phandle of the fixed clock that feeds the console.
const CLOCK_PHANDLE: u32 = 1;
/// The console's clock in hertz: what QEMU's `virt` machine has.
const CLOCK_FREQUENCY: u32 = 24_000_000;

/// What differs between one guest's tree and another's.
#[derive(Clone, Copy, Debug)]
pub struct GuestTree<'a> {
    /// Bytes of RAM from [`RAM_BASE`] up.
    pub ram_size: u64,
    /// How many vCPUs there are; vCPU n has affinity n.
    pub vcpus: u32,
    /// The guest's `/chosen/bootargs`.
    pub bootargs: &'a str,
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

impl GuestTree<'_> {
    /// The tree as a device-tree blob.
    ///
    /// The timer node has no interrupts: the counter can be read, and nothing delivers an interrupt to a guest yet.
    ///
    /// # Errors
    /// See [`TreeError`].
    pub fn to_blob(&self) -> Result<Vec<u8>, TreeError> {
        let mut tree = DeviceTree::new();
        let uart_name = format!("pl011@{:x}", UART_BASE.raw());
        let mut cpus = Node::new("cpus")?.set("#address-cells", 1u32)?.set("#size-cells", 0u32)?;
        for index in 0..self.vcpus {
            let cpu = Node::new(format!("cpu@{index:x}"))?
                .set("device_type", "cpu")?
                .set("compatible", "arm,armv8")?
                .set("reg", index)?
                .set("enable-method", "psci")?;
            cpus = cpus.child(cpu);
        }
        let root = Node::new("")?
            .set("#address-cells", 2u32)?
            .set("#size-cells", 2u32)?
            .set("compatible", "linux,dummy-virt")?
            .set("model", "freehold-guest")?
            .child(
                Node::new("chosen")?
                    .set("bootargs", self.bootargs)?
                    .set("stdout-path", format!("/{uart_name}").as_str())?,
            )
            .child(
                Node::new(format!("memory@{:x}", RAM_BASE.raw()))?
                    .set("device_type", "memory")?
                    .set("reg", region(RAM_BASE, self.ram_size))?,
            )
            .child(cpus)
            .child(
                Node::new("psci")?
                    .set("compatible", ["arm,psci-1.0", "arm,psci-0.2"].as_slice())?
                    .set("method", "hvc")?,
            )
            .child(Node::new("timer")?.set("compatible", "arm,armv8-timer")?)
            .child(
                Node::new("apb-pclk")?
                    .set("compatible", "fixed-clock")?
                    .set("#clock-cells", 0u32)?
                    .set("clock-frequency", CLOCK_FREQUENCY)?
                    .set("clock-output-names", "clk24mhz")?
                    .set("phandle", CLOCK_PHANDLE)?,
            )
            .child(
                Node::new(uart_name)?
                    .set("compatible", ["arm,pl011", "arm,primecell"].as_slice())?
                    .set("reg", region(UART_BASE, UART_SIZE))?
                    .set("clocks", [CLOCK_PHANDLE, CLOCK_PHANDLE])?
                    .set("clock-names", ["uartclk", "apb_pclk"].as_slice())?,
            );
        tree.root = root.0;
        let blob = tree.to_dtb();
        if blob.len() as u64 > DEVICE_TREE_MAX {
            return Err(TreeError::TooLarge);
        }
        Ok(blob)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dtoolkit::fdt::Fdt;
    use dtoolkit::{Node as _, Property as _};

    fn text<'a>(fdt: Fdt<'a>, path: &str, property: &str) -> &'a str {
        fdt.find_node(path).unwrap().property(property).unwrap().value_as::<&str>().unwrap()
    }

    #[test]
    fn a_guest_finds_its_memory_cpus_console_and_arguments() {
        let tree = GuestTree { ram_size: 0x1_2345_6000, vcpus: 12, bootargs: "scenario=hello quiet" };
        let blob = tree.to_blob().unwrap();
        let fdt = Fdt::new(&blob).unwrap();
        assert_eq!(text(fdt, "/chosen", "bootargs"), "scenario=hello quiet");
        assert_eq!(text(fdt, "/chosen", "stdout-path"), "/pl011@9000000");
        assert_eq!(text(fdt, "/psci", "method"), "hvc");
        let memory = fdt.find_node("/memory@40000000").unwrap();
        let reg = memory.property("reg").unwrap().value_as::<[u32; 4]>().unwrap();
        assert_eq!(reg, [0, 0x4000_0000, 1, 0x2345_6000]);
        let uart = fdt.find_node("/pl011@9000000").unwrap();
        assert_eq!(uart.property("reg").unwrap().value_as::<[u32; 4]>().unwrap(), [0, 0x0900_0000, 0, 0x1000]);
        let cpus = fdt.find_node("/cpus").unwrap();
        let affinities: Vec<u32> =
            cpus.children().map(|cpu| cpu.property("reg").unwrap().value_as::<u32>().unwrap()).collect();
        assert_eq!(affinities, (0..12).collect::<Vec<_>>());
        assert_eq!(text(fdt, "/cpus/cpu@b", "enable-method"), "psci");
    }

    #[test]
    fn arguments_beyond_the_room_are_refused() {
        let bootargs = "x".repeat(DEVICE_TREE_MAX as usize);
        let tree = GuestTree { ram_size: 0x100_0000, vcpus: 1, bootargs: &bootargs };
        assert_eq!(tree.to_blob(), Err(TreeError::TooLarge));
    }
}
