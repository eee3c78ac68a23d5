//! Stage 2, one CPU's operations at a time.

use abi::{Ipa, PhysAddr};
use pgtable::tlbi::TlbiPages;
use pgtable::{Annotation, DsbKind, Stage2Attributes, Stage2Memory, TableError, Tlbi};

use crate::flawed::{Do, Past};
use crate::flaws::*;
use crate::mutants;
use crate::scene::{INPUT, MIB2, OPTIONS, OTHER, OUTPUT, PAGE, PAGES, Scene};

const AT: Ipa = Ipa::new(INPUT);

fn memory() -> Stage2Attributes {
    Stage2Attributes::memory()
}

fn non_cacheable() -> Stage2Attributes {
    Stage2Attributes { memory: Stage2Memory::NormalNonCacheable, ..memory() }
}

fn read_only() -> Stage2Attributes {
    Stage2Attributes { write: false, ..memory() }
}

/// Maps two pages where nothing is.
fn map(scene: &mut Scene) {
    scene.on_stage2(|table, cpu| table.map(cpu, AT, PhysAddr::new(OUTPUT), 2 * PAGE, memory(), OPTIONS));
    scene.stage2_is(&[
        (INPUT, Some(OUTPUT)),
        (INPUT + PAGE, Some(OUTPUT + PAGE)),
        (INPUT + 2 * PAGE, None),
        (INPUT + MIB2 - PAGE, None),
    ]);
}

/// Maps a page beside others, where no table is made.
fn map_beside(scene: &mut Scene) {
    scene.stage2_holds(PAGE, PAGES);
    let at = Ipa::new(INPUT + PAGE);
    scene.on_stage2(|table, cpu| table.map(cpu, at, PhysAddr::new(OTHER), PAGE, memory(), OPTIONS));
    scene.stage2_is(&[(INPUT, Some(OUTPUT)), (INPUT + PAGE, Some(OTHER)), (INPUT + 2 * PAGE, None)]);
}

/// Maps a page that takes one more table.
fn map_next_table(scene: &mut Scene) {
    scene.stage2_holds(PAGE, PAGES);
    let at = Ipa::new(INPUT + MIB2);
    scene.on_stage2(|table, cpu| table.map(cpu, at, PhysAddr::new(OTHER), PAGE, memory(), OPTIONS));
    scene.stage2_is(&[(INPUT, Some(OUTPUT)), (INPUT + MIB2, Some(OTHER))]);
}

/// Maps two pages in two tables.
fn map_two_tables(scene: &mut Scene) {
    let at = Ipa::new(INPUT + MIB2 - PAGE);
    scene.on_stage2(|table, cpu| table.map(cpu, at, PhysAddr::new(OUTPUT), 2 * PAGE, memory(), OPTIONS));
    scene.stage2_is(&[(INPUT + MIB2 - PAGE, Some(OUTPUT)), (INPUT + MIB2, Some(OUTPUT + PAGE))]);
}

fn map_block(scene: &mut Scene) {
    scene.on_stage2(|table, cpu| table.map(cpu, AT, PhysAddr::new(OUTPUT), MIB2, memory(), OPTIONS));
    scene.stage2_is(&[(INPUT, Some(OUTPUT)), (INPUT + MIB2, None)]);
}

/// Moves a page, among others.
fn remap(scene: &mut Scene) {
    scene.stage2_holds(4 * PAGE, PAGES);
    scene.on_stage2(|table, cpu| table.remap(cpu, AT, PhysAddr::new(OTHER), PAGE, memory(), OPTIONS));
    scene.stage2_is(&[(INPUT, Some(OTHER)), (INPUT + PAGE, Some(OUTPUT + PAGE))]);
}

/// Unmaps a page, among others.
fn unmap(scene: &mut Scene) {
    scene.stage2_holds(4 * PAGE, PAGES);
    scene.on_stage2(|table, cpu| table.unmap(cpu, AT, PAGE));
    scene.stage2_is(&[(INPUT, None), (INPUT + PAGE, Some(OUTPUT + PAGE))]);
}

/// Unmaps eight pages, among others.
fn unmap_eight(scene: &mut Scene) {
    scene.stage2_holds(9 * PAGE, PAGES);
    scene.on_stage2(|table, cpu| table.unmap(cpu, AT, 8 * PAGE));
    scene.stage2_is(&[(INPUT, None), (INPUT + 7 * PAGE, None), (INPUT + 8 * PAGE, Some(OUTPUT + 8 * PAGE))]);
}

