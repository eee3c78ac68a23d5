//! Where everything goes: hyp at the top of RAM, the host kernel where it may run, the host's device tree beside them.

use crate::free_memory::FreeMemory;
use crate::hyp_image::HypImage;
use crate::kernel::{BASE_ALIGNMENT, KernelImage};
use crate::machine::Machine;
use crate::memory::Bytes;
use crate::modules::Modules;
use crate::options::LogLevel;
use abi::boot::{self, BootInfo};
use abi::carve_out::CarveOut;
use abi::{PAGE_SIZE, PhysAddr, PhysRange};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// Alignment of a device tree in bytes (Linux, `Documentation/arch/arm64/booting.rst`).
const DEVICE_TREE_ALIGNMENT: u64 = 8;

/// What does not fit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PlanError {
    /// Two things that the boot stage before us placed lie over each other.
    Overlap((&'static str, PhysRange), (&'static str, PhysRange)),
    /// No free memory of this many bytes is left for the named thing.
    NoRoom(&'static str, u64),
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Overlap((first, at), (second, where_second)) => write!(
                f,
                "the {first} ({at}) and the {second} ({where_second}) lie over each other; choose another address \
                 (QEMU: addr=…)"
            ),
            Self::NoRoom(what, size) => {
                write!(
                    f,
                    "no {} of free memory are left for the {what}; give the machine more (QEMU: -m …)",
                    Bytes(*size)
                )
            }
        }
    }
}

/// What the boot stage before us left in memory, besides the modules.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Occupied {
    /// The running loader, its stack and heap included. Free once hyp is entered.
    pub loader: PhysRange,
    /// The device tree as it was handed over.
    pub device_tree: PhysRange,
}

/// Where everything goes.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    machine: &'a Machine,
    free: FreeMemory<'a>,
    old_device_tree: PhysRange,
    /// What hyp takes.
    pub carve_out: CarveOut,
    /// The host kernel's file, where it is now.
    pub kernel_file: PhysRange,
    /// What the host kernel takes when it runs; the file is to be copied to its start, unless it is there already.
    pub kernel: PhysRange,
    /// The host's RAM disk; it stays where it is.
    pub ramdisk: Option<PhysRange>,
}

impl<'a> Plan<'a> {
    /// Places hyp's image of `hyp_size` bytes and the host `kernel`. Nothing that is still needed is written over when
    /// the host kernel is moved and hyp is loaded, in any order.
    ///
    /// # Errors
    /// [`PlanError`]: the boot stage before us misplaced something, or the machine has too little memory.
    pub fn new(
        machine: &'a Machine,
        modules: &Modules,
        kernel: KernelImage,
        occupied: Occupied,
        hyp_size: u64,
    ) -> Result<Self, PlanError> {
        check_overlaps(modules, occupied)?;
        let mut free = FreeMemory::new(&machine.memory);
        for range in machine.reserved.iter().chain(&modules.ramdisk) {
            free.take(*range);
        }
        free.take(occupied.loader);
        free.take(occupied.device_tree);

        let aligned = modules.kernel.start.raw() % BASE_ALIGNMENT == kernel.text_offset;
        let in_place = PhysRange::from_size(modules.kernel.start, kernel.image_size)
            .filter(|range| aligned && free.is_free(range));
        free.take(in_place.unwrap_or(modules.kernel));

        let cpu_count = machine.cpus.len() as u64;
        let size = CarveOut::size(hyp_size, cpu_count, machine.ram_size()).unwrap_or(u64::MAX);
        let carve_out = free
            .highest(size)
            .and_then(|range| CarveOut::plan(range.start, hyp_size, cpu_count, machine.ram_size()))
            .ok_or(PlanError::NoRoom("hypervisor", size))?;
        free.take(carve_out.range());

        let kernel_size = kernel.image_size;
        let kernel = in_place
            .or_else(|| free.lowest(kernel_size, BASE_ALIGNMENT, kernel.text_offset))
            .ok_or(PlanError::NoRoom("host kernel", kernel_size))?;
        free.take(kernel);
        Ok(Self {
            machine,
            free,
            old_device_tree: occupied.device_tree,
            carve_out,
            kernel_file: modules.kernel,
            kernel,
            ramdisk: modules.ramdisk,
        })
    }

    /// True where the host kernel's file must be copied to the start of [`kernel`](Self::kernel).
    pub fn kernel_moves(&self) -> bool {
        self.kernel_file.start != self.kernel.start
    }

