//! Each rule about descriptors and table pages, broken on purpose.

use crate::scene::{BLOCK, Do, IPA, ISH, ISHST, PAGE, Scene, TABLE, VMALLE1IS, VMALLS12E1IS, VMID, by_ipa, kind};
use abi::{Ipa, Pfn, PhysAddr, VirtAddr};
use memsim::{Machine, TreeKind};
use pgtable::{
    DsbKind, El1Config, El1Stage1, El2Config, El2Stage1, Maintenance, Stage2, Stage2Config, TableFrames, Tlbi,
    TlbiFeatures, VirtualHalf,
};

static FLUSH: [Do; 3] = [ISH, VMALLS12E1IS, ISH];

#[test]
fn valid_descriptors_are_not_replaced_by_conflicting_ones() {
    let old = 0x8000_0000 | PAGE;
    for (new, reason) in [
        (0x8000_1000 | PAGE, "output address"),
        (0x8000_1000 | PAGE & !(1 << 10), "output address"),
        (old & !(0xf << 2), "memory type"),
        (old & !(1 << 8), "shareability"),
        (old | 1 << 52, "contiguous"),
    ] {
        let scene = Scene::new(2);
        scene.cpu.write(scene.level3, new);
        scene.expect_violation(reason);
    }
}

#[test]
fn a_block_is_not_replaced_by_a_table_nor_a_table_by_a_block() {
    let scene = Scene::new(2);
    scene.cpu.write(scene.level2, 0x8000_0000 | BLOCK);
    scene.expect_violation("a table is replaced");

    let mut scene = Scene::new(2);
    let slot = scene.level2.checked_add(8).unwrap();
    scene.cpu.write(slot, 0x8020_0000 | BLOCK);
    scene.cpu.dsb(DsbKind::Ishst);
    scene.expect_none();
    let child = scene.cpu.allocate().unwrap();
    scene.cpu.write(slot, child.raw() | TABLE);
    scene.expect_violation("a table is replaced");
}

#[test]
fn permissions_access_flag_and_software_bits_change_in_place() {
    let scene = Scene::new(2);
    for bits in [1 << 6, 1 << 7, 1 << 10, 1 << 51, 1 << 53, 1 << 54, 1 << 55, 1 << 58] {
        scene.cpu.write(scene.level3, (0x8000_0000 | PAGE) ^ bits);
        scene.run(&FLUSH);
        scene.cpu.write(scene.level3, 0x8000_0000 | PAGE);
        scene.run(&FLUSH);
    }
    scene.machine.assert_clean();
}

#[test]
fn a_right_that_was_taken_away_is_not_left_in_a_tlb() {
    for bits in [1 << 6, 1 << 7, 2 << 53] {
        let scene = Scene::new(2);
        scene.cpu.write(scene.level3, (0x8000_0000 | PAGE) ^ bits);
        scene.cpu.dsb(DsbKind::Ish);
        assert_eq!(scene.machine.unfinished().len(), 1);
        assert_eq!(scene.machine.translations(kind(), IPA).len(), 2);
        scene.run(&[by_ipa(IPA), ISH, VMALLE1IS, ISH]);
        scene.machine.assert_clean();
    }
    let scene = Scene::new(2);
    scene.cpu.write(scene.level3, 0x8000_0000 | PAGE | 1 << 55);
    scene.cpu.dsb(DsbKind::Ishst);
    scene.machine.assert_clean();
}

#[test]
fn a_new_mapping_is_published_by_a_barrier() {
    let scene = Scene::new(2);
    let slot = scene.level3.checked_add(8).unwrap();
    scene.cpu.write(slot, 0x8000_1000 | PAGE);
    assert!(scene.machine.unfinished()[0].contains("no DSB followed"));
    scene.other.dsb(DsbKind::Ish);
    scene.cpu.dsb(DsbKind::Nsh);
    assert_eq!(scene.machine.unfinished().len(), 1);
    scene.cpu.dsb(DsbKind::Ishst);
    scene.machine.assert_clean();
}

#[test]
#[should_panic(expected = "may still be used")]
fn an_unflushed_page_fails_the_final_check() {
    let scene = Scene::new(2);
    scene.cpu.write(scene.level3, 0);
    scene.machine.assert_clean();
}

