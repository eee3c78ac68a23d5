//! Which sequences after a descriptor was made invalid are enough before another valid one is written, and which are
//! not: each row a test of its own, the right sequences and the wrong.

use crate::scene::{ALLE1IS, BLOCK, Do, IPA, ISH, ISHST, NSH, PAGE, SY, Scene, VMALLE1IS, VMALLS12E1IS, VMID, by_ipa};
use abi::Ipa;
use pgtable::tlbi::TlbiPages;
use pgtable::{TableFrames, Tlbi};

const OF_THE_PAGE: Do = by_ipa(IPA);

/// Breaks the page at IPA, does `steps`, and makes another; true where the machine has nothing to say against it.
fn is_enough(cpus: usize, steps: &[Do]) -> bool {
    let scene = Scene::new(cpus);
    scene.cpu.write(scene.level3, 0);
    assert_eq!(scene.reachable(), [0x8000_0000], "a TLB may hold the page until it is flushed");
    scene.run(steps);
    let is_reachable = !scene.reachable().is_empty();
    scene.cpu.write(scene.level3, 0x9000_0000 | PAGE);
    let complains = !scene.machine.violations().is_empty();
    assert_eq!(is_reachable, complains, "the two ways of judging disagree after {steps:?}");
    if complains {
        scene.expect_violation("is made valid before its old value is flushed");
    }
    !complains
}

macro_rules! rows {
    ($($name:ident: $verdict:ident [$($step:expr),* $(,)?];)*) => {$(
        #[test]
        fn $name() {
            assert_eq!(is_enough(2, &[$($step),*]), stringify!($verdict) == "clean");
        }
    )*};
}

rows! {
    vmalls12e1is_between_two_dsb: clean [ISH, VMALLS12E1IS, ISH];
    alle1is_between_two_dsb: clean [ISH, ALLE1IS, ISH];
    ipas2e1is_then_vmalle1is_with_three_dsb: clean [ISH, by_ipa(IPA), ISH, VMALLE1IS, ISH];
    ishst_as_the_first_barrier_of_an_invalidation_by_ipa: clean [ISHST, by_ipa(IPA), ISH, VMALLE1IS, ISH];
    ishst_as_the_first_barrier_of_an_invalidation_of_all: clean [ISHST, VMALLS12E1IS, ISH];
    sy_in_place_of_ish: clean [SY, by_ipa(IPA), SY, VMALLE1IS, SY];
    any_address_of_the_page: clean [ISH, by_ipa(IPA + 0xff0), ISH, VMALLE1IS, ISH];
    more_than_needed: clean [ISH, by_ipa(IPA), ISH, VMALLS12E1IS, ISH, VMALLE1IS, ISH, Do::Isb];

    nothing: error [];
    barriers_alone: error [ISH, ISH, ISH];
    ishst_as_the_last_barrier: error [ISH, by_ipa(IPA), ISH, VMALLE1IS, ISHST];
    ishst_as_the_last_barrier_of_an_invalidation_of_all: error [ISH, VMALLS12E1IS, ISHST];
    ishst_as_the_middle_barrier: error [ISH, by_ipa(IPA), ISHST, VMALLE1IS, ISH];
    no_first_barrier: error [by_ipa(IPA), ISH, VMALLE1IS, ISH];
    no_first_barrier_before_an_invalidation_of_all: error [VMALLS12E1IS, ISH];
    no_middle_barrier: error [ISH, by_ipa(IPA), VMALLE1IS, ISH];
    no_last_barrier: error [ISH, by_ipa(IPA), ISH, VMALLE1IS];
    no_last_barrier_after_an_invalidation_of_all: error [ISH, VMALLS12E1IS];
    only_ipas2e1is: error [ISH, by_ipa(IPA), ISH];
    only_vmalle1is: error [ISH, VMALLE1IS, ISH];
    combined_entries_before_stage2_entries: error [ISH, VMALLE1IS, ISH, by_ipa(IPA), ISH];
    another_ipa: error [ISH, by_ipa(IPA + 0x1000), ISH, VMALLE1IS, ISH];
    the_ipa_before: error [ISH, by_ipa(IPA - 0x1000), ISH, VMALLE1IS, ISH];
    invalidation_on_another_cpu: error [
        ISH, Do::Other(&OF_THE_PAGE), Do::Other(&ISH), Do::Other(&VMALLE1IS), Do::Other(&ISH), ISH
    ];
    invalidation_of_all_on_another_cpu: error [ISH, Do::Other(&VMALLS12E1IS), Do::Other(&ISH)];
    last_barrier_on_another_cpu: error [ISH, VMALLS12E1IS, Do::Other(&ISH)];
    nsh_as_the_first_barrier: error [NSH, VMALLS12E1IS, ISH];
    nsh_as_the_middle_barrier: error [ISH, by_ipa(IPA), NSH, VMALLE1IS, ISH];
    nsh_as_the_last_barrier: error [ISH, VMALLS12E1IS, NSH];
    ipas2e1_reaches_this_cpu_only: error [
        ISH, Do::Tlbi(Tlbi::Ipas2e1 { ipa: Ipa::new(IPA), level: None }), ISH, VMALLE1IS, ISH
    ];
    vmalle1_reaches_this_cpu_only: error [ISH, by_ipa(IPA), ISH, Do::Tlbi(Tlbi::Vmalle1), ISH];
    vmalls12e1_reaches_this_cpu_only: error [ISH, Do::Tlbi(Tlbi::Vmalls12e1), ISH];
    alle1_reaches_this_cpu_only: error [ISH, Do::Tlbi(Tlbi::Alle1), ISH];
    the_tlbi_of_el2: error [ISH, Do::Tlbi(Tlbi::Alle2Is), ISH];
    the_hint_of_the_right_level: clean [
        ISH, Do::Tlbi(Tlbi::Ipas2e1Is { ipa: Ipa::new(IPA), level: Some(3) }), ISH, VMALLE1IS, ISH
    ];
    the_hint_of_another_level: error [
        ISH, Do::Tlbi(Tlbi::Ipas2e1Is { ipa: Ipa::new(IPA), level: Some(2) }), ISH, VMALLE1IS, ISH
    ];
    another_vmid: error [Do::Vttbr(6), Do::Isb, ISH, VMALLS12E1IS, ISH];
    another_vmid_by_ipa: error [ISH, by_ipa(IPA), ISH, Do::Vttbr(6), Do::Isb, VMALLE1IS, ISH];
    every_vmid_at_once: clean [Do::Vttbr(6), Do::Isb, ISH, ALLE1IS, ISH];
    there_and_back: clean [Do::Vttbr(6), Do::Isb, Do::Vttbr(VMID), Do::Isb, ISH, VMALLS12E1IS, ISH];
}

