//! System registers: every encoding is read, what can be read is written back, and what could reach beyond the guest is
//! written with ones. Each ends in a value or in an exception that a kernel expects.

use abi::{Ipa, PAGE_SIZE};
use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};
use payloads::memory::Kind;
use payloads::report::Report;
use payloads::vectors::{EC_DATA_ABORT, EC_FP, EC_SME, EC_SVE, EC_SYSTEM_REGISTER, EC_UNKNOWN, Exception};
use payloads::{Machine, attempt};

/// MRS x0, with an encoding still to be put in (Arm ARM C6.2).
const MRS_X0: u32 = 0xd530_0000;
/// MSR from x0.
const MSR_X0: u32 = 0xd510_0000;
/// SYS with x0.
const SYS_X0: u32 = 0xd508_0000;
/// RET.
const RET: u32 = 0xd65f_03c0;
/// RDVL x0, #1, of SVE.
const RDVL: u32 = 0x04bf_5020;
/// RDSVL x0, #1, of SME.
const RDSVL: u32 = 0x04bf_5820;
/// CPACR_EL1 with SME, FP and SVE all enabled.
const CPACR_ALL: u64 = 0b11 << 24 | 0b11 << 20 | 0b11 << 16;

/// Instructions that the code page holds, each with its return.
const SLOTS: usize = PAGE_SIZE as usize / 8;

/// Instructions made at run time. The page is written here and executed through the window.
#[repr(C, align(4096))]
struct Code([AtomicU32; PAGE_SIZE as usize / 4]);

static CODE: Code = Code([const { AtomicU32::new(0) }; PAGE_SIZE as usize / 4]);

/// A system register or instruction as its encoding names it.
#[derive(Clone, Copy)]
struct Encoding {
    op0: u32,
    op1: u32,
    crn: u32,
    crm: u32,
    op2: u32,
}

impl Encoding {
    /// The encoding's bits in MRS, MSR and SYS.
    const fn bits(self) -> u32 {
        (self.op0 & 1) << 19 | self.op1 << 16 | self.crn << 12 | self.crm << 8 | self.op2 << 5
    }

    const fn new(op0: u32, op1: u32, crn: u32, crm: u32, op2: u32) -> Self {
        Self { op0, op1, crn, crm, op2 }
    }

    /// Number `index` of all encodings with `op0`: op1, CRn, CRm and op2 make a 14-bit number.
    const fn nth(op0: u32, index: u32) -> Self {
        Self::new(op0, index >> 11 & 7, index >> 7 & 15, index >> 3 & 15, index & 7)
    }

    /// The encoding as the architecture writes it, packed for a message: op0 op1 CRn CRm op2, a hexadecimal digit each.
    const fn digits(self) -> u32 {
        self.op0 << 16 | self.op1 << 12 | self.crn << 8 | self.crm << 4 | self.op2
    }
}

/// Encodings for one op0.
const ENCODINGS: u32 = 1 << 14;

/// Registers that reach beyond the guest, or would if nobody kept them from it.
const DANGEROUS: [Encoding; 24] = [
    Encoding::new(2, 0, 1, 0, 4),   // OSLAR_EL1
    Encoding::new(2, 0, 1, 3, 4),   // OSDLR_EL1
    Encoding::new(2, 0, 0, 2, 2),   // MDSCR_EL1
    Encoding::new(2, 0, 0, 0, 4),   // DBGBVR0_EL1
    Encoding::new(2, 0, 0, 0, 5),   // DBGBCR0_EL1
    Encoding::new(2, 0, 0, 0, 6),   // DBGWVR0_EL1
    Encoding::new(2, 0, 0, 0, 7),   // DBGWCR0_EL1
    Encoding::new(3, 3, 9, 12, 0),  // PMCR_EL0
    Encoding::new(3, 3, 9, 12, 1),  // PMCNTENSET_EL0
    Encoding::new(3, 3, 14, 15, 7), // PMCCFILTR_EL0
    Encoding::new(3, 0, 9, 9, 0),   // PMSCR_EL1
    Encoding::new(3, 0, 9, 11, 0),  // TRBLIMITR_EL1
    Encoding::new(3, 0, 1, 2, 1),   // TRFCR_EL1
    Encoding::new(3, 0, 1, 0, 1),   // ACTLR_EL1
    Encoding::new(3, 0, 12, 11, 5), // ICC_SGI1R_EL1
    Encoding::new(3, 0, 12, 11, 6), // ICC_ASGI1R_EL1
    Encoding::new(3, 0, 12, 11, 7), // ICC_SGI0R_EL1
    Encoding::new(3, 0, 12, 11, 1), // ICC_DIR_EL1
    Encoding::new(3, 0, 12, 12, 1), // ICC_EOIR1_EL1
    Encoding::new(3, 0, 12, 12, 5), // ICC_SRE_EL1
    Encoding::new(3, 3, 14, 2, 2),  // CNTP_CVAL_EL0
    Encoding::new(3, 3, 14, 2, 1),  // CNTP_CTL_EL0
    Encoding::new(3, 3, 14, 0, 0),  // CNTFRQ_EL0
    Encoding::new(3, 7, 14, 2, 1),  // CNTPS_CTL_EL1
];

