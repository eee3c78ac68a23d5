//! System registers: every encoding is read, what can be read is written back, and what could reach beyond the guest is
//! written with ones. Each ends in a value or in an exception that a kernel expects; in a guest of Freehold's in what
//! the table of [`abi::guest_register`] says.

use abi::guest_register::{Policy, policy};
use abi::system_register::SystemRegister;
use abi::{Ipa, PAGE_SIZE};
use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};
use payloads::memory::Kind;
use payloads::report::Report;
use payloads::vectors::{EC_DATA_ABORT, EC_FP, EC_SME, EC_SVE, EC_SYSTEM_REGISTER, EC_UNKNOWN, Exception};
use payloads::{Machine, attempt, hypervisor};

/// MRS x0, with an encoding still to be put in (Arm ARM C6.2).
const MRS_X0: u32 = 0xd530_0000;
/// MSR from x0.
const MSR_X0: u32 = 0xd510_0000;
/// SYS with x0.
const SYS_X0: u32 = 0xd508_0000;
/// SYSL to x0.
const SYSL_X0: u32 = 0xd528_0000;
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

/// The encoding's bits in MRS, MSR, SYS and SYSL.
const fn bits(register: SystemRegister) -> u32 {
    let [op0, op1] = [register.op0() as u32 & 1, register.op1() as u32];
    let [crn, crm, op2] = [register.crn() as u32, register.crm() as u32, register.op2() as u32];
    op0 << 19 | op1 << 16 | crn << 12 | crm << 8 | op2 << 5
}

/// Registers that reach beyond the guest, or would if nobody kept them from it.
const DANGEROUS: [SystemRegister; 24] = [
    SystemRegister::new(2, 0, 1, 0, 4),   // OSLAR_EL1
    SystemRegister::new(2, 0, 1, 3, 4),   // OSDLR_EL1
    SystemRegister::new(2, 0, 0, 2, 2),   // MDSCR_EL1
    SystemRegister::new(2, 0, 0, 0, 4),   // DBGBVR0_EL1
    SystemRegister::new(2, 0, 0, 0, 5),   // DBGBCR0_EL1
    SystemRegister::new(2, 0, 0, 0, 6),   // DBGWVR0_EL1
    SystemRegister::new(2, 0, 0, 0, 7),   // DBGWCR0_EL1
    SystemRegister::new(3, 3, 9, 12, 0),  // PMCR_EL0
    SystemRegister::new(3, 3, 9, 12, 1),  // PMCNTENSET_EL0
    SystemRegister::new(3, 3, 14, 15, 7), // PMCCFILTR_EL0
    SystemRegister::new(3, 0, 9, 9, 0),   // PMSCR_EL1
    SystemRegister::new(3, 0, 9, 11, 0),  // TRBLIMITR_EL1
    SystemRegister::new(3, 0, 1, 2, 1),   // TRFCR_EL1
    SystemRegister::new(3, 0, 1, 0, 1),   // ACTLR_EL1
    SystemRegister::new(3, 0, 12, 11, 5), // ICC_SGI1R_EL1
    SystemRegister::new(3, 0, 12, 11, 6), // ICC_ASGI1R_EL1
    SystemRegister::new(3, 0, 12, 11, 7), // ICC_SGI0R_EL1
    SystemRegister::new(3, 0, 12, 11, 1), // ICC_DIR_EL1
    SystemRegister::new(3, 0, 12, 12, 1), // ICC_EOIR1_EL1
    SystemRegister::new(3, 0, 12, 12, 5), // ICC_SRE_EL1
    SystemRegister::new(3, 3, 14, 2, 2),  // CNTP_CVAL_EL0
    SystemRegister::new(3, 3, 14, 2, 1),  // CNTP_CTL_EL0
    SystemRegister::new(3, 3, 14, 0, 0),  // CNTFRQ_EL0
    SystemRegister::new(3, 7, 14, 2, 1),  // CNTPS_CTL_EL1
];

/// Every attack by registers. `guest` says that there is a hypervisor.
pub fn attack(machine: &mut Machine, report: &mut Report, guest: bool) {
    let code = match machine.address_space.open_window(Ipa::new(CODE.0.as_ptr() as u64), Kind::Code) {
        Ok(window) => window.raw(),
        Err(error) => panic!("the code page cannot be mapped: {error:?}"),
    };
    let promised = hypervisor::is_freehold();
    let mut sweep = Sweep { code, promised, readable: 0, tried: 0, wrong: None };
    for op0 in [2, 3] {
        sweep.registers(op0);
    }
    sweep.conclude(report, "read");
    report.value("attacker.readable-registers", sweep.readable);
    sweep.instructions();
    sweep.conclude(report, "system-instructions");
    report.value("attacker.judged-by-the-table", if promised { sweep.tried } else { 0 });
    if guest {
        sweep.write_ones();
        sweep.conclude(report, "write-ones");
        hidden(code, report);
    }
    machine.address_space.close_window();
}

/// What is wrong with an access: its encoding, and the value that was read or the exception that came.
type Wrong = (SystemRegister, Result<u64, Exception>);

/// Goes over many encodings and remembers the first wrong outcome.
struct Sweep {
    code: u64,
    /// The table of Freehold's guests holds.
    promised: bool,
    /// Registers that could be read.
    readable: u64,
    /// Accesses.
    tried: u64,
    wrong: Option<Wrong>,
}

