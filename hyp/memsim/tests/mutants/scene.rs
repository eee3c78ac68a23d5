//! A machine with a table of each regime, on which a scenario runs, and all that there is to complain about afterwards.

use std::fmt::Debug;

use abi::{Ipa, PAGE_SIZE, PhysAddr, PhysRange, VirtAddr};
use memsim::{Machine, TreeKind};
use pgtable::{
    El1Attributes, El1Config, El1Stage1, El2Attributes, El2Config, El2Stage1, MapOptions, Stage2, Stage2Attributes,
    Stage2Config, TlbiFeatures, VirtualHalf,
};

use crate::flawed::{Flaw, Flawed};

pub const PAGE: u64 = PAGE_SIZE;
pub const MIB2: u64 = 2 << 20;
pub const GIB: u64 = 1 << 30;
/// Where everything is mapped.
pub const INPUT: u64 = GIB;
/// What is mapped there. Beyond 4 GiB, so that both halves of a descriptor matter.
pub const OUTPUT: u64 = 6 * GIB;
/// Something else.
pub const OTHER: u64 = 9 * GIB;

/// The first frame that is allocated for a table: the four before it are roots.
pub const FIRST_TABLE: PhysAddr = PhysAddr::new(POOL.raw() + 4 * PAGE);
const POOL: PhysAddr = PhysAddr::new(0x10_0000);
const VMID: u16 = 3;
/// The VMID that VTTBR_EL2 holds when an operation begins.
const CURRENT_VMID: u16 = 7;
const ASID: u8 = 9;
pub const OPTIONS: MapOptions =
    MapOptions { force_pages: false, replace_annotations: false, synchronise_caches: false };
pub const PAGES: MapOptions = MapOptions { force_pages: true, ..OPTIONS };
pub const SYNCHRONISE: MapOptions = MapOptions { synchronise_caches: true, ..OPTIONS };

pub struct Scene {
    pub machine: Machine,
    pub environment: Flawed,
    pub stage2: Option<Stage2>,
    pub el2: Option<El2Stage1>,
    pub el1: Option<El1Stage1>,
    complaints: Vec<String>,
}

impl Scene {
    /// Two CPUs, and a table of each regime with `tlbi`; what is in them is mapped while maintenance is right.
    pub fn new(flaw: Flaw, tlbi: TlbiFeatures) -> Self {
        let machine = Machine::new(2, PhysRange::from_size(POOL, 0x400_0000).unwrap());
        let environment = Flawed::new(machine.cpu(0), machine.cpu(1), flaw);
        let stage2 = |vmid: u16| {
            let config = Stage2Config { tlbi, ..Stage2Config::new(39, 48) };
            let table = Stage2::new(machine.take_root(1), config, vmid).unwrap();
            machine.track_stage2(&table);
            table
        };
        let current = stage2(CURRENT_VMID);
        for cpu in 0..2 {
            use pgtable::Maintenance;
            machine.cpu(cpu).load_vttbr(current.vttbr_el2());
            machine.cpu(cpu).isb();
        }
        let stage2 = stage2(VMID);
        let config = El2Config { va_bits: 39, pa_bits: 48, hardware_access_flag: false, tlbi };
        let el2 = El2Stage1::new(machine.take_root(1), config).unwrap();
        machine.track_el2(&el2);
        let config = El1Config {
            va_bits: 39,
            pa_bits: 48,
            half: VirtualHalf::Lower,
            asid: ASID,
            hardware_access_flag: false,
            tlbi,
        };
        let el1 = El1Stage1::new(machine.take_root(1), config).unwrap();
        machine.track_el1(&el1);
        let (stage2, el2, el1) = (Some(stage2), Some(el2), Some(el1));
        Self { machine, environment, stage2, el2, el1, complaints: Vec::new() }
    }

    pub fn complain(&mut self, what: impl Into<String>) {
        self.complaints.push(what.into());
    }

