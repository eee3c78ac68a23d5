//! Stage 1 of EL1 and EL0: what the reference host and the payloads run under (Arm ARM D8.3.1).
//!
//! Output addresses are what EL1 takes for physical addresses.

use core::fmt;

use abi::{PhysAddr, VirtAddr};

use crate::bits::{self, AF, AP_1, AP_2, DBM, NG, PXN, UXN};
use crate::environment::{DsbKind, Maintenance};
use crate::error::TableError;
use crate::geometry::{Geometry, LAST_LEVEL};
use crate::memory_type::{MemoryType, Shareability};
use crate::regime::{Regime, Scope, TlbiFeatures, by_address, write_software};
use crate::table::PageTable;
use crate::tlbi::Tlbi;

/// A stage-1 table of the EL1&0 regime.
pub type El1Stage1 = PageTable<El1Regime>;

/// Which of the two ranges of virtual addresses a table translates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VirtualHalf {
    /// From address 0 upwards, TTBR0_EL1.
    Lower,
    /// Up to the top of the 64-bit address space, TTBR1_EL1.
    Upper,
}

/// What an EL1 stage-1 table is built for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct El1Config {
    /// Bits of a virtual address, 32 to 48.
    pub va_bits: u32,
    /// Bits of an output address: 32, 36, 40, 42, 44 or 48. A CPU with more takes 48.
    pub pa_bits: u32,
    /// Which addresses it translates.
    pub half: VirtualHalf,
    /// Address space identifier; 8 bits, since every CPU has those.
    pub asid: u8,
    /// The hardware sets AF on the first access (TCR_EL1.HA = 1; takes FEAT_HAFDBS), where it would fault otherwise.
    /// The tables of both halves that are used together agree on it.
    pub hardware_access_flag: bool,
    /// TLB features.
    pub tlbi: TlbiFeatures,
}

impl El1Config {
    /// The shape of the tree; its root is always one page.
    ///
    /// # Errors
    /// [`TableError::BadConfiguration`] where a size is out of range.
    pub const fn geometry(&self) -> Result<Geometry, TableError> {
        let base = match self.half {
            VirtualHalf::Lower => 0,
            // Masked so that a size that is refused below cannot overflow the shift here.
            VirtualHalf::Upper => !0 << (self.va_bits & 63),
        };
        Geometry::stage1(self.va_bits, self.pa_bits, base)
    }
}

/// The value of TCR_EL1 (Arm ARM D19.2.158) for a table of each half: 4 KiB granules, walks inner shareable and
/// write-back, the ASID from TTBR0_EL1. Walks for a half without a table are disabled. The output address size is the
/// larger of the two.
///
/// # Errors
/// [`TableError::BadConfiguration`] where a size is out of range, a configuration is given for the other half, or the
/// two do not agree on the hardware's update of the access flag, which is one for both.
pub fn tcr_el1(lower: Option<&El1Config>, upper: Option<&El1Config>) -> Result<u64, TableError> {
    const EPD0: u64 = 1 << 7;
    const EPD1: u64 = 1 << 23;
    const TG1_4K: u64 = 2 << 30;
    const IPS_SHIFT: u32 = 32;
    const UPPER_SHIFT: u32 = 16;
    const HA: u64 = 1 << 39;
    // IRGN and ORGN write-back with allocation, SH inner; the same layout 16 bits higher for TTBR1_EL1.
    const WALK: u64 = 1 << 8 | 1 << 10 | 3 << 12;
    let mut value = TG1_4K;
    let mut output_size = 0;
    let hardware_access_flag = match (lower, upper) {
        (Some(lower), Some(upper)) if lower.hardware_access_flag != upper.hardware_access_flag => {
            return Err(TableError::BadConfiguration);
        }
        (Some(config), _) | (None, Some(config)) => config.hardware_access_flag,
        (None, None) => false,
    };
    if hardware_access_flag {
        value |= HA;
    }
    match lower {
        Some(config) if config.half == VirtualHalf::Lower => {
            let geometry = config.geometry()?;
            value |= geometry.size_field() | WALK;
            output_size = geometry.output_size_field();
        }
        Some(_) => return Err(TableError::BadConfiguration),
        None => value |= EPD0,
    }
    match upper {
        Some(config) if config.half == VirtualHalf::Upper => {
            let geometry = config.geometry()?;
            value |= (geometry.size_field() | WALK) << UPPER_SHIFT;
            output_size = output_size.max(geometry.output_size_field());
        }
        Some(_) => return Err(TableError::BadConfiguration),
        None => value |= EPD1,
    }
    Ok(value | output_size << IPS_SHIFT)
}

