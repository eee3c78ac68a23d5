//! Many CPUs at once: PSCI, stage-2 faults, and calls that race for one page or one vCPU.

use super::actor::Actor;
use super::{Context, take_apart};
use crate::call::Instruction;
use crate::cpu::{self, Cpu};
use crate::frames::{self, Pages};
use crate::hypercall;
use crate::run::{self, Exits, Stop};
use crate::{expect, interrupt, psci, report, smp};
use abi::guest::GuestCall;
use abi::host::HostCall;
use abi::psci::{
    AFFINITY_INFO_64, AFFINITY_OFF, AFFINITY_ON, ALREADY_ON, CPU_OFF, CPU_ON_64, CPU_SUSPEND_64, INVALID_ADDRESS,
    INVALID_PARAMETERS, NOT_SUPPORTED, ON_PENDING, PSCI_FEATURES, PSCI_VERSION, SUCCESS, SYSTEM_OFF, SYSTEM_RESET,
};
use abi::register::Register;
use abi::run::ExitReason;
use abi::{Error, Gfn, PAGE_SIZE};
use alloc::vec::Vec;
use call_script::{GuestRequest, Status};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use spin::Mutex;

/// Rounds of each race.
const ROUNDS: usize = 10;
/// Pages that every CPU touches.
const TOUCHED_BY_ALL: u64 = 64;
/// Pages that one CPU or another touches, evenly spread: of 16 GiB one in each 512 KiB.
const TOUCHED_BY_ONE: u64 = 1 << 15;
/// CPU_SUSPEND's power state, bit 16: power down, rather than standby (Arm DEN0022, section 5.4.2).
const POWER_DOWN: u64 = 1 << 16;
/// Rounds after which CPUs that never met in a race are taken never to meet.
const MOST_ROUNDS: usize = 1000;
/// The same for CPUs that meet at a vCPU's registers, which each has for an instant.
const MOST_REGISTER_ROUNDS: usize = 10_000;
/// How often each CPU sets and reads a register in a round of the race for one vCPU's.
const REGISTER_CALLS: usize = 64;
/// Guest frame from which races donate.
const RACE_FRAME: u64 = 0x40400;

/// See the module.
pub fn run(context: &Context) {
    expect!("cpus-online", context.online, context.machine.cpus.len());
    let cpus: Vec<&'static Cpu> = smp::online().collect();
    ticks(&cpus);
    let conduits = if hypercall::is_present() { &[Instruction::Hvc, Instruction::Smc][..] } else { &[] };
    for instruction in conduits {
        queries(*instruction);
        suspend(*instruction);
    }
    touch_together(&cpus);
    if let Some((&victim, _)) = cpus.split_last().filter(|(_, others)| !others.is_empty()) {
        bad_cpu_on(victim);
        off_and_on(victim);
        if cpus.len() > 2 {
            race_cpu_on(victim, cpus[0], cpus[1]);
        }
    }
    if hypercall::is_present() {
        race_donate(context, &cpus);
        race_run(context, &cpus);
        race_registers(context, &cpus);
    }
    expect!("stray-interrupts", cpu::all().iter().map(Cpu::stray_interrupts).sum::<u64>(), 0);
}

