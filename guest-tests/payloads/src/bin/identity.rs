//! A guest that says what its CPUs are: every register of identity and features by name and value, and whether all of
//! its CPUs have the same. It judges nothing: whoever compares it with the machine below does.
#![no_std]
#![no_main]

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};
use payloads::cpus::Cpus;
use payloads::report::Report;
use payloads::{Machine, attempt, payload, println};

/// A register that is asked for.
struct Register {
    name: &'static str,
    /// Reads it where it may be UNDEFINED; the first CPU alone may do that.
    attempt: fn() -> Option<u64>,
    /// Reads it where it is there.
    read: fn() -> u64,
}

macro_rules! registers {
    ($($name:literal = $encoding:literal,)*) => {
        /// op0 3, op1 0, CRn 0, CRm 0 to 7, all of op2, and the other registers of identity and caches. Those without a
        /// name go by their encoding.
        const REGISTERS: &[Register] = &[$(Register {
            name: $name,
            attempt: || {
                let mut value = 0;
                // SAFETY: Reading the register has no effect.
                let exception = unsafe {
                    attempt!([concat!("mrs {value}, ", $encoding)], value = inout(reg) value, options(nostack))
                };
                exception.is_none().then_some(value)
            },
            read: || {
                let value;
                // SAFETY: As above.
                unsafe { asm!(concat!("mrs {value}, ", $encoding), value = out(reg) value, options(nomem, nostack)) };
                value
            },
        },)*];
    };
}

registers! {
    "MIDR_EL1" = "S3_0_C0_C0_0",
    "S3_0_C0_C0_1" = "S3_0_C0_C0_1",
    "S3_0_C0_C0_2" = "S3_0_C0_C0_2",
    "S3_0_C0_C0_3" = "S3_0_C0_C0_3",
    "S3_0_C0_C0_4" = "S3_0_C0_C0_4",
    "MPIDR_EL1" = "S3_0_C0_C0_5",
    "REVIDR_EL1" = "S3_0_C0_C0_6",
    "S3_0_C0_C0_7" = "S3_0_C0_C0_7",
    "ID_PFR0_EL1" = "S3_0_C0_C1_0",
    "ID_PFR1_EL1" = "S3_0_C0_C1_1",
    "ID_DFR0_EL1" = "S3_0_C0_C1_2",
    "ID_AFR0_EL1" = "S3_0_C0_C1_3",
    "ID_MMFR0_EL1" = "S3_0_C0_C1_4",
    "ID_MMFR1_EL1" = "S3_0_C0_C1_5",
    "ID_MMFR2_EL1" = "S3_0_C0_C1_6",
    "ID_MMFR3_EL1" = "S3_0_C0_C1_7",
    "ID_ISAR0_EL1" = "S3_0_C0_C2_0",
    "ID_ISAR1_EL1" = "S3_0_C0_C2_1",
    "ID_ISAR2_EL1" = "S3_0_C0_C2_2",
    "ID_ISAR3_EL1" = "S3_0_C0_C2_3",
    "ID_ISAR4_EL1" = "S3_0_C0_C2_4",
    "ID_ISAR5_EL1" = "S3_0_C0_C2_5",
    "ID_MMFR4_EL1" = "S3_0_C0_C2_6",
    "ID_ISAR6_EL1" = "S3_0_C0_C2_7",
    "MVFR0_EL1" = "S3_0_C0_C3_0",
    "MVFR1_EL1" = "S3_0_C0_C3_1",
    "MVFR2_EL1" = "S3_0_C0_C3_2",
    "S3_0_C0_C3_3" = "S3_0_C0_C3_3",
    "ID_PFR2_EL1" = "S3_0_C0_C3_4",
    "ID_DFR1_EL1" = "S3_0_C0_C3_5",
    "ID_MMFR5_EL1" = "S3_0_C0_C3_6",
    "S3_0_C0_C3_7" = "S3_0_C0_C3_7",
    "ID_AA64PFR0_EL1" = "S3_0_C0_C4_0",
    "ID_AA64PFR1_EL1" = "S3_0_C0_C4_1",
    "ID_AA64PFR2_EL1" = "S3_0_C0_C4_2",
    "S3_0_C0_C4_3" = "S3_0_C0_C4_3",
    "ID_AA64ZFR0_EL1" = "S3_0_C0_C4_4",
    "ID_AA64SMFR0_EL1" = "S3_0_C0_C4_5",
    "S3_0_C0_C4_6" = "S3_0_C0_C4_6",
    "ID_AA64FPFR0_EL1" = "S3_0_C0_C4_7",
    "ID_AA64DFR0_EL1" = "S3_0_C0_C5_0",
    "ID_AA64DFR1_EL1" = "S3_0_C0_C5_1",
    "ID_AA64DFR2_EL1" = "S3_0_C0_C5_2",
    "S3_0_C0_C5_3" = "S3_0_C0_C5_3",
    "ID_AA64AFR0_EL1" = "S3_0_C0_C5_4",
    "ID_AA64AFR1_EL1" = "S3_0_C0_C5_5",
    "S3_0_C0_C5_6" = "S3_0_C0_C5_6",
    "S3_0_C0_C5_7" = "S3_0_C0_C5_7",
    "ID_AA64ISAR0_EL1" = "S3_0_C0_C6_0",
    "ID_AA64ISAR1_EL1" = "S3_0_C0_C6_1",
    "ID_AA64ISAR2_EL1" = "S3_0_C0_C6_2",
    "ID_AA64ISAR3_EL1" = "S3_0_C0_C6_3",
    "S3_0_C0_C6_4" = "S3_0_C0_C6_4",
    "S3_0_C0_C6_5" = "S3_0_C0_C6_5",
    "S3_0_C0_C6_6" = "S3_0_C0_C6_6",
    "S3_0_C0_C6_7" = "S3_0_C0_C6_7",
    "ID_AA64MMFR0_EL1" = "S3_0_C0_C7_0",
    "ID_AA64MMFR1_EL1" = "S3_0_C0_C7_1",
    "ID_AA64MMFR2_EL1" = "S3_0_C0_C7_2",
    "ID_AA64MMFR3_EL1" = "S3_0_C0_C7_3",
    "ID_AA64MMFR4_EL1" = "S3_0_C0_C7_4",
    "S3_0_C0_C7_5" = "S3_0_C0_C7_5",
    "S3_0_C0_C7_6" = "S3_0_C0_C7_6",
    "S3_0_C0_C7_7" = "S3_0_C0_C7_7",
    "CCSIDR_EL1" = "S3_1_C0_C0_0",
    "CLIDR_EL1" = "S3_1_C0_C0_1",
    "AIDR_EL1" = "S3_1_C0_C0_7",
    "CSSELR_EL1" = "S3_2_C0_C0_0",
    "CTR_EL0" = "S3_3_C0_C0_1",
    "DCZID_EL0" = "S3_3_C0_C0_7",
}

