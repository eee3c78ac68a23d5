//! The regimes under test, and what their descriptors are to be, written down a second time from the Arm ARM (D8.3).

use std::fmt::Debug;

use abi::{Ipa, PhysAddr, PhysRange, VirtAddr};
use arbitrary::{Arbitrary, Result, Unstructured};
use memsim::{Cpu, Machine};
use pgtable::el1::El1Regime;
use pgtable::el2::El2Regime;
use pgtable::stage2::Stage2Regime;
use pgtable::{
    Annotation, El1Attributes, El1Config, El1Stage1, El2Attributes, El2Config, El2Stage1, Environment, Maintenance,
    MemoryType, PageTable, Regime, Shareability, Stage2, Stage2Attributes, Stage2Config, Stage2Execute, Stage2Memory,
    TableError, TableFrames, TlbiFeatures, VirtualHalf,
};

use crate::walk::Shape;

/// VMID of stage-2 tables.
pub const VMID: u16 = 0xa5;
/// ASID of EL1's tables.
const ASID: u8 = 0x5a;

/// Which table is built.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    /// Stage 2.
    Stage2,
    /// Stage 1 of EL2.
    El2,
    /// Stage 1 of EL1, from address 0.
    El1Lower,
    /// Stage 1 of EL1, up to the top.
    El1Upper,
}

/// A table's parameters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Configuration {
    /// Its regime.
    pub which: Which,
    /// Bits of an input address.
    pub input_bits: u32,
    /// Bits of an output address.
    pub output_bits: u32,
    /// FEAT_S2FWB.
    pub fwb: bool,
    /// FEAT_XNX.
    pub xnx: bool,
    /// FEAT_TTL and FEAT_TLBIRANGE.
    pub tlbi: TlbiFeatures,
}

impl Configuration {
    /// The tree's shape: the fewest levels, stage 2 with up to 16 root tables side by side.
    pub fn shape(&self) -> Shape {
        let side_by_side = if self.which == Which::Stage2 { 4 } else { 0 };
        let resolved_from = |level: u32| 12 + 9 * (4 - level);
        let start = (0..=2).rev().find(|level| self.input_bits <= resolved_from(*level) + side_by_side).unwrap_or(0);
        let root_tables = 1 << self.input_bits.saturating_sub(resolved_from(start));
        Shape { start_level: start as u8, root_tables, input_bits: self.input_bits }
    }

    /// The lowest input address.
    pub fn input_base(&self) -> u64 {
        if self.which == Which::El1Upper { !0 << self.input_bits } else { 0 }
    }
}

impl<'a> Arbitrary<'a> for Configuration {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let which = *u.choose(&[Which::Stage2, Which::Stage2, Which::El2, Which::El1Lower, Which::El1Upper])?;
        let input_bits = u.int_in_range(32..=48)?;
        let least = if which == Which::Stage2 { input_bits } else { 32 };
        let sizes: Vec<u32> = [48, 44, 42, 40, 36, 32].into_iter().filter(|size| *size >= least).collect();
        let output_bits = *u.choose(&sizes)?;
        let mut flag = |bit: u32| Ok(u.arbitrary::<u8>()? >> bit & 1 != 0);
        let (fwb, xnx, level_hint, range) = (flag(0)?, flag(1)?, flag(2)?, flag(3)?);
        Ok(Self { which, input_bits, output_bits, fwb, xnx, tlbi: TlbiFeatures { level_hint, range } })
    }
}

/// Attributes of any regime, packed: 0 is ordinary memory with all rights, and each bit turns something else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AttributeCode(pub u16);

impl AttributeCode {
    fn bit(self, position: u32) -> bool {
        self.0 >> position & 1 != 0
    }

    fn field(self, position: u32, count: u16) -> u16 {
        (self.0 >> position & 7) % count
    }

    fn shareability(self) -> Shareability {
        [Shareability::Inner, Shareability::Outer, Shareability::NonShareable][usize::from(self.0 >> 3 & 3) % 3]
    }

    fn memory(self) -> MemoryType {
        [MemoryType::Normal, MemoryType::DeviceNgnre, MemoryType::DeviceNgnrne][usize::from(self.field(0, 3))]
    }