#[test]
#[should_panic(expected = "made valid before its old value is flushed")]
fn a_violation_fails_the_final_check_for_good() {
    let scene = Scene::new(2);
    scene.cpu.write(scene.level3, 0);
    scene.cpu.write(scene.level3, 0x8000_0000 | PAGE);
    scene.run(&FLUSH);
    scene.machine.assert_clean();
}

#[test]
fn nothing_beneath_an_unlinked_table_is_written_before_it_is_clean() {
    let scene = Scene::new(2);
    scene.cpu.write(scene.level2, 0);
    scene.cpu.write(scene.level3, 0);
    scene.expect_violation("was unlinked and is not clean");

    let scene = Scene::new(2);
    scene.cpu.write(scene.level2, 0);
    scene.run(&FLUSH);
    scene.cpu.write(scene.level3, 0);
    scene.expect_none();
}

#[test]
fn unlinking_at_the_top_reaches_all_levels_beneath() {
    let scene = Scene::new(2);
    scene.cpu.write(scene.level1_slot(), 0);
    scene.cpu.write(scene.level3, 0);
    scene.expect_violation("was unlinked and is not clean");
    assert_eq!(scene.reachable(), [0x8000_0000]);
    scene.run(&FLUSH);
    assert!(scene.reachable().is_empty());
}

#[test]
fn one_ipa_does_not_clean_the_other_pages_of_an_unlinked_table() {
    let scene = Scene::new(2);
    scene.cpu.write(scene.level3.checked_add(8).unwrap(), 0x8000_1000 | PAGE);
    scene.cpu.dsb(DsbKind::Ishst);
    scene.cpu.write(scene.level2, 0);
    scene.run(&[ISH, by_ipa(IPA), ISH, VMALLE1IS, ISH]);
    assert!(scene.reachable().is_empty());
    assert_eq!(scene.machine.reachable(VMID, Ipa::new(IPA + 0x1000)), [PhysAddr::new(0x8000_1000)]);
    scene.cpu.write(scene.level3, 0);
    scene.expect_violation("was unlinked and is not clean");
}

#[test]
fn a_level_hint_does_not_clean_a_table_descriptor() {
    for (level, is_clean) in [(Some(3), false), (Some(2), false), (None, true)] {
        let scene = Scene::new(2);
        scene.cpu.write(scene.level3, 0);
        scene.run(&FLUSH);
        scene.cpu.write(scene.level2, 0);
        let tlbi = Do::Tlbi(Tlbi::Ipas2e1Is { ipa: Ipa::new(IPA), level });
        scene.run(&[ISH, tlbi, ISH, VMALLE1IS, ISH]);
        assert_eq!(scene.machine.unfinished().is_empty(), is_clean, "{level:?}");
    }
}

#[test]
fn a_table_is_not_freed_while_live_or_unclean() {
    let mut scene = Scene::new(2);
    scene.cpu.free(scene.level3);
    scene.expect_violation("is freed, but is a table");

    let mut scene = Scene::new(2);
    scene.cpu.write(scene.level2, 0);
    scene.cpu.free(scene.level3);
    scene.expect_violation("is freed, but was unlinked and is not clean");

    let mut scene = Scene::new(2);
    scene.cpu.write(scene.level2, 0);
    scene.run(&FLUSH);
    scene.cpu.free(scene.level3);
    scene.machine.assert_clean();
}

#[test]
fn children_that_were_unclean_before_keep_their_table_in_use() {
    let mut scene = Scene::new(2);
    scene.cpu.write(scene.level3, 0);
    // Another CPU unlinks the table and flushes by the book, which does not finish what the first has begun.
    scene.other.write(scene.level2, 0);
    scene.run(&FLUSH.each_ref().map(Do::Other));
    assert_eq!(scene.machine.unfinished().len(), 1);
    scene.cpu.free(scene.level3);
    scene.expect_violation("was unlinked and is not clean");
}