/// Unmaps more pages, among others, than are worth one invalidation each.
fn unmap_many(scene: &mut Scene) {
    scene.stage2_holds(64 * PAGE, PAGES);
    scene.on_stage2(|table, cpu| table.unmap(cpu, AT, 63 * PAGE));
    scene.stage2_is(&[(INPUT, None), (INPUT + 62 * PAGE, None), (INPUT + 63 * PAGE, Some(OUTPUT + 63 * PAGE))]);
}

/// Unmaps the whole of a table, beside another.
fn unmap_table(scene: &mut Scene) {
    scene.stage2_holds(MIB2 + PAGE, PAGES);
    scene.on_stage2(|table, cpu| table.unmap(cpu, AT, MIB2));
    scene.stage2_is(&[(INPUT, None), (INPUT + MIB2 - PAGE, None), (INPUT + MIB2, Some(OUTPUT + MIB2))]);
}

/// Unmaps the only page of a table, beside another.
fn unmap_last(scene: &mut Scene) {
    scene.stage2_holds(MIB2 + PAGE, OPTIONS);
    scene.on_stage2(|table, cpu| table.unmap(cpu, Ipa::new(INPUT + MIB2), PAGE));
    scene.stage2_is(&[(INPUT, Some(OUTPUT)), (INPUT + MIB2, None)]);
}

fn unmap_block(scene: &mut Scene) {
    scene.stage2_holds(2 * MIB2, OPTIONS);
    scene.on_stage2(|table, cpu| table.unmap(cpu, AT, MIB2));
    scene.stage2_is(&[(INPUT, None), (INPUT + MIB2, Some(OUTPUT + MIB2))]);
}

/// Unmaps a page of a block.
fn unmap_part(scene: &mut Scene) {
    scene.stage2_holds(MIB2, OPTIONS);
    scene.on_stage2(|table, cpu| table.unmap(cpu, AT, PAGE));
    scene.stage2_is(&[(INPUT, None), (INPUT + PAGE, Some(OUTPUT + PAGE))]);
}

fn annotate(scene: &mut Scene) {
    scene.stage2_holds(4 * PAGE, PAGES);
    scene.on_stage2(|table, cpu| table.annotate(cpu, AT, PAGE, Annotation::new(5)));
    scene.stage2_is(&[(INPUT, None), (INPUT + PAGE, Some(OUTPUT + PAGE))]);
}

/// Takes the right to write from a page.
fn protect(scene: &mut Scene) {
    scene.stage2_holds(4 * PAGE, PAGES);
    scene.on_stage2(|table, cpu| table.protect(cpu, AT, PAGE, read_only()));
    scene.stage2_is(&[(INPUT, Some(OUTPUT)), (INPUT + PAGE, Some(OUTPUT + PAGE))]);
}

fn change_memory_type(scene: &mut Scene) {
    scene.stage2_holds(4 * PAGE, PAGES);
    scene.on_stage2(|table, cpu| table.protect(cpu, AT, 2 * PAGE, non_cacheable()));
    scene.stage2_is(&[(INPUT, Some(OUTPUT)), (INPUT + PAGE, Some(OUTPUT + PAGE))]);
}

fn write_protect(scene: &mut Scene) {
    scene.stage2_holds(4 * PAGE, PAGES);
    scene.on_stage2(|table, cpu| table.write_protect(cpu, AT, 2 * PAGE));
    scene.stage2_is(&[(INPUT, Some(OUTPUT)), (INPUT + PAGE, Some(OUTPUT + PAGE))]);
}

fn age(scene: &mut Scene) {
    scene.stage2_holds(4 * PAGE, PAGES);
    let young = scene.on_stage2(|table, cpu| table.test_and_clear_young(cpu, AT, 2 * PAGE));
    if young != Some(true) {
        scene.complain("a young page is not noticed");
    }
    scene.stage2_is(&[(INPUT, Some(OUTPUT)), (INPUT + PAGE, Some(OUTPUT + PAGE))]);
}

fn make_young(scene: &mut Scene) {
    scene.stage2_holds(4 * PAGE, PAGES);
    let aged = scene.stage2.as_mut().unwrap().test_and_clear_young(&mut scene.environment, AT, PAGE);
    assert_eq!(aged, Ok(true));
    scene.on_stage2(|table, cpu| table.make_young(cpu, AT));
    scene.stage2_is(&[(INPUT, Some(OUTPUT)), (INPUT + PAGE, Some(OUTPUT + PAGE))]);
}