#[test]
fn a_range_reaches_its_pages_and_no_other() {
    let pages = TlbiPages::at_most(4).unwrap();
    for (first, enough) in
        [(IPA, true), (IPA - 0x3000, true), (IPA - 0x4000, false), (IPA + 0x1000, false), (IPA - 0x1000, true)]
    {
        let range = Do::Tlbi(Tlbi::Ripas2e1Is { ipa: Ipa::new(first), pages, level: None });
        assert_eq!(is_enough(2, &[ISH, range, ISH, VMALLE1IS, ISH]), enough, "{first:#x}");
    }
}

#[test]
fn a_range_with_a_hint_begins_where_a_leaf_of_that_level_does() {
    const MIB2: u64 = 2 << 20;
    let pages = TlbiPages::at_most(1024).unwrap();
    for (first, enough) in [(IPA + MIB2, true), (IPA, true), (IPA + 0x1000, false), (IPA + MIB2 - 0x1000, false)] {
        let scene = Scene::new(2);
        let slot = scene.level2.checked_add(8).unwrap();
        scene.cpu.write(slot, 0x8020_0000 | BLOCK);
        scene.run(&[ISH]);
        scene.cpu.write(slot, 0);
        let range = Do::Tlbi(Tlbi::Ripas2e1Is { ipa: Ipa::new(first), pages, level: Some(2) });
        scene.run(&[ISH, range, ISH, VMALLE1IS, ISH]);
        assert_eq!(scene.machine.unfinished().is_empty(), enough, "{first:#x}");
    }
}

#[test]
fn a_machine_of_one_cpu_may_do_with_local_maintenance() {
    let by_ipa = Do::Tlbi(Tlbi::Ipas2e1 { ipa: Ipa::new(IPA), level: None });
    assert!(is_enough(1, &[NSH, by_ipa, NSH, Do::Tlbi(Tlbi::Vmalle1), NSH]));
    assert!(is_enough(1, &[NSH, Do::Tlbi(Tlbi::Vmalls12e1), NSH]));
    assert!(is_enough(1, &[NSH, Do::Tlbi(Tlbi::Alle1), NSH]));
    assert!(!is_enough(1, &[by_ipa, NSH, Do::Tlbi(Tlbi::Vmalle1), NSH]));
    assert!(!is_enough(1, &[NSH, by_ipa, NSH]));
}

#[test]
fn vttbr_must_be_synchronised_before_it_counts() {
    let scene = Scene::new(2);
    scene.run(&[Do::Vttbr(6), Do::Isb]);
    scene.cpu.write(scene.level3, 0);
    scene.run(&[ISH, Do::Vttbr(VMID), by_ipa(IPA), ISH, VMALLE1IS, ISH]);
    scene.expect_violation("before the ISB");
    assert_eq!(scene.reachable(), [0x8000_0000]);
}