/// Every attack by registers. `guest` says that there is a hypervisor.
pub fn attack(machine: &mut Machine, report: &mut Report, guest: bool) {
    let code = match machine.address_space.open_window(Ipa::new(CODE.0.as_ptr() as u64), Kind::Code) {
        Ok(window) => window.raw(),
        Err(error) => panic!("the code page cannot be mapped: {error:?}"),
    };
    let mut sweep = Sweep { code, readable: 0, wrong: None };
    for op0 in [2, 3] {
        sweep.read_all(op0);
    }
    sweep.conclude(report, "read");
    report.value("attacker.readable-registers", sweep.readable);
    sweep.instructions();
    sweep.conclude(report, "system-instructions");
    if guest {
        sweep.write_ones();
        sweep.conclude(report, "write-ones");
        hidden(code, report);
    }
    machine.address_space.close_window();
}

/// Goes over many encodings and remembers the first wrong outcome.
struct Sweep {
    code: u64,
    readable: u64,
    wrong: Option<(Encoding, Exception)>,
}

impl Sweep {
    fn judge(&mut self, encoding: Encoding, exception: Option<Exception>, expected: &[u64]) {
        let Some(exception) = exception else { return };
        if !expected.contains(&exception.class()) && self.wrong.is_none() {
            self.wrong = Some((encoding, exception));
        }
    }

    /// Reads every register with `op0`, and writes back what could be read.
    fn read_all(&mut self, op0: u32) {
        const EXPECTED: [u64; 5] = [EC_UNKNOWN, EC_FP, EC_SYSTEM_REGISTER, EC_SVE, EC_SME];
        for first in (0..ENCODINGS).step_by(SLOTS / 2) {
            let encodings = (first..).map(|index| Encoding::nth(op0, index)).take(SLOTS / 2);
            load(
                encodings.clone().flat_map(|encoding| [MRS_X0 | encoding.bits(), MSR_X0 | encoding.bits()]),
                self.code,
            );
            for (index, encoding) in encodings.enumerate() {
                let (value, exception) = run(self.code, index * 2, 0);
                self.judge(encoding, exception, &EXPECTED);
                if exception.is_none() {
                    self.readable += 1;
                    let (_, exception) = run(self.code, index * 2 + 1, value);
                    self.judge(encoding, exception, &EXPECTED);
                }
            }
        }
    }

    /// Executes every system instruction with an operand of zero, an address that is not mapped.
    fn instructions(&mut self) {
        const EXPECTED: [u64; 3] = [EC_UNKNOWN, EC_SYSTEM_REGISTER, EC_DATA_ABORT];
        for first in (0..ENCODINGS).step_by(SLOTS) {
            let encodings = (first..).map(|index| Encoding::nth(1, index)).take(SLOTS);
            load(encodings.clone().map(|encoding| SYS_X0 | encoding.bits()), self.code);
            for (index, encoding) in encodings.enumerate() {
                let (_, exception) = run(self.code, index, 0);
                self.judge(encoding, exception, &EXPECTED);
            }
        }
    }

    /// Writes ones where it could hurt somebody else, then what would be there without that.
    fn write_ones(&mut self) {
        load(DANGEROUS.into_iter().map(|encoding| MSR_X0 | encoding.bits()), self.code);
        for value in [u64::MAX, 1 << 40, 1, 0] {
            for (index, encoding) in DANGEROUS.into_iter().enumerate() {
                let (_, exception) = run(self.code, index, value);
                self.judge(encoding, exception, &[EC_UNKNOWN, EC_SYSTEM_REGISTER]);
            }
        }
    }

