//! The trace for casemate: its grammar, by a reader as strict as casemate's own, and its contents.

mod reader;

use abi::{Ipa, PhysAddr, PhysRange, VirtAddr};
use memsim::{Hold, Machine};
use pgtable::tlbi::TlbiPages;
use pgtable::{
    DsbKind, El1Attributes, El1Config, El1Stage1, El2Attributes, El2Config, El2Stage1, Maintenance, MapOptions, Stage2,
    Stage2Attributes, Stage2Config, TableFrames, Tlbi, TlbiFeatures, VirtualHalf,
};

use crate::reader::{Step, read};

const POOL: PhysAddr = PhysAddr::new(0x10_0000);

fn machine() -> Machine {
    let machine = Machine::new(2, PhysRange::from_size(POOL, 0x10_0000).unwrap());
    machine.start_trace();
    machine
}

fn stage2(machine: &Machine) -> Stage2 {
    let table = Stage2::new(machine.take_root(1), Stage2Config::new(39, 48), 5).unwrap();
    machine.track_stage2(&table);
    table
}

fn steps(machine: &Machine) -> Vec<Step> {
    read(&machine.casemate_trace()).unwrap_or_else(|problem| panic!("{problem}"))
}

#[test]
fn a_page_that_is_mapped_moved_and_unmapped_leaves_the_trace_on_file() {
    let machine = machine();
    let mut table = stage2(&machine);
    let mut cpu = machine.cpu(1);
    cpu.load_vttbr(table.vttbr_el2());
    cpu.isb();
    let ipa = Ipa::new(0x4000_1000);
    let memory = Stage2Attributes::memory();
    let options = MapOptions { synchronise_caches: true, ..MapOptions::default() };
    table.map(&mut cpu, ipa, PhysAddr::new(0x8000_1000), 4096, memory, options).unwrap();
    table.remap(&mut cpu, ipa, PhysAddr::new(0x9000_1000), 4096, memory, options).unwrap();
    table.unmap(&mut cpu, ipa, 4096).unwrap();
    machine.assert_clean();
    let trace = machine.casemate_trace();
    read(&trace).unwrap();
    assert_eq!(trace, include_str!("map_remap_unmap.trace"), "the trace was:\n{trace}");
}

#[test]
fn every_step_of_every_regime_is_in_the_grammar() {
    let machine = machine();
    let mut cpu = machine.cpu(0);
    let options = MapOptions::default();

    let mut table = stage2(&machine);
    let memory = Stage2Attributes::memory();
    table.map(&mut cpu, Ipa::new(0x4000_0000), PhysAddr::new(0x4000_0000), 0x40_0000, memory, options).unwrap();
    table.unmap(&mut cpu, Ipa::new(0x4010_0000), 0x3000).unwrap();
    let root = table.destroy(&mut cpu);
    machine.forget(root.start);

    let config = El2Config { va_bits: 39, pa_bits: 48, hardware_access_flag: false, tlbi: TlbiFeatures::default() };
    let mut table = El2Stage1::new(machine.take_root(1), config).unwrap();
    machine.track_el2(&table);
    let address = VirtAddr::new(0x4000_0000);
    table.map(&mut cpu, address, PhysAddr::new(0), 0x4000, El2Attributes::data(), options).unwrap();
    table.unmap(&mut cpu, address, 0x4000).unwrap();

    let config = El1Config {
        va_bits: 39,
        pa_bits: 48,
        half: VirtualHalf::Lower,
        asid: 1,
        hardware_access_flag: false,
        tlbi: config.tlbi,
    };
    let mut table = El1Stage1::new(machine.take_root(1), config).unwrap();
    machine.track_el1(&table);
    table.map(&mut cpu, address, PhysAddr::new(0), 0x4000, El1Attributes::data(), options).unwrap();
    table.unmap(&mut cpu, address, 0x4000).unwrap();
    machine.assert_clean();

    let lines = machine.casemate_trace().lines().count();
    assert_eq!(steps(&machine).len(), lines);
    assert!(lines > 60);
}

