//! A guest that touches device registers in every form of load and store: those that a hypervisor can emulate from
//! their syndrome do what the instruction says, and the others end in an abort; so does every access where nothing is.
#![no_std]
#![no_main]

use abi::{Ipa, VirtAddr};
use core::arch::asm;
use payloads::gic::Gic;
use payloads::memory::Kind;
use payloads::mmio::{read8, read16, read32, read64, write8, write16, write32, write64};
use payloads::probe::{Access, Outcome, enable_simd, has_lse, probe};
use payloads::report::Report;
use payloads::vectors::{EC_DATA_ABORT, EC_INSTRUCTION_ABORT, Exception};
use payloads::{Machine, hypervisor, payload, println};

/// UARTIBRD: sixteen bits that can be written, and that matter to nobody here.
const UART_IBRD: u64 = 0x24;
/// UARTPCellID1 reads 0xf0.
const UART_PCELL_ID1: u64 = 0xff4;
/// UARTFR, whose reading changes nothing.
const UART_FR: u64 = 0x18;
/// GICD_IPRIORITYR<15>: the priorities of SPIs 60 to 63, which nobody raises.
const GICD_IPRIORITYR: u64 = 0x400 + 60;
/// GICD_IROUTER<63>.
const GICD_IROUTER: u64 = 0x6000 + 8 * 63;
/// GICD_IROUTER.Interrupt_Routing_Mode.
const ROUTE_ANY: u64 = 1 << 31;
/// Addresses below 1 GiB where neither QEMU's board nor a guest has anything.
const NOTHING: [u64; 2] = [0x0b00_0000, 0x0bff_f000];
/// ISS.DFSC and IFSC of a synchronous external abort.
const EXTERNAL_ABORT: u64 = 0x10;
/// ISS.DFSC of an alignment fault, which DC ZVA and exclusives may meet in device memory before anything else.
const ALIGNMENT_FAULT: u64 = 0x21;
/// ISS.DFSC of an IMPLEMENTATION DEFINED fault: unsupported exclusive or atomic access.
const UNSUPPORTED_EXCLUSIVE: u64 = 0x35;

payload!(mmio);

fn mmio(machine: &mut Machine) {
    println!("mmio: loads and stores of device registers");
    let mut report = Report::begin("mmio");
    enable_simd();
    let platform = machine.platform.clone();
    let (Some(uart), Some(regions)) = (platform.uart, &platform.gic) else {
        report.check("mmio.devices", false, format_args!("no PL011, or no GICv3"));
        return report.end();
    };
    if let Err(error) = Gic::open(regions, &mut machine.address_space) {
        report.check("mmio.devices", false, format_args!("{error:?}"));
        return report.end();
    }
    loads(&mut report, uart.raw(), regions.distributor.start);
    stores(&mut report, uart.raw(), regions.distributor.start);
    nothing_there(&mut report, machine);
    // The bare board emulates them all.
    let hypervisor = hypervisor::is_present();
    if hypervisor {
        without_syndrome(&mut report, machine, uart);
    }
    report.value("mmio.below-a-hypervisor", hypervisor.into());
    report.end();
}

/// A load by one instruction into a register that held ones; `address` must be that of a register of this width.
macro_rules! load {
    ($instruction:literal, $address:expr) => {{
        let mut value = u64::MAX;
        // SAFETY: Registers of the PL011 and the distributor, mapped, whose reading has no effect.
        unsafe { asm!($instruction, value = inout(reg) value, address = in(reg) $address, options(nostack)) };
        value
    }};
}

