//! What the host learns from its device tree. The tree comes from the loader, which is trusted, so that a tree without
//! what every machine has is a reason to stop.

use abi::{PAGE_SIZE, PhysAddr, PhysRange};
use arrayvec::ArrayVec;
use fdt::Fdt;
use fdt::node::FdtNode;

/// Most CPUs that the host starts.
pub const MAX_CPUS: usize = 64;
/// Most banks of RAM that the host uses.
pub const MAX_BANKS: usize = 32;
/// Most reserved ranges that the host keeps away from.
pub const MAX_RESERVED: usize = 32;

/// How PSCI is called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Conduit {
    /// HVC #0.
    Hvc,
    /// SMC #0.
    Smc,
}

/// The machine as the device tree describes it.
#[derive(Debug)]
pub struct Machine {
    /// The tree itself.
    pub device_tree: PhysRange,
    /// Banks of RAM.
    pub memory: ArrayVec<PhysRange, MAX_BANKS>,
    /// Memory that is in use, or not to be touched.
    pub reserved: ArrayVec<PhysRange, MAX_RESERVED>,
    /// Memory that is not even to be mapped (`no-map`): hyp's carve-out.
    pub unmapped: ArrayVec<PhysRange, MAX_RESERVED>,
    /// MPIDR affinities of the CPUs.
    pub cpus: ArrayVec<u64, MAX_CPUS>,
    /// The console's PL011.
    pub uart: PhysRange,
    /// The registers of the real time clock, a PL031; empty where there is none.
    pub clock: PhysRange,
    /// The GICv3 distributor.
    pub distributor: PhysRange,
    /// The GICv3 redistributors.
    pub redistributor: PhysRange,
    /// Devices that the host leaves alone, in whole pages: the board's virtio transports. Empty where there are none.
    pub spare_device: PhysRange,
    /// INTID of the physical timer's interrupt.
    pub timer_interrupt: u32,
    /// How PSCI is called; `None` where there is none.
    pub conduit: Option<Conduit>,
    /// The ramdisk; empty where there is none.
    pub ramdisk: PhysRange,
    /// `/chosen/bootargs`.
    pub bootargs: &'static str,
    /// `/chosen/rng-seed`: random bytes; empty where there are none.
    pub rng_seed: &'static [u8],
    /// `/chosen/kaslr-seed`: the same.
    pub kaslr_seed: &'static [u8],
}

/// A range of physical memory of `size` bytes.
fn range(start: u64, size: u64) -> PhysRange {
    PhysRange::from_size(PhysAddr::new(start), size).expect("a range in the device tree wraps")
}

/// The entries of a node's `reg`.
fn regions(node: FdtNode<'_, 'static>) -> impl Iterator<Item = PhysRange> {
    node.reg()
        .into_iter()
        .flatten()
        .map(|region| range(region.starting_address as u64, region.size.unwrap_or(0) as u64))
}

/// Entry `index` of a node's `reg`.
fn region(node: FdtNode<'_, 'static>, index: usize) -> PhysRange {
    regions(node).nth(index).expect("a device has no registers")
}

/// True where a node is the host's to use: `status` is absent or says so (Devicetree Specification, section 2.3.4). What
/// belongs to the secure world says otherwise.
fn is_enabled(node: FdtNode<'_, 'static>) -> bool {
    node.property("status").is_none_or(|status| matches!(status.as_str(), Some("okay" | "ok")))
}

/// The first enabled node that is compatible with one of `names`.
fn find<'t>(tree: &'t Fdt<'static>, names: &[&str]) -> Option<FdtNode<'t, 'static>> {
    tree.all_nodes().find(|node| {
        let compatible = node.compatible();
        is_enabled(*node) && compatible.is_some_and(|compatible| compatible.all().any(|name| names.contains(&name)))
    })
}

/// The pages of the virtio transports, which QEMU's board has one next to the other.
fn spare_device(tree: &Fdt<'static>) -> PhysRange {
    let is_transport = |node: &FdtNode<'_, 'static>| {
        is_enabled(*node)
            && node.compatible().is_some_and(|compatible| compatible.all().any(|name| name == "virtio,mmio"))
    };
    let nodes = || tree.all_nodes().filter(is_transport).map(|node| region(node, 0));
    let start = nodes().map(|registers| registers.start.align_down(PAGE_SIZE)).min();
    let end = nodes().filter_map(|registers| registers.end.align_up(PAGE_SIZE)).max();
    start.zip(end).map_or_else(PhysRange::default, |(start, end)| PhysRange { start, end })
}

/// A property of one or two cells.
fn number(node: FdtNode<'_, 'static>, name: &str) -> Option<u64> {
    node.property(name)?.as_usize().map(|value| value as u64)
}

