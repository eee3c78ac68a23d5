//! One walk over the validated device tree that notes everything a boot needs, without judging it: where a boot is given
//! up, its reason must still reach the console, so a bad node in one place may not hide the console in another.

use crate::bus;
use crate::machine::MAX_ADDRESS_BITS;
use crate::properties::{number, strings, text};
use crate::tree::DeviceTree;
use crate::walk::{self, Node};
use abi::boot::MAX_REDISTRIBUTOR_REGIONS;
use abi::{PhysAddr, PhysRange};
use alloc::string::String;
use alloc::vec::Vec;

/// Value of `compatible` that means a PL011.
const PL011: [&str; 1] = ["arm,pl011"];
/// Values of `compatible` that mean a GICv2 or older.
const OLD_GIC: [&str; 8] = [
    "arm,gic-400",
    "arm,cortex-a15-gic",
    "arm,cortex-a9-gic",
    "arm,cortex-a7-gic",
    "arm,pl390",
    "arm,eb11mp-gic",
    "arm,tc11mp-gic",
    "arm,arm1176jzf-devchip-gic",
];

// What is noted of a tree is bounded, whatever it says, since the loader's heap is. Of what a machine has one of, the
// first is noted.

/// Most ranges of RAM, and most reserved ones, that a tree may list.
pub const MAX_RANGES: usize = 1024;
/// Longest boot arguments, in bytes; Linux takes 2 KiB.
pub const MAX_ARGUMENTS_SIZE: usize = 16 << 10;
/// Most modules, and most UARTs, that are noted.
const MAX_NOTED: usize = 32;
/// Bytes that are noted of a word: a method, a path, interrupts.
const MAX_WORD_SIZE: usize = 1024;
/// Characters of an interrupt's name that are noted.
const PPI_NAME_SIZE: usize = 32;
/// Bytes of a PL011's registers (Arm DDI 0183, section 3.2), and what they are aligned to.
const PL011_SIZE: u64 = 0x1000;
const PL011_ALIGNMENT: u64 = 0x1000;
/// Interrupts of a timer whose names are noted.
const MAX_TIMER_INTERRUPTS: usize = 16;
/// Regions of a GIC that are noted: the distributor and redistributors.
const MAX_GIC_REGIONS: usize = 1 + MAX_REDISTRIBUTOR_REGIONS;

/// A node of `/cpus`.
#[derive(Clone, Debug)]
pub struct CpuNode {
    /// MPIDR affinity, from `reg`; `None` where that cannot be read.
    pub affinity: Option<u64>,
    /// `enable-method`, or an empty string.
    pub enable_method: String,
    /// Its `status` says that it is to be used. A CPU that is not can be started all the same.
    pub enabled: bool,
}

/// A GICv3 node.
#[derive(Clone, Debug)]
pub struct GicNode {
    /// Path of the node.
    pub path: String,
    /// `reg`: distributor, redistributor regions, then regions of no interest; the first of them.
    pub regions: Vec<PhysRange>,
    /// `#redistributor-regions`; 1 where absent.
    pub redistributor_regions: u64,
    /// `#interrupt-cells`, 0 where absent.
    pub interrupt_cells: u64,
    /// The bytes of `reg`, for as many regions.
    pub reg: Vec<u8>,
    /// Bytes of one entry of it.
    pub entry_bytes: usize,
}

/// An architected timer node.
#[derive(Clone, Debug)]
pub struct TimerNode {
    /// Path of the node.
    pub path: String,
    /// `interrupts` or, where `extended`, `interrupts-extended`.
    pub interrupts: Vec<u8>,
    /// Every interrupt names its controller first.
    pub extended: bool,
    /// `interrupt-names`, split.
    pub names: Option<Vec<String>>,
}

/// A PSCI node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PsciNode {
    /// Path of the node.
    pub path: String,
    /// Version 0.2 or later, whose function numbers are fixed.
    pub standard: bool,
    /// `method`.
    pub method: String,
}

/// A UART that the loader and hyp can write to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UartNode {
    /// Path of the node.
    pub path: String,
    /// Its registers.
    pub registers: PhysRange,
}

/// A boot module: a child of `/chosen`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ModuleNode {
    /// Path of the node.
    pub path: String,
    /// What the module is.
    pub kind: ModuleKind,
    /// Where it lies; `None` where `reg` cannot be read.
    pub range: Option<PhysRange>,
    /// `bootargs`.
    pub arguments: Option<String>,
}

