//! Stage 2: IPA to PA, for the host and for guests (Arm ARM D8.2.6, D8.3.2, D8.4.3).

use core::fmt;

use abi::{Ipa, PAGE_SIZE, PhysAddr};

use crate::bits::{self, AF, DBM, S2_XN_MASK, S2_XN_SHIFT, S2AP_READ, S2AP_WRITE};
use crate::environment::{DsbKind, Maintenance};
use crate::error::TableError;
use crate::geometry::Geometry;
use crate::memory_type::Shareability;
use crate::regime::{Regime, Scope, TlbiFeatures, by_address, write_software};
use crate::table::PageTable;
use crate::tlbi::Tlbi;

/// A stage-2 table with its VMID.
pub type Stage2 = PageTable<Stage2Regime>;

/// What a stage-2 table is built for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stage2Config {
    /// Bits of an IPA, 32 to 48 and not more than `pa_bits`.
    pub ipa_bits: u32,
    /// Bits of a physical address (ID_AA64MMFR0_EL1.PARange): 32, 36, 40, 42, 44 or 48. A CPU with more takes 48.
    pub pa_bits: u32,
    /// FEAT_S2FWB is in use (HCR_EL2.FWB = 1): MemAttr overrides stage 1.
    pub fwb: bool,
    /// FEAT_XNX: execute-never by exception level.
    pub xnx: bool,
    /// VMIDs have 16 bits (VTCR_EL2.VS = 1), not 8.
    pub vmid_16_bits: bool,
    /// The hardware sets AF on the first access (VTCR_EL2.HA = 1; takes FEAT_HAFDBS), where it would fault otherwise.
    pub hardware_access_flag: bool,
    /// TLB features.
    pub tlbi: TlbiFeatures,
}

impl Stage2Config {
    /// A configuration without any optional feature.
    pub const fn new(ipa_bits: u32, pa_bits: u32) -> Self {
        Self {
            ipa_bits,
            pa_bits,
            fwb: false,
            xnx: false,
            vmid_16_bits: false,
            hardware_access_flag: false,
            tlbi: TlbiFeatures { level_hint: false, range: false },
        }
    }

    /// The shape of the tree.
    ///
    /// # Errors
    /// [`TableError::BadConfiguration`] where a size is out of range.
    pub const fn geometry(&self) -> Result<Geometry, TableError> {
        Geometry::stage2(self.ipa_bits, self.pa_bits)
    }

    /// 4 KiB pages of the root, 1 to 16, a power of two; the root is aligned to its size.
    ///
    /// # Errors
    /// [`TableError::BadConfiguration`] where a size is out of range.
    pub const fn root_pages(&self) -> Result<u64, TableError> {
        match self.geometry() {
            Ok(geometry) => Ok(geometry.root_size() / PAGE_SIZE),
            Err(error) => Err(error),
        }
    }

    /// The value of VTCR_EL2 (Arm ARM D19.2.166): 4 KiB granule, walks inner shareable and write-back.
    ///
    /// # Errors
    /// [`TableError::BadConfiguration`] where a size is out of range.
    pub const fn vtcr_el2(&self) -> Result<u64, TableError> {
        const RES1: u64 = 1 << 31;
        const IRGN0_WRITE_BACK: u64 = 1 << 8;
        const ORGN0_WRITE_BACK: u64 = 1 << 10;
        const SH0_INNER: u64 = 3 << 12;
        const SL0_SHIFT: u32 = 6;
        const PS_SHIFT: u32 = 16;
        const VS: u64 = 1 << 19;
        const HA: u64 = 1 << 21;
        let geometry = match self.geometry() {
            Ok(geometry) => geometry,
            Err(error) => return Err(error),
        };
        // SL0 counts down: 2 starts at level 0, 1 at level 1, 0 at level 2.
        let sl0 = 2 - geometry.start_level() as u64;
        Ok(RES1
            | geometry.size_field()
            | sl0 << SL0_SHIFT
            | IRGN0_WRITE_BACK
            | ORGN0_WRITE_BACK
            | SH0_INNER
            | geometry.output_size_field() << PS_SHIFT
            | if self.vmid_16_bits { VS } else { 0 }
            | if self.hardware_access_flag { HA } else { 0 })
    }
}