/// The INTID of the non-secure physical timer: found by name where the node gives names, otherwise the second interrupt
/// (Linux, `Documentation/devicetree/bindings/timer/arm,arch_timer.yaml`). PPI n has INTID 16 + n.
fn timer_interrupt(node: FdtNode<'_, 'static>) -> u32 {
    let names = node.property("interrupt-names").map_or(&[][..], |names| names.value);
    let index = names.split(|byte| *byte == 0).position(|name| name == b"phys").unwrap_or(1);
    let interrupts = node.property("interrupts").expect("the timer has no interrupts").value;
    let entry = interrupts.chunks_exact(12).nth(index).expect("the timer has no physical interrupt");
    let mut cell = [0; 4];
    cell.copy_from_slice(&entry[4..8]);
    16 + u32::from_be_bytes(cell)
}

impl Machine {
    /// Reads the tree at `address`.
    ///
    /// # Panics
    /// Where the tree lacks what the host cannot do without.
    ///
    /// # Safety
    /// A device tree must lie at `address`, and must stay there unchanged.
    pub unsafe fn read(address: PhysAddr) -> Self {
        // SAFETY: the caller vouches for the tree, which the crate reads in place.
        let tree: Fdt<'static> = unsafe { Fdt::from_ptr(address.raw() as *const u8) }.expect("no device tree");
        let mut machine = Self {
            device_tree: range(address.raw(), tree.total_size() as u64),
            memory: ArrayVec::new(),
            reserved: ArrayVec::new(),
            unmapped: ArrayVec::new(),
            cpus: ArrayVec::new(),
            uart: PhysRange::default(),
            clock: PhysRange::default(),
            distributor: PhysRange::default(),
            redistributor: PhysRange::default(),
            spare_device: PhysRange::default(),
            timer_interrupt: 0,
            conduit: None,
            ramdisk: PhysRange::default(),
            bootargs: "",
            rng_seed: &[],
            kaslr_seed: &[],
        };
        machine.read_memory(&tree);
        machine.read_devices(&tree);
        machine.read_chosen(&tree);
        machine
    }

    fn read_memory(&mut self, tree: &Fdt<'static>) {
        for node in tree.all_nodes().filter(|node| is_enabled(*node)) {
            if node.property("device_type").and_then(|kind| kind.as_str()) == Some("memory") {
                self.memory.extend(regions(node).filter(|bank| !bank.is_empty()));
            }
        }
        if let Some(parent) = tree.find_node("/reserved-memory") {
            for node in parent.children() {
                let no_map = node.property("no-map").is_some();
                for reserved in regions(node) {
                    self.reserved.push(reserved);
                    if no_map {
                        self.unmapped.push(reserved);
                    }
                }
            }
        }
        for reservation in tree.memory_reservations() {
            self.reserved.push(range(reservation.address() as u64, reservation.size() as u64));
        }
        self.reserved.push(self.device_tree);
    }

    fn read_devices(&mut self, tree: &Fdt<'static>) {
        for cpu in tree.cpus() {
            self.cpus.extend(cpu.ids().all().map(|id| id as u64));
        }
        self.uart = region(find(tree, &["arm,pl011"]).expect("no PL011"), 0);
        self.clock = find(tree, &["arm,pl031"]).map_or_else(PhysRange::default, |node| region(node, 0));
        let gic = find(tree, &["arm,gic-v3"]).expect("no GICv3");
        self.distributor = region(gic, 0);
        self.redistributor = region(gic, 1);
        self.spare_device = spare_device(tree);
        self.timer_interrupt = timer_interrupt(find(tree, &["arm,armv8-timer"]).expect("no timer"));
        if let Some(psci) = find(tree, &["arm,psci-1.0", "arm,psci-0.2"]) {
            self.conduit = match psci.property("method").and_then(|method| method.as_str()) {
                Some("hvc") => Some(Conduit::Hvc),
                Some("smc") => Some(Conduit::Smc),
                _ => None,
            };
        }
    }

    fn read_chosen(&mut self, tree: &Fdt<'static>) {
        let Some(chosen) = tree.find_node("/chosen") else { return };
        if let (Some(start), Some(end)) = (number(chosen, "linux,initrd-start"), number(chosen, "linux,initrd-end")) {
            self.ramdisk = PhysRange { start: PhysAddr::new(start), end: PhysAddr::new(end) };
            self.reserved.push(self.ramdisk);
        }
        let bytes = |name| chosen.property(name).map_or(&[][..], |property| property.value);
        (self.rng_seed, self.kaslr_seed) = (bytes("rng-seed"), bytes("kaslr-seed"));
        self.bootargs = chosen.property("bootargs").and_then(|arguments| arguments.as_str()).unwrap_or("");
    }

    /// The boot argument `name=value`; an argument without `=` has the empty value.
    pub fn argument(&self, name: &str) -> Option<&'static str> {
        self.bootargs.split_ascii_whitespace().find_map(|argument| {
            let (key, value) = argument.split_once('=').unwrap_or((argument, ""));
            (key == name).then_some(value)
        })
    }

    /// Bytes of RAM.
    pub fn memory_size(&self) -> u64 {
        self.memory.iter().map(PhysRange::size).sum()
    }
}
