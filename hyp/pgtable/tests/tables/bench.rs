//! A machine with a tracked stage-2 table, for the tests of this folder.

use abi::{Ipa, PhysAddr, PhysRange};
use memsim::{Cpu, Event, Machine, TreeKind};
use pgtable::{Leaf, MapOptions, Stage2, Stage2Attributes, Stage2Config, Tlbi};

pub const VMID: u16 = 3;
pub const PAGE: u64 = 4096;
pub const MIB2: u64 = 2 << 20;
pub const GIB: u64 = 1 << 30;

/// The tables, at an address that no test maps to.
pub fn pool() -> PhysRange {
    PhysRange::from_size(PhysAddr::new(0xff_d000_0000), 0x1000_0000).unwrap()
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

    /// Maps what is vacant, with the largest leaves that fit or by pages only.
    #[track_caller]
    pub fn lay(&mut self, ipa: u64, output: u64, size: u64, attributes: Stage2Attributes, force_pages: bool) {
        let options = MapOptions { force_pages, ..MapOptions::default() };
        let output = PhysAddr::new(output);
        self.table.map(&mut self.cpu, Ipa::new(ipa), output, size, attributes, options).unwrap();
    }

    /// The leaf that decides for `ipa`.
    pub fn leaf(&self, ipa: u64) -> Leaf<pgtable::stage2::Stage2Regime> {
        self.table.lookup(&self.cpu, Ipa::new(ipa)).unwrap()
    }

    /// What `ipa` is mapped to, and how.
    pub fn mapping(&self, ipa: u64) -> Option<(u64, Stage2Attributes)> {
        let leaf = self.leaf(ipa);
        Some((leaf.output_of(Ipa::new(ipa))?.raw(), leaf.mapping()?.1))
    }

    /// What `operation` makes the machine do, which is checked to be complete.
    #[track_caller]
    pub fn events<T>(&mut self, operation: impl FnOnce(&mut Self) -> T) -> (T, Vec<Event>) {
        let before = self.machine.events().len();
        let result = operation(self);
        self.machine.assert_clean();
        let mut events = self.machine.events();
        assert!(events.len() < 1 << 14, "the machine keeps no more than these");
        let events = events.split_off(before);
        (result, events.into_iter().map(|(_, event)| event).collect())
    }

    /// The invalidations among it.
    #[track_caller]
    pub fn tlbis<T>(&mut self, operation: impl FnOnce(&mut Self) -> T) -> (T, Vec<Tlbi>) {
        let (result, events) = self.events(operation);
        (result, tlbis(&events))
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

/// The invalidations of a list of events.
pub fn tlbis(events: &[Event]) -> Vec<Tlbi> {
    events.iter().filter_map(|event| if let Event::Tlbi(operation) = event { Some(*operation) } else { None }).collect()
}