/// The register that tells CPUs apart.
const AFFINITY: &str = "MPIDR_EL1";
/// MPIDR_EL1: Aff3 to Aff0.
const AFFINITY_MASK: u64 = 0xff_00ff_ffff;

/// What the first CPU has read; and a bit for each register that it could read.
static FIRST: [AtomicU64; REGISTERS.len()] = [const { AtomicU64::new(0) }; REGISTERS.len()];
static READABLE: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
/// What another CPU found: registers that are not the first CPU's, the last of them, and its affinity.
static DIFFERENT: AtomicU64 = AtomicU64::new(0);
static LAST_DIFFERENT: AtomicU64 = AtomicU64::new(0);
static OWN_AFFINITY: AtomicU64 = AtomicU64::new(u64::MAX);

payload!(identity);

fn is_readable(index: usize) -> bool {
    READABLE[index / 64].load(Ordering::Acquire) >> (index % 64) & 1 != 0
}

fn identity(machine: &mut Machine) {
    println!("identity: {} CPUs", machine.platform.cpus);
    let mut report = Report::begin("identity");
    let mut count = 0;
    for (index, register) in REGISTERS.iter().enumerate() {
        let Some(value) = (register.attempt)() else {
            println!("identity: {} is UNDEFINED", register.name);
            continue;
        };
        FIRST[index].store(value, Ordering::Relaxed);
        READABLE[index / 64].fetch_or(1 << (index % 64), Ordering::Release);
        report.value(register.name, value);
        count += 1;
    }
    report.value("readable", count);
    let Some(cpus) = Cpus::start(machine) else {
        println!("identity: no GICv3, or a CPU did not come: the first one speaks for all");
        return report.end();
    };
    // The first as well: nothing changes while it looks.
    for cpu in 0..cpus.count {
        DIFFERENT.store(0, Ordering::Release);
        let done = cpus.run(cpu, compare, 0);
        let (different, last) = (DIFFERENT.load(Ordering::Acquire), LAST_DIFFERENT.load(Ordering::Relaxed) as usize);
        let seen = format_args!("CPU {cpu}: {different} differ, lastly {}", REGISTERS[last].name);
        report.check("identity.same-on-each-cpu", done && different == 0, seen);
        let own = OWN_AFFINITY.load(Ordering::Acquire);
        report.check("identity.affinity", own == cpu as u64, format_args!("CPU {cpu} has {own:#x}"));
    }
    report.value("cpus", cpus.count as u64);
    report.end();
}

/// Compares the calling CPU's registers with the first CPU's.
fn compare(_: u64) {
    for (index, register) in REGISTERS.iter().enumerate().filter(|(index, _)| is_readable(*index)) {
        let value = (register.read)();
        if register.name == AFFINITY {
            OWN_AFFINITY.store(value & AFFINITY_MASK, Ordering::Release);
        } else if value != FIRST[index].load(Ordering::Relaxed) {
            DIFFERENT.fetch_add(1, Ordering::AcqRel);
            LAST_DIFFERENT.store(index as u64, Ordering::Relaxed);
        }
    }
}
