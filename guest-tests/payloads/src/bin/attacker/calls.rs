//! Calls that a guest may not make, or not like this.

use aarch64_cpu::registers::{MPIDR_EL1, Readable};
use abi::host::HostCall;
use abi::{guest, psci, smccc};
use payloads::attempt;
use payloads::hypervisor::{call, call_status};
use payloads::report::Report;
use payloads::vectors::{EC_UNKNOWN, Exception};

/// NOT_SUPPORTED in x0.
const REFUSED: u64 = smccc::NOT_SUPPORTED as u64;
/// Registers that a probe of a call sets and compares: x0 to x15.
const REGISTERS: usize = 16;
/// What the registers that are no arguments hold.
const FILLER: u64 = 0xf111_e200_0000_0000;

/// Function identifiers that nobody has given a guest: other vendors' and owners' services, secure services, FF-A,
/// KVM's that are not advertised, yielding calls, and holes in the ranges that do exist.
const UNKNOWN: [u32; 22] = [
    0,
    0x0200_0000,
    0x4300_0000,
    0x7fff_ffff,
    0x8000_0005,
    0x8000_fff0,
    0x8100_0000,
    0x8200_0000,
    0x8300_0000,
    0x8400_001f,
    0x8400_0060,
    0x8400_0063,
    0xc400_0066,
    0x8500_0000,
    0x8600_0001,
    0xc600_000a,
    0xc600_000b,
    0x8600_0063,
    0x8600_ff02,
    0xb200_0000,
    0xbf00_ff01,
    0xffff_ffff,
];

/// A call with raw registers: what the registers hold afterwards, and the exception that came instead of an answer.
struct Answer {
    x: [u64; REGISTERS],
    exception: Option<Exception>,
}

impl Answer {
    fn is_undefined(&self) -> bool {
        self.exception.is_some_and(|exception| exception.class() == EC_UNKNOWN)
    }

    /// NOT_SUPPORTED, or no such instruction.
    fn is_refused(&self) -> bool {
        self.is_undefined() || (self.exception.is_none() && self.x[0] == REFUSED)
    }
}

/// What is in the registers before a call: `x0`, three arguments, then a pattern.
fn registers(x0: u64, arguments: [u64; 3]) -> [u64; REGISTERS] {
    let mut x: [u64; REGISTERS] = core::array::from_fn(|index| FILLER | index as u64);
    x[0] = x0;
    x[1..4].copy_from_slice(&arguments);
    x
}

macro_rules! raw_call {
    ($instruction:literal, $x:expr) => {{
        let mut x = $x;
        // SAFETY: What is called may change the declared registers and x16 and x17; the attacks name no memory that
        // the payload relies on.
        let exception = unsafe {
            attempt!(
                [$instruction],
                inout("x0") x[0], inout("x1") x[1], inout("x2") x[2], inout("x3") x[3],
                inout("x4") x[4], inout("x5") x[5], inout("x6") x[6], inout("x7") x[7],
                inout("x8") x[8], inout("x9") x[9], inout("x10") x[10], inout("x11") x[11],
                inout("x12") x[12], inout("x13") x[13], inout("x14") x[14], inout("x15") x[15]
            )
        };
        Answer { x, exception }
    }};
}

fn hvc(x0: u64, arguments: [u64; 3]) -> Answer {
    raw_call!("hvc #0", registers(x0, arguments))
}

fn smc(x0: u64, arguments: [u64; 3]) -> Answer {
    raw_call!("smc #0", registers(x0, arguments))
}

/// Every attack by calls.
pub fn attack(report: &mut Report) {
    unknown_calls(report);
    host_calls(report);
    malformed(report);
    by_smc(report);
    registers_kept(report);
    power(report);
}

/// Reports `calls.<name>`, with the call that was answered wrongly.
fn check(report: &mut Report, name: &str, wrong: Option<(u64, Answer)>) {
    match wrong {
        None => report.check_in("calls", name, true, format_args!("")),
        Some((function, Answer { x, exception: None })) => {
            let [x0, x1, x2, x3, ..] = x;
            report.check_in("calls", name, false, format_args!("{function:#x}: {x0:#x} {x1:#x} {x2:#x} {x3:#x}"));
        }
        Some((function, Answer { exception: Some(exception), .. })) => {
            report.check_in("calls", name, false, format_args!("{function:#x}: {exception}"));
        }
    }
}

fn unknown_calls(report: &mut Report) {
    let refused = |answer: &Answer| answer.exception.is_none() && answer.x[0] == REFUSED;
    let wrong = UNKNOWN
        .into_iter()
        .map(|function| (function.into(), hvc(function.into(), [1, 2, 3])))
        .find(|(_, answer)| !refused(answer));
    check(report, "unknown", wrong);
}