    fn software(self) -> u8 {
        // One bit more than there are.
        (self.0 >> 10 & 0x1f) as u8
    }
}

impl<'a> Arbitrary<'a> for AttributeCode {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(Self(match u.int_in_range(0..=7)? {
            0..=2 => 0,
            3 => u.arbitrary()?,
            _ => 1 << u.int_in_range(0..=13)?,
        }))
    }
}

/// SH, AF and the software bits, which are in the same place in every regime.
fn common_bits(shareability: Shareability, access_flag: bool, software: u8) -> Option<u64> {
    let shareability = match shareability {
        Shareability::NonShareable => 0b00,
        Shareability::Outer => 0b10,
        Shareability::Inner => 0b11,
    };
    (software < 16).then_some(shareability << 8 | u64::from(access_flag) << 10 | u64::from(software) << 55)
}

/// AttrIndx by the layout of MAIR that the project uses.
fn attr_indx(memory: MemoryType) -> u64 {
    match memory {
        MemoryType::Normal => 0,
        MemoryType::DeviceNgnre => 1 << 2,
        MemoryType::DeviceNgnrne => 2 << 2,
    }
}

/// True where the fields that all stage-1 regimes have hold no reserved value.
fn stage1_is_defined(descriptor: u64) -> bool {
    descriptor >> 2 & 7 <= 2 && descriptor >> 8 & 3 != 1
}

/// What a target needs of a regime besides its operations.
pub trait Subject: Regime {
    /// The bits of a descriptor that [`Regime::Attributes`] speaks of.
    const FIELDS: u64;

    /// A table over `root`.
    fn table(root: PhysAddr, configuration: &Configuration) -> std::result::Result<PageTable<Self>, TableError>;

    /// Has `machine` watch the table.
    fn track(machine: &Machine, table: &PageTable<Self>);

    /// The attributes that `code` stands for.
    fn attributes(code: AttributeCode) -> Self::Attributes;

    /// What a descriptor with these attributes holds besides address and type; `None` where it cannot be said.
    fn bits(configuration: &Configuration, attributes: Self::Attributes) -> Option<u64>;

    /// True where the fields of a valid descriptor hold no reserved value.
    fn is_defined(configuration: &Configuration, descriptor: u64) -> bool;

    /// True where accesses by a mapping with these attributes may bypass the caches.
    fn may_bypass_caches(configuration: &Configuration, attributes: Self::Attributes) -> bool;

    /// True where instructions may be fetched by a mapping with these attributes.
    fn may_be_fetched(attributes: Self::Attributes) -> bool;

    /// The same descriptor's bits without the right to write.
    fn write_protected(bits: u64) -> u64 {
        bits | 1 << 7
    }

    /// Asks for a slot at `input`, `None` where the regime has none.
    fn page_slot<F: TableFrames>(
        _table: &PageTable<Self>,
        _frames: &F,
        _input: Self::Input,
    ) -> Option<std::result::Result<(), TableError>> {
        None
    }

    /// Makes the range invalid with a note, `None` where the regime has no such operation.
    fn annotate<E: Environment>(
        table: &mut PageTable<Self>,
        environment: &mut E,
        input: Self::Input,
        size: u64,
        note: Option<Annotation>,
    ) -> Option<std::result::Result<(), TableError>>;
}

impl Subject for Stage2Regime {
    const FIELDS: u64 = 0xf << 2 | 3 << 6 | 3 << 8 | 1 << 10 | 3 << 53 | 0xf << 55;

    fn table(root: PhysAddr, configuration: &Configuration) -> std::result::Result<Stage2, TableError> {
        let Configuration { input_bits, output_bits, fwb, xnx, tlbi, .. } = *configuration;
        let config = Stage2Config { fwb, xnx, tlbi, ..Stage2Config::new(input_bits, output_bits) };
        Stage2::new(root, config, VMID)
    }

    fn track(machine: &Machine, table: &Stage2) {
        machine.track_stage2(table);
    }