/// What a boot module says it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ModuleKind {
    /// `multiboot,kernel`.
    Kernel,
    /// `multiboot,ramdisk`.
    Ramdisk,
    /// `multiboot,module` and nothing more.
    Other,
}

/// What the device tree says, unjudged.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// RAM, as listed.
    pub memory: Vec<PhysRange>,
    /// `/reserved-memory` nodes with a place, and the memory reservation block.
    pub reserved: Vec<PhysRange>,
    /// CPUs.
    pub cpus: Vec<CpuNode>,
    /// GICv3 nodes.
    pub gics: Vec<GicNode>,
    /// A GICv2 or older is there.
    pub old_gic: bool,
    /// Architected timer nodes.
    pub timers: Vec<TimerNode>,
    /// PSCI nodes.
    pub psci: Vec<PsciNode>,
    /// PL011 UARTs, in the tree's order.
    pub uarts: Vec<UartNode>,
    /// Path of `/chosen/stdout-path`, aliases resolved and options cut off.
    pub console_path: Option<String>,
    /// `/chosen/bootargs`.
    pub arguments: Option<String>,
    /// `/chosen/linux,initrd-start` and `-end`.
    pub initrd: Option<PhysRange>,
    /// Boot modules.
    pub modules: Vec<ModuleNode>,
    /// Cells of an address and of a size in children of the root.
    pub root_cells: (u32, u32),
    /// What there is too much of to be noted.
    pub excess: Option<&'static str>,
}

impl Survey {
    /// Walks `tree`.
    pub fn of(tree: &DeviceTree<'_>) -> Self {
        let mut survey = Self { reserved: tree.reservations().into(), ..Self::default() };
        walk::for_each_node(tree, |node| {
            survey.note_special(node);
            survey.note_cpu(node);
            if node.properties.is_enabled() {
                survey.note_by_place(node);
                survey.note_device(node);
            }
        });
        if let Some(value) = survey.console_path.take() {
            survey.console_path = Some(resolve_console(tree, &value));
        }
        survey
    }

    /// The console: the PL011 that `stdout-path` names, else the first one there is.
    pub fn console(&self) -> Option<&UartNode> {
        let named = self.console_path.as_deref();
        self.uarts.iter().find(|uart| Some(uart.path.as_str()) == named).or(self.uarts.first())
    }

    /// Notes what is said of the machine as a whole.
    fn note_special(&mut self, node: &Node<'_, '_>) {
        match node.path {
            "" => {
                let inside = bus::Bus::inside(node.path, &node.properties);
                self.root_cells = (inside.address_cells, inside.size_cells);
            }
            "/chosen" => {
                let properties = &node.properties;
                self.arguments = self.arguments_of(properties.bootargs);
                self.console_path = properties.stdout_path.map(|path| word(Some(path)).into());
                let ends = number(properties.initrd_start).zip(number(properties.initrd_end));
                self.initrd =
                    ends.map(|(start, end)| PhysRange { start: PhysAddr::new(start), end: PhysAddr::new(end) });
            }
            _ => {}
        }
    }

    /// The boot arguments in a property.
    fn arguments_of(&mut self, property: Option<&[u8]>) -> Option<String> {
        let arguments = text(Some(property?));
        if arguments.len() > MAX_ARGUMENTS_SIZE {
            self.excess = Some("boot arguments");
            return None;
        }
        Some(arguments.into())
    }

    /// Notes a CPU, also one that is not to be used.
    fn note_cpu(&mut self, node: &Node<'_, '_>) {
        let properties = &node.properties;
        let is_cpu = text(properties.device_type) == "cpu" || node.name().starts_with("cpu@");
        if node.parent() == Some("/cpus") && is_cpu {
            let enable_method = word(properties.enable_method).into();
            self.cpus.push(CpuNode {
                affinity: number(properties.reg),
                enable_method,
                enabled: properties.is_enabled(),
            });
        }
    }

