//! Tables of odd shapes: one that is its own table at every level, blocks beside pages, the contiguous bit where it does not
//! belong, and the access flag and dirty state in the hardware's hands.

use crate::entries::{
    AF, BLOCK, CODE, CONTIGUOUS, DATA, DBM, ENTRIES, READ_ONLY, REGION, TABLE, Table, abort_status, access_flag_fault,
    behind, enter, flush, permission_fault, root,
};
use aarch64_cpu::registers::{ID_AA64MMFR1_EL1, Readable, TCR_EL1, Writeable};
use abi::VirtAddr;
use core::ops::Range;
use core::sync::atomic::Ordering;
use payloads::probe::{Access, Outcome, Width, probe};
use payloads::report::Report;

/// TCR_EL1.HA and HD.
const TCR_HA: u64 = 1 << 39;
const TCR_HD: u64 = 1 << 40;
/// Entries that the contiguous bit joins at level 3.
const CONTIGUOUS_ENTRIES: usize = 16;
/// Bytes of a block of level 2.
const BLOCK_SIZE: u64 = 1 << 21;
/// FSC of a TLB conflict abort.
const TLB_CONFLICT: u64 = 0x30;
/// What is in the first of the blocks that the contiguous bit may join.
const FIRST: u64 = 0xb10c;
/// The load that the checks make.
const LOAD: Access = Access::Load(Width::Doubleword);
/// A store.
const STORE: Access = Access::Store(Width::Doubleword);

static LEVEL2: Table = Table::new();
static LEVEL3: Table = Table::new();
static PAGES: &[Table; CONTIGUOUS_ENTRIES] = &ALIGNED.0;
static ALIGNED: Aligned = Aligned([const { Table::new() }; CONTIGUOUS_ENTRIES]);

/// Pages at a multiple of their common size: where the contiguous bit joins some of them, it leads to one of them.
#[repr(C, align(0x1_0000))]
struct Aligned([Table; CONTIGUOUS_ENTRIES]);

/// See the module. `ram` is the guest's.
pub fn attack(report: &mut Report, ram: Range<u64>) {
    for (index, page) in PAGES.iter().enumerate() {
        page.0[0].store(index as u64, Ordering::Relaxed);
    }
    itself(report);
    blocks(report, ram);
    contiguous(report);
    hardware_updates(report);
    enter(0);
}

fn load(address: VirtAddr) -> Outcome {
    // SAFETY: A load changes nothing.
    unsafe { probe(LOAD, address) }
}

/// The root is its own table of level 2 and of level 3, and its own page.
fn itself(report: &mut Report) {
    let index = REGION >> 30;
    let descriptor = root() | DATA | TABLE;
    enter(descriptor);
    let address = behind(index, index, index * 8);
    let outcome = load(address);
    report.check("tables.itself.page", outcome == Outcome::Done(descriptor), format_args!("{outcome}"));
    enter(descriptor & !AF);
    let outcome = load(address);
    let right = abort_status(&outcome, address) == Some(access_flag_fault(3));
    report.check("tables.itself.access-flag", right, format_args!("{outcome}"));
}

/// Blocks of all of memory and more, with pages beside them: what is the guest's is reached, and nothing else is.
fn blocks(report: &mut Report, ram: Range<u64>) {
    let gibibyte = ram.start & !((1 << 30) - 1);
    let own = PAGES[3].address();
    enter(gibibyte | DATA | BLOCK);
    let outcome = load(VirtAddr::new(REGION + (own - gibibyte)));
    report.check("tables.block-of-1-gib.own", outcome == Outcome::Done(3), format_args!("{outcome}"));
    let beyond = VirtAddr::new(REGION + (1 << 30) - 8);
    let outcome = load(beyond);
    let right = ram.end >= gibibyte + (1 << 30) || abort_status(&outcome, beyond) == Some(0x10);
    report.check("tables.block-of-1-gib.beyond", right, format_args!("{outcome}"));
    LEVEL2.only(0, (own & !((1 << 21) - 1)) | DATA | BLOCK);
    LEVEL2.0[1].store(LEVEL3.descriptor(), Ordering::Relaxed);
    LEVEL3.fill(0..ENTRIES, |index| PAGES[index as usize % CONTIGUOUS_ENTRIES].address() | DATA | TABLE);
    enter(LEVEL2.descriptor());
    let seen = [load(VirtAddr::new(REGION + (own & ((1 << 21) - 1)))), load(behind(1, 3, 0)), load(behind(1, 511, 0))];
    let expected = [3, 3, 15].map(Outcome::Done);
    report.check("tables.blocks-beside-pages", seen == expected, format_args!("{} {} {}", seen[0], seen[1], seen[2]));
}