    /// Where the host's device tree of `size` bytes goes: over the old one where it fits, else to free memory.
    ///
    /// # Errors
    /// [`PlanError::NoRoom`].
    pub fn device_tree_place(&self, size: u64) -> Result<PhysRange, PlanError> {
        let over_the_old = PhysRange::from_size(self.old_device_tree.start, size).filter(|place| {
            place.start.is_aligned(DEVICE_TREE_ALIGNMENT)
                && self.old_device_tree.contains_range(place)
                && self.machine.memory.iter().any(|bank| bank.contains_range(place))
                && !self.machine.reserved.iter().any(|reserved| reserved.overlaps(place))
        });
        let elsewhere = || self.free.lowest(size, PAGE_SIZE, 0);
        over_the_old.or_else(elsewhere).ok_or(PlanError::NoRoom("host's device tree", size))
    }

    /// What hyp is told. The counter, PSCI's version and the log level are the caller's to fill in; so is the seed, where it
    /// lies in the end, so that no copy of it stays behind.
    pub fn boot_info(&self, hyp: &HypImage<'_>, host_device_tree: PhysAddr) -> BootInfo {
        let mut info = BootInfo {
            magic: boot::MAGIC,
            version: boot::VERSION,
            log_level: LogLevel::default() as u32,
            self_test: 0,
            ghost_one_in: 0,
            virtual_timer: self.machine.timer.virtual_timer,
            reserved: 0,
            seed: [0; boot::SEED_SIZE],
            seed_size: 0,
            carve_out: self.carve_out.range(),
            image: self.carve_out.image,
            segments: Default::default(),
            segment_count: 0,
            memory: Default::default(),
            memory_count: 0,
            cpus: [0; boot::MAX_CPUS],
            cpu_count: 0,
            uart: self.machine.uart,
            gic: self.machine.gic.info,
            psci_conduit: self.machine.psci_conduit,
            psci_version: 0,
            host_entry: self.kernel.start,
            host_device_tree,
            counter_at_entry: 0,
        };
        info.segment_count = fill(&mut info.segments, hyp.segments(self.carve_out.image.start));
        info.memory_count = fill(&mut info.memory, self.machine.memory.iter().copied());
        info.cpu_count = fill(&mut info.cpus, self.machine.cpus.iter().copied());
        info
    }

    /// What the loader reports, line by line.
    pub fn report(&self, device_tree: &PhysRange) -> Vec<String> {
        let machine = self.machine;
        let mut lines = Vec::new();
        for bank in &machine.memory {
            lines.push(format!("RAM {bank} ({})", Bytes(bank.size())));
        }
        let plural = if machine.cpus.len() == 1 { "" } else { "s" };
        let console = match machine.uart.is_empty() {
            true => "no console".into(),
            false => format!("PL011 at {}", machine.uart.start),
        };
        let gic = machine.gic.info.distributor.start;
        lines.push(format!("{} CPU{plural}, GICv3 at {gic}, {console}", machine.cpus.len()));
        let from = match self.kernel_moves() {
            true => format!(" (moved from {})", self.kernel_file.start),
            false => String::new(),
        };
        lines.push(format!("host kernel {} ({}){from}", self.kernel, Bytes(self.kernel.size())));
        if let Some(ramdisk) = &self.ramdisk {
            lines.push(format!("host RAM disk {ramdisk} ({})", Bytes(ramdisk.size())));
        }
        lines.push(format!("host device tree {device_tree} ({})", Bytes(device_tree.size())));
        let (taken, image) = (self.carve_out.range(), self.carve_out.image);
        lines.push(format!("hyp takes {taken} ({}, its image {})", Bytes(taken.size()), Bytes(image.size())));
        lines
    }
}

/// Copies as many of `items` as there are slots, and says how many.
fn fill<T>(slots: &mut [T], items: impl Iterator<Item = T>) -> u64 {
    slots.iter_mut().zip(items).map(|(slot, item)| *slot = item).count() as u64
}

fn check_overlaps(modules: &Modules, occupied: Occupied) -> Result<(), PlanError> {
    let placed = [
        ("loader", occupied.loader),
        ("device tree", occupied.device_tree),
        ("host kernel", modules.kernel),
        ("RAM disk", modules.ramdisk.unwrap_or_default()),
    ];
    for (number, first) in placed.iter().enumerate() {
        if let Some(second) = placed.iter().skip(number + 1).find(|second| second.1.overlaps(&first.1)) {
            return Err(PlanError::Overlap(*first, *second));
        }
    }
    Ok(())
}