/// Attributes of an EL1 stage-1 leaf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct El1Attributes {
    /// Memory type.
    pub memory: MemoryType,
    /// Shareability.
    pub shareability: Shareability,
    /// Stores are allowed (AP\[2\] clear). Loads by EL1 always are.
    pub write: bool,
    /// EL0 has the same access as EL1 (AP\[1\]).
    pub user: bool,
    /// EL1 may fetch instructions (PXN clear).
    pub privileged_execute: bool,
    /// EL0 may fetch instructions (UXN clear).
    pub user_execute: bool,
    /// The entry serves every ASID (nG clear).
    pub global: bool,
    /// AF: the first access does not fault.
    pub access_flag: bool,
    /// Bits 58:55, for software's use: 0 to 15.
    pub software: u8,
}

impl El1Attributes {
    /// The kernel's code: read-only, executable by EL1.
    pub const fn code() -> Self {
        Self { write: false, privileged_execute: true, ..Self::data() }
    }

    /// The kernel's constants: read-only, not executable.
    pub const fn read_only() -> Self {
        Self { write: false, ..Self::data() }
    }

    /// The kernel's data: writable, not executable.
    pub const fn data() -> Self {
        Self {
            memory: MemoryType::Normal,
            shareability: Shareability::Inner,
            write: true,
            user: false,
            privileged_execute: false,
            user_execute: false,
            global: true,
            access_flag: true,
            software: 0,
        }
    }

    /// Device-nGnRE registers, readable and writable by EL1.
    pub const fn device() -> Self {
        Self { memory: MemoryType::DeviceNgnre, shareability: Shareability::NonShareable, ..Self::data() }
    }
}

impl fmt::Display for El1Attributes {
    /// The fields by their names, software bits only where there are any.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { memory, shareability, .. } = self;
        let access = match (self.write, self.user) {
            (true, false) => "RW",
            (true, true) => "RW,EL0",
            (false, false) => "RO",
            (false, true) => "RO,EL0",
        };
        let [pxn, uxn, ng, af] =
            [!self.privileged_execute, !self.user_execute, !self.global, self.access_flag].map(u8::from);
        write!(f, "AttrIndx={memory:?} SH={shareability:?} AP={access} PXN={pxn} UXN={uxn} nG={ng} AF={af}")?;
        write_software(f, self.software)
    }
}

/// The EL1&0 stage-1 regime of one ASID.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct El1Regime {
    config: El1Config,
    geometry: Geometry,
}

impl Regime for El1Regime {
    type Input = VirtAddr;
    type Attributes = El1Attributes;

    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn encode(&self, attributes: El1Attributes) -> Result<u64, TableError> {
        let software = u64::from(attributes.software);
        if software > bits::SOFTWARE_MASK {
            return Err(TableError::BadAttributes);
        }
        Ok((attributes.memory as u64) << bits::ATTR_INDX_SHIFT
            | if attributes.user { AP_1 } else { 0 }
            | if attributes.write { 0 } else { AP_2 }
            | (attributes.shareability as u64) << bits::SH_SHIFT
            | if attributes.access_flag { AF } else { 0 }
            | if attributes.global { 0 } else { NG }
            | if attributes.privileged_execute { 0 } else { PXN }
            | if attributes.user_execute { 0 } else { UXN }
            | software << bits::SOFTWARE_SHIFT)
    }

