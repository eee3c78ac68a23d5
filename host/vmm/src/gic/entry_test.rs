//! What reaches a guest, in which order, and when it comes back for more.

use super::Gic;
use super::simulated_cpu::{SimulatedCpu, TIMER, gic, notifies};
use abi::run::{NOTIFY_NONE_PENDING, NOTIFY_UNDERFLOW};
use alloc::vec;

const GICD_ISENABLER: u64 = 0x100;
const GICD_ISPENDR: u64 = 0x200;
const GICD_ICPENDR: u64 = 0x280;
const GICD_ISACTIVER: u64 = 0x300;
const GICD_ICACTIVER: u64 = 0x380;
const GICD_IPRIORITYR: u64 = 0x400;
const GICD_ICFGR: u64 = 0xc00;
const GICD_IROUTER: u64 = 0x6000;
const SGI_BASE: u64 = 0x1_0000;

const PENDING: u64 = 1;
const ACTIVE: u64 = 2;
const PENDING_ACTIVE: u64 = 3;

/// A SPI that the tests use, and another in the same bank.
const SPI: u32 = 40;
const OTHER: u32 = 41;

/// A GIC with all interrupts enabled, and the CPUs.
fn machine(vcpus: usize, list_registers: usize) -> (Gic, vec::Vec<SimulatedCpu>) {
    let mut gic = gic(vcpus, 64, list_registers);
    for vcpu in 0..vcpus {
        gic.write_redistributor(vcpu as u64 * 0x2_0000 + SGI_BASE + GICD_ISENABLER, 4, !0);
    }
    gic.write_distributor(GICD_ISENABLER + 4, 4, !0);
    gic.write_distributor(GICD_ISENABLER + 8, 4, !0);
    let cpus = (0..vcpus).map(|vcpu| SimulatedCpu::new(&gic, vcpu)).collect();
    (gic, cpus)
}

fn make_edge(gic: &mut Gic, spi: u32) {
    let offset = GICD_ICFGR + u64::from(spi) / 16 * 4;
    let value = gic.read_distributor(offset, 4) | 2 << (spi % 16 * 2);
    gic.write_distributor(offset, 4, value);
}

fn set_priority(gic: &mut Gic, spi: u32, priority: u64) {
    gic.write_distributor(GICD_IPRIORITYR + u64::from(spi), 1, priority);
}

/// The bit of a SPI in the first word for SPIs.
fn word_bit(spi: u32) -> u64 {
    1 << (spi - 32)
}

#[test]
fn a_level_that_falls_before_it_is_acknowledged_is_withdrawn() {
    let (mut gic, mut cpus) = machine(1, 4);
    gic.set_shared_line(SPI, true);
    cpus[0].enter(&mut gic);
    assert_eq!(cpus[0].loaded(), [(SPI, PENDING)]);
    gic.set_shared_line(SPI, false);
    assert_eq!(gic.take_kicks(), 1);
    cpus[0].exit(&mut gic);
    assert!(!gic.has_pending(0));
    cpus[0].enter(&mut gic);
    assert_eq!(cpus[0].loaded(), []);
}

#[test]
fn a_level_that_stays_high_comes_again_at_once_when_it_ends() {
    let (mut gic, mut cpus) = machine(1, 4);
    gic.set_shared_line(SPI, true);
    cpus[0].enter(&mut gic);
    assert_eq!(cpus[0].acknowledge(), Some(SPI));
    assert!(!cpus[0].maintenance());
    assert_eq!(cpus[0].end(), Some((SPI, false)));
    assert!(cpus[0].maintenance(), "the guest runs on and the interrupt is lost");
    cpus[0].exit(&mut gic);
    assert!(gic.has_pending(0));
    cpus[0].enter(&mut gic);
    assert_eq!(cpus[0].acknowledge(), Some(SPI));
}