    fn attributes(code: AttributeCode) -> Stage2Attributes {
        Stage2Attributes {
            memory: [
                Stage2Memory::Normal,
                Stage2Memory::NormalWriteBack,
                Stage2Memory::NormalNonCacheable,
                Stage2Memory::DeviceNgnre,
                Stage2Memory::DeviceNgnrne,
            ][usize::from(code.field(0, 5))],
            shareability: code.shareability(),
            read: !code.bit(5),
            write: !code.bit(6),
            execute: [Stage2Execute::All, Stage2Execute::None, Stage2Execute::El1Only, Stage2Execute::El0Only]
                [usize::from(code.0 >> 7 & 3)],
            access_flag: !code.bit(9),
            software: code.software(),
        }
    }

    fn bits(configuration: &Configuration, attributes: Stage2Attributes) -> Option<u64> {
        let memory = match attributes.memory {
            Stage2Memory::DeviceNgnrne => 0b0000,
            Stage2Memory::DeviceNgnre => 0b0001,
            Stage2Memory::NormalNonCacheable => 0b0101,
            Stage2Memory::NormalWriteBack if configuration.fwb => 0b0110,
            Stage2Memory::Normal if configuration.fwb => 0b0111,
            Stage2Memory::Normal | Stage2Memory::NormalWriteBack => 0b1111,
        };
        let execute = match attributes.execute {
            Stage2Execute::All => 0b00,
            Stage2Execute::None => 0b10,
            Stage2Execute::El1Only if configuration.xnx => 0b11,
            Stage2Execute::El0Only if configuration.xnx => 0b01,
            Stage2Execute::El1Only | Stage2Execute::El0Only => return None,
        };
        let common = common_bits(attributes.shareability, attributes.access_flag, attributes.software)?;
        Some(common | memory << 2 | u64::from(attributes.read) << 6 | u64::from(attributes.write) << 7 | execute << 53)
    }

    fn is_defined(configuration: &Configuration, descriptor: u64) -> bool {
        let memory: &[u64] = if configuration.fwb { &[0, 1, 5, 6, 7] } else { &[0, 1, 5, 15] };
        let execute: &[u64] = if configuration.xnx { &[0, 1, 2, 3] } else { &[0, 2] };
        memory.contains(&(descriptor >> 2 & 0xf))
            && execute.contains(&(descriptor >> 53 & 3))
            && descriptor >> 8 & 3 != 1
    }

    fn write_protected(bits: u64) -> u64 {
        bits & !(1 << 7)
    }

    fn may_bypass_caches(configuration: &Configuration, attributes: Stage2Attributes) -> bool {
        match attributes.memory {
            Stage2Memory::Normal | Stage2Memory::NormalNonCacheable => true,
            Stage2Memory::NormalWriteBack => !configuration.fwb,
            Stage2Memory::DeviceNgnre | Stage2Memory::DeviceNgnrne => false,
        }
    }

    fn may_be_fetched(attributes: Stage2Attributes) -> bool {
        attributes.execute != Stage2Execute::None
    }

    fn annotate<E: Environment>(
        table: &mut Stage2,
        environment: &mut E,
        input: Ipa,
        size: u64,
        note: Option<Annotation>,
    ) -> Option<std::result::Result<(), TableError>> {
        Some(table.annotate(environment, input, size, note))
    }
}

impl Subject for El2Regime {
    const FIELDS: u64 = 7 << 2 | 1 << 7 | 3 << 8 | 1 << 10 | 1 << 54 | 0xf << 55;

    fn table(root: PhysAddr, configuration: &Configuration) -> std::result::Result<El2Stage1, TableError> {
        let Configuration { input_bits: va_bits, output_bits: pa_bits, tlbi, .. } = *configuration;
        El2Stage1::new(root, El2Config { va_bits, pa_bits, hardware_access_flag: false, tlbi })
    }

    fn track(machine: &Machine, table: &El2Stage1) {
        machine.track_el2(table);
    }

    fn attributes(code: AttributeCode) -> El2Attributes {
        El2Attributes {
            memory: code.memory(),
            shareability: code.shareability(),
            write: !code.bit(6),
            execute: !code.bit(7),
            access_flag: !code.bit(9),
            software: code.software(),
        }
    }

