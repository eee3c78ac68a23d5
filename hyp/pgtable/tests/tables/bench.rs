//! A machine with a tracked stage-2 table, for the tests of this folder.

use abi::{Ipa, PhysAddr, PhysRange};
use memsim::{Cpu, Machine, TreeKind};
use pgtable::{Stage2, Stage2Config};

pub const VMID: u16 = 3;
pub const PAGE: u64 = 4096;
pub const MIB2: u64 = 2 << 20;
pub const GIB: u64 = 1 << 30;

pub fn pool() -> PhysRange {
    PhysRange::from_size(PhysAddr::new(0x10_0000), 0x1000_0000).unwrap()
}

pub struct Bench {
    pub machine: Machine,
    pub cpu: Cpu,
    pub table: Stage2,
}

impl Bench {
    pub fn with(config: Stage2Config) -> Self {
        let machine = Machine::new(2, pool());
        let root = machine.take_root(config.root_pages().unwrap());
        let table = Stage2::new(root, config, VMID).unwrap();
        machine.track_stage2(&table);
        let cpu = machine.cpu(0);
        Self { machine, cpu, table }
    }

    pub fn new() -> Self {
        Self::with(Stage2Config::new(40, 48))
    }

    /// What memory, and every TLB, makes of `ipa`.
    #[track_caller]
    pub fn translate(&self, ipa: u64) -> Option<u64> {
        let found = self.machine.translations(TreeKind::Stage2 { vmid: VMID }, ipa);
        assert!(found.len() <= 1, "several translations of {ipa:#x}: {found:?}");
        found.first().map(|translation| translation.output.raw())
    }

    /// The size of the leaf that decides for `ipa`.
    pub fn leaf_size(&self, ipa: u64) -> u64 {
        self.table.lookup(&self.cpu, Ipa::new(ipa)).unwrap().size
    }

    /// Takes the table down and checks that nothing is left.
    #[track_caller]
    pub fn finish(self) {
        let Self { machine, mut cpu, table } = self;
        machine.assert_clean();
        let root = table.destroy(&mut cpu);
        machine.assert_clean();
        machine.assert_no_leak();
        machine.forget(root.start);
        machine.return_root(root);
        machine.assert_clean();
    }
}
