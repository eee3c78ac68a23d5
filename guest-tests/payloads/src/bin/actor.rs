//! A guest that does what it is told through the mailbox of `abi::actor`: calls, loads, stores, fetches, of which it reports
//! what came, waits, and writes to a timer and the interrupt controller. A second vCPU, where there is one, makes calls only.
#![no_std]
#![no_main]

use abi::actor::{ARGUMENT, COMMAND, Command, MAILBOX, MAX_ARGUMENTS, MAX_RESULTS, RESULT, UNABLE};
use abi::{Ipa, PAGE_SIZE, VirtAddr, guest, psci};
use core::arch::asm;
use payloads::attempt;
use payloads::hypervisor::call_status;
use payloads::memory::Kind;
use payloads::probe::{self, Access, Outcome, Width};
use payloads::vectors::EC_UNKNOWN;
use payloads::{Machine, gic, payload, println, secondary, timer};

/// Affinity of the second vCPU.
const SECOND: u64 = 1;

payload!(act);

fn act(machine: &mut Machine) {
    if let Err(error) = machine.address_space.map_device(MAILBOX) {
        println!("actor: no mailbox: {error:?}");
        return;
    }
    // Whoever enrols the guest in the MMIO guard keeps the mailbox and the console. Where there is no guard, it takes none.
    for device in [Some(MAILBOX), machine.platform.uart].into_iter().flatten() {
        call_status(guest::MMIO_GUARD_MAP, [device.raw(), 0, 0]);
    }
    if machine.platform.cpus > 1 {
        // SAFETY: The second CPU has never been on.
        let status = unsafe { secondary::start(&machine.address_space, SECOND, serve_calls, 0) };
        if status != psci::SUCCESS {
            println!("actor: no second CPU: {status}");
        }
    }
    loop {
        serve(|command, arguments| match command {
            Command::Load => load(machine, arguments[0]),
            Command::Store => [store(machine, arguments[0], arguments[1]), 0, 0, 0],
            Command::Execute => [execute(machine, arguments[0]), 0, 0, 0],
            Command::Wait => {
                // SAFETY: WFI only waits, for interrupts that PSTATE masks too.
                unsafe { asm!("wfi", options(nomem, nostack)) };
                [0; MAX_RESULTS]
            }
            Command::SetTimer => {
                (timer::PHYSICAL.set_compare)(arguments[0]);
                [0; MAX_RESULTS]
            }
            Command::SendSgi => {
                gic::send_raw(arguments[0]);
                [0; MAX_RESULTS]
            }
            Command::Call { .. } | Command::Idle => [0; MAX_RESULTS],
        });
    }
}

/// The second vCPU: it has neither the window nor the vectors to itself, so it makes no access that may fail.
extern "C" fn serve_calls(_: u64, _: u64) -> ! {
    loop {
        serve(|_, _| [UNABLE; MAX_RESULTS]);
    }
}

/// Takes one command and answers it; `access` does the accesses.
fn serve(access: impl FnOnce(Command, &[u64; MAX_ARGUMENTS]) -> [u64; MAX_RESULTS]) {
    let command = Command::from_word(read_mailbox(COMMAND));
    let mut arguments = [0; MAX_ARGUMENTS];
    for argument in arguments.iter_mut().take(command.arguments()) {
        *argument = read_mailbox(ARGUMENT);
    }
    let results = match command {
        Command::Call { .. } => call(&arguments),
        _ => access(command, &arguments),
    };
    for result in results.iter().take(command.results()) {
        write_mailbox(RESULT, *result);
    }
}

fn read_mailbox(offset: u64) -> u64 {
    let value;
    // SAFETY: The mailbox is mapped as a device, and reading it changes nothing of the payload's. One plain load is what a
    // hypervisor can emulate.
    unsafe { asm!("ldr {0}, [{1}]", out(reg) value, in(reg) MAILBOX.raw() + offset, options(nostack)) };
    value
}

fn write_mailbox(offset: u64, value: u64) {
    // SAFETY: As for reading.
    unsafe { asm!("str {0}, [{1}]", in(reg) value, in(reg) MAILBOX.raw() + offset, options(nostack)) };
}

/// HVC #0 with x0 to x7; x0 to x3.
fn call(arguments: &[u64; MAX_ARGUMENTS]) -> [u64; MAX_RESULTS] {
    let [mut x0, mut x1, mut x2, mut x3, x4, x5, x6, x7] = *arguments;
    // SAFETY: The host chooses calls that take no memory away that the payload runs in. By SMCCC x18 to x30 and the stack
    // pointer survive the call.
    unsafe {
        asm!(
            "hvc #0",
            inout("x0") x0,
            inout("x1") x1,
            inout("x2") x2,
            inout("x3") x3,
            inout("x4") x4 => _,
            inout("x5") x5 => _,
            inout("x6") x6 => _,
            inout("x7") x7 => _,
            lateout("x8") _,
            lateout("x9") _,
            lateout("x10") _,
            lateout("x11") _,
            lateout("x12") _,
            lateout("x13") _,
            lateout("x14") _,
            lateout("x15") _,
            lateout("x16") _,
            lateout("x17") _,
            options(nostack)
        );
    }
    [x0, x1, x2, x3]
}

/// Opens the window on the page of an address; `None` where the tables cannot name it.
fn window(machine: &mut Machine, address: u64, kind: Kind) -> Option<VirtAddr> {
    let ipa = Ipa::new(address);
    let page = machine.address_space.open_window(ipa.align_down(PAGE_SIZE), kind).ok()?;
    page.checked_add(ipa.page_offset())
}

fn load(machine: &mut Machine, address: u64) -> [u64; MAX_RESULTS] {
    let Some(at) = window(machine, address, Kind::Data) else { return [UNABLE, 0, 0, 0] };
    // SAFETY: A load changes nothing.
    let outcome = unsafe { probe::probe(Access::Load(Width::Doubleword), at) };
    machine.address_space.close_window();
    match outcome {
        Outcome::Done(value) => [0, value, 0, 0],
        Outcome::Exception(exception) => [exception.esr, 0, 0, 0],
    }
}

fn store(machine: &mut Machine, address: u64, value: u64) -> u64 {
    let Some(at) = window(machine, address, Kind::Data) else { return UNABLE };
    // SAFETY: The host chooses an address where the payload has nothing of its own. An exception is recorded by the vectors,
    // which keep every register.
    let exception =
        unsafe { attempt!(["str {value}, [{address}]"], value = in(reg) value, address = in(reg) at.raw()) };
    machine.address_space.close_window();
    exception.map_or(0, |exception| exception.esr)
}

fn execute(machine: &mut Machine, address: u64) -> u64 {
    let Some(at) = window(machine, address, Kind::Code) else { return UNABLE };
    // SAFETY: The host chooses an address at which, if anything can be fetched, an undefined instruction lies.
    let outcome = unsafe { probe::probe(Access::Execute, at) };
    machine.address_space.close_window();
    match outcome {
        Outcome::Exception(exception) if exception.class() == EC_UNKNOWN && exception.elr == at.raw() => 0,
        Outcome::Exception(exception) => exception.esr,
        Outcome::Done(_) => 0,
    }
}