    fn decode(&self, descriptor: u64) -> Option<El1Attributes> {
        Some(El1Attributes {
            memory: MemoryType::from_index(descriptor >> bits::ATTR_INDX_SHIFT & bits::ATTR_INDX_MASK)?,
            shareability: Shareability::from_field(descriptor >> bits::SH_SHIFT & bits::SH_MASK)?,
            write: descriptor & AP_2 == 0,
            user: descriptor & AP_1 != 0,
            privileged_execute: descriptor & PXN == 0,
            user_execute: descriptor & UXN == 0,
            global: descriptor & NG == 0,
            access_flag: descriptor & AF != 0,
            software: (descriptor >> bits::SOFTWARE_SHIFT & bits::SOFTWARE_MASK) as u8,
        })
    }

    fn live_bits(&self) -> u64 {
        AP_1 | AP_2 | AF | DBM | PXN | UXN | bits::SOFTWARE_MASK << bits::SOFTWARE_SHIFT
    }

    fn write_protection(&self) -> (u64, u64) {
        (DBM, AP_2)
    }

    fn is_executable(&self, descriptor: u64) -> bool {
        descriptor & (PXN | UXN) != PXN | UXN
    }

    fn bypasses_caches(&self, descriptor: u64) -> bool {
        // The only Normal type of MAIR_VALUE is write-back, and device memory is not cached anywhere.
        let _ = descriptor;
        false
    }

    fn invalidate<M: Maintenance + ?Sized>(&self, maintenance: &M, _root: PhysAddr, scope: Scope) {
        maintenance.dsb(DsbKind::Ishst);
        let asid = u16::from(self.config.asid);
        let last_level = matches!(scope, Scope::Leaf { level: LAST_LEVEL, .. });
        let done = by_address(
            scope,
            self.config.tlbi,
            |input, level| {
                let address = VirtAddr::new(input);
                maintenance.tlbi(if last_level {
                    Tlbi::Vale1Is { address, asid, level }
                } else {
                    Tlbi::Vae1Is { address, asid, level }
                });
            },
            |input, pages, level| {
                maintenance.tlbi(Tlbi::Rvae1Is { address: VirtAddr::new(input), asid, pages, level });
            },
        );
        if !done {
            maintenance.tlbi(Tlbi::Vmalle1Is);
        }
        maintenance.dsb(DsbKind::Ish);
        maintenance.isb();
    }

    fn publish<M: Maintenance + ?Sized>(&self, maintenance: &M) {
        maintenance.dsb(DsbKind::Ishst);
        maintenance.isb();
    }
}

impl El1Stage1 {
    /// An EL1 stage-1 table over `root`, one zeroed page.
    ///
    /// # Errors
    /// [`TableError::BadConfiguration`] where a size is out of range, or the root is misaligned or beyond the output
    /// address size.
    pub fn new(root: PhysAddr, config: El1Config) -> Result<Self, TableError> {
        Self::over(root, El1Regime { config, geometry: config.geometry()? })
    }

    /// The configuration.
    pub fn config(&self) -> &El1Config {
        &self.regime().config
    }

