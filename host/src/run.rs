//! Running a guest: serving its exits until it ends.

use crate::cpu::Cpu;
use crate::probe::{self, Access};
use crate::vm::{Vm, VmError};
use crate::{hypercall, interrupt, println, smp};
use abi::run::{ExitReason, RESPONSE_ABORT, RunPage};
use abi::{Gfn, Ipa, PAGE_SIZE, Pfn, VirtAddr};
use alloc::format;
use alloc::string::String;
use core::sync::atomic::{AtomicUsize, Ordering};
use spin::Mutex;

/// Where in a shared page the host's answer goes, in bytes; the guest's message is before it.
const ANSWER_OFFSET: usize = 2048;
/// Bytes that the host accesses at a time.
const WORD: usize = 8;
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
    /// vCPUs that were turned on by another.
    pub starts: u64,
}

/// An exit: its reason, and the fields of the run page that it fills.
pub struct Exit {
    /// The vCPU that came out.
    pub vcpu: usize,
    /// Why VCPU_RUN came back.
    pub reason: ExitReason,
    /// The address that it is about.
    pub ipa: Ipa,
    /// Bytes of an MMIO access.
    pub size: u64,
    /// Whether an access is a write.
    pub write: bool,
    /// The value of an MMIO access, the number of an offer, or the index of a vCPU.
    pub data: u64,
    /// The handle of the other VM, where the exit names one.
    pub peer: u64,
}

/// The exit for `reason` whose details are in the run page of vCPU `index`.
pub fn read_exit(vm: &Vm, index: usize, reason: ExitReason) -> Exit {
    let page = vm.vcpus[index].run_page();
    // SAFETY: the page is the host's, mapped, and hyp writes it only during VCPU_RUN.
    let value = |field: *const u64| unsafe { field.read_volatile() };
    // SAFETY: only addresses of fields are computed.
    unsafe {
        Exit {
            vcpu: index,
            reason,
            ipa: Ipa::new(value(&raw const (*page).ipa)),
            size: value(&raw const (*page).size),
            write: value(&raw const (*page).write) != 0,
            data: value(&raw const (*page).data),
            peer: value(&raw const (*page).peer),
        }
    }
}

/// Puts the answer to an MMIO read where hyp finds it when the vCPU runs again. `page` must be a vCPU's run page.
pub fn answer_read(page: *mut RunPage, data: u64) {
    // SAFETY: as for `read_exit`.
    unsafe { (&raw mut (*page).data).write_volatile(data) };
}

/// Has the guest take an abort for the access that it came out for, or not. `page` must be a vCPU's run page.
pub fn refuse(page: *mut RunPage, is_refused: bool) {
    let response = if is_refused { RESPONSE_ABORT } else { 0 };
    // SAFETY: as for `read_exit`.
    unsafe { (&raw mut (*page).response).write_volatile(response) };
}

/// Runs `vm` until it stops, or until it was interrupted `most_interrupts` times. Its vCPUs take turns on the calling
/// CPU.
pub fn run(vm: &mut Vm, exits: &mut Exits, most_interrupts: u64) -> Stop {
    run_watched(vm, exits, most_interrupts, |_, _| {})
}

/// As [`run`]; `watch` sees every exit before it is served.
pub fn run_watched(vm: &mut Vm, exits: &mut Exits, most_interrupts: u64, mut watch: impl FnMut(&Vm, &Exit)) -> Stop {
    let start = exits.interrupts;
    let mut turn = 0;
    loop {
        let Some(index) = next_on(vm, turn) else { return Stop::AllOff };
        turn = index;
        let reason = match hypercall::vcpu_run(vm.handle(), index as u64) {
            Ok(reason) => reason,
            Err(error) => return Stop::Failed(VmError::Refused("VCPU_RUN", error)),
        };
        let exit = read_exit(vm, index, reason);
        watch(vm, &exit);
        if let Some(stop) = serve(vm, index, &exit, exits) {
            return stop;
        }
        if matches!(reason, ExitReason::Interrupt | ExitReason::Wait | ExitReason::Yield) {
            turn = index + 1;
        }
        if exits.interrupts - start >= most_interrupts {
            return Stop::Interrupted;
        }
        if reason == ExitReason::Wait && vm.vcpus.iter().filter(|vcpu| vcpu.is_on()).count() == 1 {
            arm_gic::wfi();
        }
    }
}