/// The steps that a single operation of CPU 1 gives.
fn steps_of(operation: impl Fn(&mut memsim::Cpu)) -> Vec<Step> {
    let machine = machine();
    operation(&mut machine.cpu(1));
    steps(&machine)
}

fn plain(name: &'static str) -> Step {
    Step::Tlbi { name: name.into(), value: None }
}

fn valued(name: &'static str, value: u64) -> Step {
    Step::Tlbi { name: name.into(), value: Some(value) }
}

#[test]
fn instructions_have_their_names_and_operands() {
    let tlbi = |operation: Tlbi| steps_of(move |cpu| cpu.tlbi(operation));
    let ipa = Ipa::new(0x1234_5000);
    let address = VirtAddr::new(0x1234_5000);
    for (operation, expected) in [
        (Tlbi::Vmalls12e1Is, plain("vmalls12e1is")),
        (Tlbi::Vmalls12e1, plain("vmalls12e1")),
        (Tlbi::Vmalle1Is, plain("vmalle1is")),
        (Tlbi::Vmalle1, plain("vmalle1")),
        (Tlbi::Alle1Is, plain("alle1is")),
        (Tlbi::Alle1, plain("alle1")),
        (Tlbi::Alle2Is, plain("alle2is")),
        (Tlbi::Alle2, plain("alle2")),
        (Tlbi::Ipas2e1Is { ipa, level: None }, valued("ipas2e1is", 0x1_2345)),
        (Tlbi::Ipas2e1Is { ipa, level: Some(3) }, valued("ipas2e1is", 0x7000_0001_2345)),
        (Tlbi::Vae2Is { address, level: Some(2) }, valued("vae2is", 0x6000_0001_2345)),
        (Tlbi::Vale2Is { address, level: None }, valued("vale2is", 0x1_2345)),
    ] {
        assert_eq!(tlbi(operation), [expected], "{operation:?}");
    }
    for operation in [
        Tlbi::Ipas2e1 { ipa, level: None },
        Tlbi::Vae1Is { address, asid: 1, level: None },
        Tlbi::Vale1Is { address, asid: 1, level: None },
        Tlbi::Rvae1Is { address, asid: 1, pages: TlbiPages::at_most(2).unwrap(), level: None },
    ] {
        assert_eq!(tlbi(operation), [], "{operation:?} has no name there");
    }
    for (kind, expected) in [
        (DsbKind::Ish, Some("ish")),
        (DsbKind::Sy, Some("ish")),
        (DsbKind::Ishst, Some("ishst")),
        (DsbKind::Nsh, Some("nsh")),
        (DsbKind::Nshst, None),
    ] {
        let expected: Vec<Step> = expected.into_iter().map(|kind| Step::Dsb(kind.into())).collect();
        assert_eq!(steps_of(|cpu| cpu.dsb(kind)), expected);
    }
    assert_eq!(steps_of(|cpu| cpu.isb()), [Step::Isb]);
}

#[test]
fn a_range_becomes_one_instruction_for_each_leaf_that_there_may_be() {
    let ipa = Ipa::new(0x4000_0000);
    let address = VirtAddr::new(0x4000_0000);
    let pages = TlbiPages::at_most(1024).unwrap();
    assert_eq!(pages.pages(), 1024);
    let by_page = steps_of(|cpu| cpu.tlbi(Tlbi::Ripas2e1Is { ipa, pages, level: None }));
    let expected: Vec<Step> = (0..1024).map(|page| valued("ipas2e1is", 0x4_0000 + page)).collect();
    assert_eq!(by_page, expected);
    let by_block = steps_of(|cpu| cpu.tlbi(Tlbi::Rvae2Is { address, pages, level: Some(2) }));
    assert_eq!(by_block, [valued("vae2is", 0x6000_0004_0000), valued("vae2is", 0x6000_0004_0200)]);
}