impl Sweep {
    fn judge(&mut self, register: SystemRegister, exception: Option<Exception>, expected: &[u64]) {
        let Some(exception) = exception else { return };
        if !expected.contains(&exception.class()) && self.wrong.is_none() {
            self.wrong = Some((register, Err(exception)));
        }
    }

    /// Holds an access against the table.
    fn judge_by_table(&mut self, register: SystemRegister, is_read: bool, value: u64, exception: Option<Exception>) {
        self.tried += 1;
        let policy = policy(register, is_read);
        let right = match (policy, exception) {
            (Policy::Undefined, None) => false,
            // SVE and SME are off by CPACR_EL1 too; and with FEAT_IDST a CPU says what was UNDEFINED among ID registers.
            (Policy::Undefined, Some(exception)) => {
                let is_identity = register.op0() == 3 && register.crn() == 0;
                matches!(exception.class(), EC_UNKNOWN | EC_SVE | EC_SME)
                    || is_identity && exception.class() == EC_SYSTEM_REGISTER
            }
            // A CPU may lack it; a system instruction has met an address that is not mapped.
            (Policy::Own | Policy::PointerAuthenticationKey, Some(exception)) => {
                exception.class() == EC_UNKNOWN || register.op0() == 1 && exception.class() == EC_DATA_ABORT
            }
            // Of debug registers a CPU has as many as it has breakpoints and watchpoints.
            (Policy::Zero, Some(exception)) => register.op0() == 2 && exception.class() == EC_UNKNOWN,
            (Policy::Zero, None) if is_read => value == 0,
            (_, exception) => exception.is_none(),
        };
        if !right && self.wrong.is_none() {
            self.wrong = Some((register, exception.map_or(Ok(value), Err)));
        }
    }

    /// Reads every register with `op0`, and writes back what could be read; where the table holds, writes zero to those
    /// that are not to be written.
    fn registers(&mut self, op0: u8) {
        const EXPECTED: [u64; 5] = [EC_UNKNOWN, EC_FP, EC_SYSTEM_REGISTER, EC_SVE, EC_SME];
        let mut rest = SystemRegister::all(op0);
        loop {
            let some = rest.clone().take(SLOTS / 2);
            load(some.clone().flat_map(|register| [MRS_X0 | bits(register), MSR_X0 | bits(register)]), self.code);
            for (index, register) in some.enumerate() {
                let (value, exception) = run(self.code, index * 2, 0);
                if self.promised {
                    self.judge_by_table(register, true, value, exception);
                } else {
                    self.judge(register, exception, &EXPECTED);
                }
                self.readable += u64::from(exception.is_none());
                let forbidden = self.promised && policy(register, false) == Policy::Undefined;
                if exception.is_some() && !forbidden {
                    continue;
                }
                let (value, exception) = run(self.code, index * 2 + 1, if exception.is_none() { value } else { 0 });
                if self.promised {
                    self.judge_by_table(register, false, value, exception);
                } else {
                    self.judge(register, exception, &EXPECTED);
                }
            }
            if rest.nth(SLOTS / 2 - 1).is_none() {
                break;
            }
        }
    }

    /// Executes every system instruction, those with an operand with zero, an address that is not mapped.
    fn instructions(&mut self) {
        const EXPECTED: [u64; 3] = [EC_UNKNOWN, EC_SYSTEM_REGISTER, EC_DATA_ABORT];
        for (is_read, instruction) in [(false, SYS_X0), (true, SYSL_X0)] {
            let mut rest = SystemRegister::all(1);
            loop {
                let some = rest.clone().take(SLOTS);
                load(some.clone().map(|register| instruction | bits(register)), self.code);
                for (index, register) in some.enumerate() {
                    let (value, exception) = run(self.code, index, 0);
                    if self.promised {
                        self.judge_by_table(register, is_read, value, exception);
                    } else {
                        self.judge(register, exception, &EXPECTED);
                    }
                }
                if rest.nth(SLOTS - 1).is_none() {
                    break;
                }
            }
        }
    }

    /// Writes ones where it could hurt somebody else, then what would be there without that.
    fn write_ones(&mut self) {
        load(DANGEROUS.into_iter().map(|encoding| MSR_X0 | bits(encoding)), self.code);
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
            Some((register, Ok(value))) => {
                report.check_in("registers", name, false, format_args!("{register}: done, {value:#x}"));
            }
            Some((register, Err(exception))) => {
                report.check_in("registers", name, false, format_args!("{register}: {exception}"));
            }
        }
    }
}

/// What a protected guest is not to find: SVE, SME, MTE, the performance monitors.
fn hidden(code: u64, report: &mut Report) {
    let gcr = MRS_X0 | bits(SystemRegister::new(3, 0, 1, 0, 6));
    let pmcr = MRS_X0 | bits(SystemRegister::new(3, 3, 9, 12, 0));
    let cpacr = MSR_X0 | bits(SystemRegister::new(3, 0, 1, 0, 2));
    let pfr0 = MRS_X0 | bits(SystemRegister::new(3, 0, 0, 4, 0));
    let pfr1 = MRS_X0 | bits(SystemRegister::new(3, 0, 0, 4, 1));
    let dfr0 = MRS_X0 | bits(SystemRegister::new(3, 0, 0, 5, 0));
    let mmfr0 = MRS_X0 | bits(SystemRegister::new(3, 0, 0, 7, 0));
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
