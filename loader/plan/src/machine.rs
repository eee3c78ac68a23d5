//! What the machine has, judged: every number that hyp will rely on is checked here.

use crate::memory::{self, Bytes};
use crate::survey::{GicNode, PsciNode, Survey, TimerNode};
use crate::tree::CELL;
use abi::boot::{GicInfo, MAX_CPUS, MAX_MEMORY_BANKS, MAX_REDISTRIBUTOR_REGIONS, PsciConduit};
use abi::psci::MPIDR_AFFINITY_MASK;
use abi::{PAGE_SIZE, PhysAddr, PhysRange};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// Widest physical address that is handled, in bits: 4 KiB granule without FEAT_LPA2 (Arm ARM D8.2).
pub(crate) const MAX_ADDRESS_BITS: u32 = 48;
/// Bytes of a GICv3 distributor (Arm GIC architecture specification, section 12.8).
const DISTRIBUTOR_SIZE: u64 = 0x1_0000;
/// Bytes of one CPU's GICv3 redistributor.
const REDISTRIBUTOR_SIZE: u64 = 0x2_0000;
/// Which of a timer node's interrupts is the non-secure physical timer's, where they have no names.
const PHYSICAL_TIMER_INDEX: usize = 1;
/// What that interrupt's name is, where they have.
const PHYSICAL_TIMER_NAME: &str = "phys";
/// Which is the virtual timer's.
const VIRTUAL_TIMER_INDEX: usize = 2;
/// The virtual timer's interrupt, where they have names.
const VIRTUAL_TIMER_NAME: &str = "virt";
/// The first cell of a private peripheral's interrupt in a GICv3's device tree.
const PRIVATE_PERIPHERAL: u32 = 1;
/// INTIDs of private peripherals.
const PRIVATE_INTIDS: core::ops::Range<u32> = 16..32;

/// What is wrong with the machine, or with how the device tree describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MachineError {
    /// There is more of something than is handled.
    TooMuch(&'static str),
    /// There is no usable `memory` node.
    NoMemory,
    /// More than [`MAX_MEMORY_BANKS`] separate banks of RAM.
    TooManyBanks(usize),
    /// Registers of a device lie in RAM.
    DeviceInMemory(&'static str, PhysRange),
    /// There is no GIC.
    NoGic,
    /// There is a GICv2 or older, but no GICv3.
    OldGic,
    /// The GICv3's `reg` is malformed.
    BadGic(String),
    /// A `cpu` node's `reg` is malformed.
    BadCpu,
    /// Two `cpu` nodes have the same affinity.
    DuplicateCpu(u64),
    /// The CPU that runs this is not in the device tree.
    BootCpuMissing(u64),
    /// A CPU is started by other means than PSCI.
    EnableMethod(u64, String),
    /// PSCI cannot be called.
    BadPsci(String),
    /// There is no timer node, or it lacks the physical timer's interrupt.
    NoTimer,
}

impl fmt::Display for MachineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMuch(what) => write!(f, "the device tree has more {what} than are handled"),
            Self::NoMemory => write!(f, "the device tree lists no memory that can be used"),
            Self::TooManyBanks(count) => {
                write!(f, "the device tree lists {count} banks of memory; at most {MAX_MEMORY_BANKS} are handled")
            }
            Self::DeviceInMemory(device, range) => {
                write!(f, "the device tree puts registers of the {device} ({range}) into memory")
            }
            Self::NoGic => write!(f, "the device tree describes no GICv3 interrupt controller"),
            Self::OldGic => write!(
                f,
                "the interrupt controller is a GICv2; Freehold needs a GICv3 \
                 (QEMU: -M virt,virtualization=on,gic-version=3)"
            ),
            Self::BadGic(path) => write!(f, "the device tree's node {path} (GICv3) has no usable `reg`"),
            Self::BadCpu => write!(f, "the device tree has a cpu node without a usable `reg`"),
            Self::DuplicateCpu(affinity) => write!(f, "the device tree lists CPU {affinity:#x} twice"),
            Self::BootCpuMissing(affinity) => {
                write!(f, "the device tree does not list CPU {affinity:#x}, which runs this")
            }
            Self::EnableMethod(affinity, method) => write!(
                f,
                "CPU {affinity:#x} is started by `{method}`: the host could start it at EL2 and take the machine; \
                 Freehold needs `psci`"
            ),
            Self::BadPsci(method) => write!(
                f,
                "PSCI cannot be used: the firmware must offer version 0.2 or later by `smc`, but the device tree says \
                 `{method}`"
            ),
            Self::NoTimer => write!(f, "the device tree gives no interrupt of the non-secure physical timer"),
        }
    }
}

