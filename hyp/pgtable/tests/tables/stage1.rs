//! Stage 1 of EL2 and of EL1, judged by memsim.

use abi::{PhysAddr, VirtAddr};
use memsim::{Event, Machine, TreeKind};
use pgtable::{
    DsbKind, El1Attributes, El1Config, El1Stage1, El2Attributes, El2Config, El2Stage1, MapOptions, TableError, Tlbi,
    TlbiFeatures, VirtualHalf,
};

use crate::bench::{GIB, MIB2, PAGE, pool};

const RANGE: TlbiFeatures = TlbiFeatures { level_hint: true, range: true };

fn el2(va_bits: u32, tlbi: TlbiFeatures) -> (Machine, El2Stage1) {
    let machine = Machine::new(4, pool());
    let root = machine.take_root(1);
    let table = El2Stage1::new(root, El2Config { va_bits, pa_bits: 48, hardware_access_flag: false, tlbi }).unwrap();
    machine.track_el2(&table);
    (machine, table)
}

fn translate(machine: &Machine, kind: TreeKind, address: u64) -> Option<u64> {
    let found = machine.translations(kind, address);
    assert!(found.len() <= 1, "{found:?}");
    found.first().map(|translation| translation.output.raw())
}

fn operations(machine: &Machine, since: usize) -> Vec<Tlbi> {
    let operation = |event| if let Event::Tlbi(operation) = event { Some(operation) } else { None };
    machine.events()[since..].iter().filter_map(|(_, event)| operation(*event)).collect()
}

#[test]
fn el2_maps_its_image_section_by_section_and_unmaps_it() {
    for va_bits in 32..=48 {
        for tlbi in [TlbiFeatures::default(), RANGE] {
            let (machine, mut table) = el2(va_bits, tlbi);
            let mut cpu = machine.cpu(1);
            let options = MapOptions::default();
            for (page, attributes) in
                [(0, El2Attributes::code()), (1, El2Attributes::read_only()), (2, El2Attributes::data())]
            {
                let address = MIB2 + page * 16 * PAGE;
                table
                    .map(&mut cpu, VirtAddr::new(address), PhysAddr::new(address), 16 * PAGE, attributes, options)
                    .unwrap();
                machine.assert_clean();
            }
            assert_eq!(translate(&machine, TreeKind::El2, MIB2 + 5), Some(MIB2 + 5));
            let leaf = table.lookup(&cpu, VirtAddr::new(MIB2 + 16 * PAGE)).unwrap();
            assert_eq!(leaf.mapping().unwrap().1, El2Attributes::read_only());
            table.unmap(&mut cpu, VirtAddr::new(MIB2 + PAGE), 46 * PAGE).unwrap();
            machine.assert_clean();
            assert_eq!(translate(&machine, TreeKind::El2, MIB2 + PAGE), None);
            let top = (1u64 << va_bits) - PAGE;
            table.map(&mut cpu, VirtAddr::new(top), PhysAddr::new(0), PAGE, El2Attributes::data(), options).unwrap();
            assert_eq!(translate(&machine, TreeKind::El2, top), Some(0));
            let outside = VirtAddr::new(1 << va_bits);
            assert_eq!(table.unmap(&mut cpu, outside, PAGE), Err(TableError::BadRange));
            let root = table.destroy(&mut cpu);
            machine.assert_clean();
            machine.forget(root.start);
            machine.assert_no_leak();
        }
    }
}

#[test]
fn el2_invalidates_a_page_by_vale2is_a_block_by_vae2is_and_much_by_alle2is() {
    let (machine, mut table) = el2(48, TlbiFeatures::default());
    let mut cpu = machine.cpu(0);
    let map = |table: &mut El2Stage1, address, size| {
        let at = PhysAddr::new(address);
        let mut cpu = machine.cpu(0);
        table.map(&mut cpu, VirtAddr::new(address), at, size, El2Attributes::data(), MapOptions::default()).unwrap();
    };
    map(&mut table, GIB, 2 * MIB2);
    map(&mut table, GIB + 2 * MIB2, 64 * PAGE);
    for (address, size, expected) in [
        (GIB + 2 * MIB2, PAGE, Tlbi::Vale2Is { address: VirtAddr::new(GIB + 2 * MIB2), level: None }),
        (GIB + MIB2, MIB2, Tlbi::Vae2Is { address: VirtAddr::new(GIB + MIB2), level: None }),
        (GIB + 2 * MIB2 + PAGE, 20 * PAGE, Tlbi::Alle2Is),
    ] {
        let before = machine.events().len();
        table.unmap(&mut cpu, VirtAddr::new(address), size).unwrap();
        assert_eq!(operations(&machine, before), [expected]);
        let barriers: Vec<Event> = machine.events()[before..]
            .iter()
            .filter(|(_, event)| matches!(event, Event::Dsb(_) | Event::Isb | Event::Tlbi(_)))
            .map(|(_, event)| *event)
            .collect();
        let around = [Event::Dsb(DsbKind::Ishst), Event::Tlbi(expected), Event::Dsb(DsbKind::Ish), Event::Isb];
        assert_eq!(barriers, around);
        machine.assert_clean();
    }
    let before = machine.events().len();
    table.unmap(&mut cpu, VirtAddr::new(GIB + 2 * MIB2 + 30 * PAGE), 2 * PAGE).unwrap();
    let pages = [30, 31].map(|page| VirtAddr::new(GIB + 2 * MIB2 + page * PAGE));
    assert_eq!(operations(&machine, before), pages.map(|address| Tlbi::Vae2Is { address, level: None }));
    machine.assert_clean();
}