#[test]
fn a_level_that_its_handler_lowers_ends_without_an_exit() {
    let (mut gic, mut cpus) = machine(1, 4);
    gic.set_shared_line(SPI, true);
    cpus[0].enter(&mut gic);
    assert_eq!(cpus[0].acknowledge(), Some(SPI));
    cpus[0].exit(&mut gic);
    gic.set_shared_line(SPI, false);
    cpus[0].enter(&mut gic);
    assert_eq!(cpus[0].loaded(), [(SPI, ACTIVE)]);
    cpus[0].end();
    assert!(!cpus[0].maintenance());
    cpus[0].exit(&mut gic);
    assert_eq!(gic.read_distributor(GICD_ISACTIVER + 4, 4), 0);
    assert!(!gic.has_pending(0));
}

#[test]
fn an_edge_while_active_makes_it_pending_and_active_and_comes_again() {
    let (mut gic, mut cpus) = machine(1, 4);
    make_edge(&mut gic, SPI);
    gic.set_shared_line(SPI, true);
    gic.set_shared_line(SPI, false);
    cpus[0].enter(&mut gic);
    assert_eq!(cpus[0].acknowledge(), Some(SPI));
    gic.take_kicks();
    gic.set_shared_line(SPI, true);
    assert_eq!(gic.take_kicks(), 1);
    cpus[0].exit(&mut gic);
    assert!(!gic.has_pending(0), "it is active: nothing to wake up for");
    cpus[0].enter(&mut gic);
    assert_eq!(cpus[0].loaded(), [(SPI, PENDING_ACTIVE)]);
    assert_eq!(cpus[0].acknowledge(), None);
    cpus[0].end();
    assert_eq!(cpus[0].acknowledge(), Some(SPI));
    cpus[0].end();
    cpus[0].exit(&mut gic);
    assert!(!gic.has_pending(0), "a line that stays high is no edge");
}

#[test]
fn sgis_of_several_senders_are_one_until_they_are_acknowledged() {
    let (mut gic, mut cpus) = machine(3, 4);
    gic.send_sgi(1, 5 << 24 | 1);
    gic.send_sgi(2, 5 << 24 | 1);
    assert_eq!(gic.take_kicks(), 1);
    cpus[0].enter(&mut gic);
    assert_eq!(cpus[0].loaded(), [(5, PENDING)]);
    assert_eq!(cpus[0].acknowledge(), Some(5));
    gic.send_sgi(1, 5 << 24 | 1);
    assert_eq!(gic.take_kicks(), 1);
    cpus[0].exit(&mut gic);
    cpus[0].enter(&mut gic);
    cpus[0].end();
    assert_eq!(cpus[0].acknowledge(), Some(5));
    cpus[0].end();
    assert_eq!(cpus[0].acknowledge(), None);
}

#[test]
fn sgis_go_where_the_register_says() {
    let targets = |from: usize, value: u64| {
        let (mut gic, _) = machine(4, 4);
        gic.send_sgi(from, value);
        (0..4).filter(|vcpu| gic.has_pending(*vcpu)).collect::<vec::Vec<_>>()
    };
    assert_eq!(targets(0, 0b1010), [1, 3]);
    assert_eq!(targets(1, 0b0010), [1]);
    assert_eq!(targets(2, 1 << 40), [0, 1, 3]);
    assert_eq!(targets(2, 1 << 40 | 0b0100), [0, 1, 3]);
    assert_eq!(targets(0, 0xffff), [0, 1, 2, 3]);
    assert_eq!(targets(0, 0xfff0), []);
    for other_cluster in [16, 32, 48] {
        assert_eq!(targets(0, 0xffff | 1 << other_cluster), [], "{other_cluster}");
    }
    assert_eq!(targets(0, 0xffff | 1 << 44), [], "affinities 16 to 31");
    assert_eq!(targets(0, 0xffff | 1 << 16 | 1 << 32 | 1 << 44 | 1 << 48), []);
    assert_eq!(targets(0, 0xffff | 1 << 16 | 1 << 44), []);
}