/// Runs `vm` until it stops, each of its vCPUs on a CPU of its own: vCPU n on the nth of `cpus`, of which there must be as
/// many.
pub fn run_apart(vm: &mut Vm, exits: &mut Exits, cpus: &[&'static Cpu]) -> Stop {
    let handle = vm.handle();
    let next = AtomicUsize::new(0);
    let (stopped, failed) = (Mutex::new(None), Mutex::new(None));
    let state = Mutex::new((vm, exits));
    smp::run_on(cpus, || {
        let index = next.fetch_add(1, Ordering::Relaxed);
        while stopped.lock().is_none() {
            if !state.lock().0.vcpus[index].is_on() {
                // The tick ends this at the latest.
                interrupt::sleep_unless(|| false);
                continue;
            }
            let reason = match hypercall::vcpu_run(handle, index as u64) {
                Ok(reason) => reason,
                // Where another vCPU ended the guest, its exit says how.
                Err(error) => {
                    failed.lock().get_or_insert(Stop::Failed(VmError::Refused("VCPU_RUN", error)));
                    break;
                }
            };
            let mut state = state.lock();
            let (vm, exits) = &mut *state;
            let exit = read_exit(vm, index, reason);
            let stop = serve(vm, index, &exit, exits);
            if let Some(stop) = stop.or_else(|| vm.vcpus.iter().all(|vcpu| !vcpu.is_on()).then_some(Stop::AllOff)) {
                stopped.lock().get_or_insert(stop);
            }
        }
    });
    stopped.into_inner().or(failed.into_inner()).unwrap_or(Stop::AllOff)
}

/// Does what an exit of vCPU `index` asks for; the reason to stop, where it is one.
pub fn serve(vm: &mut Vm, index: usize, exit: &Exit, exits: &mut Exits) -> Option<Stop> {
    exits.total += 1;
    match exit.reason {
        // The host took the interrupt when the call returned.
        ExitReason::Interrupt => exits.interrupts += 1,
        ExitReason::Wait | ExitReason::Yield => exits.waits += 1,
        ExitReason::Mmio => serve_mmio(vm, index, exit, exits),
        ExitReason::MemoryFault => match vm.serve_fault(exit.ipa, exit.write, index) {
            Ok(true) => exits.faults += 1,
            Ok(false) => return Some(Stop::NoMemoryAt(exit.ipa)),
            Err(error) => return Some(Stop::Failed(error)),
        },
        ExitReason::Shared => {
            exits.shares += 1;
            exchange_messages(vm, exit.ipa, &mut |line| println!("{line}"));
        }
        ExitReason::Unshared => exits.unshares += 1,
        // The host has no use for a loan, and gives it back as it came.
        ExitReason::Lent => {
            let lent = vm.page_of(Gfn::containing(exit.ipa));
            if let Some(Err(error)) = lent.map(|page| hypercall::vm_return(vm.handle(), page, 1)) {
                return Some(Stop::Failed(VmError::Refused("VM_RETURN", error)));
            }
        }
        ExitReason::Relinquished | ExitReason::Returned => {
            exits.relinquished += 1;
            vm.take_relinquished(Gfn::containing(exit.ipa));
        }
        ExitReason::SystemOff => return Some(Stop::Off),
        ExitReason::SystemReset => return Some(Stop::Reset),
        ExitReason::CpuOff => vm.vcpus[index].turned_off(),
        ExitReason::CpuOn => {
            exits.starts += 1;
            if let Some(vcpu) = usize::try_from(exit.data).ok().and_then(|index| vm.vcpus.get_mut(index)) {
                vcpu.turned_on();
            }
        }
        // Who plays the messenger between guests reads them before this.
        ExitReason::Offered | ExitReason::Accepted | ExitReason::Ended => {}
        ExitReason::TopUp => {
            if let Err(error) = vm.top_up(index) {
                return Some(Stop::Failed(error));
            }
        }
        ExitReason::Error => return Some(Stop::Error),
        ExitReason::Poisoned => return Some(Stop::Poisoned),
        // Guests that are run here have no interrupt controller.
        ExitReason::Timer | ExitReason::Sgi => {}
    }
    None
}

/// The vCPU whose turn it is: the first that is on from `turn` on, and round again.
fn next_on(vm: &Vm, turn: usize) -> Option<usize> {
    let count = vm.vcpus.len();
    (turn..turn + count).map(|index| index % count).find(|index| vm.vcpus[*index].is_on())
}

/// Where nothing is, a read gives zero and a write is lost.
fn serve_mmio(vm: &mut Vm, index: usize, exit: &Exit, exits: &mut Exits) {
    exits.mmio += 1;
    let unclaimed = if exit.write {
        vm.write_device(exit.ipa, exit.size, exit.data).is_err()
    } else {
        let value = vm.read_device(exit.ipa, exit.size);
        answer_read(vm.vcpus[index].run_page(), value.unwrap_or(0));
        value.is_err()
    };
    exits.unclaimed += u64::from(unclaimed);
}

/// Reads the guest's message from the page that it shared, and writes the answer; `say` shows both. A page that does not
/// begin with text is left alone: not every guest means it for a message, and another vCPU may have taken it back by now.
pub fn exchange_messages(vm: &Vm, address: Ipa, say: &mut dyn FnMut(&str)) {
    let Some(page) = vm.page_of(Gfn::containing(address)) else { return };
    let message = read_message(page);
    if message.is_empty() {
        return;
    }
    say(&format!("host: guest {} shares the page at {:#x}; in it: \"{message}\"", vm.name(), address.raw()));
    if answer_message(page) {
        say(&format!("host: answers: \"{ANSWER}\""));
    }
}

/// Writes the answer to a shared page. False where the page is not shared any more.
pub fn answer_message(page: Pfn) -> bool {
    let base = page.raw() * PAGE_SIZE + ANSWER_OFFSET as u64;
    let mut answer = ANSWER.as_bytes().to_vec();
    // A NUL behind it, and whole words.
    answer.resize((answer.len() + 1).next_multiple_of(WORD), 0);
    answer.as_chunks::<WORD>().0.iter().enumerate().all(|(index, word)| {
        let place = VirtAddr::new(base + (index * WORD) as u64);
        // SAFETY: the page is one that the host gave to the guest, and relies on nothing in.
        unsafe { probe::store(place, u64::from_le_bytes(*word)) }.is_ok()
    })
}

/// The NUL-terminated text at the start of a shared page; at most up to where the answer goes, or to where the page is not
/// shared any more. Control characters are left out.
pub fn read_message(page: Pfn) -> String {
    let base = page.raw() * PAGE_SIZE;
    (0..ANSWER_OFFSET as u64)
        .step_by(WORD)
        // SAFETY: a read, which aborts where the guest has the page to itself.
        .map_while(|offset| unsafe { probe::attempt(Access::Read, VirtAddr::new(base + offset)) }.ok())
        .flat_map(u64::to_le_bytes)
        .take_while(|byte| *byte != 0)
        .filter(|byte| matches!(byte, b' '..=b'~'))
        .map(char::from)
        .collect()
}
