//! A guest that makes calls: PSCI with good and bad arguments, CPUs turned on and off in a loop, ten thousand numbers
//! that nobody knows, with a look at every register that such a call must keep, and random numbers (Arm DEN0022,
//! DEN0028, DEN0098).
//!
//! Firmware that knows PSCI and no SMCCC, as QEMU's own, takes other calls for UNDEFINED instructions: they are left out.
#![no_std]
#![no_main]

mod random;

use abi::psci::{self, AFFINITY_OFF, ALREADY_ON, INVALID_ADDRESS, INVALID_PARAMETERS, NOT_SUPPORTED, SUCCESS};
use abi::smccc;
use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};
use payloads::cpus::{Cpus, rest};
use payloads::hypervisor::{self, call_status};
use payloads::report::Report;
use payloads::secondary;
use payloads::timer::wait_until;
use payloads::{Machine, payload, println};

/// How often each secondary CPU is turned on and off.
const STARTS: u64 = 20;
/// Numbers that are tried in each service range, for each kind of call.
const NUMBERS: u32 = 40;
/// Owning entities (DEN0028, section 6.1).
const OWNERS: u32 = 64;
/// What the registers hold, turned by the number of the register.
const PATTERN: u64 = 0x5c1e_57ab_1e0f_ca11;

/// x0 to x30. The assembly knows the layout.
type Registers = [u64; 31];

global_asm!(
    ".macro payload_call name, instruction",
    ".pushsection .text.\\name, \"ax\"",
    // x0 = registers to load, where those that are found are stored as well. x18 to x30 are loaded too.
    "\\name:",
    "    stp x29, x30, [sp, #-112]!",
    "    stp x19, x20, [sp, #16]",
    "    stp x21, x22, [sp, #32]",
    "    stp x23, x24, [sp, #48]",
    "    stp x25, x26, [sp, #64]",
    "    stp x27, x28, [sp, #80]",
    "    stp x0, x18, [sp, #96]",
    "    .irp n, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30",
    "    ldr x\\n, [x0, #(\\n * 8)]",
    "    .endr",
    "    ldr x0, [x0]",
    "    \\instruction",
    "    str x1, [sp, #-16]!",
    "    ldr x1, [sp, #112]",
    "    .irp n, 0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30",
    "    str x\\n, [x1, #(\\n * 8)]",
    "    .endr",
    "    ldr x0, [sp], #16",
    "    str x0, [x1, #8]",
    "    ldr x18, [sp, #104]",
    "    ldp x19, x20, [sp, #16]",
    "    ldp x21, x22, [sp, #32]",
    "    ldp x23, x24, [sp, #48]",
    "    ldp x25, x26, [sp, #64]",
    "    ldp x27, x28, [sp, #80]",
    "    ldp x29, x30, [sp], #112",
    "    ret",
    ".popsection",
    ".endm",
    "payload_call payload_call_hvc, \"hvc #0\"",
    "payload_call payload_call_smc, \"smc #0\"",
    "payload_call payload_call_hvc_other, \"hvc #0x1234\"",
);

unsafe extern "C" {
    fn payload_call_hvc(registers: *mut Registers);
    fn payload_call_smc(registers: *mut Registers);
    fn payload_call_hvc_other(registers: *mut Registers);
}

payload!(calls);

fn calls(machine: &mut Machine) {
    println!("calls: {} CPUs", machine.platform.cpus);
    let mut report = Report::begin("calls");
    let has_smccc = call_status(psci::PSCI_FEATURES, [smccc::VERSION.into(), 0, 0]) >= 0;
    let hypervisor = has_smccc && hypervisor::is_present();
    report.value("calls.smccc", has_smccc.into());
    report.value("calls.below-a-hypervisor", hypervisor.into());
    psci_versions(&mut report);
    if has_smccc {
        versions(&mut report);
        unknown(&mut report);
        random::run(&mut report);
    } else {
        println!("calls: no SMCCC here, and nothing to be asked for by it");
    }
    psci_errors(&mut report, machine.platform.cpus as u64, hypervisor);
    turned_on_and_off(&mut report, machine);
    report.end();
}

/// What PSCI has, and what says so.
fn psci_versions(report: &mut Report) {
    let version = call_status(psci::PSCI_VERSION, [0; 3]);
    report.check("calls.psci-version", version >= psci::VERSION_1_1 as i64, format_args!("{version:#x}"));
    let known = [
        psci::PSCI_VERSION,
        psci::PSCI_FEATURES,
        psci::CPU_ON_64,
        psci::CPU_OFF,
        psci::CPU_SUSPEND_64,
        psci::AFFINITY_INFO_64,
        psci::SYSTEM_OFF,
        psci::SYSTEM_RESET,
    ];
    for function in known {
        report.check("calls.feature", feature(function) >= 0, format_args!("{function:#x}: {}", feature(function)));
    }
    for function in [0, 0x8400_001f, 0xc400_0002, 0x8600_0000, 0xffff_ffff] {
        let answer = feature(function);
        report.check("calls.no-feature", answer == NOT_SUPPORTED, format_args!("{function:#x}: {answer}"));
    }
}

