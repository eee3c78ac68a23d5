//! A machine with hand-made tables, whose descriptors the tests write themselves.

use abi::{Ipa, PhysAddr, PhysRange};
use memsim::{Cpu, Machine, TreeKind};
use pgtable::{DsbKind, Maintenance, Stage2, Stage2Config, TableFrames, Tlbi};

pub const VMID: u16 = 5;
/// A page that maps `output` with all rights: Normal memory, inner shareable, access flag.
pub const PAGE: u64 = 0x7ff;
/// The same as a block.
pub const BLOCK: u64 = 0x7fd;
pub const TABLE: u64 = 3;
/// The IPA that the first descriptor of the level-3 table translates.
pub const IPA: u64 = 1 << 30;

/// One step of a sequence, by CPU 0 unless told otherwise.
#[derive(Clone, Copy, Debug)]
pub enum Do {
    Dsb(DsbKind),
    Tlbi(Tlbi),
    Isb,
    Other(&'static Do),
    /// VTTBR_EL2 of the VMID, without a barrier.
    Vttbr(u16),
}

/// Tables of levels 1 (root), 2 and 3 with one page mapped at [`IPA`].
pub struct Scene {
    pub machine: Machine,
    pub cpu: Cpu,
    pub other: Cpu,
    pub root: PhysAddr,
    pub level2: PhysAddr,
    pub level3: PhysAddr,
}

impl Scene {
    pub fn new(cpus: usize) -> Self {
        let machine = Machine::new(cpus, PhysRange::from_size(PhysAddr::new(0x10_0000), 0x10_0000).unwrap());
        let root = machine.take_root(1);
        let table = Stage2::new(root, Stage2Config::new(39, 48), VMID).unwrap();
        machine.track_stage2(&table);
        let mut cpu = machine.cpu(0);
        let other = machine.cpu(cpus - 1);
        let level2 = cpu.allocate().unwrap();
        let level3 = cpu.allocate().unwrap();
        cpu.write(level3, 0x8000_0000 | PAGE);
        cpu.write(level2, level3.raw() | TABLE);
        cpu.write(root.checked_add(8).unwrap(), level2.raw() | TABLE);
        cpu.dsb(DsbKind::Ishst);
        for each in [&cpu, &other] {
            each.load_vttbr(table.vttbr_el2());
            each.isb();
        }
        machine.assert_clean();
        Self { machine, cpu, other, root, level2, level3 }
    }

    /// The slot of the level-1 descriptor in use.
    pub fn level1_slot(&self) -> PhysAddr {
        self.root.checked_add(8).unwrap()
    }

    pub fn run(&self, steps: &[Do]) {
        for step in steps {
            self.step(&self.cpu, *step);
        }
    }

    pub fn step(&self, cpu: &Cpu, step: Do) {
        match step {
            Do::Dsb(kind) => cpu.dsb(kind),
            Do::Tlbi(operation) => cpu.tlbi(operation),
            Do::Isb => cpu.isb(),
            Do::Other(step) => self.step(&self.other, *step),
            Do::Vttbr(vmid) => {
                let root = if vmid == VMID { self.root.raw() } else { 0x9000_0000 };
                cpu.load_vttbr(u64::from(vmid) << 48 | root);
            }
        }
    }

    /// Every address that a CPU may reach at [`IPA`].
    pub fn reachable(&self) -> Vec<u64> {
        self.machine.reachable(VMID, Ipa::new(IPA)).into_iter().map(PhysAddr::raw).collect()
    }

    /// Fails unless the last violation's text contains `part`.
    #[track_caller]
    pub fn expect_violation(&self, part: &str) {
        let violations = self.machine.violations();
        let last = violations.last().unwrap_or_else(|| panic!("no violation, but one about {part:?} was expected"));
        assert!(last.message.contains(part), "{last}");
        assert!(!last.history.is_empty());
    }

    #[track_caller]
    pub fn expect_none(&self) {
        let violations = self.machine.violations();
        assert!(violations.is_empty(), "{}", violations[0]);
    }
}

pub fn kind() -> TreeKind {
    TreeKind::Stage2 { vmid: VMID }
}

pub const ISH: Do = Do::Dsb(DsbKind::Ish);
pub const ISHST: Do = Do::Dsb(DsbKind::Ishst);
pub const NSH: Do = Do::Dsb(DsbKind::Nsh);
pub const SY: Do = Do::Dsb(DsbKind::Sy);

pub const fn by_ipa(ipa: u64) -> Do {
    Do::Tlbi(Tlbi::Ipas2e1Is { ipa: Ipa::new(ipa), level: None })
}

pub const VMALLE1IS: Do = Do::Tlbi(Tlbi::Vmalle1Is);
pub const VMALLS12E1IS: Do = Do::Tlbi(Tlbi::Vmalls12e1Is);
pub const ALLE1IS: Do = Do::Tlbi(Tlbi::Alle1Is);
