//! Memory that is mapped a moment after it was written: to be reached past the caches, or to be executed.

use abi::{Ipa, Pfn, PhysAddr, VirtAddr};
use pgtable::{DsbKind, El2Attributes, Stage2Attributes, Stage2Execute, Stage2Memory};

use crate::flawed::{Do, Past};
use crate::flaws::last_page_not_cleaned;
use crate::mutants;
use crate::scene::{INPUT, OUTPUT, PAGE, SYNCHRONISE, Scene};

/// The other CPU writes two pages.
fn write(scene: &mut Scene) {
    for page in 0..2 {
        scene.machine.fill_page(1, Pfn::new(OUTPUT / PAGE + page), 0xa5);
    }
}

/// Data that the guest may reach past the caches.
fn map_data(scene: &mut Scene) {
    scene.machine.guard_caches(scene.stage2.as_ref().unwrap().root());
    write(scene);
    let attributes = Stage2Attributes {
        memory: Stage2Memory::NormalNonCacheable,
        execute: Stage2Execute::None,
        ..Stage2Attributes::memory()
    };
    scene.on_stage2(|table, cpu| {
        table.map(cpu, Ipa::new(INPUT), PhysAddr::new(OUTPUT), 2 * PAGE, attributes, SYNCHRONISE)
    });
}

/// Memory that the guest may execute.
fn map_memory(scene: &mut Scene) {
    scene.machine.guard_caches(scene.stage2.as_ref().unwrap().root());
    write(scene);
    let attributes = Stage2Attributes::memory();
    scene.on_stage2(|table, cpu| {
        table.map(cpu, Ipa::new(INPUT), PhysAddr::new(OUTPUT), 2 * PAGE, attributes, SYNCHRONISE)
    });
}

/// The same as a fault resolves it.
fn map_leaf(scene: &mut Scene) {
    scene.machine.guard_caches(scene.stage2.as_ref().unwrap().root());
    write(scene);
    let attributes = Stage2Attributes::memory();
    scene.on_stage2(|table, cpu| {
        table.map_leaf(cpu, Ipa::new(INPUT), PhysAddr::new(OUTPUT), PAGE, attributes, SYNCHRONISE, false)
    });
}

/// Code of EL2's own, which is always cacheable.
fn map_code(scene: &mut Scene) {
    scene.machine.guard_caches(scene.el2.as_ref().unwrap().root());
    write(scene);
    scene.on_el2(|table, cpu| {
        let (at, code) = (VirtAddr::new(INPUT), El2Attributes::code());
        table.map(cpu, at, PhysAddr::new(OUTPUT), 2 * PAGE, code, SYNCHRONISE)
    });
}

fn no_clean(_past: &mut Past, step: Do) -> Vec<Do> {
    match step {
        Do::CleanToPoc(_) | Do::CleanToPou(_) => Vec::new(),
        _ => vec![step],
    }
}

fn to_unification_only(_past: &mut Past, step: Do) -> Vec<Do> {
    match step {
        Do::CleanToPoc(range) => vec![Do::CleanToPou(range)],
        _ => vec![step],
    }
}

fn no_invalidation(_past: &mut Past, step: Do) -> Vec<Do> {
    match step {
        Do::InvalidateInstructions(_) => Vec::new(),
        _ => vec![step],
    }
}

/// Instructions are invalidated while the old ones may still be fetched from memory.
fn invalidated_first(past: &mut Past, step: Do) -> Vec<Do> {
    match step {
        Do::CleanToPoc(_) | Do::CleanToPou(_) => past.hold(step),
        Do::InvalidateInstructions(_) => past.before_the_held(step),
        _ => vec![step],
    }
}

/// Everything that is done for the caches is done after the mapping.
fn after_the_map(past: &mut Past, step: Do) -> Vec<Do> {
    match step {
        Do::CleanToPoc(_) | Do::CleanToPou(_) | Do::InvalidateInstructions(_) => past.hold(step),
        Do::Dsb(DsbKind::Ishst) => past.before_the_held(step),
        _ => vec![step],
    }
}

mutants! {
    data_not_cleaned: PLAIN map_data, no_clean => "may bypass the caches, but the line at";
    data_cleaned_one_page_short: PLAIN map_data, last_page_not_cleaned => "may bypass the caches, but the line at";
    data_cleaned_to_unification_only: PLAIN map_data, to_unification_only => "may bypass the caches, but the line at";
    data_cleaned_after_the_map: PLAIN map_data, after_the_map => "may bypass the caches, but the line at";
    memory_not_cleaned: PLAIN map_memory, no_clean => "may bypass the caches, but the line at";
    memory_not_invalidated: PLAIN map_memory, no_invalidation => "is executable, but";
    memory_invalidated_before_it_is_clean: PLAIN map_memory, invalidated_first => "is executable, but";
    leaf_not_cleaned: PLAIN map_leaf, no_clean => "may bypass the caches, but the line at";
    leaf_not_invalidated: PLAIN map_leaf, no_invalidation => "is executable, but";
    leaf_synchronised_after_the_map: PLAIN map_leaf, after_the_map => "is executable, but";
    code_not_cleaned: PLAIN map_code, no_clean => "is executable, but";
    code_not_invalidated: PLAIN map_code, no_invalidation => "is executable, but";
    code_invalidated_before_it_is_clean: PLAIN map_code, invalidated_first => "is executable, but";
    code_synchronised_one_page_short: PLAIN map_code, last_page_not_cleaned => "is executable, but";
    code_synchronised_after_the_map: PLAIN map_code, after_the_map => "is executable, but";
}
