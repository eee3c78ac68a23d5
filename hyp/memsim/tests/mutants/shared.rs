//! The operations that several CPUs may run at once on one table, here run by one: their descriptors go by
//! compare-exchange, and a locked value takes the place of the break.

use abi::{Ipa, PhysAddr};
use pgtable::{DsbKind, Stage2Attributes, Stage2Memory};

use crate::flawed::{Do, Past};
use crate::flaws::*;
use crate::mutants;
use crate::scene::{INPUT, MIB2, OPTIONS, OTHER, OUTPUT, PAGE, PAGES, Scene};

const AT: Ipa = Ipa::new(INPUT);

fn memory() -> Stage2Attributes {
    Stage2Attributes::memory()
}

fn map_leaf(scene: &mut Scene) {
    scene.on_stage2(|table, cpu| table.map_leaf(cpu, AT, PhysAddr::new(OUTPUT), PAGE, memory(), OPTIONS, false));
    scene.stage2_is(&[(INPUT, Some(OUTPUT)), (INPUT + PAGE, None)]);
}

/// Moves a page, among others.
fn replace_page(scene: &mut Scene) {
    scene.stage2_holds(4 * PAGE, PAGES);
    scene.on_stage2(|table, cpu| table.map_leaf(cpu, AT, PhysAddr::new(OTHER), PAGE, memory(), OPTIONS, true));
    scene.stage2_is(&[(INPUT, Some(OTHER)), (INPUT + PAGE, Some(OUTPUT + PAGE))]);
}

/// Moves a page of a block.
fn replace_part(scene: &mut Scene) {
    scene.stage2_holds(MIB2, OPTIONS);
    scene.on_stage2(|table, cpu| table.map_leaf(cpu, AT, PhysAddr::new(OTHER), PAGE, memory(), OPTIONS, true));
    scene.stage2_is(&[(INPUT, Some(OTHER)), (INPUT + PAGE, Some(OUTPUT + PAGE))]);
}

/// Takes the right to write from a page.
fn protect_leaf(scene: &mut Scene) {
    scene.stage2_holds(4 * PAGE, PAGES);
    let read_only = Stage2Attributes { write: false, ..memory() };
    scene.on_stage2(|table, cpu| table.protect_leaf(cpu, AT, read_only));
    scene.stage2_is(&[(INPUT, Some(OUTPUT))]);
}

fn change_memory_type(scene: &mut Scene) {
    scene.stage2_holds(4 * PAGE, PAGES);
    let non_cacheable = Stage2Attributes { memory: Stage2Memory::NormalNonCacheable, ..memory() };
    scene.on_stage2(|table, cpu| table.protect_leaf(cpu, AT, non_cacheable));
    scene.stage2_is(&[(INPUT, Some(OUTPUT))]);
}

/// Descriptors are not locked before they are replaced.
fn lock_missing(past: &mut Past, step: Do) -> Vec<Do> {
    match step {
        Do::Exchange(_, _, value) if value & 1 == 0 && past.old & 1 != 0 => Vec::new(),
        _ => vec![step],
    }
}

/// The new descriptor goes to its place before the flush.
fn unlocked_before_the_flush(past: &mut Past, step: Do) -> Vec<Do> {
    match step {
        Do::Write(_, value) if value & 1 != 0 && past.old & 3 == 0 => past.before_the_held(step),
        Do::Dsb(_) | Do::Tlbi(_) | Do::Isb | Do::LoadVttbr(_) => past.hold(step),
        _ => vec![step],
    }
}

mutants! {
    page_not_locked: PLAIN replace_page, lock_missing => "the output address changes";
    block_not_locked: PLAIN replace_part, lock_missing => "a table is replaced, or replaces";
    memory_type_changed_without_a_lock: PLAIN change_memory_type, lock_missing => "the memory type changes";
    page_unlocked_before_the_flush: PLAIN replace_page, unlocked_before_the_flush
        => "made valid before its old value is flushed";
    block_unlocked_before_the_flush: PLAIN replace_part, unlocked_before_the_flush
        => "made valid before its old value is flushed";
    page_unlocked_without_a_flush: PLAIN replace_page, tlbi_missing::<1>
        => "made valid before its old value is flushed";
    combined_entries_forgotten: PLAIN replace_page, tlbi_missing::<2>
        => "made valid before its old value is flushed";
    right_taken_without_a_flush: PLAIN protect_leaf, tlbi_missing::<1> => "may still be used";
    exchange_that_changes_nothing: PLAIN map_leaf, |past, step| match step {
        Do::Exchange(..) if past.writes > 1 => Vec::new(),
        _ => vec![step],
    } => "translates to";
    exchange_put_off: PLAIN map_leaf, |past, step| match step {
        Do::Exchange(..) => past.hold(step),
        Do::Dsb(DsbKind::Ishst) => past.before_the_held(step),
        _ => vec![step],
    } => "no DSB followed";
    publish_missing: PLAIN map_leaf, |_, step| match step {
        Do::Dsb(DsbKind::Ishst) => Vec::new(),
        _ => vec![step],
    } => "no DSB followed";
    publish_missing_after_the_lock: PLAIN replace_page, |_, step| match step {
        Do::Dsb(DsbKind::Ishst) => Vec::new(),
        _ => vec![step],
    } => "no DSB followed";
}
