//! What the driver asks of the machine, and what it says of the answers.

use crate::recorder::{FRAME, HOSTS_OWN, POOL, Recorder};
use abi::Error;
use abi::run::ExitReason;
use call_script::{Driver, Notice, Outcome, Script, Status, Summary};

fn run(machine: &mut Recorder, text: &str) -> (Summary, Vec<String>) {
    let script = Script::parse(text).unwrap();
    let mut driver = Driver::new(machine, &script).unwrap();
    let mut transcript = Vec::new();
    let summary = driver.run(&script, |performed| transcript.push(performed.to_string()));
    (summary, transcript)
}

fn refusal(error: Error) -> [u64; 4] {
    [error.to_register(), 0, 0, 0]
}

#[test]
fn symbols_become_the_numbers_of_the_machine() {
    let mut machine = Recorder::default();
    let (summary, _) = run(
        &mut machine,
        "pages 4\nvm vm3 protected\n\
         0: hyp_share_restricted page 3\n\
         1: vm_donate vm3 vcpu 2 page 1 frame 5 count 2\n\
         0: vm_share vm raw 0x77 page device 0 frame raw 0x10 rights r+restricted\n\
         0: vcpu_init vm3 vcpu 1 page hyp 1 count vcpu run_page 2\n\
         0: vm_init vm3 protected bits 36 vcpus 2 page 0 count vm entry 0x1000 argument 7\n\
         0: vm_end_share vm3 vm3 offer 9\n\
         2: vm3 mem_offer frame 2 vm3 rights rw\n\
         0: vm3 mem_accept vm3 offer 4 ipa 0x48000001 rights r\n\
         0: vm3 write frame 1 5\n\
         0: write page 2 0x11\n\
         0: call 0xc6000199 1 2\n",
    );
    assert_eq!(summary, Summary { done: 11, judged: 0, failed: 0, left_out: 0 });
    let (pool, frame) = (|n: u64| POOL + n, |n: u64| FRAME.raw() + n);
    assert_eq!(
        machine.log,
        [
            "create 3 true".to_owned(),
            format!("0: HypShareRestricted [{:x}, 1]", pool(3)),
            format!("1: VmDonate [101, 2, {:x}, {:x}, 2]", pool(1), frame(5)),
            "0: VmShare [77, 0, a000, 10, 1, 9]".to_owned(),
            format!("0: VcpuInit [101, 1, 70001, 3, {:x}]", pool(2)),
            format!("0: VmInit [101, 1, 200000024, {:x}, 5, 1000, 7]", pool(0)),
            "0: VmEndShare [101, 101, 9]".to_owned(),
            format!("2: 3.0 c6000183 [{:x}, 101, 3, 0]", frame(2) << 12),
            "0: 3.0 c6000184 [101, 4, 48000001, 1]".to_owned(),
            format!("0: 3.0 Write(5) {:#x}", frame(1) << 12),
            format!("0: Write(11) {:#x}", pool(2) << 12),
            "0: ? [1, 2]".to_owned(),
        ]
    );
}

#[test]
fn a_result_other_than_the_expected_one_is_a_failure_and_shown() {
    let mut machine =
        Recorder { answers: [refusal(Error::Busy), [0, 3, 0, 0], [0, 4, 0, 0]].into(), ..Recorder::default() };
    let text = "0: hyp_share page 0 => WrongState\n0: version => ok, x1 = 3\n0: version => x1 = 3\n0: version\n";
    let (summary, transcript) = run(&mut machine, text);
    assert_eq!(summary, Summary { done: 4, judged: 3, failed: 2, left_out: 0 });
    assert_eq!(
        transcript,
        [
            "0: hyp_share page 0 => Busy   # EXPECTED: WrongState",
            "0: version => ok, x1 = 3",
            "0: version => ok, x1 = 4   # EXPECTED: x1 = 3",
            "0: version => ok",
        ]
    );
}

#[test]
fn a_transcript_is_a_script_that_expects_what_came() {
    let mut machine = Recorder { answers: [refusal(Error::Busy)].into(), ..Recorder::default() };
    let (_, transcript) =
        run(&mut machine, "vm vm0\n0: hyp_share page 0\n0: read page 1\n0: frames 3\n1: vm0 features\n");
    let again = Script::parse(&transcript.join("\n")).unwrap();
    assert_eq!(again.steps.len(), 4);
    assert!(again.steps[0].expected.as_ref().unwrap().holds(&Outcome::of(Status::Error(Error::Busy))));
}