/// The contiguous bit on entries that do not belong together: a CPU may join them or not, and either leads to memory of
/// the guest's that is known.
fn contiguous(report: &mut Report) {
    let page = |index: u64| index * 7 % CONTIGUOUS_ENTRIES as u64;
    LEVEL3.fill(0..ENTRIES, |index| {
        let joined = if index % 3 == 0 { CONTIGUOUS } else { 0 };
        PAGES[page(index) as usize].address() | DATA | TABLE | joined
    });
    LEVEL2.only(0, LEVEL3.descriptor());
    enter(LEVEL2.descriptor());
    let wrong =
        (0..32).find_map(|index| neither(behind(0, index, 0), [page(index), index % CONTIGUOUS_ENTRIES as u64]));
    report.check("tables.contiguous-pages", wrong.is_none(), format_args!("{}", wrong.unwrap_or(Outcome::Done(0))));
    let (own, offset) = (PAGES[5].address() & !(BLOCK_SIZE - 1), PAGES[5].address() & (BLOCK_SIZE - 1));
    let address = behind(0, 0, offset);
    LEVEL2.only(0, own & !(CONTIGUOUS_ENTRIES as u64 * BLOCK_SIZE - 1) | DATA | BLOCK);
    enter(LEVEL2.descriptor());
    // SAFETY: This is RAM below the image, as far from its start as the page is from the image's: the device tree, which
    // is there, ends long before.
    unsafe { (address.raw() as *mut u64).write_volatile(FIRST) };
    LEVEL2.fill(0..CONTIGUOUS_ENTRIES, |_| own | DATA | BLOCK | CONTIGUOUS);
    enter(LEVEL2.descriptor());
    let wrong = neither(address, [5, FIRST]);
    report.check("tables.contiguous-blocks", wrong.is_none(), format_args!("{}", wrong.unwrap_or(Outcome::Done(0))));
}

/// What a load comes to, unless it finds one of two words, or the CPU that entries of its TLB contradict each other.
fn neither(address: VirtAddr, words: [u64; 2]) -> Option<Outcome> {
    let outcome = load(address);
    let right = words.map(Outcome::Done).contains(&outcome) || abort_status(&outcome, address) == Some(TLB_CONFLICT);
    (!right).then_some(outcome)
}

/// The hardware sets the access flag and the dirty state, where the CPU has that, in a page of tables that is the guest's.
fn hardware_updates(report: &mut Report) {
    let support = ID_AA64MMFR1_EL1.get() & 0xf;
    report.value("tables.hardware-updates", support);
    if support == 0 {
        return;
    }
    let tcr = TCR_EL1.get();
    TCR_EL1.set(tcr | TCR_HA | if support >= 2 { TCR_HD } else { 0 });
    LEVEL2.only(0, LEVEL3.descriptor());
    let page = PAGES[1].address() | DATA & !AF | TABLE;
    LEVEL3.fill(0..ENTRIES, |_| 0);
    LEVEL3.fill(0..2, |index| if index == 0 { page } else { page | DBM | READ_ONLY });
    enter(LEVEL2.descriptor());
    flush();
    let outcome = load(behind(0, 0, 0));
    let entry = LEVEL3.0[0].load(Ordering::Relaxed);
    report.check(
        "tables.hardware-updates.access-flag",
        outcome == Outcome::Done(1) && entry == page | AF,
        format_args!("{outcome}, entry {entry:#x}"),
    );
    let address = behind(0, 1, 8);
    // SAFETY: The page is there for this.
    let outcome = unsafe { probe(STORE, address) };
    let entry = LEVEL3.0[1].load(Ordering::Relaxed);
    let right = if support >= 2 {
        outcome == Outcome::Done(0) && entry == (page | DBM | AF)
    } else {
        abort_status(&outcome, address) == Some(permission_fault(3))
    };
    report.check("tables.hardware-updates.dirty", right, format_args!("{outcome}, entry {entry:#x}"));
    TCR_EL1.set(tcr);
    LEVEL3.only(0, PAGES[1].address() | CODE | TABLE);
    flush();
    // SAFETY: The page is there for this.
    let outcome = unsafe { probe(STORE, behind(0, 0, 0)) };
    let right = abort_status(&outcome, behind(0, 0, 0)) == Some(permission_fault(3));
    report.check("tables.read-only", right, format_args!("{outcome}"));
}