/// Memory type that stage 2 asks for (Arm ARM D8.5.5; with FEAT_S2FWB D8.5.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage2Memory {
    /// Normal memory whose cacheability stage 1 decides.
    Normal,
    /// Normal memory that is write-back whatever stage 1 says. That takes FEAT_S2FWB; without it this is
    /// [`Stage2Memory::Normal`], and is decoded as such.
    NormalWriteBack,
    /// Normal memory that is not cached.
    NormalNonCacheable,
    /// Device-nGnRE.
    DeviceNgnre,
    /// Device-nGnRnE.
    DeviceNgnrne,
}

/// Who may fetch instructions (XN\[1:0\]). Without FEAT_XNX only `All` and `None` can be expressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage2Execute {
    /// EL1 and EL0.
    All,
    /// Nobody.
    None,
    /// EL1 only.
    El1Only,
    /// EL0 only.
    El0Only,
}

/// Attributes of a stage-2 leaf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stage2Attributes {
    /// Memory type.
    pub memory: Stage2Memory,
    /// Shareability.
    pub shareability: Shareability,
    /// S2AP\[0\]: loads are allowed.
    pub read: bool,
    /// S2AP\[1\]: stores are allowed.
    pub write: bool,
    /// Who may fetch instructions.
    pub execute: Stage2Execute,
    /// AF: the first access does not fault.
    pub access_flag: bool,
    /// Bits 58:55, for software's use: 0 to 15.
    pub software: u8,
}

impl Stage2Attributes {
    /// Memory with all rights, inner shareable, whose cacheability stage 1 decides.
    pub const fn memory() -> Self {
        Self {
            memory: Stage2Memory::Normal,
            shareability: Shareability::Inner,
            read: true,
            write: true,
            execute: Stage2Execute::All,
            access_flag: true,
            software: 0,
        }
    }

    /// Device-nGnRE, readable and writable, never executable.
    pub const fn device() -> Self {
        Self {
            memory: Stage2Memory::DeviceNgnre,
            shareability: Shareability::NonShareable,
            read: true,
            write: true,
            execute: Stage2Execute::None,
            access_flag: true,
            software: 0,
        }
    }

    /// The same with other software bits.
    pub const fn with_software(self, software: u8) -> Self {
        Self { software, ..self }
    }
}

impl fmt::Display for Stage2Attributes {
    /// The fields by their names, software bits only where there are any.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = match (self.read, self.write) {
            (true, true) => "RW",
            (true, false) => "RO",
            (false, true) => "WO",
            (false, false) => "none",
        };
        let execute_never = match self.execute {
            Stage2Execute::All => "none",
            Stage2Execute::None => "all",
            Stage2Execute::El1Only => "EL0",
            Stage2Execute::El0Only => "EL1",
        };
        let Self { memory, shareability, access_flag, .. } = self;
        let access_flag = u8::from(*access_flag);
        write!(f, "MemAttr={memory:?} SH={shareability:?} S2AP={access} XN={execute_never} AF={access_flag}")?;
        write_software(f, self.software)
    }
}

/// The stage-2 regime of one VMID.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stage2Regime {
    config: Stage2Config,
    geometry: Geometry,
    vmid: u16,
}

impl Stage2Regime {
    /// VTTBR_EL2 for the table at `root`: VMID in bits 63:48, BADDR below (Arm ARM D19.2.169).
    fn vttbr(&self, root: PhysAddr) -> u64 {
        u64::from(self.vmid) << 48 | root.raw()
    }

    fn encode_memory(&self, memory: Stage2Memory) -> u64 {
        match (memory, self.config.fwb) {
            (Stage2Memory::Normal | Stage2Memory::NormalWriteBack, false) => 0b1111,
            (Stage2Memory::Normal, true) => 0b0111,
            (Stage2Memory::NormalWriteBack, true) => 0b0110,
            (Stage2Memory::NormalNonCacheable, _) => 0b0101,
            (Stage2Memory::DeviceNgnre, _) => 0b0001,
            (Stage2Memory::DeviceNgnrne, _) => 0b0000,
        }
    }

    fn decode_memory(&self, field: u64) -> Option<Stage2Memory> {
        Some(match (field, self.config.fwb) {
            (0b1111, false) | (0b0111, true) => Stage2Memory::Normal,
            (0b0110, true) => Stage2Memory::NormalWriteBack,
            (0b0101, _) => Stage2Memory::NormalNonCacheable,
            (0b0001, _) => Stage2Memory::DeviceNgnre,
            (0b0000, _) => Stage2Memory::DeviceNgnrne,
            _ => return None,
        })
    }
}