#[test]
fn memory_is_presented_once_and_zeroed_again_when_it_is_used_again() {
    let steps = steps_of(|cpu| {
        let frame = cpu.allocate().unwrap();
        cpu.write(frame, 3);
        cpu.free(frame);
        assert_eq!(cpu.allocate(), Some(frame));
        cpu.write(PhysAddr::new(0x8000_0008), 5);
        assert_eq!(cpu.compare_exchange(PhysAddr::new(0x8000_0008), 5, 6), Ok(5));
        assert_eq!(cpu.compare_exchange(PhysAddr::new(0x8000_0008), 5, 7), Err(6));
    });
    let frame = POOL.raw();
    let expected = [
        Step::Init { address: frame, size: 0x1000 },
        Step::Write { address: frame, value: 3 },
        Step::Set { address: frame, size: 0x1000, value: 0 },
        Step::Init { address: 0x8000_0000, size: 0x1000 },
        Step::Write { address: 0x8000_0008, value: 5 },
        Step::Write { address: 0x8000_0008, value: 6 },
    ];
    assert_eq!(steps, expected);
}

#[test]
fn a_tree_is_presented_with_the_registers_that_it_is_walked_by_and_released() {
    let machine = machine();
    let table = stage2(&machine);
    let (root, vtcr) = (table.root().raw(), table.vtcr_el2());
    let cpu = machine.cpu(0);
    cpu.load_vttbr(table.vttbr_el2());
    // A value that is no table's is a root to casemate all the same: an empty one.
    cpu.load_vttbr(0);
    machine.forget(table.root());
    let register = |name: &str, value| Step::Register { name: name.into(), value };
    let expected = [
        Step::Init { address: root, size: 0x1000 },
        register("vtcr_el2", vtcr),
        register("vtcr_el2", vtcr),
        register("vttbr_el2", 5 << 48 | root),
        Step::Init { address: 0, size: 0x1000 },
        register("vttbr_el2", 0),
        Step::Hint { kind: "release_table".into(), location: root, value: 0 },
    ];
    assert_eq!(steps(&machine), expected);
}

#[test]
fn locks_that_are_held_by_one_are_locks() {
    let machine = machine();
    let table = stage2(&machine);
    let root = table.root();
    let lock = machine.declare_lock("guest", 1);
    machine.guard_tree(root, lock);
    let (cpu, other) = (machine.cpu(0), machine.cpu(1));
    cpu.acquire(lock, Hold::Exclusive);
    cpu.write(root, 0);
    cpu.release(lock);
    for cpu in [&cpu, &other] {
        cpu.acquire(lock, Hold::Shared);
    }
    other.release(lock);
    cpu.release(lock);
    machine.assert_clean();
    let Step::Hint { kind, location, value: address } = steps(&machine)[3].clone() else {
        panic!("the lock is not presented");
    };
    assert_eq!((kind.as_str(), location), ("set_root_lock", root.raw()));
    let expected = [Step::Lock { address }, Step::Write { address: root.raw(), value: 0 }, Step::Unlock { address }];
    assert_eq!(steps(&machine)[4..], expected);
}

#[test]
#[should_panic(expected = "a trace begins with the machine")]
fn a_trace_that_misses_the_beginning_is_refused() {
    let machine = Machine::new(1, PhysRange::from_size(POOL, 0x10_0000).unwrap());
    machine.cpu(0).isb();
    machine.start_trace();
}

#[test]
fn the_reader_is_strict() {
    let good = "(mem-write (id 0) (tid 1) (mem-order release) (address 0x1000) (value 0x3) (src \"memsim:1\"))\n";
    assert_eq!(read(good), Ok(vec![Step::Write { address: 0x1000, value: 3 }]));
    for (from, to) in [
        ("mem-write", "mem-writes"),
        ("(id 0)", "(id 1)"),
        ("(id 0)", "(seq 0)"),
        ("(tid 1)", ""),
        ("release", "relaxed"),
        ("0x1000", "0x10g0"),
        ("(value 0x3)", ""),
        ("(value 0x3)", "(value 0x3) (value 0x3)"),
        ("(src \"memsim:1\")", ""),
        ("memsim:1", "memsim"),
        ("\"))", "\")"),
        ("(address", "( (address"),
        (")\n", "))\n"),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good);
        assert!(read(&bad).is_err(), "{bad}");
    }
}