    fn conclude(&mut self, report: &mut Report, name: &str) {
        match self.wrong.take() {
            None => report.check_in("registers", name, true, format_args!("")),
            Some((encoding, exception)) => {
                report.check_in("registers", name, false, format_args!("S{:x}: {exception}", encoding.digits()));
            }
        }
    }
}

/// What a protected guest is not to find: SVE, SME, MTE, the performance monitors.
fn hidden(code: u64, report: &mut Report) {
    let gcr = MRS_X0 | Encoding::new(3, 0, 1, 0, 6).bits();
    let pmcr = MRS_X0 | Encoding::new(3, 3, 9, 12, 0).bits();
    let cpacr = MSR_X0 | Encoding::new(3, 0, 1, 0, 2).bits();
    let pfr0 = MRS_X0 | Encoding::new(3, 0, 0, 4, 0).bits();
    let pfr1 = MRS_X0 | Encoding::new(3, 0, 0, 4, 1).bits();
    let dfr0 = MRS_X0 | Encoding::new(3, 0, 0, 5, 0).bits();
    let mmfr0 = MRS_X0 | Encoding::new(3, 0, 0, 7, 0).bits();
    load([gcr, pmcr, cpacr, RDVL, RDSVL, pfr0, pfr1, dfr0, mmfr0].into_iter(), code);
    run(code, 2, CPACR_ALL);
    for (name, slot) in [("mte", 0), ("pmu", 1), ("sve", 3), ("sme", 4)] {
        let (value, exception) = run(code, slot, 0);
        let undefined = exception.is_some_and(|exception| exception.class() == EC_UNKNOWN);
        let esr = exception.map_or(0, |exception| exception.esr);
        report.check_in("hidden", name, undefined, format_args!("read {value:#x}, ESR_EL1={esr:#x}"));
    }
    let [pfr0, pfr1, dfr0, mmfr0] = [5, 6, 7, 8].map(|slot| run(code, slot, 0).0);
    let field = |register: u64, at: u32| register >> at & 0xf;
    let [sve, mte, sme, pmu, addresses] =
        [field(pfr0, 32), field(pfr1, 8), field(pfr1, 24), field(dfr0, 8), field(mmfr0, 0)];
    report.check(
        "hidden.features",
        sve == 0 && mte == 0 && sme == 0 && matches!(pmu, 0 | 0xf),
        format_args!("SVE {sve}, MTE {mte}, SME {sme}, PMU {pmu}"),
    );
    // ID_AA64MMFR0_EL1.PARange of 2 is 40 bits.
    report.check("hidden.address-size", addresses <= 2, format_args!("PARange {addresses}"));
}

/// Puts instructions into the code page, each followed by a return, and makes them visible to instruction fetch through
/// `code`, the page's executable address.
fn load(instructions: impl Iterator<Item = u32>, code: u64) {
    let mut words = CODE.0.iter();
    for (instruction, _) in instructions.zip(0..SLOTS) {
        for word in [instruction, RET] {
            if let Some(place) = words.next() {
                place.store(word, Ordering::Relaxed);
            }
        }
    }
    let data = CODE.0.as_ptr() as u64;
    for offset in (0..PAGE_SIZE).step_by(16) {
        // SAFETY: Maintenance of lines of the code page, which is mapped at both addresses.
        unsafe {
            asm!("dc cvau, {line}", line = in(reg) data + offset, options(nostack));
        }
    }
    // SAFETY: Barriers between the maintenance of the two caches.
    unsafe { asm!("dsb ish", options(nostack)) };
    for offset in (0..PAGE_SIZE).step_by(16) {
        // SAFETY: As above.
        unsafe {
            asm!("ic ivau, {line}", line = in(reg) code + offset, options(nostack));
        }
    }
    // SAFETY: As above.
    unsafe { asm!("dsb ish", "isb", options(nostack)) };
}

/// Runs the instruction in `slot` with `x0`; what x0 holds then, and the exception that came.
fn run(code: u64, slot: usize, x0: u64) -> (u64, Option<Exception>) {
    let mut value = x0;
    // SAFETY: The slot holds one instruction that touches x0 and system state only, and a return to x30. Whatever state
    // it changes is the guest's own and stays as it was, or was meant to be changed.
    let exception = unsafe {
        attempt!(
            ["mov x30, x17", "br {address}"],
            address = in(reg) code + 8 * slot as u64,
            inout("x0") value,
            clobber_abi("C")
        )
    };
    (value, exception)
}
