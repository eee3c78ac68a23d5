//! A guest's interrupt controller: the distributor and redistributors of a GICv3 with one security state and affinity
//! routing (Arm IHI 0069), and what goes into the list registers of each vCPU. There are no LPIs, no ITS and no
//! message-based SPIs.
//!
//! The CPU interface is the hardware's. [`Gic::fill`] loads a vCPU's list registers before it is entered, and
//! [`Gic::fold`] takes them back after every exit, before anything else is done about that exit; in between, an
//! interrupt that is loaded belongs to the vCPU. Whatever changes meanwhile is kept, and [`Gic::take_kicks`] names the
//! vCPUs that have to come back for it.
//!
//! A level-sensitive interrupt whose line is high is loaded with a request for a maintenance interrupt at its end, so
//! that it comes again if the line still is. Most handlers lower the line by an MMIO access, which is an exit: the
//! interrupt is loaded again without the request, and its end costs nothing.

mod arrays;
mod bank;
mod device;
mod distributor;
mod entry;
#[cfg(test)]
mod entry_test;
mod list_register;
#[cfg(test)]
mod model_test;
#[cfg(test)]
mod random_test;
mod redistributor;
#[cfg(test)]
mod register_test;
#[cfg(test)]
mod simulated_cpu;

pub use device::{DistributorDevice, GicAccess, RedistributorDevice};

use crate::layout;
use abi::run::MAX_LIST_REGISTERS;
use alloc::vec;
use alloc::vec::Vec;
use bank::{Bank, GroupEnables, INTERRUPTS};
use entry::Loaded;

/// vCPUs that one GIC has at most.
pub const MAX_VCPUS: usize = 16;
/// SPIs that one GIC has at most: INTIDs 32 to 1019.
pub const MAX_SPIS: usize = 988;

/// First INTID of a PPI; SGIs are below.
const FIRST_PPI: u32 = 16;
/// First INTID of an SPI.
const FIRST_SPI: u32 = 32;
// An SGI's target list reaches one cluster, which is the only one.
const _: () = assert!(MAX_VCPUS <= layout::VCPUS_PER_CLUSTER as usize);
/// GICD_IIDR and GICR_IIDR: product `F`, implementer Arm, whose quirks no driver looks for under that product.
const IIDR: u64 = 0x4600_043b;

/// What a guest's GIC is to be like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GicConfig {
    /// vCPUs: 1 to [`MAX_VCPUS`]. vCPU n has affinity n % 16 at level 0 and n / 16 at level 1.
    pub vcpus: usize,
    /// SPIs: at most [`MAX_SPIS`], rounded up to a multiple of 32 (but INTID 1019 stays the last).
    pub spis: usize,
    /// List registers of each CPU: 1 to [`MAX_LIST_REGISTERS`]. The end of the virtual timer's interrupt is not
    /// reported: where active interrupts take them all, one that waits for that end is loaded at the next exit,
    /// whatever brings it.
    pub list_registers: usize,
    /// Bits of a priority that are implemented: 4 to 8.
    pub priority_bits: u32,
    /// The virtual timer's interrupt.
    pub virtual_timer: LinkedInterrupt,
}

/// A PPI of the guest that has a physical interrupt behind it, which ends when the guest ends it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkedInterrupt {
    /// INTID that the guest sees: 16 to 31.
    pub intid: u32,
    /// INTID of the physical interrupt: 16 to 1019.
    pub physical: u32,
}

/// Which part of a [`GicConfig`] cannot be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GicError {
    /// No vCPU, or more than [`MAX_VCPUS`].
    Vcpus,
    /// More than [`MAX_SPIS`].
    Spis,
    /// No list register, or more than [`MAX_LIST_REGISTERS`].
    ListRegisters,
    /// Fewer than 4 bits of priority, or more than 8.
    PriorityBits,
    /// The virtual timer's interrupt is no PPI, or its physical one neither PPI nor SPI.
    VirtualTimer,
}

