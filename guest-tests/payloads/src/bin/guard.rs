//! A guest that guards its devices by the MMIO guard: once it is enrolled, its accesses reach the host at pages that it
//! has marked, and nowhere else, whatever the form, the alias or the CPU.
//!
//! Where there is no such guard, as on a bare machine or in a guest that is not protected, the devices are there without it.
#![no_std]
#![no_main]

use abi::{Ipa, PAGE_SIZE, VirtAddr, guest, psci, smccc};
use core::sync::atomic::{AtomicU64, Ordering};
use payloads::hypervisor::{call_status, is_present, power_off};
use payloads::memory::Kind;
use payloads::mmio::{read32, write32};
use payloads::probe::{Access, Outcome, Width, enable_simd, has_lse, probe};
use payloads::report::Report;
use payloads::vectors::EC_DATA_ABORT;
use payloads::{Machine, payload, println, secondary, timer};

/// RTCMR, the clock's match register.
const RTC_MATCH: u64 = 0x04;
/// RTCPCellID0, and what it reads.
const RTC_CELL_ID0: u64 = 0xff0;
const CELL_ID0: u64 = 0x0d;
/// Bits of FEATURES for the four calls of the guard.
const GUARD_FEATURES: i64 = 0b1111 << 5;
/// FSC of a synchronous external abort.
const EXTERNAL_ABORT: u64 = 0x10;
/// FSC of an alignment fault, and of an unsupported exclusive or atomic access: what device memory has for some forms.
const OTHER_ABORTS: [u64; 2] = [0x21, 0x35];
/// How often the first CPU marks the clock and removes the mark at least, while the second reads it.
const TURNS: u64 = 400;
/// From here upwards is memory.
const MEMORY: u64 = 1 << 30;
/// Microseconds after which what has not happened is taken not to happen.
const PATIENCE: u64 = 30_000_000;
/// Affinity of the second CPU.
const SECOND: u64 = 1;
/// The load that most checks make.
const LOAD: Access = Access::Load(Width::Word);

/// What the second CPU is to do: nothing, read the clock once, read it over and over, and be off.
static COMMAND: AtomicU64 = AtomicU64::new(IDLE);
const IDLE: u64 = 0;
const ONCE: u64 = 1;
const AGAIN: u64 = 2;
const LEAVE: u64 = 3;
/// The clock's address for it.
static CLOCK: AtomicU64 = AtomicU64::new(0);
/// What it has met: reads that were done, aborts, and anything else.
static MET: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];

payload!(guard);

fn guard(machine: &mut Machine) {
    println!("guard: device accesses under the MMIO guard");
    let mut report = Report::begin("guard");
    enable_simd();
    let (Some(uart), Some(clock)) = (machine.platform.uart, machine.platform.clock) else {
        report.check("guard.devices", false, format_args!("no PL011, or no PL031"));
        return report.end();
    };
    let mapped = machine.address_space.map_device(clock);
    report.check("guard.devices", mapped.is_ok(), format_args!("{mapped:?}"));
    let features = call_status(guest::FEATURES, [0; 3]);
    let is_there = is_present() && features > 0 && features & GUARD_FEATURES == GUARD_FEATURES;
    report.value("guard.there", is_there.into());
    expect_read(&mut report, "before", read(clock));
    if is_there {
        bad_arguments(&mut report, clock);
        enroll(&mut report, uart, clock);
        forms(&mut report, machine, clock);
        aliases(&mut report, machine, clock);
        boundaries(&mut report, machine, uart);
        other_devices(&mut report, machine);
        second_cpu(&mut report, machine, clock);
        memory_is_as_ever(&mut report);
    } else {
        for function in guest::MMIO_GUARD_INFO..=guest::MMIO_GUARD_UNMAP {
            let status = call_status(function, [if function < guest::MMIO_GUARD_MAP { 0 } else { clock.raw() }, 0, 0]);
            report.check("guard.not-there", status == smccc::NOT_SUPPORTED, format_args!("{function:#x}: {status}"));
        }
        expect_read(&mut report, "without", read(clock));
    }
    report.end();
}

/// Marks a page.
fn mark(page: Ipa) -> i64 {
    call_status(guest::MMIO_GUARD_MAP, [page.raw(), 0, 0])
}

/// Removes a mark.
fn unmark(page: Ipa) -> i64 {
    call_status(guest::MMIO_GUARD_UNMAP, [page.raw(), 0, 0])
}

