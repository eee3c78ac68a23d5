//! TTBR0_EL1 and TTBR1_EL1 themselves at places where no table is. While TTBR0_EL1 leads nowhere the payload runs at
//! the upper addresses, by the very same tables.

use crate::entries::{address_size_fault, is_external_on_walk, root};
use aarch64_cpu::registers::{Readable, TCR_EL1, TTBR0_EL1, TTBR1_EL1, VBAR_EL1, Writeable};
use abi::VirtAddr;
use core::arch::asm;
use payloads::probe::{Access, Width, probe};
use payloads::report::Report;
use payloads::vectors::Exception;
use payloads::{Machine, attempt};

/// First address of the upper half, of 39 bits.
const UPPER: u64 = 0xffff_ff80_0000_0000;
/// TCR_EL1: T1SZ of 39 bits, walks write-back and inner shareable, a granule of 4 KiB; and EPD1, A1.
const TCR_UPPER: u64 = 25 << 16 | 1 << 24 | 1 << 26 | 3 << 28 | 2 << 30;
const TCR_UPPER_FIELDS: u64 = 0xffff << 16;
/// Where no table is: a device, a hole, what is beyond the guest's memory, and beyond its addresses.
const PLACES: [u64; 5] = [0x0900_0000, 0x0b00_0000, 0x7fff_f000, 1 << 40, 0xffff_ffff_f000];

/// Both registers at every such place.
pub fn attack(machine: &Machine, report: &mut Report, guest: bool) {
    if !guest {
        // On a bare machine devices answer.
        return;
    }
    let tcr = TCR_EL1.get();
    TCR_EL1.set(tcr & !TCR_UPPER_FIELDS & !(3 << 30) | TCR_UPPER);
    let places = PLACES.into_iter().filter(|place| !machine.platform.memory.contains(place));
    for place in places {
        use_upper(place);
        let address = VirtAddr::new(UPPER + 0x1000);
        for (name, access) in [("ttbr1-load", Access::Load(Width::Word)), ("ttbr1-execute", Access::Execute)] {
            // SAFETY: Nothing is mapped there.
            let outcome = unsafe { probe(access, address) };
            let exception = match outcome {
                payloads::probe::Outcome::Exception(exception) => Some(exception),
                payloads::probe::Outcome::Done(_) => None,
            };
            check(report, name, place, exception, address.raw());
        }
    }
    use_upper(root());
    let address = VBAR_EL1.get();
    for place in PLACES.into_iter().filter(|place| !machine.platform.memory.contains(place)) {
        check(report, "ttbr0-load", place, without_lower_half(place, address), address);
    }
    // SAFETY: A load of what is mapped at both addresses.
    let same = unsafe { ((UPPER | address) as *const u64).read_volatile() == (address as *const u64).read_volatile() };
    report.check("tables.roots-recovered", same, format_args!("the halves differ"));
    TCR_EL1.set(tcr);
    use_upper(0);
}

fn check(report: &mut Report, name: &str, place: u64, exception: Option<Exception>, address: u64) {
    let right = exception.is_some_and(|exception| {
        let status = exception.esr & 0x3f;
        let is_walk = is_external_on_walk(status, 1) || status == address_size_fault(0);
        exception.is_abort() && exception.far == address && is_walk
    });
    match exception {
        Some(exception) => report.check_in("tables", name, right, format_args!("{place:#x}: {exception}")),
        None => report.check_in("tables", name, right, format_args!("{place:#x}: no exception")),
    }
}

/// Sets TTBR1_EL1.
fn use_upper(base: u64) {
    TTBR1_EL1.set(base);
    // SAFETY: The CPU walks the tables again.
    unsafe { asm!("isb", "tlbi vmalle1", "dsb nsh", "isb", options(nostack)) };
}

/// Points TTBR0_EL1 to `place`, loads from the lower address, and puts it right again; the upper half has the same tables.
fn without_lower_half(place: u64, address: u64) -> Option<Exception> {
    let lower = TTBR0_EL1.get();
    // SAFETY: Code, stack, vectors and their record are reached at their upper addresses, which the same tables map;
    // what changes is as it was in the end, whether the load aborts or not.
    unsafe {
        attempt!(
            [
                "adr x16, 79f",
                "orr x16, x16, {upper}",
                "br x16",
                "79: mov {stack}, sp",
                "orr x16, {stack}, {upper}",
                "mov sp, x16",
                "mrs {vectors}, vbar_el1",
                "orr x16, {vectors}, {upper}",
                "msr vbar_el1, x16",
                "adr x17, 78f",
                "str x17, [{record}]",
                "msr ttbr0_el1, {place}",
                "isb",
                "tlbi vmalle1",
                "dsb nsh",
                "isb",
                "ldr x16, [{address}]",
                "78: msr ttbr0_el1, {lower}",
                "isb",
                "tlbi vmalle1",
                "dsb nsh",
                "msr vbar_el1, {vectors}",
                "isb",
                "mov sp, {stack}",
                "adr x16, 76f",
                "bic x16, x16, {upper}",
                "br x16",
                "76: nop",
            ],
            upper = in(reg) UPPER,
            stack = out(reg) _,
            vectors = out(reg) _,
            place = in(reg) place,
            lower = in(reg) lower,
            address = in(reg) address
        )
    }
}
