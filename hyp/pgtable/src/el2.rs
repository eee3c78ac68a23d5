//! Stage 1 of EL2: the hypervisor's own addresses (Arm ARM D8.3.1; HCR_EL2.E2H = 0).

use core::fmt;

use abi::{PhysAddr, VirtAddr};

use crate::bits::{self, AF, AP_1, AP_2, DBM, UXN};
use crate::environment::{DsbKind, Maintenance};
use crate::error::TableError;
use crate::geometry::{Geometry, LAST_LEVEL};
use crate::memory_type::{MemoryType, Shareability};
use crate::regime::{Regime, Scope, TlbiFeatures, by_address, write_software};
use crate::table::PageTable;
use crate::tlbi::Tlbi;

/// The stage-1 table of EL2.
pub type El2Stage1 = PageTable<El2Regime>;

/// What an EL2 stage-1 table is built for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct El2Config {
    /// Bits of a virtual address, 32 to 48; the lowest address is 0.
    pub va_bits: u32,
    /// Bits of a physical address: 32, 36, 40, 42, 44 or 48. A CPU with more takes 48.
    pub pa_bits: u32,
    /// The hardware sets AF on the first access (TCR_EL2.HA = 1; takes FEAT_HAFDBS), where it would fault otherwise.
    pub hardware_access_flag: bool,
    /// TLB features.
    pub tlbi: TlbiFeatures,
}

impl El2Config {
    /// The shape of the tree; its root is always one page.
    ///
    /// # Errors
    /// [`TableError::BadConfiguration`] where a size is out of range.
    pub const fn geometry(&self) -> Result<Geometry, TableError> {
        Geometry::stage1(self.va_bits, self.pa_bits, 0)
    }

    /// The value of TCR_EL2 (Arm ARM D19.2.159): 4 KiB granule, walks inner shareable and write-back.
    ///
    /// # Errors
    /// [`TableError::BadConfiguration`] where a size is out of range.
    pub const fn tcr_el2(&self) -> Result<u64, TableError> {
        const RES1: u64 = 1 << 31 | 1 << 23;
        const IRGN0_WRITE_BACK: u64 = 1 << 8;
        const ORGN0_WRITE_BACK: u64 = 1 << 10;
        const SH0_INNER: u64 = 3 << 12;
        const PS_SHIFT: u32 = 16;
        const HA: u64 = 1 << 21;
        match self.geometry() {
            Ok(geometry) => Ok(RES1
                | geometry.size_field()
                | IRGN0_WRITE_BACK
                | ORGN0_WRITE_BACK
                | SH0_INNER
                | geometry.output_size_field() << PS_SHIFT
                | if self.hardware_access_flag { HA } else { 0 }),
            Err(error) => Err(error),
        }
    }
}

/// Attributes of an EL2 stage-1 leaf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct El2Attributes {
    /// Memory type.
    pub memory: MemoryType,
    /// Shareability.
    pub shareability: Shareability,
    /// Stores are allowed (AP\[2\] clear). Loads always are.
    pub write: bool,
    /// Instructions may be fetched (XN clear).
    pub execute: bool,
    /// AF: the first access does not fault.
    pub access_flag: bool,
    /// Bits 58:55, for software's use: 0 to 15.
    pub software: u8,
}

impl El2Attributes {
    /// Read-only, executable memory.
    pub const fn code() -> Self {
        Self { write: false, execute: true, ..Self::data() }
    }

    /// Read-only memory that is not executable.
    pub const fn read_only() -> Self {
        Self { write: false, ..Self::data() }
    }

    /// Writable memory that is not executable.
    pub const fn data() -> Self {
        Self {
            memory: MemoryType::Normal,
            shareability: Shareability::Inner,
            write: true,
            execute: false,
            access_flag: true,
            software: 0,
        }
    }

    /// Device-nGnRE registers, readable and writable.
    pub const fn device() -> Self {
        Self { memory: MemoryType::DeviceNgnre, shareability: Shareability::NonShareable, ..Self::data() }
    }

    /// The same with other software bits.
    pub const fn with_software(self, software: u8) -> Self {
        Self { software, ..self }
    }
}