/// Reads the clock's identification at its own address.
fn read(clock: Ipa) -> Outcome {
    // SAFETY: Reading it has no effect.
    unsafe { probe(LOAD, VirtAddr::new(clock.raw() + RTC_CELL_ID0)) }
}

fn expect_read(report: &mut Report, name: &str, outcome: Outcome) {
    report.check_in("guard", name, outcome == Outcome::Done(CELL_ID0), format_args!("{outcome}"));
}

fn expect_abort(report: &mut Report, name: &str, outcome: Outcome, address: VirtAddr) {
    report.check_in("guard", name, is_external_abort(&outcome, address), format_args!("{outcome}"));
}

fn is_external_abort(outcome: &Outcome, address: VirtAddr) -> bool {
    matches!(outcome, Outcome::Exception(exception)
        if exception.is_abort() && exception.esr & 0x3f == EXTERNAL_ABORT && exception.far == address.raw())
}

fn expect_status(report: &mut Report, name: &str, status: i64, expected: i64) {
    report.check_in("guard", name, status == expected, format_args!("{status}, not {expected}"));
}

/// Calls that mean nothing; none of them enrols the guest, marks a page or removes a mark.
fn bad_arguments(report: &mut Report, clock: Ipa) {
    let invalid = smccc::INVALID_PARAMETER;
    let info = |arguments| call_status(guest::MMIO_GUARD_INFO, arguments);
    expect_status(report, "info", info([0; 3]), PAGE_SIZE as i64);
    for arguments in [[1, 0, 0], [0, 1, 0], [0, 0, 1 << 63]] {
        expect_status(report, "info-arguments", info(arguments), invalid);
        expect_status(report, "enroll-arguments", call_status(guest::MMIO_GUARD_ENROLL, arguments), invalid);
    }
    let own = &raw const CLOCK as u64 & !(PAGE_SIZE - 1);
    let addresses = [clock.raw() + 8, clock.raw() | 1 << 63, own, MEMORY, 1 << 40, 1 << 48, 1 << 52, !(PAGE_SIZE - 1)];
    for function in [guest::MMIO_GUARD_MAP, guest::MMIO_GUARD_UNMAP] {
        for address in addresses {
            expect_status(report, "page", call_status(function, [address, 0, 0]), invalid);
        }
        for arguments in [[clock.raw(), 1, 0], [clock.raw(), 0, 1], [clock.raw(), 0, 1 << 63]] {
            expect_status(report, "page-arguments", call_status(function, arguments), invalid);
        }
    }
    expect_status(report, "unmap-unmarked", unmark(clock), invalid);
    expect_read(report, "not-enrolled", read(clock));
}

/// The console is marked in time; the clock is out of reach until it is.
fn enroll(report: &mut Report, uart: Ipa, clock: Ipa) {
    expect_status(report, "map-before", mark(uart), 0);
    expect_status(report, "map-twice", mark(uart), 0);
    expect_status(report, "enroll", call_status(guest::MMIO_GUARD_ENROLL, [0; 3]), 0);
    expect_abort(report, "unmarked", read(clock), VirtAddr::new(clock.raw() + RTC_CELL_ID0));
    expect_status(report, "enroll-again", call_status(guest::MMIO_GUARD_ENROLL, [0; 3]), 0);
    expect_status(report, "map", mark(clock), 0);
    expect_read(report, "marked", read(clock));
    // SAFETY: The clock's match register, whose interrupt is not enabled.
    unsafe { write32(clock.raw() + RTC_MATCH, 0x1234_5678) };
    expect_status(report, "unmap", unmark(clock), 0);
    expect_status(report, "unmap-twice", unmark(clock), smccc::INVALID_PARAMETER);
    expect_abort(report, "unmarked-again", read(clock), VirtAddr::new(clock.raw() + RTC_CELL_ID0));
}