impl Regime for Stage2Regime {
    type Input = Ipa;
    type Attributes = Stage2Attributes;

    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    #[inline]
    fn encode(&self, attributes: Stage2Attributes) -> Result<u64, TableError> {
        let execute_never = match attributes.execute {
            Stage2Execute::All => 0b00,
            Stage2Execute::None => 0b10,
            Stage2Execute::El0Only if self.config.xnx => 0b01,
            Stage2Execute::El1Only if self.config.xnx => 0b11,
            Stage2Execute::El0Only | Stage2Execute::El1Only => return Err(TableError::BadAttributes),
        };
        let software = u64::from(attributes.software);
        if software > bits::SOFTWARE_MASK {
            return Err(TableError::BadAttributes);
        }
        Ok(self.encode_memory(attributes.memory) << bits::MEM_ATTR_SHIFT
            | if attributes.read { S2AP_READ } else { 0 }
            | if attributes.write { S2AP_WRITE } else { 0 }
            | (attributes.shareability as u64) << bits::SH_SHIFT
            | if attributes.access_flag { AF } else { 0 }
            | execute_never << S2_XN_SHIFT
            | software << bits::SOFTWARE_SHIFT)
    }

    fn decode(&self, descriptor: u64) -> Option<Stage2Attributes> {
        let execute = match descriptor >> S2_XN_SHIFT & S2_XN_MASK {
            0b00 => Stage2Execute::All,
            0b10 => Stage2Execute::None,
            0b01 if self.config.xnx => Stage2Execute::El0Only,
            0b11 if self.config.xnx => Stage2Execute::El1Only,
            _ => return None,
        };
        Some(Stage2Attributes {
            memory: self.decode_memory(descriptor >> bits::MEM_ATTR_SHIFT & bits::MEM_ATTR_MASK)?,
            shareability: Shareability::from_field(descriptor >> bits::SH_SHIFT & bits::SH_MASK)?,
            read: descriptor & S2AP_READ != 0,
            write: descriptor & S2AP_WRITE != 0,
            execute,
            access_flag: descriptor & AF != 0,
            software: (descriptor >> bits::SOFTWARE_SHIFT & bits::SOFTWARE_MASK) as u8,
        })
    }

    fn live_bits(&self) -> u64 {
        S2AP_READ | S2AP_WRITE | AF | DBM | S2_XN_MASK << S2_XN_SHIFT | bits::SOFTWARE_MASK << bits::SOFTWARE_SHIFT
    }

    fn write_protection(&self) -> (u64, u64) {
        (S2AP_WRITE | DBM, 0)
    }

    fn is_executable(&self, descriptor: u64) -> bool {
        descriptor >> S2_XN_SHIFT & S2_XN_MASK != 0b10
    }

    fn bypasses_caches(&self, descriptor: u64) -> bool {
        let memory = self.decode_memory(descriptor >> bits::MEM_ATTR_SHIFT & bits::MEM_ATTR_MASK);
        match memory {
            Some(Stage2Memory::NormalWriteBack) => false,
            Some(Stage2Memory::Normal | Stage2Memory::NormalNonCacheable) => true,
            Some(Stage2Memory::DeviceNgnre | Stage2Memory::DeviceNgnrne) | None => false,
        }
    }

    #[inline]
    fn invalidate<M: Maintenance + ?Sized>(&self, maintenance: &M, root: PhysAddr, scope: Scope) {
        maintenance.dsb(DsbKind::Ish);
        let vttbr = self.vttbr(root);
        let previous = maintenance.load_vttbr(vttbr);
        if previous != vttbr {
            maintenance.isb();
        }
        let done = by_address(
            scope,
            self.config.tlbi,
            |input, level| maintenance.tlbi(Tlbi::Ipas2e1Is { ipa: Ipa::new(input), level }),
            |input, pages, level| maintenance.tlbi(Tlbi::Ripas2e1Is { ipa: Ipa::new(input), pages, level }),
        );
        if done {
            // Entries that combine both stages hold no IPA: they can go only when no walk can refill them from
            // stage-2 entries, hence the barrier between the two.
            maintenance.dsb(DsbKind::Ish);
            maintenance.tlbi(Tlbi::Vmalle1Is);
        } else {
            maintenance.tlbi(Tlbi::Vmalls12e1Is);
        }
        maintenance.dsb(DsbKind::Ish);
        if previous != vttbr {
            maintenance.load_vttbr(previous);
        }
        maintenance.isb();
    }