/// Widths, extension and register sizes of loads.
fn loads(report: &mut Report, uart: u64, distributor: u64) {
    let (priorities, router) = (distributor + GICD_IPRIORITYR, distributor + GICD_IROUTER);
    // SAFETY: Registers of the two devices, mapped; neither the divisor nor the SPI is used.
    unsafe {
        write32(uart + UART_IBRD, 0x8421);
        write32(priorities, 0xf0a0_8010);
        write64(router, ROUTE_ANY);
    }
    let (cell, divisor) = (uart + UART_PCELL_ID1, uart + UART_IBRD);
    let values = [
        ("ldrb", load!("ldrb {value:w}, [{address}]", cell), 0xf0),
        ("ldrsb-w", load!("ldrsb {value:w}, [{address}]", cell), 0xffff_fff0),
        ("ldrsb-x", load!("ldrsb {value}, [{address}]", cell), 0xffff_ffff_ffff_fff0),
        ("ldrh", load!("ldrh {value:w}, [{address}]", divisor), 0x8421),
        ("ldrsh-w", load!("ldrsh {value:w}, [{address}]", divisor), 0xffff_8421),
        ("ldrsh-x", load!("ldrsh {value}, [{address}]", divisor), 0xffff_ffff_ffff_8421),
        ("ldr-w", load!("ldr {value:w}, [{address}]", priorities), 0xf0a0_8010),
        ("ldrsw", load!("ldrsw {value}, [{address}]", priorities), 0xffff_ffff_f0a0_8010),
        ("ldr-x", load!("ldr {value}, [{address}]", router), ROUTE_ANY),
        ("ldur-w", load!("ldur {value:w}, [{address}, #-4]", priorities + 4), 0xf0a0_8010),
        ("ldar-w", load!("ldar {value:w}, [{address}]", priorities), 0xf0a0_8010),
        ("byte-0", load!("ldrb {value:w}, [{address}]", priorities), 0x10),
        ("byte-1", load!("ldrb {value:w}, [{address}, #1]", priorities), 0x80),
        ("byte-2", load!("ldrsb {value}, [{address}, #2]", priorities), 0xffff_ffff_ffff_ffa0),
        ("byte-3", load!("ldrsb {value:w}, [{address}, #3]", priorities), 0xffff_fff0),
    ];
    for (name, seen, expected) in values {
        report.check_in("mmio.load", name, seen == expected, format_args!("{seen:#x}, not {expected:#x}"));
    }
    // What is loaded into the zero register is lost, and the stack pointer, which has its number, is kept.
    let (before, after): (u64, u64);
    // SAFETY: As for `load`.
    unsafe {
        asm!(
            "mov {before}, sp",
            "ldr wzr, [{address}]",
            "ldr xzr, [{router}]",
            "mov {after}, sp",
            before = out(reg) before,
            after = out(reg) after,
            address = in(reg) priorities,
            router = in(reg) router,
            options(nostack)
        );
    }
    report.check("mmio.load.zero-register", before == after, format_args!("SP {before:#x} became {after:#x}"));
}

/// Widths of stores, and the zero register.
fn stores(report: &mut Report, uart: u64, distributor: u64) {
    let (priorities, router) = (distributor + GICD_IPRIORITYR, distributor + GICD_IROUTER);
    let mut expect = |name: &str, seen: u64, expected: u64| {
        report.check_in("mmio.store", name, seen == expected, format_args!("{seen:#x}, not {expected:#x}"));
    };
    // SAFETY: As in `loads`.
    unsafe {
        write32(priorities, 0);
        write8(priorities + 1, 0xa0);
        expect("strb", read32(priorities).into(), 0xa000);
        write8(priorities + 3, 0x80);
        expect("strb-last", read32(priorities).into(), 0x8000_a000);
        expect("strb-read-back", read8(priorities + 3).into(), 0x80);
        write16(uart + UART_IBRD, 0x1234);
        expect("strh", read16(uart + UART_IBRD).into(), 0x1234);
        // The divisor has sixteen bits; the register that is stored has more.
        asm!("strh {value:w}, [{address}]", value = in(reg) 0xffff_ffff_ffff_4321u64, address = in(reg) uart + UART_IBRD, options(nostack));
        expect("strh-of-wide-register", read32(uart + UART_IBRD).into(), 0x4321);
        asm!("str {value:w}, [{address}]", value = in(reg) 0xffff_ffff_1020_3040u64, address = in(reg) priorities, options(nostack));
        expect("str-w-of-wide-register", read32(priorities).into(), 0x1020_3040);
        write64(router, 1);
        expect("str-x", read64(router), 1);
        asm!("str xzr, [{address}]", address = in(reg) router, options(nostack));
        expect("str-xzr", read64(router), 0);
        asm!("str wzr, [{address}]", address = in(reg) priorities, options(nostack));
        expect("str-wzr", read32(priorities).into(), 0);
        asm!("stlr {value:w}, [{address}]", value = in(reg) 0x4030_2010, address = in(reg) priorities, options(nostack));
        expect("stlr-w", read32(priorities).into(), 0x4030_2010);
    }
}

/// True for the abort that a device access ends in where it cannot be done: one of these, at `address`.
fn is_abort(exception: &Exception, address: VirtAddr, statuses: &[u64]) -> bool {
    matches!(exception.class(), EC_DATA_ABORT | EC_INSTRUCTION_ABORT)
        && statuses.contains(&(exception.esr & 0x3f))
        && exception.far == address.raw()
}

/// Whether this form of access is to be tried where CPUs may lack it.
fn is_available(access: Access) -> bool {
    has_lse() || !access.needs_lse()
}

/// Every form of access where nothing is.
fn nothing_there(report: &mut Report, machine: &mut Machine) {
    for address in NOTHING {
        for access in Access::ALL.into_iter().filter(|access| is_available(*access) && !access.is_maintenance()) {
            // DC ZVA of device memory, and exclusives, have faults of their own, on the bare board too.
            let kind = match access {
                Access::Execute => Kind::Code,
                _ if access.has_syndrome() => Kind::Device,
                _ => Kind::Data,
            };
            let Ok(window) = machine.address_space.open_window(Ipa::new(address), kind) else { continue };
            // SAFETY: Nothing is there; the access aborts.
            let outcome = unsafe { probe(access, window) };
            let right =
                matches!(&outcome, Outcome::Exception(exception) if is_abort(exception, window, &[EXTERNAL_ABORT]));
            report.check_in("mmio.nothing-there", access.name(), right, format_args!("{outcome} at {address:#x}"));
        }
    }
}

