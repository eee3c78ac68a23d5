//! What a guest is told of its CPU, field by field, against the same CPU without a hypervisor: the payload `identity`
//! says both.

use crate::{Bench, Suite};
use abi::report::Line;
use guest_tests::{Failure, Machine, Transcript};

/// CPU models, oldest first.
const CPUS: [&str; 4] = ["cortex-a53", "cortex-a76", "neoverse-v1", "max"];
/// How many CPUs the machine and the guest have.
const CPU_COUNT: u32 = 2;
/// Registers that can be read: MIDR_EL1, MPIDR_EL1, REVIDR_EL1, CRm 1 to 7, and six of caches and such.
const READABLE: u64 = 3 + 7 * 8 + 6;
/// ID_AA64MMFR0_EL1.PARange of the reference host's guests, whose addresses have 32 bits.
const PA_RANGE: u64 = 0;

/// A field of four bits: its name and its lowest bit.
type Field = (&'static str, u32);

/// What a guest finds in a register (Arm ARM, section D23.2). Bits that no field names are zero.
struct Promise {
    register: &'static str,
    /// The CPU's own.
    kept: &'static [Field],
    /// The CPU's own, but no more than this.
    at_most: &'static [(&'static str, u32, u64)],
    /// Whatever the CPU has.
    fixed: &'static [(&'static str, u32, u64)],
    /// Zero.
    hidden: &'static [Field],
}

const PROMISES: [Promise; 9] = [
    Promise {
        register: "ID_AA64PFR0_EL1",
        kept: &[("FP", 16), ("AdvSIMD", 20), ("DIT", 48), ("CSV3", 60)],
        at_most: &[("GIC", 24, 1), ("CSV2", 56, 1)],
        fixed: &[("EL0", 0, 1), ("EL1", 4, 1)],
        hidden: &[
            ("EL2", 8),
            ("EL3", 12),
            ("RAS", 28),
            ("SVE", 32),
            ("SEL2", 36),
            ("MPAM", 40),
            ("AMU", 44),
            ("RME", 52),
        ],
    },
    Promise {
        register: "ID_AA64PFR1_EL1",
        kept: &[("BT", 0), ("SSBS", 4)],
        at_most: &[],
        fixed: &[],
        hidden: &[
            ("MTE", 8),
            ("RAS_frac", 12),
            ("MPAM_frac", 16),
            ("SME", 24),
            ("RNDR_trap", 28),
            ("CSV2_frac", 32),
            ("NMI", 36),
            ("MTE_frac", 40),
            ("GCS", 44),
            ("THE", 48),
            ("MTEX", 52),
            ("DF2", 56),
            ("PFAR", 60),
        ],
    },
    Promise {
        register: "ID_AA64DFR0_EL1",
        kept: &[],
        at_most: &[],
        fixed: &[("DebugVer", 0, 6)],
        hidden: &[
            ("TraceVer", 4),
            ("PMUVer", 8),
            ("BRPs", 12),
            ("PMSS", 16),
            ("WRPs", 20),
            ("SEBEP", 24),
            ("CTX_CMPs", 28),
            ("PMSVer", 32),
            ("DoubleLock", 36),
            ("TraceFilt", 40),
            ("TraceBuffer", 44),
            ("MTPMU", 48),
            ("BRBE", 52),
            ("ExtTrcBuff", 56),
            ("HPMN0", 60),
        ],
    },
    Promise {
        register: "ID_AA64ISAR0_EL1",
        kept: &[
            ("AES", 4),
            ("SHA1", 8),
            ("SHA2", 12),
            ("CRC32", 16),
            ("Atomic", 20),
            ("RDM", 28),
            ("SHA3", 32),
            ("SM3", 36),
            ("SM4", 40),
            ("DP", 44),
            ("FHM", 48),
            ("TS", 52),
            ("TLB", 56),
            ("RNDR", 60),
        ],
        at_most: &[],
        fixed: &[],
        hidden: &[("TME", 24)],
    },
    Promise {
        register: "ID_AA64ISAR1_EL1",
        kept: &[
            ("DPB", 0),
            ("APA", 4),
            ("API", 8),
            ("JSCVT", 12),
            ("FCMA", 16),
            ("LRCPC", 20),
            ("GPA", 24),
            ("GPI", 28),
            ("FRINTTS", 32),
            ("SB", 36),
            ("SPECRES", 40),
            ("BF16", 44),
            ("DGH", 48),
            ("I8MM", 52),
        ],
        at_most: &[],
        fixed: &[],
        hidden: &[("XS", 56), ("LS64", 60)],
    },
    Promise {
        register: "ID_AA64ISAR2_EL1",
        kept: &[
            ("RPRES", 4),
            ("GPA3", 8),
            ("APA3", 12),
            ("MOPS", 16),
            ("BC", 20),
            ("PAC_frac", 24),
            ("CLRBHB", 28),
            ("CSSC", 52),
        ],
        at_most: &[],
        fixed: &[],
        hidden: &[
            ("WFxT", 0),
            ("SYSREG_128", 32),
            ("SYSINSTR_128", 36),
            ("PRFMSLC", 40),
            ("PCDPHINT", 44),
            ("RPRFM", 48),
            ("LUT", 56),
            ("ATS1A", 60),
        ],
    },
    Promise {
        register: "ID_AA64MMFR0_EL1",
        kept: &[
            ("ASIDBits", 4),
            ("BigEnd", 8),
            ("BigEndEL0", 16),
            ("TGran16", 20),
            ("TGran64", 24),
            ("TGran4", 28),
            ("ExS", 44),
        ],
        at_most: &[("PARange", 0, PA_RANGE)],
        fixed: &[],
        hidden: &[("SNSMem", 12), ("TGran16_2", 32), ("TGran64_2", 36), ("TGran4_2", 40), ("FGT", 56), ("ECV", 60)],
    },
    Promise {
        register: "ID_AA64MMFR1_EL1",
        kept: &[("HPDS", 12), ("PAN", 20), ("ETS", 36), ("AFP", 44), ("nTLBPA", 48), ("ECBHB", 60)],
        at_most: &[("HAFDBS", 0, 2)],
        fixed: &[],
        hidden: &[
            ("VMIDBits", 4),
            ("VH", 8),
            ("LO", 16),
            ("SpecSEI", 24),
            ("XNX", 28),
            ("TWED", 32),
            ("HCX", 40),
            ("TIDCP1", 52),
            ("CMOW", 56),
        ],
    },
    Promise {
        register: "ID_AA64MMFR2_EL1",
        kept: &[
            ("CnP", 0),
            ("UAO", 4),
            ("LSM", 8),
            ("ST", 28),
            ("AT", 32),
            ("IDS", 36),
            ("TTL", 48),
            ("BBM", 52),
            ("E0PD", 60),
        ],
        at_most: &[("VARange", 16, 1)],
        fixed: &[],
        hidden: &[("IESB", 12), ("CCIDX", 20), ("NV", 24), ("FWB", 40), ("EVT", 56)],
    },
];