#[test]
fn the_highest_priorities_are_loaded_first_and_the_rest_when_there_is_room() {
    let (mut gic, mut cpus) = machine(1, 2);
    for (intid, priority) in [(40, 0x80), (41, 0x20), (42, 0x60), (64, 0x40)] {
        set_priority(&mut gic, intid, priority);
        make_edge(&mut gic, intid);
        gic.set_shared_line(intid, true);
    }
    cpus[0].enter(&mut gic);
    assert_eq!(cpus[0].loaded(), [(41, PENDING), (64, PENDING)]);
    assert_eq!(cpus[0].control, NOTIFY_UNDERFLOW | NOTIFY_NONE_PENDING);
    assert_eq!(cpus[0].acknowledge(), Some(41));
    assert!(!cpus[0].maintenance());
    cpus[0].end();
    assert!(cpus[0].maintenance());
    cpus[0].exit(&mut gic);
    cpus[0].enter(&mut gic);
    assert_eq!(cpus[0].loaded(), [(64, PENDING), (42, PENDING)]);
    cpus[0].acknowledge();
    cpus[0].end();
    cpus[0].exit(&mut gic);
    cpus[0].enter(&mut gic);
    assert_eq!(cpus[0].loaded(), [(42, PENDING), (40, PENDING)]);
    assert_eq!(cpus[0].control, 0);
}

#[test]
fn an_active_interrupt_keeps_its_register_and_reports_its_end_while_others_wait() {
    let (mut gic, mut cpus) = machine(1, 1);
    for (intid, priority) in [(40, 0x80), (41, 0x20)] {
        set_priority(&mut gic, intid, priority);
        make_edge(&mut gic, intid);
    }
    gic.set_shared_line(40, true);
    cpus[0].enter(&mut gic);
    assert_eq!(cpus[0].acknowledge(), Some(40));
    assert_eq!(cpus[0].control, 0);
    gic.set_shared_line(41, true);
    cpus[0].exit(&mut gic);
    cpus[0].enter(&mut gic);
    assert_eq!(cpus[0].loaded(), [(40, ACTIVE)]);
    cpus[0].end();
    assert!(cpus[0].maintenance());
    cpus[0].exit(&mut gic);
    cpus[0].enter(&mut gic);
    assert_eq!(cpus[0].loaded(), [(41, PENDING)]);
}

#[test]
fn a_level_that_stays_high_makes_room_for_a_higher_priority_when_it_ends() {
    let (mut gic, mut cpus) = machine(1, 1);
    set_priority(&mut gic, SPI, 0x80);
    gic.set_shared_line(SPI, true);
    cpus[0].enter(&mut gic);
    assert_eq!(cpus[0].acknowledge(), Some(SPI));
    gic.send_sgi(0, 1);
    cpus[0].exit(&mut gic);
    cpus[0].enter(&mut gic);
    assert_eq!(cpus[0].loaded(), [(SPI, ACTIVE)]);
    cpus[0].end();
    assert!(cpus[0].maintenance());
    cpus[0].exit(&mut gic);
    cpus[0].enter(&mut gic);
    assert_eq!(cpus[0].loaded(), [(0, PENDING)]);
}

#[test]
fn the_virtual_timer_is_linked_and_never_pending_and_active_at_once() {
    let (mut gic, mut cpus) = machine(1, 4);
    assert!(!gic.virtual_timer_in_use(0));
    gic.set_private_line(0, TIMER, true);
    assert!(gic.virtual_timer_in_use(0));
    cpus[0].enter(&mut gic);
    assert_eq!(cpus[0].loaded(), [(TIMER, PENDING)]);
    assert!(gic.virtual_timer_in_use(0), "asserted, and in a list register");
    assert_eq!(cpus[0].registers[0] >> 32 & 0x3fff_ffff, 0x3000_001d, "HW, Group 1, priority 0, pINTID 29");
    cpus[0].acknowledge();
    cpus[0].exit(&mut gic);
    cpus[0].enter(&mut gic);
    assert_eq!(cpus[0].loaded(), [(TIMER, ACTIVE)]);
    gic.set_private_line(0, TIMER, false);
    assert!(gic.virtual_timer_in_use(0), "active in a list register");
    assert_eq!(cpus[0].end(), Some((TIMER, true)));
    cpus[0].exit(&mut gic);
    assert!(!gic.virtual_timer_in_use(0));
    assert!(!gic.has_pending(0));
}