#[test]
fn whoever_writes_a_descriptor_last_may_flush_for_those_before() {
    let read_only = (0x8000_0000 | PAGE) & !(1 << 7);
    for (break_elsewhere, flush) in [(true, &FLUSH[..]), (true, &FLUSH[1..]), (false, &FLUSH[..])] {
        let scene = Scene::new(2);
        // One CPU takes a right, and before it comes to its flush, another breaks the page, or only flushes.
        scene.cpu.write(scene.level3, read_only);
        if break_elsewhere {
            scene.other.write(scene.level3, 0);
        }
        flush.iter().for_each(|step| scene.step(&scene.other, *step));
        let is_enough = break_elsewhere && flush.len() == FLUSH.len();
        assert_eq!(scene.reachable().len(), if break_elsewhere { 2 * usize::from(!is_enough) } else { 2 });
        scene.run(&FLUSH);
        assert_eq!(scene.machine.unfinished().is_empty(), is_enough || !break_elsewhere);
    }
}

#[test]
fn frames_are_freed_once_and_only_where_they_came_from() {
    let mut scene = Scene::new(2);
    let frame = scene.cpu.allocate().unwrap();
    scene.cpu.free(frame);
    scene.expect_none();
    scene.cpu.free(frame);
    scene.expect_violation("was not allocated");

    let mut scene = Scene::new(2);
    scene.cpu.free(PhysAddr::new(0x9000_0000));
    scene.expect_violation("was not allocated");
}

#[test]
fn a_freed_frame_is_not_linked() {
    let mut scene = Scene::new(2);
    let frame = scene.cpu.allocate().unwrap();
    scene.cpu.free(frame);
    scene.cpu.write(scene.level2.checked_add(8).unwrap(), frame.raw() | TABLE);
    scene.expect_violation("but is free");
}

#[test]
fn a_table_page_stands_in_one_place_only() {
    let scene = Scene::new(2);
    scene.cpu.write(scene.level2.checked_add(8).unwrap(), scene.level3.raw() | TABLE);
    scene.expect_violation("is made part of a tree, but is a table");
}

#[test]
fn tables_are_not_overwritten_as_pages() {
    let scene = Scene::new(2);
    scene.machine.zero_page(0, Pfn::containing(scene.level3));
    scene.expect_violation("is overwritten, but is a table");
}

#[test]
fn reserved_descriptors_and_misaligned_blocks_are_noticed() {
    let scene = Scene::new(2);
    scene.cpu.write(scene.level3.checked_add(8).unwrap(), 0x8000_1000 | BLOCK);
    scene.expect_violation("is reserved at level 3");

    let scene = Scene::new(2);
    scene.cpu.write(scene.level2.checked_add(8).unwrap(), 0x8000_1000 | BLOCK);
    scene.expect_violation("misaligned");
}

#[test]
fn a_vmid_has_one_root_and_a_root_one_vmid() {
    let scene = Scene::new(2);
    scene.cpu.load_vttbr(u64::from(VMID) << 48 | 0x9000_0000);
    scene.expect_violation("belongs to the root");

    let scene = Scene::new(2);
    scene.cpu.load_vttbr(u64::from(VMID + 1) << 48 | scene.root.raw());
    scene.expect_violation("belongs to the root");
}

#[test]
#[should_panic(expected = "has a tree already")]
fn two_trees_of_one_vmid_are_refused() {
    let scene = Scene::new(2);
    let root = scene.machine.take_root(1);
    scene.machine.track_stage2(&Stage2::new(root, Stage2Config::new(39, 48), VMID).unwrap());
}

#[test]
fn a_root_is_not_given_up_in_use() {
    let scene = Scene::new(2);
    scene.cpu.write(scene.level1_slot(), 0);
    scene.run(&FLUSH);
    scene.run(&[Do::Vttbr(6), Do::Isb, Do::Other(&Do::Vttbr(6)), Do::Other(&Do::Isb)]);
    scene.machine.forget(scene.root);
    scene.machine.assert_clean();

    let scene = Scene::new(2);
    scene.cpu.write(scene.level1_slot(), 0);
    scene.run(&FLUSH);
    scene.machine.forget(scene.root);
    scene.expect_violation("while VTTBR_EL2 holds its root");

    let scene = Scene::new(2);
    scene.run(&[Do::Vttbr(6), Do::Isb, Do::Other(&Do::Vttbr(6)), Do::Other(&Do::Isb)]);
    scene.machine.forget(scene.root);
    scene.expect_violation("while it maps something");

    let scene = Scene::new(2);
    scene.cpu.write(scene.level1_slot(), 0);
    scene.run(&[Do::Vttbr(6), Do::Isb, Do::Other(&Do::Vttbr(6)), Do::Other(&Do::Isb)]);
    scene.machine.forget(scene.root);
    scene.expect_violation("before it is clean");
}