/// The architected timer as the host will have it: its physical timer only.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Timer {
    /// Path of the node.
    pub path: String,
    /// The non-secure physical timer's interrupt, as the node writes it.
    pub physical: Vec<u8>,
    /// The property that holds it.
    pub property: &'static str,
    /// INTID of the virtual timer's interrupt; 0 where the node does not say.
    pub virtual_timer: u32,
}

/// Where the interrupt controller's node is and what of it the host keeps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gic {
    /// Path of the node.
    pub path: String,
    /// The regions.
    pub info: GicInfo,
    /// The `reg` that describes them, without the GICv2 compatibility regions.
    pub kept_reg: Vec<u8>,
}

/// A machine that Freehold can take.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Machine {
    /// RAM: sorted, disjoint, 4 KiB aligned; at least one bank, at most [`MAX_MEMORY_BANKS`].
    pub memory: Vec<PhysRange>,
    /// What of it firmware keeps.
    pub reserved: Vec<PhysRange>,
    /// MPIDR affinities; the boot CPU's among them; at most [`MAX_CPUS`].
    pub cpus: Vec<u64>,
    /// The interrupt controller.
    pub gic: Gic,
    /// The timer.
    pub timer: Timer,
    /// How hyp reaches PSCI.
    pub psci_conduit: PsciConduit,
    /// The console's registers; empty where there is none.
    pub uart: PhysRange,
    /// Cells of an address and of a size in children of the device tree's root, 1 or 2 each.
    pub root_cells: (u32, u32),
    /// What is odd, but no reason to give up.
    pub warnings: Vec<String>,
}

/// What the loader reads off the CPU that runs it.
#[derive(Clone, Copy, Debug)]
pub struct BootCpu {
    /// MPIDR_EL1; only its affinity fields matter.
    pub mpidr: u64,
    /// Physical address width in bits, from ID_AA64MMFR0_EL1.PARange.
    pub address_bits: u32,
}

impl Machine {
    /// Judges what `survey` found, on the CPU `boot_cpu`.
    ///
    /// # Errors
    /// [`MachineError`]: the machine or its device tree is at fault, and the message says what to change.
    pub fn new(survey: &Survey, boot_cpu: BootCpu) -> Result<Self, MachineError> {
        if let Some(what) = survey.excess {
            return Err(MachineError::TooMuch(what));
        }
        let mut warnings = Vec::new();
        let memory = banks(survey, boot_cpu.address_bits, &mut warnings)?;
        let gic = match survey.gics.first() {
            Some(node) => gic(node)?,
            None if survey.old_gic => return Err(MachineError::OldGic),
            None => return Err(MachineError::NoGic),
        };
        let psci_conduit = psci(&survey.psci)?;
        let cpus = cpus(survey, boot_cpu.mpidr & MPIDR_AFFINITY_MASK, &mut warnings)?;
        if psci_conduit == PsciConduit::None && cpus.len() > 1 {
            warnings.push("the device tree has no PSCI node: only the boot CPU will run".into());
        }
        let interrupt_cells = survey.gics.first().map_or(0, |node| node.interrupt_cells);
        let timer = survey.timers.first().and_then(|node| timer(node, interrupt_cells)).ok_or(MachineError::NoTimer)?;
        let uart = survey.console().map_or(PhysRange::default(), |uart| uart.registers);
        let machine = Self {
            memory,
            reserved: memory::merge(survey.reserved.clone()),
            cpus,
            gic,
            timer,
            psci_conduit,
            uart,
            root_cells: survey.root_cells,
            warnings,
        };
        machine.check_devices()?;
        Ok(machine)
    }

    /// RAM in bytes.
    pub fn ram_size(&self) -> u64 {
        memory::total(&self.memory)
    }

    fn check_devices(&self) -> Result<(), MachineError> {
        let redistributors = self.gic.info.redistributors.iter();
        let devices = [("PL011", self.uart), ("GIC", self.gic.info.distributor)];
        for (name, range) in devices.into_iter().chain(redistributors.map(|range| ("GIC", *range))) {
            if self.memory.iter().any(|bank| bank.overlaps(&range)) {
                return Err(MachineError::DeviceInMemory(name, range));
            }
        }
        Ok(())
    }
}

fn banks(survey: &Survey, address_bits: u32, warnings: &mut Vec<String>) -> Result<Vec<PhysRange>, MachineError> {
    let limit = PhysAddr::new(1 << address_bits.min(MAX_ADDRESS_BITS));
    let memory = memory::banks(&survey.memory, limit);
    let beyond = memory::total(&memory::merge(survey.memory.clone())).saturating_sub(memory::total(&memory));
    if beyond >= PAGE_SIZE {
        warnings.push(format!("{} of memory lie beyond this CPU's physical addresses ({limit})", Bytes(beyond)));
    }
    match memory.len() {
        0 => Err(MachineError::NoMemory),
        1..=MAX_MEMORY_BANKS => Ok(memory),
        count => Err(MachineError::TooManyBanks(count)),
    }
}

