//! Running a guest: serving its exits until it ends.

use crate::frames::Pages;
use crate::vm::{Vm, VmError};
use crate::{hypercall, println};
use abi::run::{ExitReason, RunPage};
use abi::{Error, Gfn, Ipa, PAGE_SIZE, Pfn};
use alloc::string::String;

/// Where in a shared page the host's answer goes, in bytes; the guest's message is before it.
const ANSWER_OFFSET: usize = 2048;
/// The answer. The guest sees it when MEM_SHARE returns.
const ANSWER: &str = "Well received. The rest of your memory stays closed to me.";

/// Why a guest stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// PSCI SYSTEM_OFF.
    Off,
    /// PSCI SYSTEM_RESET.
    Reset,
    /// Every vCPU turned itself off.
    AllOff,
    /// It ran for as many interrupts as it was to.
    Interrupted,
    /// It did what hyp cannot go on from.
    Error,
    /// It used a page that had been taken from it.
    Poisoned,
    /// It needs memory where it has none.
    NoMemoryAt(Ipa),
    /// It could not be given what it needs.
    Failed(VmError),
}

/// What a guest made the host do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Exits {
    /// All exits.
    pub total: u64,
    /// MMIO accesses.
    pub mmio: u64,
    /// MMIO accesses to an address without device.
    pub unclaimed: u64,
    /// Pages donated because the guest touched them.
    pub faults: u64,
    /// Interrupts for the host.
    pub interrupts: u64,
    /// Pages that the guest shared.
    pub shares: u64,
    /// Pages that the guest took back.
    pub unshares: u64,
    /// Pages that the guest gave back.
    pub relinquished: u64,
    /// Waits for an interrupt.
    pub waits: u64,
}

/// The fields of a run page that an exit fills.
struct Exit {
    ipa: Ipa,
    size: u64,
    write: bool,
    data: u64,
}

fn read_exit(page: *mut RunPage) -> Exit {
    // SAFETY: the page is the host's, mapped, and hyp writes it only during VCPU_RUN.
    let value = |field: *const u64| unsafe { field.read_volatile() };
    // SAFETY: only addresses of fields are computed.
    unsafe {
        Exit {
            ipa: Ipa::new(value(&raw const (*page).ipa)),
            size: value(&raw const (*page).size),
            write: value(&raw const (*page).write) != 0,
            data: value(&raw const (*page).data),
        }
    }
}

fn answer_read(page: *mut RunPage, data: u64) {
    // SAFETY: as for `read_exit`.
    unsafe { (&raw mut (*page).data).write_volatile(data) };
}

/// Runs `vm` until it stops, or until it was interrupted `most_interrupts` times. Its vCPUs take turns on the calling
/// CPU.
pub fn run(vm: &mut Vm, exits: &mut Exits, most_interrupts: u64) -> Stop {
    let start = exits.interrupts;
    let mut turn = 0;
    loop {
        let Some(index) = next_on(vm, turn) else { return Stop::AllOff };
        turn = index;
        let reason = match hypercall::vcpu_run(vm.handle(), index as u64) {
            Ok(reason) => reason,
            Err(error) => return Stop::Failed(VmError::Refused("VCPU_RUN", error)),
        };
        exits.total += 1;
        let exit = read_exit(vm.vcpus[index].run_page());
        match reason {
            ExitReason::Interrupt => {
                // The host took the interrupt when the call returned.
                exits.interrupts += 1;
                turn = index + 1;
                if exits.interrupts - start >= most_interrupts {
                    return Stop::Interrupted;
                }
            }
            ExitReason::Wait => {
                exits.waits += 1;
                turn = index + 1;
                if vm.vcpus.iter().filter(|vcpu| vcpu.on).count() == 1 {
                    arm_gic::wfi();
                }
            }
            ExitReason::Mmio => serve_mmio(vm, index, &exit, exits),
            ExitReason::MemoryFault => match serve_fault(vm, exit.ipa) {
                Ok(()) => exits.faults += 1,
                Err(stop) => return stop,
            },
            ExitReason::Shared => {
                exits.shares += 1;
                exchange_messages(vm, exit.ipa);
            }
            ExitReason::Unshared => exits.unshares += 1,
            ExitReason::Relinquished => {
                exits.relinquished += 1;
                vm.take_relinquished(Gfn::containing(exit.ipa));
            }
            ExitReason::SystemOff => return Stop::Off,
            ExitReason::SystemReset => return Stop::Reset,
            ExitReason::CpuOff => vm.vcpus[index].on = false,
            ExitReason::CpuOn => {
                if let Some(vcpu) = usize::try_from(exit.data).ok().and_then(|index| vm.vcpus.get_mut(index)) {
                    vcpu.on = true;
                }
            }
            ExitReason::Error => return Stop::Error,
            ExitReason::Poisoned => return Stop::Poisoned,
        }
    }
}