    /// Notes that something did not succeed.
    pub fn expect<T, E: Debug>(&mut self, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.complain(format!("refused: {error:?}"))).ok()
    }

    /// Maps `size` bytes at [`INPUT`] to [`OUTPUT`] in stage 2, before anything goes wrong.
    pub fn stage2_holds(&mut self, size: u64, options: MapOptions) {
        let memory = Stage2Attributes::memory();
        let table = self.stage2.as_mut().unwrap();
        table.map(&mut self.environment, Ipa::new(INPUT), PhysAddr::new(OUTPUT), size, memory, options).unwrap();
    }

    /// As [`stage2_holds`](Self::stage2_holds), for EL2.
    pub fn el2_holds(&mut self, size: u64, options: MapOptions) {
        let data = El2Attributes::data();
        let table = self.el2.as_mut().unwrap();
        table.map(&mut self.environment, VirtAddr::new(INPUT), PhysAddr::new(OUTPUT), size, data, options).unwrap();
    }

    /// As [`stage2_holds`](Self::stage2_holds), for EL1, in pages of its ASID only.
    pub fn el1_holds(&mut self, size: u64, options: MapOptions) {
        let data = El1Attributes { global: false, ..El1Attributes::data() };
        let table = self.el1.as_mut().unwrap();
        table.map(&mut self.environment, VirtAddr::new(INPUT), PhysAddr::new(OUTPUT), size, data, options).unwrap();
    }

    /// One operation on stage 2, of which something may go wrong.
    pub fn on_stage2<T, E: Debug>(
        &mut self,
        operation: impl FnOnce(&mut Stage2, &mut Flawed) -> Result<T, E>,
    ) -> Option<T> {
        self.operate(|scene| {
            let result = operation(scene.stage2.as_mut().unwrap(), &mut scene.environment);
            scene.expect(result)
        })
    }

    pub fn on_el2<T, E: Debug>(
        &mut self,
        operation: impl FnOnce(&mut El2Stage1, &mut Flawed) -> Result<T, E>,
    ) -> Option<T> {
        self.operate(|scene| {
            let result = operation(scene.el2.as_mut().unwrap(), &mut scene.environment);
            scene.expect(result)
        })
    }

    pub fn on_el1<T, E: Debug>(
        &mut self,
        operation: impl FnOnce(&mut El1Stage1, &mut Flawed) -> Result<T, E>,
    ) -> Option<T> {
        self.operate(|scene| {
            let result = operation(scene.el1.as_mut().unwrap(), &mut scene.environment);
            scene.expect(result)
        })
    }

    /// Runs an operation during which things may go wrong, and looks at what it leaves unfinished.
    pub fn operate<T>(&mut self, operation: impl FnOnce(&mut Self) -> T) -> T {
        let vttbr = self.environment.cpu.vttbr();
        self.environment.arm();
        let result = operation(self);
        // The code under test has returned: what it put off has not been done.
        self.complaints.extend(self.machine.unfinished());
        if self.environment.cpu.vttbr() != vttbr {
            self.complain("VTTBR_EL2 is left changed");
        }
        self.environment.disarm();
        result
    }

    /// Every address of `inputs` translates to what the function says, on all CPUs, in the tree.
    fn translates(&mut self, kind: TreeKind, inputs: &[(u64, Option<u64>)]) {
        for (input, expected) in inputs {
            let found: Vec<u64> = self.machine.translations(kind, *input).iter().map(|one| one.output.raw()).collect();
            let expected: Vec<u64> = expected.iter().copied().collect();
            if found != expected {
                self.complain(format!("{input:#x} of {kind} translates to {found:#x?}, not to {expected:#x?}"));
            }
        }
    }

    pub fn stage2_is(&mut self, inputs: &[(u64, Option<u64>)]) {
        self.translates(TreeKind::Stage2 { vmid: VMID }, inputs);
    }

    pub fn el2_is(&mut self, inputs: &[(u64, Option<u64>)]) {
        self.translates(TreeKind::El2, inputs);
    }

    pub fn el1_is(&mut self, inputs: &[(u64, Option<u64>)]) {
        self.translates(TreeKind::El1 { asid: u16::from(ASID) }, inputs);
    }

    /// The frames that are allocated are as many as the tables that hang from the roots.
    pub fn frames_are_accounted_for(&mut self) {
        let mut tables = 0;
        let cpu = &self.environment.cpu;
        if let Some(table) = &self.stage2 {
            table.visit_tables(cpu, |_| tables += 1).unwrap_or_default();
        }
        if let Some(table) = &self.el2 {
            table.visit_tables(cpu, |_| tables += 1).unwrap_or_default();
        }
        if let Some(table) = &self.el1 {
            table.visit_tables(cpu, |_| tables += 1).unwrap_or_default();
        }
        let allocated = self.machine.allocated_frames();
        if allocated != tables {
            self.complain(format!("{allocated} frames are allocated, but the trees have {tables} tables"));
        }
    }

    /// Everything that was wrong.
    pub fn complaints(mut self) -> Vec<String> {
        self.frames_are_accounted_for();
        let violations = self.machine.violations().into_iter().map(|violation| violation.message);
        self.complaints.into_iter().chain(violations).collect()
    }
}