/// Every form of access to the unmarked clock aborts, and none of them has reached it.
fn forms(report: &mut Report, machine: &mut Machine, clock: Ipa) {
    for access in Access::ALL.into_iter().filter(|access| has_lse() || !access.needs_lse()) {
        if access.is_maintenance() {
            continue;
        }
        for kind in [if access == Access::Execute { Kind::Code } else { Kind::Data }, Kind::Device] {
            let Ok(window) = machine.address_space.open_window(clock, kind) else { continue };
            // What is wider than the register must be aligned.
            let is_narrow = access.has_syndrome()
                && !matches!(access, Access::Load(Width::Doubleword) | Access::Store(Width::Doubleword));
            let Some(address) = window.checked_add(if is_narrow { RTC_MATCH } else { 0 }) else { continue };
            // SAFETY: The access is to abort. Where it does not, it writes the match register, whose interrupt is not
            // enabled.
            let outcome = unsafe { probe(access, address) };
            let is_other = matches!(&outcome, Outcome::Exception(exception)
                if exception.is_abort() && kind == Kind::Device && OTHER_ABORTS.contains(&(exception.esr & 0x3f)));
            // Device memory is not executed from.
            let is_denied = access == Access::Execute && kind == Kind::Device;
            let right = is_external_abort(&outcome, address)
                || is_other
                || is_denied && matches!(&outcome, Outcome::Exception(exception) if exception.is_abort());
            report.check_in("guard.form", access.name(), right, format_args!("{outcome}"));
        }
    }
    machine.address_space.close_window();
    expect_status(report, "map", mark(clock), 0);
    // SAFETY: As in `enroll`.
    let after = unsafe { read32(clock.raw() + RTC_MATCH) };
    report.check("guard.form.clock-as-it-was", after == 0x1234_5678, format_args!("RTCMR {after:#x}"));
}

/// Another virtual address of the page is no way round, whether it was used while the page was marked or not.
fn aliases(report: &mut Report, machine: &mut Machine, clock: Ipa) {
    let Ok(window) = machine.address_space.open_window(clock, Kind::Device) else {
        return report.check("guard.alias", false, format_args!("the clock cannot be mapped twice"));
    };
    let Some(alias) = window.checked_add(RTC_CELL_ID0) else { return };
    // SAFETY: Reading the register has no effect.
    let read_alias = || unsafe { probe(LOAD, alias) };
    expect_read(report, "alias-marked", read_alias());
    expect_status(report, "unmap", unmark(clock), 0);
    expect_abort(report, "alias-unmarked", read_alias(), alias);
    expect_status(report, "map", mark(clock), 0);
    expect_read(report, "alias-marked-again", read_alias());
    expect_status(report, "unmap", unmark(clock), 0);
    machine.address_space.close_window();
}

/// At the edge between a marked page and one that is not: what is beyond stays beyond.
fn boundaries(report: &mut Report, machine: &mut Machine, uart: Ipa) {
    let (Some(next), Some(before)) = (uart.checked_add(PAGE_SIZE), uart.raw().checked_sub(PAGE_SIZE)) else { return };
    let load = |machine: &mut Machine, page: Ipa, kind, offset, access| {
        let window = machine.address_space.open_window(page, kind).ok()?;
        let address = window.checked_add(offset)?;
        // SAFETY: Nothing is there, or the identification registers at the end of the console.
        Some((unsafe { probe(access, address) }, address))
    };
    for (name, page, offset, access) in [
        ("behind", next, 0, LOAD),
        ("ahead", Ipa::new(before), PAGE_SIZE - 4, LOAD),
        ("behind-store", next, 0, Access::Store(Width::Byte)),
        ("ahead-store", Ipa::new(before), PAGE_SIZE - 1, Access::Store(Width::Byte)),
    ] {
        match load(machine, page, Kind::Device, offset, access) {
            Some((outcome, address)) => expect_abort(report, name, outcome, address),
            None => report.check_in("guard", name, false, format_args!("the page cannot be mapped")),
        }
    }
    machine.address_space.close_window();
    across(report, machine, uart, next);
}

/// One access to the end of the marked page and the start of the next, in memory that CPUs take for normal.
fn across(report: &mut Report, machine: &mut Machine, uart: Ipa, next: Ipa) {
    let Ok(window) = machine.address_space.open_windows([uart, next], Kind::Data) else {
        return report.check("guard.across", false, format_args!("the pages cannot be mapped"));
    };
    for offset in [PAGE_SIZE - 7, PAGE_SIZE - 4, PAGE_SIZE - 1] {
        for access in [Access::Load(Width::Doubleword), Access::Store(Width::Doubleword)] {
            let Some(address) = window.checked_add(offset) else { continue };
            // SAFETY: The registers at the end of the console cannot be written, and what is behind them is nothing.
            let outcome = unsafe { probe(access, address) };
            let right = matches!(&outcome, Outcome::Exception(exception) if exception.class() == EC_DATA_ABORT);
            report.check_in("guard.across", access.name(), right, format_args!("{offset:#x}: {outcome}"));
        }
    }
    machine.address_space.close_window();
}