#[test]
fn a_timer_that_is_still_asserted_after_its_end_comes_again() {
    let (mut gic, mut cpus) = machine(1, 4);
    gic.set_private_line(0, TIMER, true);
    cpus[0].enter(&mut gic);
    cpus[0].acknowledge();
    cpus[0].end();
    cpus[0].exit(&mut gic);
    gic.set_private_line(0, TIMER, true);
    assert!(gic.has_pending(0));
    cpus[0].enter(&mut gic);
    assert_eq!(cpus[0].acknowledge(), Some(TIMER));
}

#[test]
fn what_is_disabled_or_cleared_while_loaded_is_taken_out() {
    type Change = fn(&mut Gic);
    let changes: [(&str, Change, Change); 4] = [
        (
            "disabled",
            |gic| gic.write_distributor(0x184, 4, word_bit(SPI)),
            |gic| gic.write_distributor(0x104, 4, word_bit(SPI)),
        ),
        (
            "cleared",
            |gic| gic.write_distributor(GICD_ICPENDR + 4, 4, word_bit(SPI)),
            |gic| gic.write_distributor(GICD_ISPENDR + 4, 4, word_bit(SPI)),
        ),
        ("group disabled", |gic| gic.write_distributor(0, 4, 1), |gic| gic.write_distributor(0, 4, 2)),
        (
            "routed nowhere",
            |gic| gic.write_distributor(GICD_IROUTER + 8 * u64::from(SPI), 8, 9),
            |gic| gic.write_distributor(GICD_IROUTER + 8 * u64::from(SPI), 8, 0),
        ),
    ];
    for (what, change, revert) in changes {
        let (mut gic, mut cpus) = machine(1, 4);
        gic.write_distributor(GICD_ISPENDR + 4, 4, word_bit(SPI));
        cpus[0].enter(&mut gic);
        assert_eq!(cpus[0].loaded(), [(SPI, PENDING)], "{what}");
        gic.take_kicks();
        change(&mut gic);
        assert_eq!(gic.take_kicks(), 1, "{what}");
        cpus[0].exit(&mut gic);
        assert!(!gic.has_pending(0), "{what}");
        cpus[0].enter(&mut gic);
        assert_eq!(cpus[0].loaded(), [], "{what}");
        revert(&mut gic);
        assert_eq!(gic.take_kicks(), 1, "{what}");
        cpus[0].exit(&mut gic);
        cpus[0].enter(&mut gic);
        assert_eq!(cpus[0].loaded(), [(SPI, PENDING)], "{what}");
    }
}

#[test]
fn an_interrupt_that_is_routed_away_while_loaded_goes_to_the_other_vcpu_once_it_is_back() {
    let (mut gic, mut cpus) = machine(2, 4);
    make_edge(&mut gic, SPI);
    gic.set_shared_line(SPI, true);
    cpus[0].enter(&mut gic);
    gic.take_kicks();
    gic.write_distributor(GICD_IROUTER + 8 * u64::from(SPI), 8, 1);
    assert_eq!(gic.take_kicks(), 0b01);
    gic.set_shared_line(SPI, false);
    gic.set_shared_line(SPI, true);
    assert!(!gic.has_pending(1), "two vCPUs would have it");
    gic.take_kicks();
    cpus[0].exit(&mut gic);
    assert_eq!(gic.take_kicks(), 0b10);
    assert!(gic.has_pending(1) && !gic.has_pending(0));
    cpus[0].enter(&mut gic);
    cpus[1].enter(&mut gic);
    assert_eq!((cpus[0].loaded(), cpus[1].loaded()), (vec![], vec![(SPI, PENDING)]));
}