#[test]
fn a_value_written_twice_over_is_flushed_each_time() {
    // The old table may be walked by a TLB that missed the change of the block that replaced it.
    let mut scene = Scene::new(2);
    scene.cpu.write(scene.level2, 0);
    scene.run(&FLUSH);
    scene.cpu.write(scene.level2, 0x8000_0000 | BLOCK);
    scene.run(&[ISHST]);
    scene.cpu.write(scene.level2, 0);
    let child = scene.cpu.allocate().unwrap();
    scene.cpu.write(scene.level2, child.raw() | TABLE);
    scene.expect_violation("made valid before");
}

fn el2() -> (Machine, memsim::Cpu, PhysAddr, PhysAddr) {
    let scene = Scene::new(2);
    let machine = scene.machine.clone();
    let root = machine.take_root(1);
    let config = El2Config { va_bits: 39, pa_bits: 48, hardware_access_flag: false, tlbi: TlbiFeatures::default() };
    machine.track_el2(&El2Stage1::new(root, config).unwrap());
    let mut cpu = machine.cpu(0);
    let level2 = cpu.allocate().unwrap();
    let level3 = cpu.allocate().unwrap();
    cpu.write(level3, 0x8000_0000 | 0x743);
    cpu.write(level2, level3.raw() | TABLE);
    cpu.write(root, level2.raw() | TABLE);
    cpu.dsb(DsbKind::Ishst);
    cpu.isb();
    machine.assert_clean();
    (machine, cpu, level2, level3)
}

/// Breaks the page at address 0 (or the table above it), does one invalidation between two DSBs; true if that is clean.
fn el2_flush(break_table: bool, operation: Tlbi) -> bool {
    let (machine, cpu, level2, level3) = el2();
    cpu.write(if break_table { level2 } else { level3 }, 0);
    cpu.dsb(DsbKind::Ishst);
    cpu.tlbi(operation);
    cpu.dsb(DsbKind::Ish);
    assert!(!machine.unfinished().is_empty(), "an ISB is due in any case");
    cpu.isb();
    machine.unfinished().is_empty()
}

#[test]
fn el2_entries_go_by_address_or_all_at_once() {
    let address = VirtAddr::new(0);
    let elsewhere = VirtAddr::new(0x1000);
    assert!(el2_flush(false, Tlbi::Vale2Is { address, level: Some(3) }));
    assert!(el2_flush(false, Tlbi::Vae2Is { address, level: None }));
    assert!(el2_flush(false, Tlbi::Alle2Is));
    assert!(!el2_flush(false, Tlbi::Vale2Is { address: elsewhere, level: None }));
    assert!(!el2_flush(false, Tlbi::Vae2Is { address: elsewhere, level: None }));
    assert!(!el2_flush(false, Tlbi::Vale2Is { address, level: Some(2) }));
    assert!(!el2_flush(false, Tlbi::Alle2));
    assert!(!el2_flush(false, Tlbi::Vmalls12e1Is));
    assert!(!el2_flush(false, Tlbi::Alle1Is));
}

#[test]
fn vale2is_does_not_reach_a_table_descriptor() {
    let address = VirtAddr::new(0);
    assert!(!el2_flush(true, Tlbi::Vale2Is { address, level: None }));
    assert!(el2_flush(true, Tlbi::Vae2Is { address, level: None }));
    assert!(el2_flush(true, Tlbi::Alle2Is));
}