/// PSCI_FEATURES.
fn feature(function: u32) -> i64 {
    call_status(psci::PSCI_FEATURES, [function.into(), 0, 0])
}

/// What SMCCC has.
fn versions(report: &mut Report) {
    let smccc_version = call_status(smccc::VERSION, [0; 3]);
    report.check("calls.smccc-version", smccc_version >= 0x1_0001, format_args!("{smccc_version:#x}"));
    let wide = call_status(psci::PSCI_FEATURES, [1 << 32 | u64::from(psci::CPU_OFF), 0, 0]);
    // The upper half of a register is no part of a 32-bit call (DEN0028, section 3.1).
    report.check("calls.upper-half-ignored", wide == SUCCESS, format_args!("{wide}"));
    let own = call_status(smccc::ARCH_FEATURES, [smccc::ARCH_FEATURES.into(), 0, 0]);
    report.check("calls.arch-features", own >= 0, format_args!("{own}"));
    let none = call_status(smccc::ARCH_FEATURES, [0x8000_7ffe, 0, 0]);
    report.check("calls.no-arch-feature", none == NOT_SUPPORTED, format_args!("{none}"));
}

/// True for numbers that mean something to somebody, or may come to.
fn is_known(function: u32) -> bool {
    let number = function & 0xffff;
    match function >> 24 & 0x3f {
        // Arm Architecture calls; PSCI, SDEI, TRNG and what else belongs to the standard secure services; the vendor's.
        0 => !(0x20..0x3000).contains(&number),
        4 => number < 0x180,
        6 => number < 0x200,
        _ => false,
    }
}

/// Every service range, fast and yielding, 32 and 64 bits wide.
fn unknown_functions() -> impl Iterator<Item = u32> {
    (0..OWNERS << 2).flat_map(|range| {
        let first = (range >> 2) << 24 | (range & 0b11) << 30;
        let numbers = (0..NUMBERS).map(|index| if index < NUMBERS / 2 { index } else { 0x9d * index });
        numbers.map(move |number| first | number & 0xffff).filter(|function| !is_known(*function))
    })
}

/// Calls that nobody knows change x0 alone.
fn unknown(report: &mut Report) {
    let ways: [(&str, unsafe extern "C" fn(*mut Registers)); 2] =
        [("hvc", payload_call_hvc), ("smc", payload_call_smc)];
    let mut tried = 0;
    for (name, make) in ways {
        let (mut answered, mut changed, mut last) = (0, 0, 0);
        for function in unknown_functions() {
            let (after, before) = called(make, function);
            answered += u64::from(after[0] as i64 != NOT_SUPPORTED);
            changed += after[1..].iter().zip(&before[1..]).filter(|(after, before)| after != before).count() as u64;
            if after[0] as i64 != NOT_SUPPORTED || after[1..] != before[1..] {
                last = function;
            }
            tried += 1;
        }
        let seen = format_args!("{answered} were answered, {changed} registers changed, lastly by {last:#x}");
        report.check_in("calls.unknown", name, answered == 0 && changed == 0, seen);
    }
    report.value("calls.unknown-tried", tried);
    // Another immediate than 0 is nobody's, whatever x0 says (DEN0028, section 2.9).
    let (after, before) = called(payload_call_hvc_other, psci::SYSTEM_OFF);
    let right = after[0] as i64 == NOT_SUPPORTED && after[1..] == before[1..];
    report.check("calls.other-immediate", right, format_args!("{:#x}", after[0]));
}

/// Makes the call with all other registers filled: those after and before it.
fn called(make: unsafe extern "C" fn(*mut Registers), function: u32) -> (Registers, Registers) {
    let mut before: Registers = core::array::from_fn(|index| PATTERN.rotate_left(index as u32));
    before[0] = function.into();
    let mut after = before;
    // SAFETY: The function reads and writes the registers behind the pointer and nothing else, and keeps to the
    // procedure call standard; no call that is made by it touches memory.
    unsafe { make(&raw mut after) };
    (after, before)
}