#[test]
fn an_interrupt_that_is_routed_away_while_active_ends_where_it_was_taken() {
    let (mut gic, mut cpus) = machine(2, 4);
    gic.set_shared_line(SPI, true);
    cpus[0].enter(&mut gic);
    cpus[0].acknowledge();
    cpus[0].exit(&mut gic);
    gic.write_distributor(GICD_IROUTER + 8 * u64::from(SPI), 8, 1);
    cpus[0].enter(&mut gic);
    assert_eq!(cpus[0].loaded(), [(SPI, ACTIVE)]);
    assert!(!gic.has_pending(1));
    gic.take_kicks();
    cpus[0].end();
    assert!(cpus[0].maintenance(), "the other vCPU would wait for an unrelated exit");
    cpus[0].exit(&mut gic);
    assert_eq!(gic.take_kicks(), 0b10);
    assert!(gic.has_pending(1) && !gic.has_pending(0));
}

#[test]
fn an_interrupt_for_any_vcpu_goes_to_one_that_is_awake() {
    let (mut gic, _) = machine(3, 4);
    gic.write_distributor(GICD_IROUTER + 8 * u64::from(SPI), 8, 1 << 31);
    gic.set_shared_line(SPI, true);
    assert!(gic.has_pending(0), "none is awake");
    gic.write_redistributor(0x4_0014, 4, 0);
    assert_eq!((0..3).map(|vcpu| gic.has_pending(vcpu)).collect::<vec::Vec<_>>(), [false, false, true]);
    gic.write_redistributor(0x2_0014, 4, 0);
    assert_eq!((0..3).map(|vcpu| gic.has_pending(vcpu)).collect::<vec::Vec<_>>(), [false, true, false]);
    gic.write_redistributor(0x2_0014, 4, 2);
    assert_eq!((0..3).map(|vcpu| gic.has_pending(vcpu)).collect::<vec::Vec<_>>(), [false, false, true]);
}

#[test]
fn an_interrupt_goes_to_the_vcpu_of_its_route_and_to_none_where_there_is_none() {
    let (mut gic, _) = machine(2, 4);
    gic.set_shared_line(SPI, true);
    for (route, expected) in
        [(0, [true, false]), (1, [false, true]), (2, [false; 2]), (0x100, [false; 2]), (0x1_0001, [false; 2])]
    {
        gic.write_distributor(GICD_IROUTER + 8 * u64::from(SPI), 8, route);
        assert_eq!([gic.has_pending(0), gic.has_pending(1)], expected, "{route:#x}");
    }
}

#[test]
fn kicks_name_the_vcpus_that_have_news_and_only_once() {
    let (mut gic, mut cpus) = machine(2, 4);
    gic.set_private_line(1, 30, true);
    assert_eq!(gic.take_kicks(), 0b10);
    assert_eq!(gic.take_kicks(), 0);
    gic.set_private_line(1, 30, true);
    assert_eq!(gic.take_kicks(), 0, "nothing changed");
    gic.send_sgi(0, 0b10);
    cpus[1].enter(&mut gic);
    assert_eq!(gic.take_kicks(), 0, "it has seen everything");
    cpus[1].exit(&mut gic);
    assert_eq!(gic.take_kicks(), 0, "what it brings back is no news to it");
    gic.set_private_line(1, 30, false);
    gic.set_private_line(0, 30, false);
    assert_eq!(gic.take_kicks(), 0, "nothing that vCPUs wait for, or have");
}

#[test]
fn an_sgi_to_a_running_vcpu_that_folds_for_another_reason_first_still_kicks_it() {
    for (vcpu, from) in [(0, 1), (1, 0)] {
        let (mut gic, mut cpus) = machine(2, 4);
        gic.send_sgi(from, 1 << vcpu);
        cpus[vcpu].enter(&mut gic);
        gic.send_sgi(from, 1 << 24 | 1 << vcpu);
        cpus[vcpu].exit(&mut gic);
        assert_eq!(gic.take_kicks(), 1 << vcpu);
    }
}