    /// The value of TTBR0_EL1 or TTBR1_EL1 that selects this table: ASID in bits 63:48.
    pub fn ttbr_el1(&self) -> u64 {
        u64::from(self.regime().config.asid) << 48 | self.root().raw()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::regime::Change;

    fn config(half: VirtualHalf, va_bits: u32) -> El1Config {
        let tlbi = TlbiFeatures::default();
        El1Config { va_bits, pa_bits: 48, half, asid: 0x12, hardware_access_flag: false, tlbi }
    }

    fn regime() -> El1Regime {
        let config = config(VirtualHalf::Lower, 48);
        El1Regime { config, geometry: config.geometry().unwrap() }
    }

    #[test]
    fn tcr_el1_holds_the_values_worked_out_by_hand() {
        let lower = config(VirtualHalf::Lower, 48);
        let upper = config(VirtualHalf::Upper, 39);
        // T0SZ 16, T1SZ 25, walks write-back and inner shareable on both sides, TG1 2, IPS 5.
        assert_eq!(tcr_el1(Some(&lower), Some(&upper)), Ok(0x5_b519_3510));
        assert_eq!(tcr_el1(Some(&lower), None), Ok(0x5_8080_3510));
        assert_eq!(tcr_el1(None, Some(&upper)), Ok(0x5_b519_0080));
        let with_flag = |config| El1Config { hardware_access_flag: true, ..config };
        assert_eq!(tcr_el1(Some(&with_flag(lower)), None), Ok(0x85_8080_3510), "HA 1 << 39");
        assert_eq!(tcr_el1(None, Some(&with_flag(upper))), Ok(0x85_b519_0080));
        assert_eq!(tcr_el1(Some(&with_flag(lower)), Some(&with_flag(upper))), Ok(0x85_b519_3510));
        assert_eq!(tcr_el1(Some(&lower), Some(&with_flag(upper))), Err(TableError::BadConfiguration));
        assert_eq!(tcr_el1(Some(&upper), None), Err(TableError::BadConfiguration));
        assert_eq!(tcr_el1(None, Some(&lower)), Err(TableError::BadConfiguration));
        assert_eq!(tcr_el1(Some(&config(VirtualHalf::Lower, 70)), None), Err(TableError::BadConfiguration));
        assert_eq!(config(VirtualHalf::Upper, 64).geometry(), Err(TableError::BadConfiguration));
    }

    #[test]
    fn ttbr_el1_holds_asid_and_root() {
        let table = El1Stage1::new(PhysAddr::new(0x4000_1000), config(VirtualHalf::Lower, 48)).unwrap();
        assert_eq!(table.ttbr_el1(), 0x0012_0000_4000_1000);
    }

    #[test]
    fn attributes_have_the_bits_worked_out_by_hand() {
        let regime = regime();
        assert_eq!(regime.encode(El1Attributes::data()), Ok(0x0060_0000_0000_0700));
        assert_eq!(regime.encode(El1Attributes::read_only()), Ok(0x0060_0000_0000_0780));
        assert_eq!(regime.encode(El1Attributes::code()), Ok(0x0040_0000_0000_0780));
        assert_eq!(regime.encode(El1Attributes::device()), Ok(0x0060_0000_0000_0404));
        let user = El1Attributes { user: true, global: false, user_execute: true, ..El1Attributes::data() };
        assert_eq!(regime.encode(user), Ok(0x0020_0000_0000_0f40));
    }

    #[test]
    fn only_permissions_flags_and_software_bits_change_in_place() {
        let regime = regime();
        let old = crate::descriptor::leaf(0x4000_0000, regime.encode(El1Attributes::data()).unwrap(), 3);
        for bit in 0..64 {
            let in_place = [6, 7, 10, 51, 53, 54, 55, 56, 57, 58].contains(&bit);
            let expected = if in_place { Change::InPlace } else { Change::BreakBeforeMake };
            assert_eq!(regime.change(old, old ^ 1 << bit), expected, "bit {bit}");
        }
        assert_eq!(regime.change(old, old), Change::None);
    }

    #[test]
    fn attributes_survive_the_round_trip() {
        let regime = regime();
        for memory in [MemoryType::Normal, MemoryType::DeviceNgnre, MemoryType::DeviceNgnrne] {
            for shareability in [Shareability::NonShareable, Shareability::Outer, Shareability::Inner] {
                for flags in 0..1024u16 {
                    let attributes = El1Attributes {
                        memory,
                        shareability,
                        write: flags & 1 != 0,
                        user: flags & 2 != 0,
                        privileged_execute: flags & 4 != 0,
                        user_execute: flags & 8 != 0,
                        global: flags & 16 != 0,
                        access_flag: flags & 32 != 0,
                        software: (flags >> 6) as u8,
                    };
                    let bits = regime.encode(attributes).unwrap();
                    assert_eq!(regime.decode(bits), Some(attributes));
                    let executable = attributes.privileged_execute || attributes.user_execute;
                    assert_eq!(regime.is_executable(bits), executable);
                }
            }
        }
    }
}