#[test]
fn names_come_and_go_with_their_vms() {
    let mut machine = Recorder { answers: [[0, 0x55, 0, 0], [0; 4], [0; 4]].into(), ..Recorder::default() };
    let text = "0: vm_teardown vm7\n0: vm_reserve vm7\n0: vm_teardown vm7\n0: vm_finalise vm7\n0: vm_teardown vm7\n";
    let (summary, transcript) = run(&mut machine, text);
    assert_eq!((summary.done, summary.failed), (3, 2));
    assert!(transcript[0].contains("there is no vm7") && transcript[4].contains("there is no vm7"), "{transcript:?}");
    assert_eq!(machine.log, ["0: VmReserve []", "0: VmTeardown [55]", "0: VmFinalise [55]"]);
}

#[test]
fn a_refused_reservation_names_nothing_and_a_refused_end_forgets_nothing() {
    let mut machine = Recorder { answers: [refusal(Error::Limit)].into(), ..Recorder::default() };
    let (summary, _) = run(&mut machine, "0: vm_reserve vm7\n0: vm_teardown vm7\n");
    assert_eq!((summary.done, summary.failed), (1, 1));
    let mut machine = Recorder { answers: [refusal(Error::Busy), [0; 4]].into(), ..Recorder::default() };
    let (summary, _) = run(&mut machine, "vm vm0\n0: vm_finalise vm0\n0: vm_finalise vm0\n0: vm_finalise vm0\n");
    assert_eq!((summary.done, summary.failed), (2, 1));
    assert_eq!(
        machine.log,
        ["create 0 false", "before 0 goes", "0: VmFinalise [101]", "before 0 goes", "0: VmFinalise [101]", "0 is gone"]
    );
}

#[test]
fn what_the_host_needs_itself_is_not_given_away_by_any_way_of_saying_so() {
    let mut machine = Recorder::default();
    let text = format!(
        "vm vm0\n\
         0: hyp_share page raw {HOSTS_OWN:#x}\n\
         0: hyp_share page raw {:#x} count 3\n\
         0: vm_donate vm0 page 3 frame 1 count 0x20000\n\
         0: call 0xc6000102 {HOSTS_OWN:#x} 1\n\
         0: vcpu_init vm0 page 0 count vcpu run_page raw {HOSTS_OWN:#x}\n\
         0: write page raw {HOSTS_OWN:#x} 1\n\
         0: hyp_share page raw {:#x}\n",
        HOSTS_OWN - 2,
        HOSTS_OWN + 1
    );
    let (summary, transcript) = run(&mut machine, &text);
    assert_eq!((summary.done, summary.left_out, summary.failed), (1, 6, 0), "{transcript:#?}");
    assert_eq!(machine.log, ["create 0 false".to_owned(), format!("0: HypShare [{:x}, 1]", HOSTS_OWN + 1)]);
}

#[test]
fn a_page_outside_the_pool_is_a_mistake() {
    let (summary, transcript) = run(&mut Recorder::default(), "0: hyp_share page 4\n0: read page hyp 2\n");
    assert_eq!((summary.done, summary.failed), (0, 2));
    assert!(transcript[0].contains("there is no page 4") && transcript[1].contains("there is no page hyp 2"));
}

fn stopped() -> Outcome {
    let notice = Notice { reason: ExitReason::MemoryFault, ipa: 0x4800_0000, data: 0, peer: 0 };
    Outcome { notice: Some(notice), ..Outcome::of(Status::Stopped) }
}

#[test]
fn a_vcpu_that_is_stopped_goes_on_with_that_first() {
    let mut machine =
        Recorder { outcomes: [stopped(), stopped(), Outcome::of(Status::Ok)].into(), ..Recorder::default() };
    let text = "vm vm0 vcpus 2\n0: vm0 resume\n0: vm0 mem_share frame 0 => stopped, exit MemoryFault\n\
                0: vm0 features => stopped, exit MemoryFault\n0: vm0 features => ok\n0: vm0 features\n0: vm0 vcpu 1 resume\n";
    let (summary, transcript) = run(&mut machine, text);
    assert_eq!((summary.done, summary.left_out, summary.failed), (4, 2, 0), "{transcript:#?}");
    let share = format!("0: 0.0 c6000003 [{:x}, 0, 0, 0]", FRAME.raw() << 12);
    let features = "0: 0.0 86000000 [0, 0, 0, 0]";
    let resume = "0: 0.0 resume";
    assert_eq!(machine.log[1..], [&share, resume, resume, features, features]);
}