fn split(scene: &mut Scene) {
    scene.stage2_holds(2 * MIB2, OPTIONS);
    scene.on_stage2(|table, cpu| table.split(cpu, AT, 2 * MIB2, 3));
    scene.stage2_is(&[(INPUT, Some(OUTPUT)), (INPUT + 2 * MIB2 - PAGE, Some(OUTPUT + 2 * MIB2 - PAGE))]);
}

fn coalesce(scene: &mut Scene) {
    scene.stage2_holds(2 * MIB2, PAGES);
    scene.on_stage2(|table, cpu| table.coalesce(cpu, AT, 2 * MIB2));
    scene.stage2_is(&[(INPUT, Some(OUTPUT)), (INPUT + 2 * MIB2 - PAGE, Some(OUTPUT + 2 * MIB2 - PAGE))]);
}

fn destroy(scene: &mut Scene) {
    scene.stage2_holds(MIB2 + PAGE, OPTIONS);
    scene
        .operate(|scene| {
            let root = scene.stage2.take().unwrap().destroy(&mut scene.environment);
            scene.machine.forget(root.start);
            scene.machine.return_root(root);
            Ok::<(), TableError>(())
        })
        .unwrap();
}

/// The address of an invalidation by IPA, changed.
fn at_another_ipa(step: Do, change: impl Fn(u64) -> u64) -> Vec<Do> {
    change_tlbi(step, |operation| {
        Some(match operation {
            Tlbi::Ipas2e1Is { ipa, level } => Tlbi::Ipas2e1Is { ipa: Ipa::new(change(ipa.raw())), level },
            Tlbi::Ripas2e1Is { ipa, pages, level } => {
                Tlbi::Ripas2e1Is { ipa: Ipa::new(change(ipa.raw())), pages, level }
            }
            other => other,
        })
    })
}

/// One form of invalidation in the place of another.
fn replace(step: Do, from: Tlbi, to: Tlbi) -> Vec<Do> {
    change_tlbi(step, |operation| Some(if operation == from { to } else { operation }))
}

/// A level hint where there is none, or another where there is one.
fn hint(step: Do, hint: u8) -> Vec<Do> {
    change_tlbi(step, |operation| {
        Some(match operation {
            Tlbi::Ipas2e1Is { ipa, .. } => Tlbi::Ipas2e1Is { ipa, level: Some(hint) },
            Tlbi::Ripas2e1Is { ipa, pages, .. } => Tlbi::Ripas2e1Is { ipa, pages, level: Some(hint) },
            other => other,
        })
    })
}

/// VTTBR_EL2 gets another value when it is loaded for a flush, which is the first time after a write.
fn another_vttbr(past: &mut Past, step: Do, change: impl Fn(u64) -> u64) -> Vec<Do> {
    match step {
        Do::LoadVttbr(value) if past.loads == 1 => vec![Do::LoadVttbr(change(value))],
        _ => vec![step],
    }
}

/// VTTBR_EL2 gets its old value back before the last barrier and all that comes before it.
fn vttbr_restored_early(past: &mut Past, step: Do) -> Vec<Do> {
    match step {
        Do::Dsb(_) if past.dsbs == 2 => past.hold(step),
        Do::Tlbi(Tlbi::Vmalle1Is) => past.hold(step),
        Do::Dsb(_) if past.dsbs == 3 => past.hold(step),
        Do::LoadVttbr(_) if past.loads == 2 => {
            let mut steps = vec![step, Do::Isb];
            steps.append(&mut past.held);
            steps
        }
        _ => vec![step],
    }
}

/// The invalidations of the two stages in the wrong order.
fn combined_first(past: &mut Past, step: Do) -> Vec<Do> {
    match step {
        Do::Tlbi(Tlbi::Ipas2e1Is { .. }) => past.hold(step),
        Do::Tlbi(Tlbi::Vmalle1Is) => past.held.drain(..).collect(),
        Do::Dsb(_) if past.dsbs == 2 => vec![Do::Tlbi(Tlbi::Vmalle1Is), step],
        _ => vec![step],
    }
}

/// The last descriptor of the chain that reserved frames form stays in a table.
fn reserve_left_in_the_table(past: &mut Past, step: Do) -> Vec<Do> {
    match step {
        Do::Write(_, 0) if past.old & 0xfff == 1 => Vec::new(),
        _ => vec![step],
    }
}