fn gic(node: &GicNode) -> Result<Gic, MachineError> {
    let bad = || MachineError::BadGic(node.path.clone());
    let count = usize::try_from(node.redistributor_regions).map_err(|_| bad())?;
    let (distributor, rest) = node.regions.split_first().ok_or_else(bad)?;
    let regions = rest.get(..count).ok_or_else(bad)?;
    let sound = |range: &PhysRange, size| range.start.is_aligned(PAGE_SIZE) && range.size() >= size;
    if !sound(distributor, DISTRIBUTOR_SIZE)
        || regions.is_empty()
        || regions.len() > MAX_REDISTRIBUTOR_REGIONS
        || !regions.iter().all(|region| sound(region, REDISTRIBUTOR_SIZE))
    {
        return Err(bad());
    }
    let mut info = GicInfo { distributor: *distributor, redistributor_count: count as u64, ..GicInfo::default() };
    for (slot, region) in info.redistributors.iter_mut().zip(regions) {
        *slot = *region;
    }
    let kept_reg = node.reg.chunks(node.entry_bytes.max(1)).take(count + 1).flatten().copied().collect();
    Ok(Gic { path: node.path.clone(), info, kept_reg })
}

fn psci(nodes: &[PsciNode]) -> Result<PsciConduit, MachineError> {
    match nodes.first() {
        None => Ok(PsciConduit::None),
        Some(node) if node.standard && node.method == "smc" => Ok(PsciConduit::Smc),
        Some(node) if node.standard => Err(MachineError::BadPsci(node.method.clone())),
        Some(_) => Err(MachineError::BadPsci("arm,psci".into())),
    }
}

fn cpus(survey: &Survey, boot: u64, warnings: &mut Vec<String>) -> Result<Vec<u64>, MachineError> {
    let mut cpus = Vec::with_capacity(survey.cpus.len());
    for node in &survey.cpus {
        let by_psci = matches!(node.enable_method.as_str(), "psci" | "");
        // Whoever could start it otherwise could start it although it is not to be used.
        if !node.enabled && by_psci {
            continue;
        }
        let affinity = node.affinity.filter(|value| value & !MPIDR_AFFINITY_MASK == 0).ok_or(MachineError::BadCpu)?;
        if affinity != boot && !by_psci {
            return Err(MachineError::EnableMethod(affinity, node.enable_method.clone()));
        }
        if node.enabled {
            cpus.push(affinity);
        }
    }
    let mut sorted = cpus.clone();
    sorted.sort_unstable();
    if let Some(twice) = sorted.windows(2).find_map(|pair| (pair.first() == pair.last()).then(|| pair.first())) {
        return Err(MachineError::DuplicateCpu(twice.copied().unwrap_or(0)));
    }
    let at = cpus.iter().position(|&affinity| affinity == boot).ok_or(MachineError::BootCpuMissing(boot))?;
    if cpus.len() > MAX_CPUS {
        warnings.push(format!("{} CPUs, of which the first {MAX_CPUS} will run", cpus.len()));
        cpus.swap(0, at);
        cpus.truncate(MAX_CPUS);
    }
    Ok(cpus)
}

/// What is needed of the timer `node`, whose controller writes interrupts in `cells` cells.
fn timer(node: &TimerNode, cells: u64) -> Option<Timer> {
    let cells = usize::try_from(cells).ok().filter(|cells| *cells > 0)?;
    let bytes = cells.checked_add(usize::from(node.extended))?.checked_mul(CELL)?;
    let interrupt = |index: usize, name: &str| {
        let index = match &node.names {
            None => index,
            Some(names) => names.iter().position(|other| other == name)?,
        };
        node.interrupts.chunks_exact(bytes).nth(index)
    };
    let physical = interrupt(PHYSICAL_TIMER_INDEX, PHYSICAL_TIMER_NAME)?.into();
    let virtual_timer = interrupt(VIRTUAL_TIMER_INDEX, VIRTUAL_TIMER_NAME)
        .and_then(|bytes| private_intid(bytes.get(usize::from(node.extended).checked_mul(CELL)?..)?))
        .unwrap_or(0);
    let property = if node.extended { "interrupts-extended" } else { "interrupts" };
    Some(Timer { path: node.path.clone(), physical, property, virtual_timer })
}

/// The INTID of a private peripheral's interrupt from its cells in a GICv3's device tree.
fn private_intid(cells: &[u8]) -> Option<u32> {
    let mut cells = cells.chunks_exact(CELL).filter_map(|cell| cell.try_into().ok().map(u32::from_be_bytes));
    let (kind, number) = (cells.next()?, cells.next()?);
    let intid = number.checked_add(PRIVATE_INTIDS.start)?;
    (kind == PRIVATE_PERIPHERAL && PRIVATE_INTIDS.contains(&intid)).then_some(intid)
}
