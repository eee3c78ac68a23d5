//! The GICv3 (Arm IHI 0069), as far as payloads use it: one security state or the non-secure one, everything in Group 1.

use crate::memory::AddressSpace;
use crate::mmio::{read32, read64, write8, write32, write64};
use crate::platform::GicRegions;
use core::arch::asm;
use pgtable::TableError;

/// INTIDs below this one are real; the others are answers such as "none" (section 2.2.1).
pub const FIRST_SPECIAL: u32 = 1020;
/// The priority that interrupts have unless a test gives them another.
pub const PRIORITY: u8 = 0xa0;
/// INTIDs below this one belong to one CPU.
const FIRST_SHARED: u32 = 32;

/// GICD_CTLR.
const GICD_CTLR: u64 = 0x0000;
/// GICD_CTLR: ARE, or ARE_NS.
const CTLR_ARE: u32 = 1 << 4;
/// GICD_CTLR: both groups' enables.
const CTLR_ENABLE_GROUPS: u32 = 0b11;
/// `GICD_IROUTER<n>`, 8 bytes each.
const GICD_IROUTER: u64 = 0x6000;
/// GICR_TYPER.
const GICR_TYPER: u64 = 0x0008;
/// GICR_TYPER.Last.
const TYPER_LAST: u64 = 1 << 4;
/// GICR_WAKER.
const GICR_WAKER: u64 = 0x0014;
/// GICR_WAKER.ProcessorSleep.
const WAKER_PROCESSOR_SLEEP: u32 = 1 << 1;
/// GICR_WAKER.ChildrenAsleep.
const WAKER_CHILDREN_ASLEEP: u32 = 1 << 2;
/// Bytes of a redistributor.
const REDISTRIBUTOR_SIZE: u64 = 0x2_0000;
/// Bytes from a redistributor's first frame to SGI_base.
const SGI_BASE: u64 = 0x1_0000;

/// Registers with a bit for each interrupt, as offsets in the distributor and in SGI_base.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum Bits {
    /// `GICD_IGROUPR<n>`, GICR_IGROUPR0.
    Group = 0x080,
    /// `GICD_ISENABLER<n>`, GICR_ISENABLER0.
    SetEnable = 0x100,
    /// `GICD_ICENABLER<n>`, GICR_ICENABLER0.
    ClearEnable = 0x180,
    /// `GICD_ISPENDR<n>`, GICR_ISPENDR0.
    SetPending = 0x200,
    /// `GICD_ICPENDR<n>`, GICR_ICPENDR0.
    ClearPending = 0x280,
    /// `GICD_ISACTIVER<n>`, GICR_ISACTIVER0.
    SetActive = 0x300,
}

/// `GICD_IPRIORITYR<n>`, `GICR_IPRIORITYR<n>`: a byte for each interrupt.
const IPRIORITYR: u64 = 0x400;

/// The controller.
#[derive(Clone, Debug)]
pub struct Gic {
    distributor: u64,
    redistributors: u64,
}