#[test]
fn el2_protects_remaps_and_publishes() {
    let (machine, mut table) = el2(39, RANGE);
    let mut cpu = machine.cpu(2);
    let address = VirtAddr::new(GIB);
    table.map(&mut cpu, address, PhysAddr::new(GIB), MIB2, El2Attributes::data(), MapOptions::default()).unwrap();
    machine.assert_clean();
    table.protect(&mut cpu, address, PAGE, El2Attributes::code()).unwrap();
    machine.assert_clean();
    let elsewhere = PhysAddr::new(5 * GIB);
    table.remap(&mut cpu, address, elsewhere, 3 * PAGE, El2Attributes::data(), MapOptions::default()).unwrap();
    machine.assert_clean();
    assert_eq!(translate(&machine, TreeKind::El2, GIB + 2 * PAGE), Some(5 * GIB + 2 * PAGE));
    assert_eq!(translate(&machine, TreeKind::El2, GIB + 3 * PAGE), Some(GIB + 3 * PAGE));
}

#[test]
fn el1_serves_both_halves() {
    for half in [VirtualHalf::Lower, VirtualHalf::Upper] {
        for (va_bits, tlbi) in [(32, TlbiFeatures::default()), (39, RANGE), (48, TlbiFeatures::default())] {
            let machine = Machine::new(2, pool());
            let root = machine.take_root(1);
            let config = El1Config { va_bits, pa_bits: 40, half, asid: 9, hardware_access_flag: false, tlbi };
            let mut table = El1Stage1::new(root, config).unwrap();
            machine.track_el1(&table);
            let mut cpu = machine.cpu(0);
            let kind = TreeKind::El1 { asid: 9 };
            let size = 1u64 << va_bits;
            let (first, last) = match half {
                VirtualHalf::Lower => (0, size - PAGE),
                VirtualHalf::Upper => (size.wrapping_neg(), PAGE.wrapping_neg()),
            };
            let attributes = [El1Attributes::data(), El1Attributes { global: false, ..El1Attributes::code() }];
            for (page, attributes) in [first, last].into_iter().zip(attributes) {
                let address = VirtAddr::new(page);
                let output = PhysAddr::new(0x4000_0000);
                table.map(&mut cpu, address, output, PAGE, attributes, MapOptions::default()).unwrap();
                machine.assert_clean();
                assert_eq!(translate(&machine, kind, page + 7), Some(0x4000_0007));
                assert_eq!(table.lookup(&cpu, VirtAddr::new(page + 9)).unwrap().base, address);
            }
            assert_eq!(table.unmap(&mut cpu, VirtAddr::new(last), 2 * PAGE), Err(TableError::BadRange));
            assert_eq!(table.unmap(&mut cpu, VirtAddr::new(first.wrapping_sub(PAGE)), PAGE), Err(TableError::BadRange));
            table.unmap(&mut cpu, VirtAddr::new(last), PAGE).unwrap();
            machine.assert_clean();
            table.unmap(&mut cpu, VirtAddr::new(first), size).unwrap();
            machine.assert_clean();
            machine.assert_no_leak();
            let root = table.destroy(&mut cpu);
            machine.forget(root.start);
            machine.assert_clean();
        }
    }
}

#[test]
fn el1_invalidates_by_address_and_asid() {
    let machine = Machine::new(2, pool());
    let root = machine.take_root(1);
    let config = El1Config {
        va_bits: 48,
        pa_bits: 48,
        half: VirtualHalf::Lower,
        asid: 3,
        hardware_access_flag: false,
        tlbi: RANGE,
    };
    let mut table = El1Stage1::new(root, config).unwrap();
    machine.track_el1(&table);
    let mut cpu = machine.cpu(0);
    let address = VirtAddr::new(MIB2);
    table.map(&mut cpu, address, PhysAddr::new(0), 128 * PAGE, El1Attributes::data(), MapOptions::default()).unwrap();
    let before = machine.events().len();
    table.unmap(&mut cpu, address, PAGE).unwrap();
    assert_eq!(operations(&machine, before), [Tlbi::Vale1Is { address, asid: 3, level: Some(3) }]);
    let before = machine.events().len();
    table.unmap(&mut cpu, VirtAddr::new(MIB2 + 2 * PAGE), 64 * PAGE).unwrap();
    assert!(matches!(operations(&machine, before)[..], [Tlbi::Rvae1Is { asid: 3, level: Some(3), .. }]));
    machine.assert_clean();
}

#[test]
fn a_page_slot_maps_one_page_after_another() {
    let (machine, mut table) = el2(48, TlbiFeatures::default());
    let mut cpu = machine.cpu(1);
    let neighbour = VirtAddr::new(MIB2);
    let address = VirtAddr::new(MIB2 + PAGE);
    let data = El2Attributes::data();
    assert!(matches!(table.page_slot(&cpu, address, data), Err(TableError::NotMapped)));
    table.map(&mut cpu, neighbour, PhysAddr::new(0), PAGE, data, MapOptions::default()).unwrap();
    assert!(matches!(table.page_slot(&cpu, neighbour, data), Err(TableError::Exists)));
    assert!(matches!(table.page_slot(&cpu, VirtAddr::new(MIB2 + 8), data), Err(TableError::Misaligned)));
    assert!(matches!(table.page_slot(&cpu, VirtAddr::new(1 << 48), data), Err(TableError::BadRange)));
    let slot = table.page_slot(&cpu, address, data).unwrap();
    assert_eq!(slot.address(), address);
    for page in [3 * GIB, 5 * GIB + PAGE] {
        slot.map(&mut cpu, PhysAddr::new(page));
        machine.assert_clean();
        assert_eq!(translate(&machine, TreeKind::El2, address.raw() + 9), Some(page + 9));
        slot.unmap(&mut cpu);
        machine.assert_clean();
        assert_eq!(translate(&machine, TreeKind::El2, address.raw()), None);
    }
}