mutants! {
    // The flush of one page that goes.
    first_dsb_missing: PLAIN remap, dsb_missing::<1> => "made valid before its old value is flushed";
    middle_dsb_missing: PLAIN remap, dsb_missing::<2> => "made valid before its old value is flushed";
    last_dsb_missing: PLAIN remap, dsb_missing::<3> => "made valid before its old value is flushed";
    middle_dsb_waits_for_stores_only: PLAIN unmap, dsb_ishst::<2> => "may still be used";
    last_dsb_waits_for_stores_only: PLAIN unmap, dsb_ishst::<3> => "may still be used";
    first_dsb_for_this_cpu_only: PLAIN unmap, dsb_nsh::<1> => "may still be used";
    middle_dsb_for_this_cpu_only: PLAIN unmap, dsb_nsh::<2> => "may still be used";
    last_dsb_for_this_cpu_only: PLAIN unmap, dsb_nsh::<3> => "may still be used";
    first_dsb_on_another_cpu: PLAIN unmap, dsb_elsewhere::<1> => "may still be used";
    last_dsb_on_another_cpu: PLAIN unmap, dsb_elsewhere::<3> => "may still be used";
    all_barriers_missing: PLAIN unmap, |_, step| match step {
        Do::Dsb(_) => Vec::new(),
        _ => vec![step],
    } => "may still be used";
    no_flush_at_all: PLAIN unmap, |_, step| match step {
        Do::Dsb(_) | Do::Tlbi(_) | Do::Isb | Do::LoadVttbr(_) => Vec::new(),
        _ => vec![step],
    } => "may still be used";
    stage2_not_invalidated: PLAIN unmap, tlbi_missing::<1> => "may still be used";
    combined_entries_forgotten: PLAIN unmap, tlbi_missing::<2> => "may still be used";
    stage2_invalidated_on_this_cpu_only: PLAIN unmap, |_, step| change_tlbi(step, |operation| {
        Some(match operation {
            Tlbi::Ipas2e1Is { ipa, level } => Tlbi::Ipas2e1 { ipa, level },
            other => other,
        })
    }) => "may still be used";
    combined_entries_invalidated_on_this_cpu_only: PLAIN unmap,
        |_, step| replace(step, Tlbi::Vmalle1Is, Tlbi::Vmalle1) => "may still be used";
    combined_entries_invalidated_first: PLAIN unmap, combined_first => "may still be used";
    combined_entries_invalidated_before_the_middle_dsb: PLAIN unmap, tlbi_before_dsb::<2> => "may still be used";
    invalidated_before_the_first_dsb: PLAIN unmap, tlbi_before_dsb::<1> => "may still be used";
    invalidated_on_another_cpu: PLAIN unmap, tlbi_elsewhere => "may still be used";
    the_next_ipa: PLAIN unmap, |_, step| at_another_ipa(step, |ipa| ipa + PAGE) => "may still be used";
    the_ipa_before: PLAIN unmap, |_, step| at_another_ipa(step, |ipa| ipa - PAGE) => "may still be used";
    a_page_number_for_the_ipa: PLAIN unmap, |_, step| at_another_ipa(step, |ipa| ipa >> 12) => "may still be used";
    the_hint_of_a_block_for_a_page: HINTED unmap, |_, step| hint(step, 2) => "may still be used";
    the_hint_of_a_page_for_a_block: HINTED unmap_block, |_, step| hint(step, 3) => "may still be used";
    the_hint_of_a_leaf_for_a_table: RANGED unmap_table, |_, step| hint(step, 3) => "may still be used";
    the_hint_of_a_leaf_for_the_last_page_of_a_table: HINTED unmap_last, |_, step| hint(step, 3) => "may still be used";
    el2_invalidated_for_stage2: PLAIN unmap, |_, step| change_tlbi(step, |operation| {
        Some(match operation {
            Tlbi::Ipas2e1Is { ipa, level } => Tlbi::Vae2Is { address: abi::VirtAddr::new(ipa.raw()), level },
            other => other,
        })
    }) => "may still be used";
    all_of_el2_invalidated_for_stage2: PLAIN unmap_many,
        |_, step| replace(step, Tlbi::Vmalls12e1Is, Tlbi::Alle2Is) => "may still be used";
    only_stage1_of_the_vmid_invalidated: PLAIN unmap_many,
        |_, step| replace(step, Tlbi::Vmalls12e1Is, Tlbi::Vmalle1Is) => "may still be used";
    the_vmid_invalidated_on_this_cpu_only: PLAIN unmap_many,
        |_, step| replace(step, Tlbi::Vmalls12e1Is, Tlbi::Vmalls12e1) => "may still be used";

    // VTTBR_EL2.
    vttbr_not_loaded: PLAIN unmap, |past, step| match step {
        Do::LoadVttbr(_) if past.loads == 1 => Vec::new(),
        _ => vec![step],
    } => "may still be used";
    the_vmid_of_nobody: PLAIN unmap, |past, step| another_vttbr(past, step, |value| value + (1 << 48))
        => "belongs to the root";
    the_root_of_nobody: PLAIN unmap, |past, step| another_vttbr(past, step, |value| value + (1 << 30))
        => "belongs to the root";
    no_isb_after_vttbr: PLAIN unmap, isb_missing::<1> => "comes before the ISB";
    no_isb_after_vttbr_before_a_flush_of_all: PLAIN unmap_many, isb_missing::<1> => "comes before the ISB";
    vttbr_not_restored: PLAIN unmap, |past, step| match step {
        Do::LoadVttbr(_) if past.loads == 2 => Vec::new(),
        _ => vec![step],
    } => "VTTBR_EL2 is left changed";
    vttbr_restored_before_the_flush_is_over: PLAIN unmap, vttbr_restored_early => "may still be used";
    no_isb_after_vttbr_is_restored: PLAIN unmap, isb_missing::<2> => "VTTBR_EL2 is written, but no ISB followed";

    // Ranges.
    the_last_of_eight_pages_forgotten: PLAIN unmap_eight, tlbi_missing::<8> => "may still be used";
    the_first_of_eight_pages_forgotten: PLAIN unmap_eight, tlbi_missing::<1> => "may still be used";
    a_range_two_pages_short: RANGED unmap_eight, |_, step| change_tlbi(step, |operation| {
        Some(match operation {
            Tlbi::Ripas2e1Is { ipa, pages, level } => {
                let pages = TlbiPages::at_most(pages.pages() - 2).unwrap();
                Tlbi::Ripas2e1Is { ipa, pages, level }
            }
            other => other,
        })
    }) => "may still be used";
    a_range_that_starts_a_page_late: RANGED unmap_eight, |_, step| at_another_ipa(step, |ipa| ipa + PAGE)
        => "may still be used";
    the_hint_of_another_level_for_a_range: RANGED unmap_eight, |_, step| hint(step, 2) => "may still be used";
    one_page_for_a_table: RANGED unmap_table, |_, step| change_tlbi(step, |operation| {
        Some(match operation {
            Tlbi::Ripas2e1Is { ipa, level, .. } => Tlbi::Ipas2e1Is { ipa, level },
            other => other,
        })
    }) => "may still be used";

    // Break before make.
    break_missing_in_remap: PLAIN remap, break_missing => "is replaced while valid";
    break_missing_where_a_block_is_split: PLAIN unmap_part, break_missing => "a table is replaced, or replaces";
    break_missing_where_the_memory_type_changes: PLAIN change_memory_type, break_missing
        => "is replaced while valid";
    a_valid_value_for_the_break: PLAIN unmap_part, break_clears_the_access_flag => "is replaced while valid";
    remade_before_the_flush: PLAIN remap, made_before_the_flush => "made valid before its old value is flushed";
    split_before_the_flush: PLAIN unmap_part, made_before_the_flush => "made valid before its old value is flushed";
    flush_missing_where_a_block_is_split: PLAIN unmap_part, tlbi_missing::<1>
        => "made valid before its old value is flushed";
    an_annotation_without_a_flush: PLAIN annotate, tlbi_missing::<1> => "may still be used";
    a_right_taken_without_a_flush: PLAIN protect, tlbi_missing::<1> => "may still be used";
    a_right_taken_after_the_flush: PLAIN protect, |past, step| match step {
        Do::Write(..) => past.hold(step),
        Do::Isb if past.isbs == 2 => past.before_the_held(step),
        _ => vec![step],
    } => "may still be used";
    write_protected_without_a_flush: PLAIN write_protect, tlbi_missing::<1> => "may still be used";
    write_protected_but_the_last_page_not_flushed: PLAIN write_protect, tlbi_missing::<2> => "may still be used";
    memory_type_changed_before_the_flush: PLAIN change_memory_type, made_before_the_flush
        => "made valid before its old value is flushed";
    aged_without_a_flush: PLAIN age, tlbi_missing::<1> => "may still be used";
    aged_without_the_last_barrier: PLAIN age, |past, step| match step {
        Do::Dsb(_) if past.dsbs >= 2 => Vec::new(),
        _ => vec![step],
    } => "may still be used";
    made_young_without_a_barrier: PLAIN make_young, dsb_missing::<1> => "no DSB followed";
    eagerly_split_without_the_break: PLAIN split, break_missing => "is replaced while valid";
    eagerly_split_before_the_flush: PLAIN split, made_before_the_flush
        => "made valid before its old value is flushed";
    eagerly_split_without_a_barrier_at_the_end: PLAIN split, |_, step| match step {
        Do::Dsb(DsbKind::Ishst) => Vec::new(),
        _ => vec![step],
    } => "no DSB followed";
    coalesced_before_the_flush: PLAIN coalesce, made_before_the_flush
        => "made valid before its old value is flushed";
    coalesced_with_one_flush_for_two_tables: RANGED coalesce, |_, step| change_tlbi(step, |operation| {
        Some(match operation {
            Tlbi::Ripas2e1Is { ipa, level, .. } => {
                Tlbi::Ripas2e1Is { ipa, pages: TlbiPages::at_most(512).unwrap(), level }
            }
            other => other,
        })
    }) => "made valid before its old value is flushed";
    tables_freed_before_the_flush_in_coalesce: PLAIN coalesce, freed_before_the_flush => "unlinked and is not clean";

    // Table pages.
    freed_before_the_flush_in_unmap: PLAIN unmap_table, freed_before_the_flush => "is freed, but was unlinked and is not clean";
    freed_while_linked_in_unmap: PLAIN unmap_table, freed_while_linked => "is freed, but is a table";
    freed_before_the_flush_in_destroy: PLAIN destroy, freed_before_the_flush
        => "is freed, but was unlinked and is not clean";
    destroyed_without_a_flush: PLAIN destroy, tlbi_missing::<1> => "is given up before it is clean";
    destroyed_with_a_table_still_linked: PLAIN destroy, |past, step| match step {
        Do::Write(_, value) if value & 3 == 2 && past.old & 3 == 3 => Vec::new(),
        _ => vec![step],
    } => "is freed, but was unlinked and is not clean";
    a_frame_leaks: PLAIN unmap_table, frames_leak => "frames are allocated, but the trees have";
    a_frame_freed_twice: PLAIN unmap_table, freed_twice => "was not allocated";
    another_frame_freed: PLAIN unmap_table, another_freed => "was not allocated";
    a_frame_that_is_not_zero: PLAIN map, frames_not_zero => "reserved at level 3";
    a_frame_in_use_handed_out: PLAIN map_next_table, frame_in_use_handed_out => "is made part of a tree, but is a table";
    the_reserve_left_in_a_table: PLAIN map_two_tables, reserve_left_in_the_table => "is reserved at level";

    // What is made.
    publish_missing: PLAIN map, dsb_missing::<1> => "no DSB followed";
    publish_for_this_cpu_only: PLAIN map, dsb_nsh::<1> => "no DSB followed";
    publish_on_another_cpu: PLAIN map, dsb_elsewhere::<1> => "no DSB followed";
    made_after_the_publish: PLAIN map_beside, made_after_the_barrier => "no DSB followed";
    publish_missing_after_remap: PLAIN remap, |_, step| match step {
        Do::Dsb(DsbKind::Ishst) => Vec::new(),
        _ => vec![step],
    } => "no DSB followed";
    a_torn_descriptor: PLAIN map_beside, torn => "the output address changes";
    a_doubled_descriptor: PLAIN map, doubled => "a table";
    a_displaced_descriptor: PLAIN map_block, displaced => "translates to";
    a_lost_descriptor: PLAIN map, |past, step| match step {
        Do::Write(_, value) if value & 1 != 0 && past.valid_writes == 3 => Vec::new(),
        _ => vec![step],
    } => "translates to";
    a_page_written_as_a_block: PLAIN map, page_as_block => "is reserved at level 3";
    a_misaligned_block: PLAIN map_block, misaligned_output => "misaligned";
}