/// What is kept for one vCPU besides its bank of private interrupts. Bit 0 of the words is that bank, bit n the nth bank of
/// SPIs.
#[derive(Debug)]
struct Vcpu {
    /// Banks with interrupts that wait for a list register.
    waiting: u32,
    /// Banks with interrupts that are active on this vCPU and not loaded.
    held: u32,
    /// What is in the list registers.
    loaded: Loaded,
    /// GICR_WAKER.ProcessorSleep.
    asleep: bool,
}

/// A guest's interrupt controller. One lock of the caller's guards the whole of it.
///
/// vCPUs and INTIDs that do not exist are ignored, and so are accesses that mean nothing: they read as zero.
#[derive(Debug)]
pub struct Gic {
    /// The private bank of each vCPU, then the banks of SPIs.
    banks: Vec<Bank>,
    vcpus: Vec<Vcpu>,
    /// GICD_IROUTER of each SPI, without Aff3, which no vCPU has.
    routes: Vec<u32>,
    groups: GroupEnables,
    list_registers: usize,
    virtual_timer: u32,
    kicks: u32,
}

impl Gic {
    /// A GIC after reset: all interrupts disabled, in Group 1 as firmware would leave them; SPIs level-sensitive and routed
    /// to vCPU 0.
    ///
    /// # Errors
    /// See [`GicError`].
    pub fn new(config: &GicConfig) -> Result<Self, GicError> {
        let LinkedInterrupt { intid, physical } = config.virtual_timer;
        let wrong = [
            (!(1..=MAX_VCPUS).contains(&config.vcpus), GicError::Vcpus),
            (config.spis > MAX_SPIS, GicError::Spis),
            (!(1..=MAX_LIST_REGISTERS).contains(&config.list_registers), GicError::ListRegisters),
            (!(4..=8).contains(&config.priority_bits), GicError::PriorityBits),
            (
                !(FIRST_PPI..FIRST_SPI).contains(&intid) || !(FIRST_PPI..1020).contains(&physical),
                GicError::VirtualTimer,
            ),
        ];
        if let Some((_, error)) = wrong.into_iter().find(|(wrong, _)| *wrong) {
            return Err(error);
        }
        let priority_mask = u8::MAX << (8 - config.priority_bits);
        let spis = config.spis.next_multiple_of(INTERRUPTS).min(MAX_SPIS);
        let private = (0..config.vcpus).map(|vcpu| Bank::private(vcpu, priority_mask, intid, physical));
        let shared =
            (0..spis).step_by(INTERRUPTS).zip((FIRST_SPI..).step_by(INTERRUPTS)).map(|(first, first_intid)| {
                let implemented = if spis - first < INTERRUPTS { (1 << (spis - first)) - 1 } else { u32::MAX };
                Bank::shared(first_intid, implemented, priority_mask, config.vcpus)
            });
        let vcpu = |_| Vcpu { waiting: 0, held: 0, loaded: Loaded::default(), asleep: true };
        Ok(Self {
            banks: private.chain(shared).collect(),
            vcpus: (0..config.vcpus).map(vcpu).collect(),
            routes: vec![0; spis],
            groups: GroupEnables::default(),
            list_registers: config.list_registers,
            virtual_timer: intid,
            kicks: 0,
        })
    }

    /// The line of the PPI `intid` of `vcpu` goes to `level`: a timer's, after each exit once the list registers are folded.
    pub fn set_private_line(&mut self, vcpu: usize, intid: u32, level: bool) {
        if vcpu < self.vcpus.len() && (FIRST_PPI..FIRST_SPI).contains(&intid) {
            self.change(vcpu, |bank| bank.set_line(intid, level));
        }
    }

    /// The line of the SPI `intid` goes to `level`.
    pub fn set_shared_line(&mut self, intid: u32, level: bool) {
        if let Some((bank, index)) = self.shared(intid) {
            self.change(bank, |bank| bank.set_line(index, level));
        }
    }