impl fmt::Display for El2Attributes {
    /// The fields by their names, software bits only where there are any.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { memory, shareability, .. } = self;
        let access = if self.write { "RW" } else { "RO" };
        let (execute_never, access_flag) = (u8::from(!self.execute), u8::from(self.access_flag));
        write!(f, "AttrIndx={memory:?} SH={shareability:?} AP={access} XN={execute_never} AF={access_flag}")?;
        write_software(f, self.software)
    }
}

/// The EL2 stage-1 regime.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct El2Regime {
    config: El2Config,
    geometry: Geometry,
}

impl Regime for El2Regime {
    type Input = VirtAddr;
    type Attributes = El2Attributes;

    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    #[inline]
    fn encode(&self, attributes: El2Attributes) -> Result<u64, TableError> {
        let software = u64::from(attributes.software);
        if software > bits::SOFTWARE_MASK {
            return Err(TableError::BadAttributes);
        }
        Ok((attributes.memory as u64) << bits::ATTR_INDX_SHIFT
            | AP_1
            | if attributes.write { 0 } else { AP_2 }
            | (attributes.shareability as u64) << bits::SH_SHIFT
            | if attributes.access_flag { AF } else { 0 }
            | if attributes.execute { 0 } else { UXN }
            | software << bits::SOFTWARE_SHIFT)
    }

    fn decode(&self, descriptor: u64) -> Option<El2Attributes> {
        Some(El2Attributes {
            memory: MemoryType::from_index(descriptor >> bits::ATTR_INDX_SHIFT & bits::ATTR_INDX_MASK)?,
            shareability: Shareability::from_field(descriptor >> bits::SH_SHIFT & bits::SH_MASK)?,
            write: descriptor & AP_2 == 0,
            execute: descriptor & UXN == 0,
            access_flag: descriptor & AF != 0,
            software: (descriptor >> bits::SOFTWARE_SHIFT & bits::SOFTWARE_MASK) as u8,
        })
    }

    fn live_bits(&self) -> u64 {
        AP_2 | AF | DBM | UXN | bits::SOFTWARE_MASK << bits::SOFTWARE_SHIFT
    }

    fn write_protection(&self) -> (u64, u64) {
        (DBM, AP_2)
    }

    fn is_executable(&self, descriptor: u64) -> bool {
        descriptor & UXN == 0
    }

    fn bypasses_caches(&self, descriptor: u64) -> bool {
        // The only Normal type of MAIR_VALUE is write-back, and device memory is not cached anywhere.
        let _ = descriptor;
        false
    }

    #[inline]
    fn invalidate<M: Maintenance + ?Sized>(&self, maintenance: &M, _root: PhysAddr, scope: Scope) {
        maintenance.dsb(DsbKind::Ishst);
        let last_level = matches!(scope, Scope::Leaf { level: LAST_LEVEL, .. });
        let done = by_address(
            scope,
            self.config.tlbi,
            |input, level| {
                let address = VirtAddr::new(input);
                maintenance.tlbi(if last_level {
                    Tlbi::Vale2Is { address, level }
                } else {
                    Tlbi::Vae2Is { address, level }
                });
            },
            |input, pages, level| maintenance.tlbi(Tlbi::Rvae2Is { address: VirtAddr::new(input), pages, level }),
        );
        if !done {
            maintenance.tlbi(Tlbi::Alle2Is);
        }
        maintenance.dsb(DsbKind::Ish);
        maintenance.isb();
    }

    fn publish<M: Maintenance + ?Sized>(&self, maintenance: &M) {
        maintenance.dsb(DsbKind::Ishst);
        maintenance.isb();
    }
}

impl El2Stage1 {
    /// An EL2 stage-1 table over `root`, one zeroed page.
    ///
    /// # Errors
    /// [`TableError::BadConfiguration`] where a size is out of range, or the root is misaligned or beyond the physical
    /// address size.
    pub fn new(root: PhysAddr, config: El2Config) -> Result<Self, TableError> {
        Self::over(root, El2Regime { config, geometry: config.geometry()? })
    }