/// Forms that cannot be emulated abort, and leave the device as it was.
fn without_syndrome(report: &mut Report, machine: &mut Machine, uart: Ipa) {
    // SAFETY: A register of the PL011, mapped, and its divisor is not used.
    unsafe { write32(uart.raw() + UART_IBRD, 0x1111) };
    for access in Access::ALL {
        if !is_available(access) || access.has_syndrome() || access.is_maintenance() || access == Access::Execute {
            continue;
        }
        let Ok(window) = machine.address_space.open_window(uart, Kind::Device) else { continue };
        let Some(address) = window.checked_add(UART_FR) else { continue };
        // SAFETY: Neither the PL011's flags nor what lies beside them can be written; the access aborts.
        let outcome = unsafe { probe(access, address) };
        let statuses = [EXTERNAL_ABORT, ALIGNMENT_FAULT, UNSUPPORTED_EXCLUSIVE];
        let right = matches!(&outcome, Outcome::Exception(exception)
            if exception.class() == EC_DATA_ABORT && statuses.contains(&(exception.esr & 0x3f)));
        report.check_in("mmio.not-emulable", access.name(), right, format_args!("{outcome}"));
    }
    write_back(report, machine, uart);
    machine.address_space.close_window();
    // SAFETY: As above.
    let after = unsafe { read32(uart.raw() + UART_IBRD) };
    report.check("mmio.not-emulable.device-as-it-was", after == 0x1111, format_args!("UARTIBRD {after:#x}"));
}

/// Loads and stores that move their base register abort, and have not moved it.
fn write_back(report: &mut Report, machine: &mut Machine, uart: Ipa) {
    let Ok(window) = machine.address_space.open_window(uart, Kind::Device) else { return };
    let start = window.raw() + UART_IBRD;
    let (mut base, mut value) = (start, 7u64);
    // SAFETY: The load is of a register whose reading has no effect; it aborts.
    let exception = unsafe {
        payloads::attempt!(["ldr {value:w}, [{base}, #4]!"], base = inout(reg) base, value = inout(reg) value)
    };
    let right = exception.is_some_and(|exception| is_abort(&exception, VirtAddr::new(start + 4), &[EXTERNAL_ABORT]));
    report.check(
        "mmio.not-emulable.pre-index",
        right && (base, value) == (start, 7),
        format_args!("base {base:#x}, value {value:#x}"),
    );
    /// One that moves it afterwards.
    macro_rules! post_index {
        ($name:literal, $instruction:literal) => {{
            let (mut base, mut value) = (start, 7u64);
            // SAFETY: The register is the divisor's, which is not used; the access aborts.
            let exception = unsafe {
                payloads::attempt!([$instruction], base = inout(reg) base, value = inout(reg) value)
            };
            let aborts = [EXTERNAL_ABORT, ALIGNMENT_FAULT];
            let right = exception.is_some_and(|exception| is_abort(&exception, VirtAddr::new(start), &aborts));
            let seen = format_args!("base {base:#x}, value {value:#x}");
            report.check_in("mmio.not-emulable", $name, right && (base, value) == (start, 7), seen);
        }};
    }
    post_index!("store-post-index", "str {value:w}, [{base}], #4");
    post_index!("strh-post-index", "strh {value:w}, [{base}], #2");
    post_index!("strb-post-index", "strb {value:w}, [{base}], #1");
    post_index!("str-x-post-index", "str {value}, [{base}], #8");
    post_index!("ldr-w-post-index", "ldr {value:w}, [{base}], #4");
    post_index!("ldrh-post-index", "ldrh {value:w}, [{base}], #2");
    post_index!("ldrb-post-index", "ldrb {value:w}, [{base}], #1");
    post_index!("ldrsb-w-post-index", "ldrsb {value:w}, [{base}], #1");
    post_index!("ldrsb-x-post-index", "ldrsb {value}, [{base}], #1");
    post_index!("ldrsh-w-post-index", "ldrsh {value:w}, [{base}], #2");
    post_index!("ldrsh-x-post-index", "ldrsh {value}, [{base}], #2");
    post_index!("ldrsw-post-index", "ldrsw {value}, [{base}], #4");
    post_index!("strb-pre-index", "strb {value:w}, [{base}, #0]!");
    let mut base = start;
    // SAFETY: The store aborts.
    let exception = unsafe { payloads::attempt!(["stp wzr, wzr, [{base}], #8"], base = inout(reg) base) };
    let right = exception.is_some_and(|exception| is_abort(&exception, VirtAddr::new(start), &[EXTERNAL_ABORT]));
    report.check("mmio.not-emulable.post-index-pair", right && base == start, format_args!("base {base:#x}"));
}