#[test]
fn an_entry_that_does_not_take_place_loses_nothing() {
    let (mut gic, mut cpus) = machine(1, 4);
    gic.send_sgi(0, 3 << 24 | 1);
    cpus[0].enter(&mut gic);
    cpus[0].running = false;
    cpus[0].enter(&mut gic);
    assert_eq!(cpus[0].loaded(), [(3, PENDING)]);
    cpus[0].acknowledge();
    cpus[0].end();
    cpus[0].exit(&mut gic);
    assert!(!gic.has_pending(0));
}

#[test]
fn a_group_is_delivered_only_where_it_is_enabled_and_under_its_own_bit() {
    let (mut gic, mut cpus) = machine(1, 4);
    gic.write_distributor(0x084, 4, !word_bit(SPI));
    gic.set_shared_line(SPI, true);
    gic.set_shared_line(OTHER, true);
    for (enabled, expected) in
        [(0, vec![]), (1, vec![(SPI, 0)]), (2, vec![(OTHER, 1)]), (3, vec![(SPI, 0), (OTHER, 1)])]
    {
        gic.write_distributor(0, 4, enabled);
        cpus[0].enter(&mut gic);
        let used = cpus[0].registers.iter().filter(|register| **register != 0);
        assert_eq!(used.map(|r| (*r as u32, r >> 60 & 1)).collect::<vec::Vec<_>>(), expected, "{enabled}");
        cpus[0].exit(&mut gic);
    }
}

#[test]
fn who_waits_for_another_vcpu_to_end_an_interrupt_sees_it_active_until_it_has() {
    let (mut gic, mut cpus) = machine(2, 4);
    let active = |gic: &mut Gic| gic.read_distributor(GICD_ISACTIVER + 4, 4);
    make_edge(&mut gic, SPI);
    gic.set_shared_line(SPI, true);
    cpus[0].enter(&mut gic);
    cpus[0].acknowledge();
    gic.take_kicks();
    assert_eq!(active(&mut gic), word_bit(SPI), "taken, which nobody knows yet");
    assert_eq!(gic.take_kicks(), 1);
    cpus[0].exit(&mut gic);
    cpus[0].enter(&mut gic);
    assert_eq!(active(&mut gic), word_bit(SPI), "known by now");
    cpus[0].end();
    cpus[0].exit(&mut gic);
    assert_eq!(active(&mut gic), 0);
}

#[test]
fn an_interrupt_that_is_only_pending_elsewhere_does_not_read_as_active_for_ever() {
    let (mut gic, mut cpus) = machine(2, 4);
    gic.set_shared_line(SPI, true);
    gic.set_shared_line(OTHER, true);
    cpus[0].enter(&mut gic);
    cpus[0].exit(&mut gic);
    cpus[0].enter(&mut gic);
    assert_eq!(gic.read_distributor(GICD_ISACTIVER + 4, 4), word_bit(SPI) | word_bit(OTHER), "nobody had asked before");
    assert_eq!(gic.take_kicks() & 1, 1);
    cpus[0].exit(&mut gic);
    cpus[0].enter(&mut gic);
    assert_eq!(gic.read_distributor(GICD_ISACTIVER + 4, 4), 0);
}

#[test]
fn software_sets_and_clears_the_active_state_of_what_is_loaded() {
    let (mut gic, mut cpus) = machine(1, 4);
    make_edge(&mut gic, SPI);
    gic.set_shared_line(SPI, true);
    cpus[0].enter(&mut gic);
    gic.take_kicks();
    gic.write_distributor(GICD_ISACTIVER + 4, 4, word_bit(SPI));
    assert_eq!(gic.take_kicks(), 1);
    cpus[0].exit(&mut gic);
    cpus[0].enter(&mut gic);
    assert_eq!(cpus[0].loaded(), [(SPI, PENDING_ACTIVE)]);
    gic.write_distributor(GICD_ICACTIVER + 4, 4, word_bit(SPI));
    assert_eq!(gic.take_kicks(), 1);
    cpus[0].exit(&mut gic);
    cpus[0].enter(&mut gic);
    assert_eq!(cpus[0].loaded(), [(SPI, PENDING)]);
}

