//! Stage 1 of EL2: the tables that the code under test itself would run on.

use abi::{PhysAddr, VirtAddr};
use pgtable::tlbi::TlbiPages;
use pgtable::{DsbKind, El2Attributes, LeafSlot, TableError, Tlbi};

use crate::flawed::{Do, Flawed};
use crate::flaws::*;
use crate::mutants;
use crate::scene::{INPUT, MIB2, OPTIONS, OTHER, OUTPUT, PAGE, PAGES, Scene};

const AT: VirtAddr = VirtAddr::new(INPUT);

fn data() -> El2Attributes {
    El2Attributes::data()
}

fn map(scene: &mut Scene) {
    scene.on_el2(|table, cpu| table.map(cpu, AT, PhysAddr::new(OUTPUT), PAGE, data(), OPTIONS));
    scene.el2_is(&[(INPUT, Some(OUTPUT)), (INPUT + PAGE, None)]);
}

/// Maps a page beside another, where no table is made.
fn map_beside(scene: &mut Scene) {
    scene.el2_holds(PAGE, PAGES);
    let at = VirtAddr::new(INPUT + PAGE);
    scene.on_el2(|table, cpu| table.map(cpu, at, PhysAddr::new(OTHER), PAGE, data(), OPTIONS));
    scene.el2_is(&[(INPUT, Some(OUTPUT)), (INPUT + PAGE, Some(OTHER))]);
}

fn remap(scene: &mut Scene) {
    scene.el2_holds(4 * PAGE, PAGES);
    scene.on_el2(|table, cpu| table.remap(cpu, AT, PhysAddr::new(OTHER), PAGE, data(), OPTIONS));
    scene.el2_is(&[(INPUT, Some(OTHER)), (INPUT + PAGE, Some(OUTPUT + PAGE))]);
}

fn unmap(scene: &mut Scene) {
    scene.el2_holds(4 * PAGE, PAGES);
    scene.on_el2(|table, cpu| table.unmap(cpu, AT, PAGE));
    scene.el2_is(&[(INPUT, None), (INPUT + PAGE, Some(OUTPUT + PAGE))]);
}

fn unmap_block(scene: &mut Scene) {
    scene.el2_holds(2 * MIB2, OPTIONS);
    scene.on_el2(|table, cpu| table.unmap(cpu, AT, MIB2));
    scene.el2_is(&[(INPUT, None), (INPUT + MIB2, Some(OUTPUT + MIB2))]);
}

/// Unmaps the only page of a table, beside a block.
fn unmap_last(scene: &mut Scene) {
    scene.el2_holds(MIB2 + PAGE, OPTIONS);
    scene.on_el2(|table, cpu| table.unmap(cpu, VirtAddr::new(INPUT + MIB2), PAGE));
    scene.el2_is(&[(INPUT, Some(OUTPUT)), (INPUT + MIB2, None)]);
}

fn unmap_many(scene: &mut Scene) {
    scene.el2_holds(64 * PAGE, PAGES);
    scene.on_el2(|table, cpu| table.unmap(cpu, AT, 62 * PAGE));
    scene.el2_is(&[(INPUT, None), (INPUT + 61 * PAGE, None), (INPUT + 62 * PAGE, Some(OUTPUT + 62 * PAGE))]);
}

fn protect(scene: &mut Scene) {
    scene.el2_holds(4 * PAGE, PAGES);
    scene.on_el2(|table, cpu| table.protect(cpu, AT, PAGE, El2Attributes::read_only()));
    scene.el2_is(&[(INPUT, Some(OUTPUT))]);
}

fn split(scene: &mut Scene) {
    scene.el2_holds(MIB2, OPTIONS);
    scene.on_el2(|table, cpu| table.split(cpu, AT, MIB2, 3));
    scene.el2_is(&[(INPUT, Some(OUTPUT)), (INPUT + MIB2 - PAGE, Some(OUTPUT + MIB2 - PAGE))]);
}

/// A slot beside a page that keeps its table.
fn page_slot(scene: &mut Scene) -> LeafSlot {
    scene.el2_holds(PAGE, PAGES);
    scene.el2.as_ref().unwrap().page_slot(&scene.environment, VirtAddr::new(INPUT + PAGE), data()).unwrap()
}

/// Maps one page after another in a slot.
fn use_slot(scene: &mut Scene) {
    let slot = page_slot(scene);
    scene.on_el2(|_, cpu| {
        slot.map(cpu, PhysAddr::new(OTHER));
        slot.unmap(cpu);
        slot.map(cpu, PhysAddr::new(OTHER + PAGE));
        Ok::<(), TableError>(())
    });
    scene.el2_is(&[(INPUT + PAGE, Some(OTHER + PAGE))]);
}

/// Maps a page in a slot, and no more.
fn empty_slot(scene: &mut Scene) {
    let slot = page_slot(scene);
    slot.map(&mut scene.environment, PhysAddr::new(OTHER));
    scene.on_el2(|_, cpu: &mut Flawed| {
        slot.unmap(cpu);
        Ok::<(), TableError>(())
    });
    scene.el2_is(&[(INPUT + PAGE, None)]);
}

/// An invalidation of the last level where it was of all levels.
fn last_level_only(step: Do) -> Vec<Do> {
    change_tlbi(step, |operation| {
        Some(match operation {
            Tlbi::Vae2Is { address, level } => Tlbi::Vale2Is { address, level },
            other => other,
        })
    })
}