/// Devices that the guest never marked.
fn other_devices(report: &mut Report, machine: &mut Machine) {
    let Some(gic) = machine.platform.gic.clone() else { return };
    for (name, page) in
        [("distributor", gic.distributor.start), ("redistributor", gic.redistributors.start), ("nothing", 0)]
    {
        let Ok(window) = machine.address_space.open_window(Ipa::new(page), Kind::Device) else { continue };
        // SAFETY: Reading the first register of either has no effect.
        let outcome = unsafe { probe(LOAD, window) };
        expect_abort(report, name, outcome, window);
    }
    machine.address_space.close_window();
}

/// The guard is the VM's, not a vCPU's: another CPU meets it too, while marks come and go.
fn second_cpu(report: &mut Report, machine: &Machine, clock: Ipa) {
    if machine.platform.cpus < 2 {
        return;
    }
    CLOCK.store(clock.raw() + RTC_CELL_ID0, Ordering::Relaxed);
    // SAFETY: The second CPU has never been on. While it makes its accesses the first makes none that may fail.
    let status = unsafe { secondary::start(&machine.address_space, SECOND, second, 0) };
    expect_status(report, "second-on", status, 0);
    let order = |command| {
        COMMAND.store(command, Ordering::Release);
        wait_until(|| COMMAND.load(Ordering::Acquire) == IDLE)
    };
    let met = || MET.each_ref().map(|count| count.swap(0, Ordering::AcqRel));
    let in_time = order(ONCE);
    let seen = met();
    report.check("guard.second-unmarked", in_time && seen == [0, 1, 0], format_args!("{seen:?}"));
    expect_status(report, "map", mark(clock), 0);
    let in_time = order(ONCE);
    let seen = met();
    report.check("guard.second-marked", in_time && seen == [1, 0, 0], format_args!("{seen:?}"));
    COMMAND.store(AGAIN, Ordering::Release);
    let (mut refused, mut turns) = (0, 0);
    // Where the CPUs take turns themselves, the other is to come by with and without the mark, too.
    let has_met_both = || MET[..2].iter().all(|count| count.load(Ordering::Acquire) != 0);
    let both = wait_until(|| {
        refused += u64::from(unmark(clock) != 0) + u64::from(mark(clock) != 0);
        turns += 1;
        turns >= TURNS && has_met_both()
    });
    wait_until(|| MET[0].load(Ordering::Acquire) + MET[1].load(Ordering::Acquire) >= TURNS);
    let in_time = order(LEAVE);
    let [done, aborts, other] = met();
    report.value("guard.second-reads", done);
    report.value("guard.second-aborts", aborts);
    let right = in_time && both && refused == 0 && other == 0 && done != 0 && aborts != 0 && done + aborts >= TURNS;
    report.check("guard.second-meanwhile", right, format_args!("{done}, {aborts}, {other}; {refused} refused"));
}

/// Waits until `condition` holds, without the interrupt controller, which is not marked. False where it did not for
/// very long.
fn wait_until(mut condition: impl FnMut() -> bool) -> bool {
    let end = timer::now() + timer::ticks(PATIENCE);
    while !condition() {
        if timer::now() > end {
            return false;
        }
        core::hint::spin_loop();
    }
    true
}

/// The second CPU, which has the vectors to itself whenever it makes an access.
extern "C" fn second(_: u64, _: u64) -> ! {
    loop {
        let command = COMMAND.load(Ordering::Acquire);
        if matches!(command, ONCE | AGAIN) {
            // SAFETY: Reading the register has no effect.
            let outcome = unsafe { probe(LOAD, VirtAddr::new(CLOCK.load(Ordering::Relaxed))) };
            let place = match &outcome {
                Outcome::Done(CELL_ID0) => 0,
                Outcome::Exception(exception) if exception.esr & 0x3f == EXTERNAL_ABORT => 1,
                _ => 2,
            };
            MET[place].fetch_add(1, Ordering::AcqRel);
        }
        if command == LEAVE {
            COMMAND.store(IDLE, Ordering::Release);
            call_status(psci::CPU_OFF, [0; 3]);
            power_off();
        }
        if command == ONCE {
            COMMAND.store(IDLE, Ordering::Release);
        }
        core::hint::spin_loop();
    }
}

/// The guard is about devices: memory is as before.
fn memory_is_as_ever(report: &mut Report) {
    static WORD: AtomicU64 = AtomicU64::new(0);
    WORD.store(0x5e, Ordering::SeqCst);
    report.check("guard.memory-as-ever", WORD.load(Ordering::SeqCst) == 0x5e, format_args!("a word was lost"));
}