    fn bits(_configuration: &Configuration, attributes: El2Attributes) -> Option<u64> {
        let common = common_bits(attributes.shareability, attributes.access_flag, attributes.software)?;
        let read_only = u64::from(!attributes.write) << 7;
        let execute_never = u64::from(!attributes.execute) << 54;
        Some(common | attr_indx(attributes.memory) | 1 << 6 | read_only | execute_never)
    }

    fn is_defined(_configuration: &Configuration, descriptor: u64) -> bool {
        stage1_is_defined(descriptor)
    }

    fn may_bypass_caches(_configuration: &Configuration, _attributes: El2Attributes) -> bool {
        false
    }

    fn may_be_fetched(attributes: El2Attributes) -> bool {
        attributes.execute
    }

    fn page_slot<F: TableFrames>(
        table: &El2Stage1,
        frames: &F,
        input: VirtAddr,
    ) -> Option<std::result::Result<(), TableError>> {
        Some(table.page_slot(frames, input, El2Attributes::data()).map(|_| ()))
    }

    fn annotate<E: Environment>(
        _table: &mut El2Stage1,
        _environment: &mut E,
        _input: VirtAddr,
        _size: u64,
        _note: Option<Annotation>,
    ) -> Option<std::result::Result<(), TableError>> {
        None
    }
}

impl Subject for El1Regime {
    const FIELDS: u64 = 7 << 2 | 3 << 6 | 3 << 8 | 3 << 10 | 3 << 53 | 0xf << 55;

    fn table(root: PhysAddr, configuration: &Configuration) -> std::result::Result<El1Stage1, TableError> {
        let Configuration { which, input_bits: va_bits, output_bits: pa_bits, tlbi, .. } = *configuration;
        let half = if which == Which::El1Upper { VirtualHalf::Upper } else { VirtualHalf::Lower };
        let hardware_access_flag = false;
        El1Stage1::new(root, El1Config { va_bits, pa_bits, half, asid: ASID, hardware_access_flag, tlbi })
    }

    fn track(machine: &Machine, table: &El1Stage1) {
        machine.track_el1(table);
    }

    fn attributes(code: AttributeCode) -> El1Attributes {
        El1Attributes {
            memory: code.memory(),
            shareability: code.shareability(),
            write: !code.bit(6),
            user: code.bit(5),
            privileged_execute: !code.bit(7),
            user_execute: code.bit(8),
            global: !code.bit(2),
            access_flag: !code.bit(9),
            software: code.software(),
        }
    }

    fn bits(_configuration: &Configuration, attributes: El1Attributes) -> Option<u64> {
        let common = common_bits(attributes.shareability, attributes.access_flag, attributes.software)?;
        let access = u64::from(attributes.user) << 6 | u64::from(!attributes.write) << 7;
        let not_global = u64::from(!attributes.global) << 11;
        let execute_never = u64::from(!attributes.privileged_execute) << 53 | u64::from(!attributes.user_execute) << 54;
        Some(common | attr_indx(attributes.memory) | access | not_global | execute_never)
    }

    fn is_defined(_configuration: &Configuration, descriptor: u64) -> bool {
        stage1_is_defined(descriptor)
    }

    fn may_bypass_caches(_configuration: &Configuration, _attributes: El1Attributes) -> bool {
        false
    }

    fn may_be_fetched(attributes: El1Attributes) -> bool {
        attributes.privileged_execute || attributes.user_execute
    }

    fn annotate<E: Environment>(
        _table: &mut El1Stage1,
        _environment: &mut E,
        _input: VirtAddr,
        _size: u64,
        _note: Option<Annotation>,
    ) -> Option<std::result::Result<(), TableError>> {
        None
    }
}

/// Where the roots of other tables than the one under test are, one for each VMID.
pub const OTHER_ROOTS: PhysRange =
    PhysRange { start: PhysAddr::new(0xf_0000_0000), end: PhysAddr::new(0xf_0000_0000 + (4096 << 16)) };

/// Has another table than the one under test loaded on `cpu`.
pub fn load_another_vmid(cpu: &Cpu, vmid: u16) {
    let root = OTHER_ROOTS.start.raw() + u64::from(vmid) * 4096;
    cpu.load_vttbr(u64::from(vmid) << 48 | root);
    cpu.isb();
}