#[test]
fn el1_entries_go_by_address_and_asid() {
    let run = |operation: Tlbi, not_global: u64| {
        let scene = Scene::new(2);
        let machine = scene.machine.clone();
        let root = machine.take_root(1);
        let config = El1Config {
            va_bits: 39,
            pa_bits: 48,
            half: VirtualHalf::Upper,
            asid: 7,
            hardware_access_flag: false,
            tlbi: TlbiFeatures::default(),
        };
        machine.track_el1(&El1Stage1::new(root, config).unwrap());
        let cpu = machine.cpu(0);
        cpu.write(root, 0x4000_0000 | 0x701 | not_global);
        cpu.dsb(DsbKind::Ishst);
        cpu.isb();
        assert_eq!(machine.translations(TreeKind::El1 { asid: 7 }, !0 << 39).len(), 1);
        cpu.write(root, 0);
        cpu.dsb(DsbKind::Ishst);
        cpu.tlbi(operation);
        cpu.dsb(DsbKind::Ish);
        cpu.isb();
        machine.unfinished().is_empty()
    };
    let address = VirtAddr::new(!0 << 39);
    let not_global = 1 << 11;
    assert!(run(Tlbi::Vae1Is { address, asid: 7, level: None }, not_global));
    assert!(!run(Tlbi::Vae1Is { address, asid: 8, level: None }, not_global));
    assert!(run(Tlbi::Vae1Is { address, asid: 8, level: None }, 0));
    assert!(!run(Tlbi::Vae1Is { address: VirtAddr::new(0), asid: 7, level: None }, 0));
    assert!(run(Tlbi::Vmalle1Is, not_global));
    assert!(!run(Tlbi::Vmalle1, not_global));
    assert!(!run(Tlbi::Alle2Is, not_global));
}

#[test]
fn memory_holds_what_was_written_and_knows_what_is_dirty() {
    let scene = Scene::new(1);
    let pfn = Pfn::new(0x8_0000);
    assert_eq!(scene.machine.read_page(pfn), [0; 4096]);
    scene.machine.fill_page(0, pfn, 0xa5);
    assert_eq!(scene.machine.read_page(pfn), [0xa5; 4096]);
    assert_eq!(scene.machine.read_word(PhysAddr::new(0x8000_0008)), 0xa5a5_a5a5_a5a5_a5a5);
    assert!(scene.machine.is_dirty(pfn));
    let page = abi::PhysRange::from_size(PhysAddr::new(0x8000_0000), 4096).unwrap();
    scene.cpu.clean_invalidate_to_poc(page);
    assert!(!scene.machine.is_dirty(pfn));
    scene.machine.zero_page(0, pfn);
    assert_eq!(scene.machine.read_page(pfn), [0; 4096]);
    assert!(scene.machine.is_dirty(pfn));
    scene.machine.assert_clean();
}

#[test]
fn allocation_fails_when_told_to() {
    let mut scene = Scene::new(1);
    scene.machine.fail_allocations_after(1);
    let frame = scene.cpu.allocate().unwrap();
    assert_eq!(scene.cpu.allocate(), None);
    scene.machine.allow_allocations();
    assert!(scene.cpu.allocate().is_some());
    scene.machine.fill_page(0, Pfn::containing(frame), 1);
    scene.cpu.free(frame);
    assert_eq!(scene.cpu.allocate(), Some(frame));
    assert_eq!(scene.machine.read_page(Pfn::containing(frame)), [0; 4096], "frames are handed out zeroed");
}

#[test]
fn compare_exchange_writes_only_what_it_expects() {
    let scene = Scene::new(1);
    assert_eq!(scene.cpu.compare_exchange(scene.level3, 1, 2), Err(0x8000_0000 | PAGE));
    assert_eq!(scene.cpu.compare_exchange(scene.level3, 0x8000_0000 | PAGE, 0), Ok(0x8000_0000 | PAGE));
    assert_eq!(scene.cpu.read(scene.level3), 0);
    assert!(!scene.machine.unfinished().is_empty());
}

#[test]
fn a_page_is_reached_until_the_flush_is_complete() {
    let scene = Scene::new(2);
    let page = PhysAddr::new(0x8000_0000);
    let beside = PhysAddr::new(0x8000_1000);
    assert_eq!((scene.machine.stage2_of(page), scene.machine.stage2_of(beside)), (vec![kind()], vec![]));
    scene.cpu.write(scene.level3, 0);
    scene.run(&[ISH, VMALLS12E1IS]);
    assert_eq!(scene.machine.stage2_of(page), [kind()]);
    scene.run(&[ISH]);
    assert_eq!(scene.machine.stage2_of(page), []);
    let block = scene.level2.checked_add(8).unwrap();
    scene.cpu.write(block, 0x8000_0000 | BLOCK);
    for (inside, reached) in [(0x8000_0000, true), (0x801f_f000, true), (0x8020_0000, false), (0x7fff_f000, false)] {
        assert_eq!(!scene.machine.stage2_of(PhysAddr::new(inside)).is_empty(), reached, "{inside:#x}");
    }
}
