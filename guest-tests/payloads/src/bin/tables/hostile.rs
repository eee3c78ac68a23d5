//! Tables where there are none: the entries of the first and the second level point to devices, to holes, to where others'
//! memory may be, and beyond all addresses.

use crate::entries::{
    DATA, REGION, TABLE, Table, abort_status, address_size_fault, behind, enter, flush, is_external_on_walk, table_at,
};
use abi::{Ipa, VirtAddr};
use payloads::probe::{Access, Outcome, Width, has_lse, probe};
use payloads::report::Report;
use payloads::{Machine, attempt};

/// The devices of QEMU's board, of which a guest has some: distributor, redistributors, console, clock; and holes.
const BELOW: [u64; 7] = [0, 0x0800_0000, 0x080a_0000, 0x0900_0000, 0x0901_0000, 0x0b00_0000, 0x3fff_f000];
/// Where RAM of the host's, of another guest's or of hyp's is on a board of any size, as distances from the start of
/// RAM that are beyond a small guest's own.
const BEYOND_OWN: [u64; 8] =
    [0x200_0000, 0xfff_f000, 0x1000_0000, 0x3f00_0000, 0x3fe0_0000, 0x3fff_f000, 0x7fff_f000, 0xbfff_f000];
/// Beyond every guest's address space, and beyond what CPUs have.
const NOWHERE: [u64; 4] = [1 << 40, 1 << 44, 1 << 47, 0xffff_ffff_f000];

/// A walk may read what a table of another level holds, so the pages are apart.
static LEVEL2: Table = Table::new();
static LEVEL3: Table = Table::new();
/// A page to find behind good tables.
static PAGE: Table = Table::new();

/// What may come of a walk that reads a table's entry at `level` from where nothing of the guest's is.
#[derive(Clone, Copy)]
struct Walk {
    level: u64,
    /// The address may be beyond what the CPU has.
    beyond: bool,
    guest: bool,
}

impl Walk {
    fn is_right(self, outcome: &Outcome, address: VirtAddr) -> bool {
        // On a bare machine a device may answer, and what it answers may be anything.
        let Some(status) = abort_status(outcome, address) else { return false };
        // The descriptor with the address was found one level higher.
        let too_wide = self.beyond && status == address_size_fault(self.level - 1);
        is_external_on_walk(status, self.level) || too_wide || !self.guest
    }
}

/// Every access by tables at every such address, on two levels.
pub fn attack(machine: &mut Machine, report: &mut Report, guest: bool) {
    let ram = machine.platform.memory.clone();
    let beyond_own = BEYOND_OWN.map(|distance| ram.start + distance);
    for (name, addresses, beyond) in [
        ("device-or-hole", &BELOW[..], false),
        ("foreign-memory", &beyond_own[..], true),
        ("nowhere", &NOWHERE[..], true),
    ] {
        if !guest && !beyond {
            // There they are the payload's own, and a walk may read registers whose reading has an effect.
            continue;
        }
        for level in [2, 3] {
            let walk = Walk { level, beyond, guest };
            let mut wrong = None;
            let targets = addresses.iter().filter(|address| !ram.contains(address));
            for target in targets.map(|address| Ipa::new(*address)) {
                lead(level, table_at(target));
                for access in Access::ALL.into_iter().filter(|access| has_lse() || !access.needs_lse()) {
                    let address = behind(0, 0, 0);
                    // SAFETY: Behind the slot is nothing of the payload's; where a walk finds something all the same,
                    // that is the failure to show.
                    let outcome = unsafe { probe(access, address) };
                    // Maintenance by address need not touch anything.
                    let is_idle = access.is_maintenance() && matches!(outcome, Outcome::Done(_));
                    if !is_idle && !walk.is_right(&outcome, address) {
                        wrong.get_or_insert((access, target, outcome));
                    }
                }
            }
            let group = if level == 2 { "tables.at-level-2" } else { "tables.at-level-3" };
            match wrong {
                None => report.check_in(group, name, true, format_args!("")),
                Some((access, target, outcome)) => {
                    report.check_in(group, name, false, format_args!("{} by {target}: {outcome}", access.name()));
                }
            }
            report.check_in(group, "recovered", recovers(), format_args!("after {name}"));
        }
    }
    if guest {
        address_translation(report);
        unaligned(report);
    }
    enter(0);
}

/// Has the walk read an entry of this level by `descriptor`.
fn lead(level: u64, descriptor: u64) {
    if level == 2 {
        enter(descriptor);
    } else {
        LEVEL2.only(0, descriptor);
        enter(LEVEL2.descriptor());
    }
}

/// True where good tables work again at the same place.
fn recovers() -> bool {
    LEVEL2.only(0, LEVEL3.descriptor());
    LEVEL3.only(0, PAGE.address() | DATA | TABLE);
    enter(LEVEL2.descriptor());
    // SAFETY: The page is there for this, and mapped there.
    let outcome = unsafe { probe(Access::Load(Width::Doubleword), behind(0, 0, 0)) };
    outcome == Outcome::Done(0)
}

/// The instructions that translate an address fault as the walk does, or say so in PAR_EL1.
fn address_translation(report: &mut Report) {
    let mut wrong = None;
    for target in BELOW.into_iter().chain(NOWHERE) {
        lead(3, table_at(Ipa::new(target)));
        let mut par: u64 = 0;
        // SAFETY: Changes PAR_EL1 alone.
        let exception = unsafe {
            attempt!(
                ["at s1e1r, {address}", "isb", "mrs {par}, par_el1"],
                address = in(reg) REGION,
                par = inout(reg) par
            )
        };
        let right = exception.map_or(par & 1 != 0, |exception| exception.is_abort());
        if !right {
            wrong.get_or_insert((target, par));
        }
    }
    let (target, par) = wrong.unwrap_or_default();
    report.check("tables.address-translation", wrong.is_none(), format_args!("{target:#x}: PAR_EL1 {par:#x}"));
}

/// A load whose first half is behind good tables and whose second half is not.
fn unaligned(report: &mut Report) {
    LEVEL2.fill(0..2, |index| if index == 0 { LEVEL3.descriptor() } else { table_at(Ipa::new(BELOW[3])) });
    LEVEL3.fill(0..512, |_| PAGE.address() | DATA | TABLE);
    enter(LEVEL2.descriptor());
    flush();
    let address = behind(0, 511, 0xffc);
    // SAFETY: A load changes nothing.
    let outcome = unsafe { probe(Access::Load(Width::Doubleword), address) };
    let second = behind(1, 0, 0);
    let status = abort_status(&outcome, second).or_else(|| abort_status(&outcome, address));
    let right = status.is_some_and(|status| is_external_on_walk(status, 3));
    report.check("tables.half-of-an-access", right, format_args!("{outcome}"));
}