/// How a script goes on that ends with a step which comes out other than it says: whether that counts as a failure.
#[test]
fn what_was_said_of_a_run_that_took_another_way_does_not_count() {
    let own = HOSTS_OWN;
    let pair = "0: interleave 1\n0: hyp_share page 0 => ok\n1: hyp_share page 0 => ok\n".to_owned();
    for (start, answers, fails) in [
        (pair.clone(), vec![[0; 4], refusal(Error::WrongState)], 0),
        (pair, vec![], 1),
        ("0: hyp_share page 0 => OutOfMemory\n".to_owned(), vec![], 0),
        ("0: hyp_share page 0 => ok\n".to_owned(), vec![refusal(Error::OutOfMemory)], 0),
        (format!("0: hyp_share page raw {own} => ok\n"), vec![], 0),
        (format!("0: hyp_share page raw {own} => NotYours\n"), vec![], 1),
        (format!("0: read page raw {own} => ok\n"), vec![], 1),
        ("0: hyp_share page 0 => ok\n".to_owned(), vec![], 1),
        ("0: hyp_share page 0 => ok\n".to_owned(), vec![refusal(Error::Busy)], 2),
    ] {
        let mut machine = Recorder { answers: answers.into(), ..Recorder::default() };
        let (summary, transcript) = run(&mut machine, &format!("{start}0: version => Busy\n"));
        assert_eq!(summary.failed, fails, "{transcript:#?}");
        let word = if fails == 0 { "# otherwise: Busy" } else { "# EXPECTED: Busy" };
        assert!(transcript.last().unwrap().ends_with(word), "{transcript:#?}");
    }
}

#[test]
fn interleaved_steps_are_one_act_where_that_can_be_had() {
    let text = "0: interleave 2\n0: hyp_share page 0\n1: hyp_share page 0 => Busy\n0: version\n";
    let mut machine = Recorder { interleaves: true, ..Recorder::default() };
    let (summary, transcript) = run(&mut machine, text);
    assert_eq!((summary.failed, machine.log.len()), (0, 2), "{transcript:#?}");
    assert_eq!(machine.log[0], "1 within 0 at 2");
    assert_eq!(transcript[2], "1: hyp_share page 0 => Busy");
    let mut machine = Recorder::default();
    let (summary, transcript) = run(&mut machine, text);
    assert_eq!((summary.left_out, summary.judged, summary.failed), (1, 0, 0), "{transcript:#?}");
    assert_eq!(transcript[2], "1: hyp_share page 0 => ok   # otherwise: Busy");
    assert_eq!(machine.log.len(), 4);
    // One CPU does one thing after the other.
    let mut machine = Recorder { interleaves: true, ..Recorder::default() };
    run(&mut machine, "0: interleave 2\n0: hyp_share page 0\n0: hyp_share page 0\n");
    assert_eq!(machine.log.len(), 2);
}

#[test]
fn a_vm_that_cannot_be_made_ends_the_run_before_it_begins() {
    let script = Script::parse("vm vm0 vcpus 0").unwrap();
    let refusal = Driver::new(&mut Recorder::default(), &script).err();
    assert_eq!(refusal.as_deref(), Some("vm0 cannot be made: invalid parameter"));
}

#[test]
fn the_end_takes_everything_back_and_says_what_is_not() {
    let script = Script::parse(
        "pages 4\nvm vm0 protected\nvm vm1\n0: vm_share vm1 page 0 frame 2 count 2 rights r\n0: vm0 mem_offer frame 0 vm1 rights r\n",
    );
    let script = script.unwrap();
    let offered = Outcome { results: [6, 0, 0], ..Outcome::of(Status::Ok) };
    let mut machine = Recorder { outcomes: [offered].into(), ..Recorder::default() };
    let mut driver = Driver::new(&mut machine, &script).unwrap();
    driver.run(&script, |_| {});
    assert_eq!(driver.finish(), Vec::<String>::new());
    for asked in [
        "0: VmTeardown [101]".to_owned(),
        "0: VmTeardown [102]".to_owned(),
        "0: VmEndShare [101, 102, 6]".to_owned(),
        format!("0: VmUnshare [102, {:x}, 1]", FRAME.raw() + 3),
        format!("0: VmReclaim [102, {:x}, 1]", POOL + 3),
        "0: VmReclaimDevice [101, a000, 1]".to_owned(),
        "before 1 goes".to_owned(),
        "1 is gone".to_owned(),
    ] {
        assert!(machine.log.contains(&asked), "{asked} was not asked: {:#?}", machine.log);
    }
    // Each page was found to be usable in four ways.
    let count = |what: &str| machine.log.iter().filter(|line| line.contains(what)).count();
    assert_eq!((count("HypShare"), count("Write("), count("Read")), (4, 4, 4));

    // Teardown, four reclaims of pages and one of the device; then the refusals, with the end of a share between them.
    let mut answers = vec![[0; 4]; 6];
    answers.extend([refusal(Error::Busy), [0; 4], refusal(Error::NotYours)]);
    let mut machine = Recorder { answers: answers.into(), ..Recorder::default() };
    let script = Script::parse("vm vm0").unwrap();
    let wrong = Driver::new(&mut machine, &script).unwrap().finish();
    assert_eq!(wrong, ["vm0 cannot be finalised: Busy", "page 0 is not the host's alone: hyp_share: NotYours"]);
}