/// Registers of the ID space that are zero, besides those of AArch32 and those without a name.
const ZERO: [&str; 14] = [
    "ID_AA64PFR2_EL1",
    "ID_AA64ZFR0_EL1",
    "ID_AA64SMFR0_EL1",
    "ID_AA64FPFR0_EL1",
    "ID_AA64DFR1_EL1",
    "ID_AA64DFR2_EL1",
    "ID_AA64AFR0_EL1",
    "ID_AA64AFR1_EL1",
    "ID_AA64ISAR3_EL1",
    "ID_AA64MMFR3_EL1",
    "ID_AA64MMFR4_EL1",
    "REVIDR_EL1",
    "AIDR_EL1",
    "CSSELR_EL1",
];
/// Registers that are the CPU's own as a whole.
const KEPT: [&str; 3] = ["MIDR_EL1", "CTR_EL0", "DCZID_EL0"];
/// MPIDR_EL1 of the first CPU: RES1 and no affinity.
const MPIDR_FIRST: u64 = 1 << 31;
/// CLIDR_EL1: one level, instruction and data caches apart; unification and coherency at level 1.
const CLIDR_ONE_LEVEL: u64 = 0b011 | 1 << 21 | 1 << 24 | 1 << 27;

pub(crate) fn add(suite: &mut Suite) {
    for cpu in CPUS {
        suite.add(format!("identity::{cpu}"), move |bench| identity(bench, cpu));
    }
}