    /// Notes nodes that have their meaning from where they are.
    fn note_by_place(&mut self, node: &Node<'_, '_>) {
        let properties = &node.properties;
        let ranges = || bus::ranges(node.buses, properties.reg);
        match node.parent() {
            Some("") if text(properties.device_type) == "memory" => {
                self.memory.extend(ranges().take(MAX_RANGES + 1));
                self.excess = self.excess.or((self.memory.len() > MAX_RANGES).then_some("ranges of memory"));
                self.memory.truncate(MAX_RANGES);
            }
            Some("/reserved-memory") => {
                self.reserved.extend(ranges().take(MAX_RANGES + 1));
                self.excess = self.excess.or((self.reserved.len() > MAX_RANGES).then_some("reserved ranges of memory"));
                self.reserved.truncate(MAX_RANGES);
            }
            Some("/chosen") if properties.is_compatible(&["multiboot,module"]) => {
                let kind = if properties.is_compatible(&["multiboot,kernel"]) {
                    ModuleKind::Kernel
                } else if properties.is_compatible(&["multiboot,ramdisk"]) {
                    ModuleKind::Ramdisk
                } else {
                    ModuleKind::Other
                };
                if self.modules.len() == MAX_NOTED {
                    self.excess = Some("boot modules");
                    return;
                }
                let arguments = self.arguments_of(properties.bootargs);
                self.modules.push(ModuleNode { path: node.path.into(), kind, range: ranges().next(), arguments });
            }
            _ => {}
        }
    }

    /// Notes devices, wherever they are.
    fn note_device(&mut self, node: &Node<'_, '_>) {
        let properties = &node.properties;
        if properties.compatible.is_none() {
            return;
        }
        let is = |names: &[&str]| properties.is_compatible(names);
        let path = || String::from(node.path);
        if is(&PL011) {
            if self.uarts.len() == MAX_NOTED {
                return;
            }
            let registers = bus::ranges(node.buses, properties.reg).next().filter(UartNode::can_be_registers);
            self.uarts.extend(registers.map(|registers| UartNode { path: path(), registers }));
        } else if is(&["arm,gic-v3"]) && self.gics.is_empty() {
            let entry_bytes = node.buses.last().and_then(bus::Bus::entry_bytes).unwrap_or(0);
            let reg = properties.reg.unwrap_or(&[]);
            self.gics.push(GicNode {
                path: path(),
                regions: bus::ranges(node.buses, properties.reg).take(MAX_GIC_REGIONS).collect(),
                redistributor_regions: number(properties.redistributor_regions).unwrap_or(1),
                interrupt_cells: number(properties.interrupt_cells).unwrap_or(0),
                reg: reg.chunks(entry_bytes.max(1)).take(MAX_GIC_REGIONS).flatten().copied().collect(),
                entry_bytes,
            });
        } else if is(&OLD_GIC) {
            self.old_gic = true;
        } else if is(&["arm,armv8-timer"]) && self.timers.is_empty() {
            let interrupts = properties.interrupts_extended.or(properties.interrupts).unwrap_or(&[]);
            self.timers.push(TimerNode {
                path: path(),
                interrupts: interrupts.iter().take(MAX_WORD_SIZE).copied().collect(),
                extended: properties.interrupts_extended.is_some(),
                names: properties.interrupt_names.map(timer_names),
            });
        } else if is(&["arm,psci-1.0", "arm,psci-0.2", "arm,psci"]) && self.psci.is_empty() {
            self.psci.push(PsciNode {
                path: path(),
                standard: is(&["arm,psci-1.0", "arm,psci-0.2"]),
                method: word(properties.method).into(),
            });
        }
    }
}

impl UartNode {
    /// True where the loader may try to write to registers there: of the size that a PL011 has at least, aligned for its
    /// accesses, and at an address.
    fn can_be_registers(registers: &PhysRange) -> bool {
        registers.start.is_aligned(PL011_ALIGNMENT)
            && registers.size() >= PL011_SIZE
            && registers.end.raw() <= 1 << MAX_ADDRESS_BITS
    }
}

/// The string in a property, if it is no longer than a word may be; otherwise one that means nothing.
fn word(property: Option<&[u8]>) -> &str {
    let text = text(property);
    if text.len() > MAX_WORD_SIZE { "(too long)" } else { text }
}

/// The names of a timer's first interrupts.
fn timer_names(property: &[u8]) -> Vec<String> {
    strings(Some(property)).take(MAX_TIMER_INTERRUPTS).map(|name| name.chars().take(PPI_NAME_SIZE).collect()).collect()
}

/// The path of the node that `stdout-path` names: what follows a colon are options, and what does not start with a slash
/// is a property of `/aliases`.
fn resolve_console(tree: &DeviceTree<'_>, value: &str) -> String {
    let name = value.split(':').next().unwrap_or("");
    if name.starts_with('/') {
        return name.into();
    }
    text(walk::top_property(tree, "aliases", name)).into()
}