/// Waits until every CPU's timer has ticked.
fn ticks(cpus: &[&'static Cpu]) {
    let before: Vec<u64> = cpus.iter().map(|cpu| cpu.ticks()).collect();
    let all = || cpus.iter().zip(&before).all(|(cpu, before)| cpu.ticks() > before + 1);
    report::check("every-cpu-ticks", smp::wait_until(all), format_args!("some do not"));
}

/// What PSCI says of itself, by either instruction.
fn queries(instruction: Instruction) {
    let call = |function, arguments| psci::call_by(instruction, function, arguments);
    let own = cpu::current().mpidr();
    let version = call(PSCI_VERSION, [0; 3]);
    report::check("psci-version", version >= 0x1_0000, format_args!("{instruction:?}: {version:#x}"));
    for function in [CPU_ON_64, CPU_OFF, CPU_SUSPEND_64, SYSTEM_OFF, SYSTEM_RESET, abi::smccc::VERSION] {
        let features = call(PSCI_FEATURES, [function.into(), 0, 0]);
        report::check("psci-features", features >= 0, format_args!("{instruction:?} {function:#x}: {features}"));
    }
    for function in [0xc400_7ffe, HostCall::Version as u64, u64::MAX] {
        expect!("psci-features-unknown", call(PSCI_FEATURES, [function, 0, 0]), NOT_SUPPORTED);
    }
    expect!("affinity-of-self", call(AFFINITY_INFO_64, [own, 0, 0]), AFFINITY_ON);
    expect!("affinity-of-nobody", call(AFFINITY_INFO_64, [0xff_00ff_fffe, 0, 0]), INVALID_PARAMETERS);
    expect!("cpu-on-self", call(CPU_ON_64, [own, smp::entry(), 0]), ALREADY_ON);
}

/// A standby ends with an interrupt at the latest; a power state that there is not is refused, and so is a way back that
/// is not the host's.
fn suspend(instruction: Instruction) {
    let call = |state, entry| psci::call_by(instruction, CPU_SUSPEND_64, [state, entry, 0]);
    let before = cpu::current().ticks();
    while cpu::current().ticks() == before {
        if !expect!("suspend-standby", call(0, 0), SUCCESS) {
            break;
        }
    }
    expect!("suspend-unknown-state", call(1 << 24, 0), INVALID_PARAMETERS);
    for entry in [u64::MAX, 1 << 52, 1] {
        expect!("suspend-back-to-nowhere", call(POWER_DOWN, entry), INVALID_ADDRESS);
    }
    if let Ok(info) = hypercall::memory_info() {
        expect!("suspend-back-to-carve-out", call(POWER_DOWN, info.carve_out.start.raw()), INVALID_ADDRESS);
    }
}

/// All CPUs touch the same few pages in the same order, each its own word, then divide all of the free RAM among
/// themselves: first touches, which fault at stage 2, at the same address and at different ones.
fn touch_together(cpus: &[&'static Cpu]) {
    let blocks: Vec<Pages> = frames::all_free();
    let pages: u64 = blocks.iter().map(Pages::count).sum();
    let spread = |most: u64| pages.div_ceil(most).max(1) as usize;
    let same = addresses(&blocks, spread(TOUCHED_BY_ALL));
    let divided = addresses(&blocks, spread(TOUCHED_BY_ONE));
    let share = divided.len().div_ceil(cpus.len()).max(1);
    let order = AtomicUsize::new(0);
    smp::run_on(cpus, || {
        let index = order.fetch_add(1, Ordering::Relaxed);
        for page in &same {
            write_word(*page, index);
        }
        for page in divided.chunks(share).nth(index).into_iter().flatten() {
            write_word(*page, index);
        }
    });
    let of_all = same.iter().flat_map(|page| (0..cpus.len()).map(move |index| word_is_written(*page, index)));
    let of_one = divided.iter().enumerate().map(|(at, page)| word_is_written(*page, at / share));
    let wrong = of_all.chain(of_one).filter(|written| !written).count();
    report::value("pages-touched-by-all", same.len() as u64);
    report::value("pages-touched-by-one", divided.len() as u64);
    expect!("words-touched-together", wrong, 0);
}

/// The address of one page in `stride` of the blocks'.
fn addresses(blocks: &[Pages], stride: usize) -> Vec<u64> {
    let pages = |block: &Pages| {
        let first = block.address().raw();
        (0..block.count()).map(move |page| first + page * PAGE_SIZE)
    };
    blocks.iter().flat_map(pages).step_by(stride).collect()
}

/// The word of CPU `index` in the free page at `page`.
const fn word(page: u64, index: usize) -> *mut u64 {
    (page + 8 * index as u64) as *mut u64
}

fn write_word(page: u64, index: usize) {
    // SAFETY: the page is free RAM that `touch_together` holds, and the word is this CPU's alone.
    unsafe { word(page, index).write_volatile(page ^ index as u64) };
}

fn word_is_written(page: u64, index: usize) -> bool {
    // SAFETY: as for `write_word`; nobody writes it any more.
    unsafe { word(page, index).read_volatile() == page ^ index as u64 }
}

/// Turns `cpu` off and waits until PSCI says that it is.
fn turn_off(cpu: &'static Cpu) -> bool {
    smp::stop(cpu);
    smp::wait_until(|| psci::affinity_info(cpu.mpidr()) == AFFINITY_OFF)
}

/// CPU_ON that must be refused, and leave its victim off.
fn bad_cpu_on(victim: &'static Cpu) {
    report::check("cpu-off", turn_off(victim), format_args!("{}", psci::affinity_info(victim.mpidr())));
    for mpidr in [0xff_00ff_fffe, u64::MAX, 1 << 31, victim.mpidr() | 1 << 24, victim.mpidr() | 1 << 63] {
        expect!("cpu-on-bad-mpidr", psci::cpu_on(mpidr, smp::entry(), 0), INVALID_PARAMETERS);
    }
    expect!("cpu-on-entry-beyond", psci::cpu_on(victim.mpidr(), 0xffff_ffff_ffff_f000, 0), INVALID_ADDRESS);
    if let Ok(info) = hypercall::memory_info() {
        for entry in [info.carve_out.start.raw(), info.carve_out.end.raw() - 4] {
            expect!("cpu-on-entry-in-carve-out", psci::cpu_on(victim.mpidr(), entry, 0), INVALID_ADDRESS);
        }
    }
    expect!("still-off", psci::affinity_info(victim.mpidr()), AFFINITY_OFF);
    report::check("cpu-on", smp::start(victim), format_args!("it did not come"));
    expect!("affinity-on", psci::affinity_info(victim.mpidr()), AFFINITY_ON);
}

/// Off and on, again and again.
fn off_and_on(victim: &'static Cpu) {
    for round in 0..ROUNDS {
        report::check("off-again", turn_off(victim), format_args!("it stays on"));
        let instruction = [Instruction::Hvc, Instruction::Smc][round % 2];
        smp::prepare(victim);
        let status = psci::call_by(instruction, CPU_ON_64, [victim.mpidr(), smp::entry(), victim.context()]);
        expect!("on-again", status, SUCCESS);
        report::check("came-again", smp::wait_online(victim), format_args!("{instruction:?}: it did not come"));
        let ran = AtomicBool::new(false);
        smp::run_on(&[victim], || ran.store(true, Ordering::Relaxed));
        report::check("works-again", ran.load(Ordering::Relaxed), format_args!("idle"));
    }
}

/// Runs `work` on all of `cpus` and collects what it returns. All are awake before any begins, and two at least begin at
/// the same time; more may not be running at once, where CPUs are emulated.
fn together<T: Send>(cpus: &[&'static Cpu], work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let results = Mutex::new(Vec::new());
    let (arrived, awake) = (AtomicUsize::new(0), AtomicUsize::new(0));
    smp::run_on(cpus, || {
        let index = arrived.fetch_add(1, Ordering::AcqRel);
        let all_arrived = || arrived.load(Ordering::Acquire) == cpus.len();
        if all_arrived() {
            cpus.iter().for_each(|cpu| interrupt::wake(cpu.mpidr()));
        }
        smp::wait_until(all_arrived);
        awake.fetch_add(1, Ordering::AcqRel);
        while awake.load(Ordering::Acquire) < cpus.len().min(2) {
            core::hint::spin_loop();
        }
        let result = work(index);
        results.lock().push(result);
    });
    results.into_inner()
}

/// Two CPUs turn the same third one on: one of them does.
fn race_cpu_on(victim: &'static Cpu, one: &'static Cpu, other: &'static Cpu) {
    for _ in 0..ROUNDS {
        if !report::check("race-cpu-off", turn_off(victim), format_args!("it stays on")) {
            return;
        }
        smp::prepare(victim);
        let results = together(&[one, other], |_| psci::cpu_on(victim.mpidr(), smp::entry(), victim.context()));
        let successes = results.iter().filter(|result| **result == SUCCESS).count();
        let losers = results.iter().filter(|result| matches!(**result, ALREADY_ON | ON_PENDING)).count();
        report::check("race-cpu-on", (successes, losers) == (1, 1), format_args!("{results:?}"));
        report::check("race-cpu-on-works", smp::wait_online(victim), format_args!("it did not come"));
    }
}

/// All CPUs donate the same page at different frames: one of them does.
fn race_donate(context: &Context, cpus: &[&'static Cpu]) {
    let Some(mut vm) = context.guest("hello") else { return };
    for round in 0..ROUNDS {
        let Some(page) = Pages::zeroed(1) else { return };
        let frame = |index: usize| Gfn::new(RACE_FRAME + (round * cpus.len() + index) as u64);
        let handle = vm.handle();
        let results = together(cpus, |index| (index, hypercall::vm_donate(handle, 0, page.pfn(), frame(index), 1)));
        let winners: Vec<usize> =
            results.iter().filter(|(_, result)| result.is_ok()).map(|(index, _)| *index).collect();
        let losers_right = results
            .iter()
            .all(|(_, result)| matches!(result, Ok(()) | Err(Error::NotYours | Error::WrongState | Error::Busy)));
        report::check("race-donate", winners.len() == 1 && losers_right, format_args!("{results:?}"));
        match winners.first() {
            Some(winner) => vm.donated(page, frame(*winner)),
            None => drop(page),
        }
    }
    let mut exits = Exits::default();
    expect!("guest-after-race", run::run(&mut vm, &mut exits, u64::MAX), Stop::Off);
    take_apart(vm);
}

/// All CPUs run the same vCPU: one at a time does, and the others are told that it is busy.
fn race_run(context: &Context, cpus: &[&'static Cpu]) {
    let Some(mut vm) = context.guest("spin") else { return };
    let mut exits = Exits::default();
    // Until it has said its piece: then it does nothing but spin.
    let mut stop = Stop::Interrupted;
    while stop == Stop::Interrupted && vm.spoken().lock().line_count == 0 {
        stop = run::run(&mut vm, &mut exits, 1);
    }
    expect!("spinning", run::run(&mut vm, &mut exits, 3), Stop::Interrupted);
    let handle = vm.handle();
    let (mut runs, mut refusals, mut rounds) = (0, 0, 0);
    let mut other = None;
    // Until two CPUs met at the vCPU, which is up to the machine that emulates them.
    let unmet = |refusals| cpus.len() > 1 && refusals == 0;
    while rounds < ROUNDS || (unmet(refusals) && rounds < MOST_ROUNDS) {
        rounds += 1;
        let results = together(cpus, |_| hypercall::vcpu_run(handle, 0));
        runs += results.iter().filter(|result| **result == Ok(ExitReason::Interrupt)).count();
        refusals += results.iter().filter(|result| **result == Err(Error::Busy)).count();
        let expected = |result: &&_| matches!(result, Ok(ExitReason::Interrupt) | Err(Error::Busy));
        other = other.or(results.iter().find(|result| !expected(result)).copied());
    }
    let total = rounds * cpus.len();
    report::check("race-run-one-wins", runs >= rounds, format_args!("{runs} of {total}"));
    expect!("race-run-results", other, None);
    if cpus.len() > 1 {
        report::check("race-run-others-busy", !unmet(refusals), format_args!("{runs} runs, {refusals} refusals"));
    }
    take_apart(vm);
}

/// A guest that is not protected does as it is told on one CPU, while the others set and read its registers: it misses
/// nothing, they find what they set, and whoever comes while the vCPU is in use is told so.
fn race_registers(context: &Context, cpus: &[&'static Cpu]) {
    let Ok(actor) = Actor::create(context, false, 1) else { return };
    let handle = actor.handle();
    let actor = Mutex::new(actor);
    let name = GuestRequest::Call { function: GuestCall::VmName as u64, arguments: [0; 7] };
    let set_and_read = |index: usize| {
        let register = Register::Vector { index: index as u8 % 32, upper: false };
        (0..REGISTER_CALLS as u64).find_map(|value| {
            let set = hypercall::vcpu_set_register(handle, 0, register, value);
            let read = hypercall::vcpu_get_register(handle, 0, register);
            let may_be = match (set, read) {
                (Ok(()), Ok(read)) => read == value,
                (Ok(()) | Err(Error::Busy), Err(Error::Busy)) | (Err(Error::Busy), Ok(_)) => true,
                _ => false,
            };
            (!may_be).then_some((set, read))
        })
    };
    let (mut answers, mut odd, mut rounds) = (0, None, 0);
    let unmet = |rounds: usize| cpus.len() > 1 && rounds < MOST_REGISTER_ROUNDS && actor.lock().waits() == 0;
    while odd.is_none() && (rounds < ROUNDS || unmet(rounds)) {
        rounds += 1;
        let results = together(cpus, |index| match index {
            0 => {
                let outcome = actor.lock().act(0, &name);
                (outcome.status == Status::Ok && outcome.results[0] == u64::from(handle.0), None)
            }
            _ => (false, set_and_read(index)),
        });
        answers += results.iter().filter(|(answered, _)| *answered).count();
        odd = results.iter().find_map(|(_, odd)| *odd);
    }
    expect!("race-registers-guest-answers", answers, rounds);
    expect!("race-registers-as-set", odd, None);
    let actor = actor.into_inner();
    if cpus.len() > 1 {
        report::check("race-registers-met", actor.waits() != 0, format_args!("never in {rounds} rounds"));
    }
    take_apart(actor.into_vm());
}