/// Reads or writes a register of the CPU interface (section 12.2).
macro_rules! interface {
    ($($(#[$meta:meta])* $read:ident, $write:ident = $name:literal;)*) => {
        $(
            $(#[$meta])*
            pub fn $read() -> u64 {
                let value;
                // SAFETY: The register exists where ICC_SRE_EL1.SRE is 1, and reading it touches no memory.
                unsafe { asm!(concat!("mrs {0}, ", $name), out(reg) value, options(nostack)) };
                value
            }

            $(#[$meta])*
            pub fn $write(value: u64) {
                // SAFETY: As for reading; it governs which interrupts are taken, for which the vectors are ready.
                unsafe { asm!(concat!("msr ", $name, ", {0}"), "isb", in(reg) value, options(nostack)) };
            }
        )*
    };
}

interface! {
    /// ICC_PMR_EL1: the priority mask.
    priority_mask, set_priority_mask = "S3_0_C4_C6_0";
    /// ICC_CTLR_EL1: control.
    control, set_control = "S3_0_C12_C12_4";
    /// ICC_SRE_EL1: system registers in use.
    system_registers, set_system_registers = "S3_0_C12_C12_5";
    /// ICC_IGRPEN1_EL1: Group 1 enable.
    group_one, set_group_one = "S3_0_C12_C12_7";
    /// ICC_BPR1_EL1: the binary point.
    binary_point, set_binary_point = "S3_0_C12_C12_3";
}

/// ICC_CTLR_EL1.EOImode: the end of an interrupt only drops its priority.
pub const CONTROL_EOI_MODE: u64 = 1 << 1;
/// ICC_SRE_EL1.SRE.
const SRE: u64 = 1;

/// ICC_IAR1_EL1: takes the most urgent interrupt; its INTID.
pub fn acknowledge() -> u32 {
    let value: u64;
    // SAFETY: Taking an interrupt touches no memory.
    unsafe { asm!("mrs {0}, S3_0_C12_C12_0", "dsb sy", out(reg) value, options(nostack)) };
    value as u32 & 0xff_ffff
}

/// ICC_HPPIR1_EL1: the INTID of the most urgent pending interrupt.
pub fn highest_pending() -> u32 {
    let value: u64;
    // SAFETY: Reading has no effect.
    unsafe { asm!("mrs {0}, S3_0_C12_C12_2", out(reg) value, options(nostack)) };
    value as u32 & 0xff_ffff
}

/// ICC_EOIR1_EL1: ends an interrupt.
pub fn end(intid: u32) {
    // SAFETY: Ending an interrupt touches no memory.
    unsafe { asm!("msr S3_0_C12_C12_1, {0}", "isb", in(reg) u64::from(intid), options(nostack)) };
}

/// ICC_DIR_EL1: deactivates an interrupt.
pub fn deactivate(intid: u32) {
    // SAFETY: As for `end`.
    unsafe { asm!("msr S3_0_C12_C11_1, {0}", "isb", in(reg) u64::from(intid), options(nostack)) };
}

/// ICC_SGI1R_EL1: sends SGI `intid` to the CPU of Aff0 `cpu`, the other affinities being 0.
pub fn send(intid: u32, cpu: usize) {
    send_raw(u64::from(intid) << 24 | 1 << cpu);
}

/// ICC_SGI1R_EL1.IRM: sends SGI `intid` to all CPUs but the caller.
pub fn send_to_others(intid: u32) {
    send_raw(u64::from(intid) << 24 | 1 << 40);
}

/// Writes ICC_SGI1R_EL1.
pub fn send_raw(value: u64) {
    // SAFETY: An interrupt to a CPU of the payload's, whose vectors are ready; what was stored before is seen by then.
    unsafe { asm!("dsb ishst", "msr S3_0_C12_C11_5, {0}", "isb", in(reg) value, options(nostack)) };
}

/// Lets the calling CPU take interrupts.
pub fn unmask() {
    // SAFETY: The vectors serve them.
    unsafe { asm!("msr daifclr, #2", "isb", options(nostack)) };
}

/// Has the calling CPU take none.
pub fn mask() {
    // SAFETY: Masking changes nothing else.
    unsafe { asm!("msr daifset, #2", "isb", options(nostack)) };
}

/// WFI.
pub fn wait() {
    // SAFETY: Waiting changes nothing; an interrupt that is taken meanwhile may touch memory.
    unsafe { asm!("dsb sy", "wfi", options(nostack)) };
}

impl Gic {
    /// The controller, whose registers are mapped by this.
    ///
    /// # Errors
    /// As [`AddressSpace::map_devices`].
    pub fn open(regions: &GicRegions, space: &mut AddressSpace) -> Result<Self, TableError> {
        space.map_devices(regions.distributor.clone())?;
        let most = crate::secondary::MAX_CPUS as u64 * REDISTRIBUTOR_SIZE;
        let redistributors = &regions.redistributors;
        space.map_devices(redistributors.start..redistributors.end.min(redistributors.start + most))?;
        Ok(Self { distributor: regions.distributor.start, redistributors: redistributors.start })
    }

    /// Turns the distributor on.
    pub fn enable_distributor(&self) {
        // SAFETY: Registers of the distributor, mapped by `open`.
        unsafe {
            write32(self.distributor + GICD_CTLR, CTLR_ARE);
            write32(self.distributor + GICD_CTLR, CTLR_ARE | CTLR_ENABLE_GROUPS);
        }
    }

    /// Readies the calling CPU, of Aff0 `cpu`: its private interrupts are in Group 1, of [`PRIORITY`], and off but for
    /// SGIs; its interface lets all of them through.
    pub fn enable_cpu(&self, cpu: usize) {
        let waker = self.redistributor(cpu) + GICR_WAKER;
        // SAFETY: A register of the CPU's own redistributor, mapped by `open`.
        unsafe {
            write32(waker, read32(waker) & !WAKER_PROCESSOR_SLEEP);
            while read32(waker) & WAKER_CHILDREN_ASLEEP != 0 {}
        }
        self.write(cpu, Bits::ClearEnable, 0, u32::MAX);
        self.write(cpu, Bits::ClearPending, 0, u32::MAX);
        self.write(cpu, Bits::Group, 0, u32::MAX);
        for intid in 0..FIRST_SHARED {
            self.set_priority(cpu, intid, PRIORITY);
        }
        self.write(cpu, Bits::SetEnable, 0, 0xffff);
        set_system_registers(system_registers() | SRE);
        set_control(control() & !CONTROL_EOI_MODE);
        set_binary_point(0);
        set_priority_mask(0xff);
        set_group_one(1);
    }

    /// The redistributor of the CPU of Aff0 `cpu`: the one whose GICR_TYPER names it, or else the last.
    fn redistributor(&self, cpu: usize) -> u64 {
        let mut base = self.redistributors;
        loop {
            // SAFETY: A register of a redistributor, mapped by `open`; there is one more after each but the last.
            let typer = unsafe { read64(base + GICR_TYPER) };
            if typer >> 32 == cpu as u64 || typer & TYPER_LAST != 0 {
                return base;
            }
            base += REDISTRIBUTOR_SIZE;
        }
    }

    /// Where the registers of `intid` begin, which are `cpu`'s where it is private.
    fn frame(&self, cpu: usize, intid: u32) -> u64 {
        if intid < FIRST_SHARED { self.redistributor(cpu) + SGI_BASE } else { self.distributor }
    }

    /// The word of `bits` that has `intid`.
    pub fn read(&self, cpu: usize, bits: Bits, intid: u32) -> u32 {
        // SAFETY: A register of the controller, mapped by `open`.
        unsafe { read32(self.frame(cpu, intid) + bits as u64 + u64::from(intid / 32 * 4)) }
    }

    /// Writes the word of `bits` that has `intid`.
    pub fn write(&self, cpu: usize, bits: Bits, intid: u32, value: u32) {
        // SAFETY: As for `read`; interrupts that come of it go to the vectors.
        unsafe { write32(self.frame(cpu, intid) + bits as u64 + u64::from(intid / 32 * 4), value) };
    }

    /// True where the bit of `intid` is set.
    pub fn is_set(&self, cpu: usize, bits: Bits, intid: u32) -> bool {
        self.read(cpu, bits, intid) >> (intid % 32) & 1 != 0
    }

    /// Writes the bit of `intid` alone.
    pub fn set(&self, cpu: usize, bits: Bits, intid: u32) {
        self.write(cpu, bits, intid, 1 << (intid % 32));
    }

    /// Gives `intid` a priority.
    pub fn set_priority(&self, cpu: usize, intid: u32, priority: u8) {
        // SAFETY: As for `write`.
        unsafe { write8(self.frame(cpu, intid) + IPRIORITYR + u64::from(intid), priority) };
    }

    /// Has the shared interrupt `intid` go to the CPU of Aff0 `cpu`.
    pub fn route(&self, intid: u32, cpu: usize) {
        // SAFETY: As for `write`.
        unsafe { write64(self.distributor + GICD_IROUTER + 8 * u64::from(intid), cpu as u64) };
    }

    /// Puts the shared interrupt `intid` into Group 1 with [`PRIORITY`], for the CPU of Aff0 `cpu`, and turns it on.
    pub fn enable_shared(&self, intid: u32, cpu: usize) {
        let group = self.read(cpu, Bits::Group, intid);
        self.write(cpu, Bits::Group, intid, group | 1 << (intid % 32));
        self.set_priority(cpu, intid, PRIORITY);
        self.route(intid, cpu);
        self.set(cpu, Bits::SetEnable, intid);
    }
}