    /// The configuration.
    pub fn config(&self) -> &El2Config {
        &self.regime().config
    }

    /// The value of TCR_EL2 that this table is walked with.
    pub fn tcr_el2(&self) -> u64 {
        // The geometry was computed from the same configuration when the table was made.
        self.regime().config.tcr_el2().unwrap_or(0)
    }

    /// The value of TTBR0_EL2 that selects this table.
    pub fn ttbr0_el2(&self) -> u64 {
        self.root().raw()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::regime::Change;

    fn config(va_bits: u32, pa_bits: u32) -> El2Config {
        El2Config { va_bits, pa_bits, hardware_access_flag: false, tlbi: TlbiFeatures::default() }
    }

    #[test]
    fn tcr_el2_holds_the_values_worked_out_by_hand() {
        // T0SZ | IRGN0 1 << 8 | ORGN0 1 << 10 | SH0 3 << 12 | PS << 16 | 1 << 23 | 1 << 31.
        assert_eq!(config(48, 48).tcr_el2(), Ok(0x8085_3510));
        assert_eq!(config(39, 40).tcr_el2(), Ok(0x8082_3519));
        assert_eq!(config(32, 32).tcr_el2(), Ok(0x8080_3520));
        let with_flag = El2Config { hardware_access_flag: true, ..config(39, 40) };
        assert_eq!(with_flag.tcr_el2(), Ok(0x80a2_3519), "HA 1 << 21");
        assert_eq!(config(49, 48).tcr_el2(), Err(TableError::BadConfiguration));
        let table = El2Stage1::new(PhysAddr::new(0x4000_1000), config(48, 48)).unwrap();
        assert_eq!((table.tcr_el2(), table.ttbr0_el2()), (0x8085_3510, 0x4000_1000));
    }

    #[test]
    fn attributes_have_the_bits_worked_out_by_hand() {
        let regime = El2Regime { config: config(48, 48), geometry: config(48, 48).geometry().unwrap() };
        assert_eq!(regime.encode(El2Attributes::code()), Ok(0x7c0));
        assert_eq!(regime.encode(El2Attributes::read_only()), Ok(0x0040_0000_0000_07c0));
        assert_eq!(regime.encode(El2Attributes::data()), Ok(0x0040_0000_0000_0740));
        assert_eq!(regime.encode(El2Attributes::device()), Ok(0x0040_0000_0000_0444));
        assert_eq!(regime.encode(El2Attributes::data().with_software(16)), Err(TableError::BadAttributes));
    }

    #[test]
    fn only_permissions_flags_and_software_bits_change_in_place() {
        let regime = El2Regime { config: config(48, 48), geometry: config(48, 48).geometry().unwrap() };
        let old = crate::descriptor::leaf(0x4000_0000, regime.encode(El2Attributes::data()).unwrap(), 3);
        for bit in 0..64 {
            let in_place = [7, 10, 51, 54, 55, 56, 57, 58].contains(&bit);
            let expected = if in_place { Change::InPlace } else { Change::BreakBeforeMake };
            assert_eq!(regime.change(old, old ^ 1 << bit), expected, "bit {bit}");
        }
        assert_eq!(regime.change(old, old), Change::None);
    }

    #[test]
    fn attributes_survive_the_round_trip() {
        let regime = El2Regime { config: config(48, 48), geometry: config(48, 48).geometry().unwrap() };
        for memory in [MemoryType::Normal, MemoryType::DeviceNgnre, MemoryType::DeviceNgnrne] {
            for shareability in [Shareability::NonShareable, Shareability::Outer, Shareability::Inner] {
                for flags in 0..128u8 {
                    let attributes = El2Attributes {
                        memory,
                        shareability,
                        write: flags & 1 != 0,
                        execute: flags & 2 != 0,
                        access_flag: flags & 4 != 0,
                        software: flags >> 3,
                    };
                    let bits = regime.encode(attributes).unwrap();
                    assert_eq!(regime.decode(bits), Some(attributes));
                    assert_eq!(regime.is_executable(bits), attributes.execute);
                }
            }
        }
        assert_eq!(regime.decode(7 << 2), None, "an index without a memory type");
    }
}
