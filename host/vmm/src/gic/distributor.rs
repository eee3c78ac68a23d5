//! The distributor's registers (Arm IHI 0069, section 12.9).

use super::arrays::Frame;
use super::bank::{GroupEnables, INTERRUPTS};
use super::{FIRST_SPI, Gic, IIDR, affinity};

/// GICD_CTLR: control.
const CTLR: u64 = 0x0000;
/// GICD_TYPER: what there is.
const TYPER: u64 = 0x0004;
/// GICD_IIDR: who made it.
const IIDR_OFFSET: u64 = 0x0008;
/// GICD_IROUTER<32>: where the first SPI goes, 8 bytes each.
const IROUTER: u64 = 0x6100;
/// Where GICD_IROUTER<1019> ends.
const IROUTER_END: u64 = 0x7fe0;
/// GICD_PIDR4, the first of the identification registers.
pub(super) const ID_FIRST: u64 = 0xffd0;
/// The last of the identification registers.
const ID_LAST: u64 = 0xfffc;
/// GICD_PIDR4 to 7, 0 to 3 and GICD_CIDR0 to 3: designer Arm; in PIDR2, architecture revision 3.
const ID: [u8; 12] = [0x44, 0, 0, 0, 0x92, 0xb4, 0x3b, 0, 0x0d, 0xf0, 0x05, 0xb1];

/// GICD_CTLR.EnableGrp0, with one security state.
const CTLR_ENABLE_GROUP_ZERO: u64 = 1 << 0;
/// GICD_CTLR.EnableGrp1.
const CTLR_ENABLE_GROUP_ONE: u64 = 1 << 1;
/// GICD_CTLR.ARE, which is always set.
const CTLR_ARE: u64 = 1 << 4;
/// GICD_CTLR.DS, which is always set: there is one security state.
const CTLR_DS: u64 = 1 << 6;
/// GICD_TYPER.IDbits: ten bits of INTID.
const TYPER_ID_BITS: u64 = 9 << 19;
/// GICD_IROUTER.Interrupt_Routing_Mode: to any one vCPU.
const ROUTE_ANY: u32 = 1 << 31;
/// The fields of GICD_IROUTER that can be set. A3V in GICD_TYPER is clear, and with it Aff3.
const ROUTE_MASK: u32 = ROUTE_ANY | 0x00ff_ffff;

/// The identification register at `offset`, where there is one; `part` is what PIDR0 reads.
pub(super) fn identification(offset: u64, part: u8) -> Option<u64> {
    let index = usize::try_from(offset.checked_sub(ID_FIRST)? / 4).ok()?;
    let byte = if index == 4 { part } else { *ID.get(index)? };
    offset.is_multiple_of(4).then_some(byte.into())
}

impl Gic {
    /// Reads `width` bytes at `offset` of the distributor.
    pub fn read_distributor(&mut self, offset: u64, width: u64) -> u64 {
        match (offset, width) {
            (TYPER, 4) => (self.routes.len().div_ceil(INTERRUPTS) as u64) | TYPER_ID_BITS,
            (CTLR, 4) => {
                let zero = if self.groups.group_zero != 0 { CTLR_ENABLE_GROUP_ZERO } else { 0 };
                let one = if self.groups.group_one != 0 { CTLR_ENABLE_GROUP_ONE } else { 0 };
                CTLR_DS | CTLR_ARE | zero | one
            }
            (IIDR_OFFSET, 4) => IIDR,
            (IROUTER..IROUTER_END, 4 | 8) => {
                let spi = route_index(offset, width);
                spi.and_then(|spi| self.routes.get(spi)).copied().unwrap_or(0).into()
            }
            (ID_FIRST..=ID_LAST, 4) => identification(offset, ID[4]).unwrap_or(0),
            _ => self.read_array(Frame::Distributor, offset, width),
        }
    }

    /// Writes the low `width` bytes of `value` at `offset` of the distributor.
    pub fn write_distributor(&mut self, offset: u64, width: u64, value: u64) {
        match (offset, width) {
            (CTLR, 4) => {
                let word = |bit: u64| if value & bit != 0 { u32::MAX } else { 0 };
                let groups =
                    GroupEnables { group_zero: word(CTLR_ENABLE_GROUP_ZERO), group_one: word(CTLR_ENABLE_GROUP_ONE) };
                if groups != core::mem::replace(&mut self.groups, groups) {
                    (0..self.banks.len()).for_each(|bank| self.settle(bank, u32::MAX));
                }
            }
            (IROUTER..IROUTER_END, 4 | 8) => {
                if let Some(spi) = route_index(offset, width)
                    && let Some(route) = self.routes.get_mut(spi)
                {
                    *route = value as u32 & ROUTE_MASK;
                    self.reroute(spi);
                }
            }
            _ => self.write_array(Frame::Distributor, offset, width, value),
        }
    }

    /// Follows GICD_IROUTER of SPI `spi`, counted from 0.
    fn reroute(&mut self, spi: usize) {
        let Some(route) = self.routes.get(spi).copied() else { return };
        let target = self.target(route);
        let intid = u32::try_from(spi).unwrap_or(u32::MAX).saturating_add(FIRST_SPI);
        if let Some((bank, index)) = self.shared(intid) {
            self.change(bank, |bank| bank.route(index, target));
        }
    }

    /// Chooses anew where the SPIs go that any vCPU may take.
    pub(super) fn reroute_any(&mut self) {
        for spi in 0..self.routes.len() {
            if self.routes.get(spi).is_some_and(|route| route & ROUTE_ANY != 0) {
                self.reroute(spi);
            }
        }
    }

    /// The vCPU that `route` names. For any, it is the first whose redistributor is awake.
    fn target(&self, route: u32) -> Option<usize> {
        if route & ROUTE_ANY != 0 {
            return self.vcpus.iter().position(|vcpu| !vcpu.asleep).or(Some(0));
        }
        (0..self.vcpus.len()).find(|vcpu| affinity(*vcpu) == route.into())
    }
}

/// The SPI, counted from 0, whose GICD_IROUTER is accessed. The upper word holds Aff3 only, and reads as zero.
fn route_index(offset: u64, width: u64) -> Option<usize> {
    let offset = offset.checked_sub(IROUTER)?;
    let lower = offset.is_multiple_of(8) && matches!(width, 4 | 8);
    usize::try_from(offset / 8).ok().filter(|_| lower)
}