#[test]
fn software_sets_and_clears_the_active_state_of_what_is_not_loaded() {
    let (mut gic, mut cpus) = machine(2, 4);
    gic.write_distributor(GICD_IROUTER + 8 * u64::from(SPI), 8, 1);
    gic.write_distributor(GICD_IROUTER + 8 * u64::from(OTHER), 8, 9);
    gic.write_distributor(GICD_ISACTIVER + 4, 4, word_bit(SPI) | word_bit(OTHER));
    assert_eq!(gic.read_distributor(GICD_ISACTIVER + 4, 4), word_bit(SPI) | word_bit(OTHER));
    for (cpu, expected) in cpus.iter_mut().zip([OTHER, SPI]) {
        cpu.enter(&mut gic);
        assert_eq!(cpu.loaded(), [(expected, ACTIVE)]);
        cpu.exit(&mut gic);
    }
    gic.write_distributor(GICD_ICACTIVER + 4, 4, word_bit(SPI) | word_bit(OTHER));
    for cpu in &mut cpus {
        cpu.enter(&mut gic);
        assert_eq!(cpu.loaded(), []);
    }
}

#[test]
fn a_level_that_software_made_pending_ends_with_its_handler() {
    let (mut gic, mut cpus) = machine(1, 4);
    gic.write_distributor(GICD_ISPENDR + 4, 4, word_bit(SPI));
    gic.set_shared_line(SPI, true);
    gic.write_distributor(GICD_ICPENDR + 4, 4, word_bit(SPI));
    assert_eq!(gic.read_distributor(GICD_ISPENDR + 4, 4), word_bit(SPI), "the line is high");
    gic.set_shared_line(SPI, false);
    assert_eq!(gic.read_distributor(GICD_ISPENDR + 4, 4), 0);
    gic.write_distributor(GICD_ISPENDR + 4, 4, word_bit(SPI));
    cpus[0].enter(&mut gic);
    assert!(!notifies(cpus[0].registers[0]));
    assert_eq!(gic.read_distributor(GICD_ISPENDR + 4, 4), word_bit(SPI), "in a list register");
    assert_eq!(cpus[0].acknowledge(), Some(SPI));
    cpus[0].end();
    cpus[0].exit(&mut gic);
    assert_eq!(gic.read_distributor(GICD_ISPENDR + 4, 4), 0);
}

#[test]
fn vcpus_and_interrupts_that_do_not_exist_are_ignored() {
    let (mut gic, _) = machine(1, 4);
    let mut registers = [7; 16];
    assert_eq!(gic.fill(1, &mut registers), 0);
    gic.fold(1, &registers);
    for vcpu in [1, 31, 32, 64, usize::MAX] {
        gic.set_private_line(vcpu, 30, true);
        gic.send_sgi(vcpu, 0);
        assert!(!gic.has_pending(vcpu) && !gic.virtual_timer_in_use(vcpu));
        gic.fill(vcpu, &mut registers);
        gic.fold(vcpu, &registers);
    }
    for intid in [0, 15, 32, u32::MAX] {
        gic.set_private_line(0, intid, true);
    }
    for intid in [0, 31, 96, 1019, 1023, u32::MAX] {
        gic.set_shared_line(intid, true);
    }
    assert_eq!(gic.take_kicks(), 0);
    assert!(!gic.has_pending(0));
    gic.set_shared_line(32 + TIMER, true);
    assert!(!gic.virtual_timer_in_use(1), "an SPI at the place of another vCPU's timer");
}

#[test]
fn an_interrupt_that_is_made_active_by_a_write_is_loaded_without_delay() {
    let mut gic = gic(2, 32, 4);
    gic.take_kicks();
    gic.write_distributor(GICD_ISACTIVER + 4, 4, word_bit(SPI));
    assert_eq!(gic.take_kicks(), 0b01, "the vCPU to which it is routed could not end it else");
    let mut registers = [0; abi::run::MAX_LIST_REGISTERS];
    gic.fill(0, &mut registers);
    assert_eq!((registers[0] >> 62, registers[0] & 0xffff_ffff), (0b10, u64::from(SPI)));
}