/// Calls with wrong arguments.
fn psci_errors(report: &mut Report, cpus: u64, hypervisor: bool) {
    let mut expect = |name: &str, seen: i64, expected: i64| {
        report.check_in("calls.psci", name, seen == expected, format_args!("{seen}, not {expected}"));
    };
    let entry = secondary::entry();
    expect("on-itself", call_status(psci::CPU_ON_64, [0, entry, 0]), ALREADY_ON);
    expect("info-of-itself", call_status(psci::AFFINITY_INFO_64, [0, 0, 0]), psci::AFFINITY_ON);
    let strays = [cpus, 0xff, 1 << 8, 1 << 16, 1 << 31, 1 << 32, 1 << 40, u64::MAX, 1 << 24 | 1, 1 << 63];
    for stray in strays {
        expect("on-nobody", call_status(psci::CPU_ON_64, [stray, entry, 0]), INVALID_PARAMETERS);
        expect("info-of-nobody", call_status(psci::AFFINITY_INFO_64, [stray, 0, 0]), INVALID_PARAMETERS);
    }
    // Levels above a CPU may be there, and any address may be good enough, where no hypervisor says otherwise.
    for level in [1, 2, 3, 4, u64::MAX].into_iter().filter(|_| hypervisor) {
        expect("info-of-level", call_status(psci::AFFINITY_INFO_64, [0, level, 0]), INVALID_PARAMETERS);
    }
    if cpus > 1 && hypervisor {
        for stray in [1 << 40, 1 << 63, !3, entry + 1, entry + 2, 1 << 48] {
            expect("on-nowhere", call_status(psci::CPU_ON_64, [1, stray, 0]), INVALID_ADDRESS);
        }
        expect("still-off", call_status(psci::AFFINITY_INFO_64, [1, 0, 0]), AFFINITY_OFF);
    }
    for (name, function) in [
        ("migrate", psci::MIGRATE_64),
        ("migrate-information", psci::MIGRATE_INFO_UP_CPU_64),
        ("system-suspend", psci::SYSTEM_SUSPEND_64),
    ] {
        let answer = call_status(function, [0, entry, 0]);
        let refused = matches!(answer, NOT_SUPPORTED | INVALID_PARAMETERS | psci::DENIED);
        expect(name, refused.into(), 1);
    }
}

/// Starts of all secondary CPUs together, and what was wrong with their arguments.
static STARTED: AtomicU64 = AtomicU64::new(0);
static WRONG: AtomicU64 = AtomicU64::new(0);

/// Turns every secondary CPU on and off again, over and over. The interrupt controller is set up for [`rest`] alone.
fn turned_on_and_off(report: &mut Report, machine: &mut Machine) {
    let count = machine.platform.cpus.min(secondary::MAX_CPUS);
    machine.platform.cpus = 1;
    if Cpus::start(machine).is_none() {
        report.check("calls.interrupts", false, format_args!("no GICv3"));
        return;
    }
    let mut wrong = 0;
    for round in 0..STARTS {
        for cpu in 1..count as u64 {
            let info = || call_status(psci::AFFINITY_INFO_64, [cpu, 0, 0]);
            let was_off = wait_until(|| info() == AFFINITY_OFF);
            // SAFETY: It is off, as was just seen, and nobody else turns it on.
            let status = unsafe { secondary::start(&machine.address_space, cpu, come_and_go, round << 8 | cpu) };
            wrong += u64::from(!was_off || status != SUCCESS);
        }
        let all = (round + 1) * (count as u64 - 1);
        wrong += u64::from(!wait_until(|| STARTED.load(Ordering::Acquire) == all));
        for cpu in 1..count as u64 {
            wrong += u64::from(!wait_until(|| call_status(psci::AFFINITY_INFO_64, [cpu, 0, 0]) == AFFINITY_OFF));
        }
    }
    report.check("calls.on-and-off", wrong == 0, format_args!("{wrong} steps were wrong"));
    let bad = WRONG.load(Ordering::Acquire);
    report.check(
        "calls.arguments-kept",
        bad == 0,
        format_args!("{bad} starts had another argument or an MMU that was on"),
    );
    report.value("calls.starts", STARTED.load(Ordering::Acquire));
    // Give the last of them the time to be gone.
    rest();
}

/// A secondary CPU's short life.
extern "C" fn come_and_go(argument: u64, sctlr: u64) -> ! {
    let right = argument & 0xff == payloads::cpus::current() as u64 && sctlr & 0b101 == 0;
    WRONG.fetch_add(u64::from(!right), Ordering::AcqRel);
    STARTED.fetch_add(1, Ordering::AcqRel);
    loop {
        call_status(psci::CPU_OFF, [0; 3]);
        WRONG.fetch_add(1, Ordering::AcqRel);
    }
}