    fn publish<M: Maintenance + ?Sized>(&self, maintenance: &M) {
        maintenance.dsb(DsbKind::Ishst);
    }
}

impl Stage2 {
    /// A stage-2 table over `root`, which holds [`Stage2Config::root_pages`] zeroed pages, aligned to their size.
    ///
    /// # Errors
    /// [`TableError::BadConfiguration`] where a size is out of range, the root is misaligned or beyond the physical
    /// address size, or the VMID has more than 8 bits where the CPU has no more.
    pub fn new(root: PhysAddr, config: Stage2Config, vmid: u16) -> Result<Self, TableError> {
        if !config.vmid_16_bits && vmid > 0xff {
            return Err(TableError::BadConfiguration);
        }
        Self::over(root, Stage2Regime { config, geometry: config.geometry()?, vmid })
    }

    /// The VMID.
    pub fn vmid(&self) -> u16 {
        self.regime().vmid
    }

    /// The configuration.
    pub fn config(&self) -> &Stage2Config {
        &self.regime().config
    }

    /// The value of VTCR_EL2 that this table is walked with.
    pub fn vtcr_el2(&self) -> u64 {
        // The geometry was computed from the same configuration when the table was made.
        self.regime().config.vtcr_el2().unwrap_or(0)
    }

    /// The value of VTTBR_EL2 that selects this table.
    pub fn vttbr_el2(&self) -> u64 {
        self.regime().vttbr(self.root())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::regime::Change;

    fn regime(config: Stage2Config) -> Stage2Regime {
        Stage2Regime { config, geometry: config.geometry().unwrap(), vmid: 1 }
    }

    #[test]
    fn vtcr_el2_holds_the_values_worked_out_by_hand() {
        // T0SZ | SL0 << 6 | IRGN0 1 << 8 | ORGN0 1 << 10 | SH0 3 << 12 | PS << 16 | VS << 19 | 1 << 31.
        for (ipa_bits, pa_bits, vmid_16_bits, expected) in [
            (40, 40, false, 0x8002_3558),
            (40, 48, true, 0x800d_3558),
            (39, 40, false, 0x8002_3559),
            (32, 36, false, 0x8001_3520),
            (34, 36, false, 0x8001_351e),
            (35, 36, false, 0x8001_355d),
            (43, 44, false, 0x8004_3555),
            (44, 44, false, 0x8004_3594),
            (48, 48, false, 0x8005_3590),
        ] {
            let config = Stage2Config { vmid_16_bits, ..Stage2Config::new(ipa_bits, pa_bits) };
            assert_eq!(config.vtcr_el2(), Ok(expected), "{ipa_bits} of {pa_bits} bits");
        }
        let config = Stage2Config { hardware_access_flag: true, ..Stage2Config::new(40, 40) };
        assert_eq!(config.vtcr_el2(), Ok(0x8022_3558), "HA 1 << 21");
        assert_eq!(Stage2Config::new(31, 48).vtcr_el2(), Err(TableError::BadConfiguration));
    }

    #[test]
    fn vttbr_el2_holds_vmid_and_root() {
        let table = Stage2::new(PhysAddr::new(0x4000_2000), Stage2Config::new(40, 48), 0xab).unwrap();
        assert_eq!(table.vttbr_el2(), 0x00ab_0000_4000_2000);
        assert_eq!(table.vtcr_el2(), 0x8005_3558);
    }

    #[test]
    fn attributes_have_the_bits_worked_out_by_hand() {
        let plain = regime(Stage2Config::new(40, 48));
        let fwb = regime(Stage2Config { fwb: true, xnx: true, ..Stage2Config::new(40, 48) });
        let memory = Stage2Attributes::memory();
        assert_eq!(plain.encode(memory), Ok(0x7fc));
        assert_eq!(fwb.encode(memory), Ok(0x7dc));
        let write_back = Stage2Attributes { memory: Stage2Memory::NormalWriteBack, ..memory };
        assert_eq!(fwb.encode(write_back), Ok(0x7d8));
        assert_eq!(plain.encode(Stage2Attributes::device()), Ok(0x0040_0000_0000_04c4));
        let el1_only = Stage2Attributes { execute: Stage2Execute::El1Only, ..memory };
        assert_eq!(fwb.encode(el1_only), Ok(0x0060_0000_0000_07dc));
        assert_eq!(plain.encode(el1_only), Err(TableError::BadAttributes));
        assert_eq!(plain.encode(memory.with_software(0xf)), Ok(0x0780_0000_0000_07fc));
        assert_eq!(plain.encode(memory.with_software(0x10)), Err(TableError::BadAttributes));
    }

    #[test]
    fn attributes_survive_the_round_trip() {
        use Stage2Memory::{DeviceNgnre, DeviceNgnrne, Normal, NormalNonCacheable, NormalWriteBack};
        let mut tried = 0;
        for features in 0..4 {
            let (fwb, xnx) = (features & 1 != 0, features & 2 != 0);
            let regime = regime(Stage2Config { fwb, xnx, ..Stage2Config::new(40, 48) });
            for memory in [Normal, NormalWriteBack, NormalNonCacheable, DeviceNgnre, DeviceNgnrne] {
                for shareability in [Shareability::NonShareable, Shareability::Outer, Shareability::Inner] {
                    for execute in
                        [Stage2Execute::All, Stage2Execute::None, Stage2Execute::El1Only, Stage2Execute::El0Only]
                    {
                        for flags in 0..128u8 {
                            let attributes = Stage2Attributes {
                                memory,
                                shareability,
                                read: flags & 1 != 0,
                                write: flags & 2 != 0,
                                execute,
                                access_flag: flags & 4 != 0,
                                software: flags >> 3,
                            };
                            let Ok(bits) = regime.encode(attributes) else {
                                assert!(!xnx);
                                continue;
                            };
                            assert_eq!(bits & !bits::ATTRIBUTES, 0);
                            let mut expected = attributes;
                            if !fwb && memory == NormalWriteBack {
                                expected.memory = Normal;
                            }
                            assert_eq!(regime.decode(bits), Some(expected));
                            tried += 1;
                        }
                    }
                }
            }
        }
        assert_eq!(tried, 5 * 3 * 128 * (2 * 2 + 2 * 4));
    }

    #[test]
    fn only_permissions_flags_and_software_bits_change_in_place() {
        let regime = regime(Stage2Config { xnx: true, ..Stage2Config::new(40, 48) });
        let old = crate::descriptor::leaf(0x4000_0000, regime.encode(Stage2Attributes::memory()).unwrap(), 3);
        for bit in 0..64 {
            let expected = if [6, 7, 10, 51, 53, 54, 55, 56, 57, 58].contains(&bit) {
                Change::InPlace
            } else {
                Change::BreakBeforeMake
            };
            assert_eq!(regime.change(old, old ^ 1 << bit), expected, "bit {bit}");
        }
        assert_eq!(regime.change(old, old), Change::None);
        assert_eq!(regime.change(0, AF), Change::BreakBeforeMake, "only of what is valid");
    }

    #[test]
    fn execute_never_by_exception_level_is_reserved_without_xnx() {
        let bits = |field: u64| 0x7fc | field << 53;
        for (xnx, expected) in [
            (false, [Some(Stage2Execute::All), None, Some(Stage2Execute::None), None]),
            (true, [Stage2Execute::All, Stage2Execute::El0Only, Stage2Execute::None, Stage2Execute::El1Only].map(Some)),
        ] {
            let regime = regime(Stage2Config { xnx, ..Stage2Config::new(40, 48) });
            let decoded = [0, 1, 2, 3].map(|field| regime.decode(bits(field)).map(|attributes| attributes.execute));
            assert_eq!(decoded, expected, "FEAT_XNX {xnx}");
        }
    }

    #[test]
    fn only_execute_never_of_both_levels_forbids_execution() {
        let regime = regime(Stage2Config { xnx: true, ..Stage2Config::new(40, 48) });
        for (execute, executable) in [
            (Stage2Execute::All, true),
            (Stage2Execute::None, false),
            (Stage2Execute::El1Only, true),
            (Stage2Execute::El0Only, true),
        ] {
            let bits = regime.encode(Stage2Attributes { execute, ..Stage2Attributes::memory() }).unwrap();
            assert_eq!(regime.is_executable(bits), executable, "{execute:?}");
        }
    }
}