fn identity(bench: &Bench, cpu: &str) -> Result<(), Failure> {
    let bare = Machine::new(bench.images.payload("identity")?).cpu(cpu).cpus(CPU_COUNT).memory(128);
    let bare = bare.virtualization(false).run()?;
    bare.ended_well()?.completed("identity", 2 * CPU_COUNT)?;
    let mut hidden = 0;
    for protected in [true, false] {
        let run = guest(bench, cpu, protected)?;
        hidden = compare(&bare, &run)?;
    }
    // That nothing can be seen says something only where there is something to be seen.
    let least = if cpu == "max" { 20 } else { 3 };
    bare.require(hidden >= least, format!("the bare {cpu} has only {hidden} of the fields that are to be hidden"))?;
    Ok(())
}

/// The payload in a guest on the same CPU.
fn guest(bench: &Bench, cpu: &str, protected: bool) -> Result<Transcript, Failure> {
    let flag = u32::from(protected);
    let config = format!("name=identity image=identity memory=16777216 cpus={CPU_COUNT} protected={flag} append=\n");
    let test = format!("identity-{cpu}-{flag}");
    let run = Machine::new(bench.images.freehold()?)
        .host(bench.images.host()?, "scenario=guests report")
        .initrd(crate::scripted::ramdisk_with(bench, &test, "guests.conf", &config)?)
        .cpu(cpu)
        .cpus(CPU_COUNT)
        .run()?;
    run.completed("guests", 2 * CPU_COUNT)?.ended_well()?.check("guests-ended-well")?;
    for check in ["identity.same-on-each-cpu", "identity.affinity"] {
        run.check(check)?;
    }
    Ok(run)
}

/// Holds each register of the guest's against the promise. Returns how many hidden fields the bare CPU has.
fn compare(bare: &Transcript, guest: &Transcript) -> Result<usize, Failure> {
    let of = |register: &str| guest.value(&format!("identity.{register}"));
    let readable = of("readable")?;
    guest.require(readable == READABLE, format!("{readable} registers can be read, not {READABLE}"))?;
    let equal = |register: &str, expected: u64| {
        let seen = of(register)?;
        guest.require(seen == expected, format!("{register} is {seen:#x}, not {expected:#x}"))
    };
    for register in KEPT {
        equal(register, bare.value(register)?)?;
    }
    equal("MPIDR_EL1", MPIDR_FIRST)?;
    equal("CLIDR_EL1", CLIDR_ONE_LEVEL)?;
    // One set, one way, of lines as the CPU has them: log2 of the words, less two.
    equal("CCSIDR_EL1", (bare.value("CTR_EL0")? >> 16 & 0xf) - 2)?;
    let mut zero = 0;
    for line in guest.report() {
        let Line::Value(name, _) = line else { continue };
        let Some(register) = name.strip_prefix("identity.") else { continue };
        let is_of_aarch32 =
            register.starts_with("ID_") && !register.starts_with("ID_AA64") || register.starts_with("MVFR");
        // Those without a name go by their encoding.
        if is_of_aarch32 || register.starts_with("S3_") || ZERO.contains(&register) {
            equal(register, 0)?;
            zero += 1;
        }
    }
    let rest = PROMISES.len() + KEPT.len() + 3;
    guest.require(zero + rest == READABLE as usize, format!("only {zero} registers are known to be zero"))?;
    let mut hidden = 0;
    for promise in &PROMISES {
        let Promise { register, kept, at_most, fixed, hidden: absent } = promise;
        let (own, seen) = (bare.value(register)?, of(register)?);
        let field = |value: u64, shift: u32| value >> shift & 0xf;
        let mut named = 0;
        let mut judge = |(name, shift): Field, expected: u64| {
            named |= 0xf << shift;
            let (seen, own) = (field(seen, shift), field(own, shift));
            let what = format!("{register}.{name} is {seen}, not {expected}; the bare CPU has {own}");
            guest.require(seen == expected, what)
        };
        for &(name, shift) in *kept {
            judge((name, shift), field(own, shift))?;
        }
        for &(name, shift, most) in *at_most {
            judge((name, shift), field(own, shift).min(most))?;
        }
        for &(name, shift, value) in *fixed {
            judge((name, shift), value)?;
        }
        for &(name, shift) in *absent {
            hidden += usize::from(field(own, shift) != 0);
            judge((name, shift), 0)?;
        }
        guest.require(seen & !named == 0, format!("{register} is {seen:#x}: bits that nobody names are set"))?;
    }
    Ok(hidden)
}