/// The vCPU whose turn it is: the first that is on from `turn` on, and round again.
fn next_on(vm: &Vm, turn: usize) -> Option<usize> {
    let count = vm.vcpus.len();
    (turn..turn + count).map(|index| index % count).find(|index| vm.vcpus[*index].on)
}

/// Where nothing is, a read gives zero and a write is lost.
fn serve_mmio(vm: &mut Vm, index: usize, exit: &Exit, exits: &mut Exits) {
    exits.mmio += 1;
    let unclaimed = if exit.write {
        vm.bus.write(exit.ipa, exit.size, exit.data).is_err()
    } else {
        let value = vm.bus.read(exit.ipa, exit.size);
        answer_read(vm.vcpus[index].run_page(), value.unwrap_or(0));
        value.is_err()
    };
    exits.unclaimed += u64::from(unclaimed);
}

/// Donates a page of zeroes where the guest's RAM has none yet.
fn serve_fault(vm: &mut Vm, address: Ipa) -> Result<(), Stop> {
    let frame = Gfn::containing(address);
    if !vm.layout().is_ram(frame) || vm.map().page_of(frame).is_some() {
        return Err(Stop::NoMemoryAt(address));
    }
    let page = Pages::zeroed(1).ok_or(Stop::Failed(VmError::OutOfMemory))?;
    match vm.donate(page, frame) {
        // Another vCPU's fault may have brought a page meanwhile.
        Ok(()) | Err(VmError::Refused(_, Error::WrongState)) => Ok(()),
        Err(error) => Err(Stop::Failed(error)),
    }
}

/// Reads the guest's message from the page that it shared, and writes the answer.
fn exchange_messages(vm: &Vm, address: Ipa) {
    let Some(page) = vm.map().page_of(Gfn::containing(address)) else { return };
    let message = read_message(page);
    println!("host: guest {} shares the page at {:#x}; in it: \"{message}\"", vm.name(), address.raw());
    let base = page.raw() * PAGE_SIZE + ANSWER_OFFSET as u64;
    for (index, byte) in ANSWER.bytes().chain([0]).enumerate() {
        // SAFETY: the guest shared this page with the host, which maps all RAM; the guest writes it at the same time,
        // therefore volatile.
        unsafe { ((base + index as u64) as *mut u8).write_volatile(byte) };
    }
    println!("host: answers: \"{ANSWER}\"");
}

/// The NUL-terminated text at the start of a shared page; at most up to where the answer goes. Control characters are
/// left out.
fn read_message(page: Pfn) -> String {
    let base = page.raw() * PAGE_SIZE;
    (0..ANSWER_OFFSET as u64)
        // SAFETY: as in `exchange_messages`.
        .map(|offset| unsafe { ((base + offset) as *const u8).read_volatile() })
        .take_while(|byte| *byte != 0)
        .filter(|byte| matches!(byte, b' '..=b'~'))
        .map(char::from)
        .collect()
}
