//! The redistributors' registers (Arm IHI 0069, sections 12.10 and 12.11): for each vCPU RD_base, and SGI_base after it.

use super::arrays::Frame;
use super::distributor::{ID_FIRST, identification};
use super::{Gic, IIDR, affinity};
use crate::layout::GIC_REDISTRIBUTOR_SIZE;

/// Where SGI_base starts.
const SGI_BASE: u64 = 0x1_0000;
/// GICR_IIDR: who made it.
const IIDR_OFFSET: u64 = 0x0004;
/// GICR_TYPER: what there is, 64 bits.
const TYPER: u64 = 0x0008;
/// Upper half of GICR_TYPER.
const TYPER_UPPER: u64 = 0x000c;
/// GICR_WAKER: power management.
const WAKER: u64 = 0x0014;
/// The last of the identification registers.
const ID_LAST: u64 = 0xfffc;
/// GICR_PIDR0: part number.
const PART: u8 = 0x93;

/// GICR_TYPER.Last: there is no redistributor after this one.
const TYPER_LAST: u64 = 1 << 4;
/// Where GICR_TYPER.Processor_Number starts.
const TYPER_NUMBER_SHIFT: u32 = 8;
/// Where GICR_TYPER.Affinity_Value starts.
const TYPER_AFFINITY_SHIFT: u32 = 32;
/// GICR_WAKER.ProcessorSleep.
const WAKER_PROCESSOR_SLEEP: u64 = 1 << 1;
/// GICR_WAKER.ChildrenAsleep.
const WAKER_CHILDREN_ASLEEP: u64 = 1 << 2;

impl Gic {
    /// Reads `width` bytes at `offset` of the redistributors; that of vCPU n starts at n times [`GIC_REDISTRIBUTOR_SIZE`].
    pub fn read_redistributor(&mut self, offset: u64, width: u64) -> u64 {
        let Some((vcpu, offset)) = self.redistributor(offset) else { return 0 };
        match (offset, width) {
            (SGI_BASE.., _) => self.read_array(Frame::Redistributor(vcpu), offset - SGI_BASE, width),
            (IIDR_OFFSET, 4) => IIDR,
            (TYPER, 8) => self.redistributor_type(vcpu),
            (TYPER, 4) => self.redistributor_type(vcpu) & u64::from(u32::MAX),
            (TYPER_UPPER, 4) => self.redistributor_type(vcpu) >> 32,
            (WAKER, 4) if self.vcpus.get(vcpu).is_some_and(|state| state.asleep) => {
                WAKER_PROCESSOR_SLEEP | WAKER_CHILDREN_ASLEEP
            }
            (ID_FIRST..=ID_LAST, 4) => identification(offset, PART).unwrap_or(0),
            _ => 0,
        }
    }

    /// Writes the low `width` bytes of `value` at `offset` of the redistributors.
    ///
    /// A vCPU whose redistributor sleeps gets its interrupts all the same: it is to have disabled them in its CPU interface,
    /// and what is pending wakes it.
    pub fn write_redistributor(&mut self, offset: u64, width: u64, value: u64) {
        let Some((vcpu, offset)) = self.redistributor(offset) else { return };
        match (offset, width) {
            (SGI_BASE.., _) => self.write_array(Frame::Redistributor(vcpu), offset - SGI_BASE, width, value),
            (WAKER, 4) => {
                let asleep = value & WAKER_PROCESSOR_SLEEP != 0;
                if let Some(state) = self.vcpus.get_mut(vcpu)
                    && asleep != core::mem::replace(&mut state.asleep, asleep)
                {
                    self.reroute_any();
                }
            }
            _ => {}
        }
    }

    /// The vCPU whose redistributor `offset` is in, and the offset there.
    fn redistributor(&self, offset: u64) -> Option<(usize, u64)> {
        let vcpu = usize::try_from(offset / GIC_REDISTRIBUTOR_SIZE).ok().filter(|vcpu| *vcpu < self.vcpus.len())?;
        Some((vcpu, offset % GIC_REDISTRIBUTOR_SIZE))
    }

    /// GICR_TYPER of `vcpu`.
    fn redistributor_type(&self, vcpu: usize) -> u64 {
        let last = if vcpu + 1 == self.vcpus.len() { TYPER_LAST } else { 0 };
        affinity(vcpu) << TYPER_AFFINITY_SHIFT | (vcpu as u64) << TYPER_NUMBER_SHIFT | last
    }
}