    /// vCPU `from` wrote `icc_sgi1r_el1` to ICC_SGI1R_EL1 (Arm IHI 0069, section 12.2.19).
    pub fn send_sgi(&mut self, from: usize, icc_sgi1r_el1: u64) {
        let field = |shift: u32, bits: u32| icc_sgi1r_el1 >> shift & ((1 << bits) - 1);
        let intid = field(24, 4);
        let all_but_self = field(40, 1) != 0;
        // Aff3, Aff2 and Aff1 of the targets, and which sixteen values of Aff0 the list is for.
        let first_cluster = field(48, 8) | field(32, 8) | field(16, 8) | field(44, 4) == 0;
        let targets = match (all_but_self, first_cluster) {
            (true, _) => !1_u64.checked_shl(from as u32).unwrap_or(0),
            (false, true) => field(0, 16),
            (false, false) => 0,
        };
        for target in 0..self.vcpus.len() {
            if targets >> target & 1 != 0 {
                self.change(target, |bank| bank.latch(1 << intid));
            }
        }
    }

    /// True where [`fill`](Gic::fill) would load a pending interrupt for `vcpu`, which is not running: what ends a WFI. The
    /// guest's priority mask is the hardware's and is not looked at.
    pub fn has_pending(&self, vcpu: usize) -> bool {
        self.vcpus.get(vcpu).is_some_and(|state| state.waiting != 0)
    }

    /// A bit for each vCPU for which something changed since the last call that it sees only when it is entered anew, or
    /// that ends its wait. Filling its list registers sees to it as well, and clears the bit.
    pub fn take_kicks(&mut self) -> u32 {
        core::mem::take(&mut self.kicks)
    }

    /// True where, after [`fill`](Gic::fill), the virtual timer's interrupt of `vcpu` is in a list register or its line is
    /// high. The physical interrupt must then be kept active on the CPU that runs the vCPU: the guest's end of the virtual
    /// one deactivates it, and until then it must not be taken again.
    pub fn virtual_timer_in_use(&self, vcpu: usize) -> bool {
        vcpu < self.vcpus.len() && self.banks.get(vcpu).is_some_and(|bank| bank.in_use(self.virtual_timer))
    }

    /// Changes bank `index` by `change`, which returns what it changed, and draws the consequences.
    fn change(&mut self, index: usize, change: impl FnOnce(&mut Bank) -> u32) {
        let touched = self.banks.get_mut(index).map_or(0, change);
        if touched != 0 {
            self.settle(index, touched);
        }
    }

    /// Brings the vCPUs' summaries of bank `index` up to date, after its interrupts `touched` changed.
    fn settle(&mut self, index: usize, touched: u32) {
        let Some(bank) = self.banks.get(index) else { return };
        let summary = bank.summary();
        let ready = bank.ready(self.groups);
        for (index, lane) in bank.lanes().iter().enumerate() {
            let vcpu = bank.first_vcpu() + index;
            let Some(state) = self.vcpus.get_mut(vcpu) else { return };
            let waiting = ready & lane.routed;
            // One that is active and in no list register could not be ended.
            let held = lane.held & !lane.loaded;
            if touched & (waiting | lane.loaded | held) != 0 {
                self.kicks |= 1 << vcpu;
            }
            state.waiting = if waiting != 0 { state.waiting | summary } else { state.waiting & !summary };
            state.held = if held != 0 { state.held | summary } else { state.held & !summary };
        }
    }

    /// Which bank bit `summary` of the summaries of `vcpu` stands for.
    fn bank_index(&self, vcpu: usize, summary: usize) -> usize {
        bank_index(self.vcpus.len(), vcpu, summary)
    }

    /// Where the SPI `intid` is: its bank and its bit there.
    fn shared(&self, intid: u32) -> Option<(usize, u32)> {
        let spi = usize::try_from(intid.checked_sub(FIRST_SPI)?).ok().filter(|spi| *spi < self.routes.len())?;
        Some((self.vcpus.len() + spi / INTERRUPTS, intid % 32))
    }
}

/// The same, where there are so many `private_banks`.
const fn bank_index(private_banks: usize, vcpu: usize, summary: usize) -> usize {
    if summary == 0 { vcpu } else { private_banks + summary - 1 }
}

/// The affinity of vCPU `index`, one byte a level, as GICR_TYPER and GICD_IROUTER have it below bit 32.
fn affinity(index: usize) -> u64 {
    layout::affinity(index as u32).into()
}
