//! Stage 1 of EL1&0, as a kernel without a hypervisor's hand in it would use it.

use abi::{PhysAddr, VirtAddr};
use pgtable::tlbi::TlbiPages;
use pgtable::{El1Attributes, Tlbi};

use crate::flawed::Do;
use crate::flaws::*;
use crate::mutants;
use crate::scene::{INPUT, MIB2, OPTIONS, OTHER, OUTPUT, PAGE, PAGES, Scene};

const AT: VirtAddr = VirtAddr::new(INPUT);

fn data() -> El1Attributes {
    El1Attributes { global: false, ..El1Attributes::data() }
}

fn map(scene: &mut Scene) {
    scene.on_el1(|table, cpu| table.map(cpu, AT, PhysAddr::new(OUTPUT), PAGE, data(), OPTIONS));
    scene.el1_is(&[(INPUT, Some(OUTPUT)), (INPUT + PAGE, None)]);
}

/// Maps a page beside another, where no table is made.
fn map_beside(scene: &mut Scene) {
    scene.el1_holds(PAGE, PAGES);
    let at = VirtAddr::new(INPUT + PAGE);
    scene.on_el1(|table, cpu| table.map(cpu, at, PhysAddr::new(OTHER), PAGE, data(), OPTIONS));
    scene.el1_is(&[(INPUT, Some(OUTPUT)), (INPUT + PAGE, Some(OTHER))]);
}

fn remap(scene: &mut Scene) {
    scene.el1_holds(4 * PAGE, PAGES);
    scene.on_el1(|table, cpu| table.remap(cpu, AT, PhysAddr::new(OTHER), PAGE, data(), OPTIONS));
    scene.el1_is(&[(INPUT, Some(OTHER)), (INPUT + PAGE, Some(OUTPUT + PAGE))]);
}

fn unmap(scene: &mut Scene) {
    scene.el1_holds(4 * PAGE, PAGES);
    scene.on_el1(|table, cpu| table.unmap(cpu, AT, PAGE));
    scene.el1_is(&[(INPUT, None), (INPUT + PAGE, Some(OUTPUT + PAGE))]);
}

fn unmap_last(scene: &mut Scene) {
    scene.el1_holds(MIB2 + PAGE, OPTIONS);
    scene.on_el1(|table, cpu| table.unmap(cpu, VirtAddr::new(INPUT + MIB2), PAGE));
    scene.el1_is(&[(INPUT, Some(OUTPUT)), (INPUT + MIB2, None)]);
}

fn unmap_many(scene: &mut Scene) {
    scene.el1_holds(64 * PAGE, PAGES);
    scene.on_el1(|table, cpu| table.unmap(cpu, AT, 62 * PAGE));
    scene.el1_is(&[(INPUT, None), (INPUT + 61 * PAGE, None), (INPUT + 62 * PAGE, Some(OUTPUT + 62 * PAGE))]);
}

/// Makes a page global, which is no change of a permission.
fn make_global(scene: &mut Scene) {
    scene.el1_holds(4 * PAGE, PAGES);
    scene.on_el1(|table, cpu| table.protect(cpu, AT, PAGE, El1Attributes::data()));
    scene.el1_is(&[(INPUT, Some(OUTPUT))]);
}

/// The ASID of an invalidation by address, changed.
fn of_another_asid(step: Do) -> Vec<Do> {
    change_tlbi(step, |operation| {
        Some(match operation {
            Tlbi::Vae1Is { address, asid, level } => Tlbi::Vae1Is { address, asid: asid + 1, level },
            Tlbi::Vale1Is { address, asid, level } => Tlbi::Vale1Is { address, asid: asid + 1, level },
            Tlbi::Rvae1Is { address, asid, pages, level } => Tlbi::Rvae1Is { address, asid: asid + 1, pages, level },
            other => other,
        })
    })
}

mutants! {
    first_dsb_missing: PLAIN unmap, dsb_missing::<1> => "may still be used";
    last_dsb_missing: PLAIN unmap, dsb_missing::<2> => "may still be used";
    last_dsb_waits_for_stores_only: PLAIN unmap, dsb_ishst::<2> => "may still be used";
    last_dsb_for_this_cpu_only: PLAIN unmap, dsb_nsh::<2> => "may still be used";
    isb_missing_at_the_end: PLAIN unmap, isb_missing::<1> => "own regime is written, but no DSB and ISB followed";
    not_invalidated: PLAIN unmap, tlbi_missing::<1> => "may still be used";
    another_asid: PLAIN unmap, |_, step| of_another_asid(step) => "may still be used";
    another_asid_for_a_range: RANGED unmap_many, |_, step| of_another_asid(step) => "may still be used";
    invalidated_on_this_cpu_only: PLAIN unmap_many, |_, step| change_tlbi(step, |_| Some(Tlbi::Vmalle1))
        => "may still be used";
    el2_invalidated_for_el1: PLAIN unmap, |_, step| change_tlbi(step, |_| Some(Tlbi::Alle2Is)) => "may still be used";
    the_last_level_of_a_table: PLAIN unmap_last, |_, step| change_tlbi(step, |operation| {
        Some(match operation {
            Tlbi::Vae1Is { address, asid, level } => Tlbi::Vale1Is { address, asid, level },
            other => other,
        })
    }) => "may still be used";
    a_range_two_pages_short: RANGED unmap_many, |_, step| change_tlbi(step, |operation| {
        Some(match operation {
            Tlbi::Rvae1Is { address, asid, pages, level } => {
                let pages = TlbiPages::at_most(pages.pages() - 2).unwrap();
                Tlbi::Rvae1Is { address, asid, pages, level }
            }
            other => other,
        })
    }) => "may still be used";
    break_missing_in_remap: PLAIN remap, break_missing => "the output address changes";
    break_missing_where_a_page_becomes_global: PLAIN make_global, break_missing => "global and not global change";
    remade_before_the_flush: PLAIN remap, made_before_the_flush => "made valid before its old value is flushed";
    freed_before_the_flush_in_unmap: PLAIN unmap_last, freed_before_the_flush
        => "is freed, but was unlinked and is not clean";
    publish_missing: PLAIN map, dsb_missing::<1> => "no DSB followed";
    publish_without_an_isb: PLAIN map, isb_missing::<1> => "own regime is written, but no DSB and ISB followed";
    a_torn_descriptor: PLAIN map_beside, torn => "the output address changes";
}