/// An invalidation by address at another address.
fn at_another_address(step: Do, change: impl Fn(u64) -> u64) -> Vec<Do> {
    let change = |address: VirtAddr| VirtAddr::new(change(address.raw()));
    change_tlbi(step, |operation| {
        Some(match operation {
            Tlbi::Vae2Is { address, level } => Tlbi::Vae2Is { address: change(address), level },
            Tlbi::Vale2Is { address, level } => Tlbi::Vale2Is { address: change(address), level },
            Tlbi::Rvae2Is { address, pages, level } => Tlbi::Rvae2Is { address: change(address), pages, level },
            other => other,
        })
    })
}

/// Any invalidation replaced.
fn replace_all(step: Do, to: Tlbi) -> Vec<Do> {
    change_tlbi(step, |_| Some(to))
}

mutants! {
    first_dsb_missing: PLAIN unmap, dsb_missing::<1> => "may still be used";
    last_dsb_missing: PLAIN unmap, dsb_missing::<2> => "may still be used";
    last_dsb_waits_for_stores_only: PLAIN unmap, dsb_ishst::<2> => "may still be used";
    first_dsb_for_this_cpu_only: PLAIN unmap, dsb_nsh::<1> => "may still be used";
    last_dsb_for_this_cpu_only: PLAIN unmap, dsb_nsh::<2> => "may still be used";
    last_dsb_on_another_cpu: PLAIN unmap, dsb_elsewhere::<2> => "may still be used";
    isb_missing_at_the_end: PLAIN unmap, isb_missing::<1> => "own regime is written, but no DSB and ISB followed";
    isb_before_the_last_dsb: PLAIN map, |past, step| match step {
        Do::Dsb(_) => past.hold(step),
        Do::Isb => past.before_the_held(step),
        _ => vec![step],
    } => "own regime is written, but no DSB and ISB followed";
    not_invalidated: PLAIN unmap, tlbi_missing::<1> => "may still be used";
    invalidated_before_the_first_dsb: PLAIN unmap, tlbi_before_dsb::<1> => "may still be used";
    invalidated_on_another_cpu: PLAIN unmap, tlbi_elsewhere => "may still be used";
    another_address: PLAIN unmap, |_, step| at_another_address(step, |address| address + PAGE) => "may still be used";
    stage2_invalidated_for_el2: PLAIN unmap, |_, step| replace_all(step, Tlbi::Vmalls12e1Is) => "may still be used";
    el1_invalidated_for_el2: PLAIN unmap, |_, step| replace_all(step, Tlbi::Alle1Is) => "may still be used";
    all_invalidated_on_this_cpu_only: PLAIN unmap_many, |_, step| replace_all(step, Tlbi::Alle2) => "may still be used";
    the_last_level_of_a_block: PLAIN unmap_block, |_, step| last_level_only(step) => "may still be used";
    the_last_level_of_a_table: PLAIN unmap_last, |_, step| last_level_only(step) => "may still be used";
    the_hint_of_another_level: HINTED unmap_block, |_, step| change_tlbi(step, |operation| {
        Some(match operation {
            Tlbi::Vae2Is { address, .. } => Tlbi::Vae2Is { address, level: Some(1) },
            other => other,
        })
    }) => "may still be used";
    a_range_two_pages_short: RANGED unmap_many, |_, step| change_tlbi(step, |operation| {
        Some(match operation {
            Tlbi::Rvae2Is { address, pages, level } => {
                let pages = TlbiPages::at_most(pages.pages() - 2).unwrap();
                Tlbi::Rvae2Is { address, pages, level }
            }
            other => other,
        })
    }) => "may still be used";
    a_range_that_starts_a_page_late: RANGED unmap_many, |_, step| at_another_address(step, |address| address + PAGE)
        => "may still be used";
    break_missing_in_remap: PLAIN remap, break_missing => "the output address changes";
    break_missing_in_split: PLAIN split, break_missing => "a table is replaced, or replaces";
    remade_before_the_flush: PLAIN remap, made_before_the_flush => "made valid before its old value is flushed";
    a_right_taken_without_a_flush: PLAIN protect, tlbi_missing::<1> => "may still be used";
    freed_before_the_flush_in_unmap: PLAIN unmap_last, freed_before_the_flush
        => "is freed, but was unlinked and is not clean";
    freed_while_linked_in_unmap: PLAIN unmap_last, freed_while_linked => "is freed, but is a table";
    publish_missing: PLAIN map, dsb_missing::<1> => "no DSB followed";
    publish_without_an_isb: PLAIN map, isb_missing::<1> => "own regime is written, but no DSB and ISB followed";
    publish_for_this_cpu_only: PLAIN map, dsb_nsh::<1> => "no DSB followed";
    a_torn_descriptor: PLAIN map_beside, torn => "the output address changes";
    slot_not_flushed: PLAIN use_slot, tlbi_missing::<1> => "made valid before its old value is flushed";
    slot_flushed_before_it_is_invalid: PLAIN use_slot, tlbi_before_dsb::<1> => "made valid before its old value is flushed";
    slot_flushed_at_its_neighbour: PLAIN empty_slot, |_, step| at_another_address(step, |address| address - PAGE)
        => "may still be used";
    slot_flushed_on_this_cpu_only: PLAIN empty_slot, |_, step| replace_all(step, Tlbi::Alle2) => "may still be used";
    slot_flush_not_waited_for: PLAIN empty_slot, |past, step| match step {
        Do::Dsb(DsbKind::Ish) if past.tlbis == 1 => Vec::new(),
        _ => vec![step],
    } => "may still be used";
    slot_not_broken: PLAIN use_slot, break_missing => "the output address changes";
    slot_used_before_its_isb: PLAIN use_slot, |past, step| match step {
        Do::Isb if past.valid_writes == 2 => Vec::new(),
        _ => vec![step],
    } => "own regime is written, but no DSB and ISB followed";
}