/// The host's own calls, which to a guest do not exist, with arguments that would mean something.
fn host_calls(report: &mut Report) {
    let arguments = [[0, 0, 0], [1, 1, 1], [0x4_0000, 1, 0], [0, 0x4_0200, 1], [u64::MAX, u64::MAX, u64::MAX]];
    let mut wrong = None;
    for function in HostCall::ALL {
        for arguments in arguments {
            let answer = hvc(*function as u64, arguments);
            let silent = answer.x[1..4].iter().zip(arguments).all(|(x, argument)| *x == 0 || *x == argument);
            if (answer.exception.is_some() || answer.x[0] != REFUSED || !silent) && wrong.is_none() {
                wrong = Some((*function as u64, answer));
            }
        }
    }
    check(report, "host-calls", wrong);
}

/// Calls by another immediate, and identifiers that do not fit 32 bits: refused even where the low half is SYSTEM_OFF.
fn malformed(report: &mut Report) {
    let function = u64::from(psci::SYSTEM_OFF);
    let answers = [
        raw_call!("hvc #1", registers(function, [0; 3])),
        raw_call!("hvc #0x4a48", registers(function, [0; 3])),
        raw_call!("hvc #0xffff", registers(function, [0; 3])),
        raw_call!("smc #1", registers(function, [0; 3])),
        raw_call!("smc #0xffff", registers(function, [0; 3])),
    ];
    let wrong = answers.into_iter().find(|answer| !answer.is_refused());
    check(report, "immediates", wrong.map(|answer| (function, answer)));

    let wrong = [1 << 32, 1 << 63, 0xffff_ffff << 32]
        .into_iter()
        .flat_map(|high| [high | function, high | u64::from(guest::MEM_SHARE)])
        .map(|function| (function, hvc(function, [0; 3])))
        .find(|(_, answer)| answer.exception.is_some() || answer.x[0] != REFUSED);
    check(report, "high-bits", wrong);
}

/// SMC, which is not the conduit: undefined, or answered just as HVC is.
fn by_smc(report: &mut Report) {
    let wrong = UNKNOWN
        .into_iter()
        .map(u64::from)
        .chain([1 << 32 | u64::from(psci::SYSTEM_OFF)])
        .map(|function| (function, smc(function, [1, 2, 3])))
        .find(|(_, answer)| !answer.is_refused());
    check(report, "smc", wrong);
    let function = u64::from(psci::PSCI_VERSION);
    let answer = smc(function, [0; 3]);
    let right = answer.is_refused() || (answer.exception.is_none() && answer.x[0] == hvc(function, [0; 3]).x[0]);
    check(report, "smc-version", (!right).then_some((function, answer)));
}

/// A call gives back x4 and up as they were (SMCCC 1.1), and no one else's values in x1 to x3.
fn registers_kept(report: &mut Report) {
    let mut wrong = None;
    for function in [psci::PSCI_VERSION, smccc::VERSION, guest::FEATURES, guest::HYP_MEMINFO, 0x8600_0001] {
        let answer = hvc(function.into(), [0; 3]);
        let kept = answer.x.iter().enumerate().skip(4).all(|(index, x)| *x == FILLER | index as u64);
        let silent = answer.x[1..4].iter().all(|x| *x == 0);
        if !(kept && silent) && wrong.is_none() {
            wrong = Some((function.into(), answer));
        }
    }
    check(report, "registers-kept", wrong);
}

/// PSCI with arguments that mean nothing (Arm DEN0022, section 5.1).
fn power(report: &mut Report) {
    let own = MPIDR_EL1.get() & psci::MPIDR_AFFINITY_MASK;
    let nobody = 0xff_00ff_fffe;
    let expectations: [(&str, i64, u32, [u64; 3]); 9] = [
        ("on-nobody", psci::INVALID_PARAMETERS, psci::CPU_ON_64, [nobody, 0x4020_0000, 0]),
        ("on-reserved-bits", psci::INVALID_PARAMETERS, psci::CPU_ON_64, [own | 1 << 31, 0x4020_0000, 0]),
        ("on-self", psci::ALREADY_ON, psci::CPU_ON_64, [own, 0x4020_0000, 0]),
        ("affinity-self", psci::AFFINITY_ON, psci::AFFINITY_INFO_64, [own, 0, 0]),
        ("affinity-nobody", psci::INVALID_PARAMETERS, psci::AFFINITY_INFO_64, [nobody, 0, 0]),
        ("affinity-level", psci::INVALID_PARAMETERS, psci::AFFINITY_INFO_64, [own, 4, 0]),
        ("features-unknown", psci::NOT_SUPPORTED, psci::PSCI_FEATURES, [0xdead_beef, 0, 0]),
        ("features-high-bits", psci::NOT_SUPPORTED, psci::PSCI_FEATURES, [0x8400_00ff, 0, 0]),
        ("migrate", psci::NOT_SUPPORTED, psci::MIGRATE_64, [own, 0, 0]),
    ];
    for (name, expected, function, arguments) in expectations {
        // A status is 32 bits wide in the 32-bit calls.
        let status = i64::from(call_status(function, arguments) as i32);
        report.check_in("psci", name, status == expected, format_args!("{status}, not {expected}"));
    }
    let version = call(psci::PSCI_VERSION, [0; 3])[0];
    report.check("psci.version", version >= psci::VERSION_1_1, format_args!("{version:#x}"));
}
