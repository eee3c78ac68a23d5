//! Starting the other CPUs, and giving them work.

use crate::cpu::{self, Cpu, STACK_TOP_OFFSET};
use crate::frames::Pages;
use crate::{interrupt, paging, psci, vectors};
use core::arch::global_asm;

/// Pages of a secondary CPU's stack.
const STACK_PAGES: u64 = 16;
/// Microseconds after which what has not happened is taken not to happen: long enough for a machine whose CPUs share one
/// with others, since only a failure waits so long.
const PATIENCE: u64 = 120_000_000;

// Where CPU_ON enters: MMU off, x0 = the CPU's `Cpu`. The registers that `paging` keeps for this turn the MMU on; memory
// is mapped at its physical address, so that the code goes on where it is.
global_asm!(
    ".pushsection .text.secondary_entry, \"ax\"",
    ".global host_secondary_entry",
    "host_secondary_entry:",
    "    msr daifset, #0xf",
    "    msr spsel, #1",
    "    adrp x1, {registers}",
    "    add x1, x1, :lo12:{registers}",
    "    ldp x2, x3, [x1]",
    "    ldp x4, x5, [x1, #16]",
    "    msr mair_el1, x2",
    "    msr tcr_el1, x3",
    "    msr ttbr0_el1, x4",
    "    isb",
    "    tlbi vmalle1",
    "    dsb nsh",
    "    ic iallu",
    "    dsb nsh",
    "    isb",
    "    msr sctlr_el1, x5",
    "    isb",
    "    ldr x6, [x0, #{stack_top}]",
    "    mov sp, x6",
    "    mov x29, xzr",
    "    mov x30, xzr",
    "    bl {main}",
    "    b .",
    ".popsection",
    registers = sym paging::REGISTERS,
    stack_top = const STACK_TOP_OFFSET,
    main = sym secondary_main,
);

unsafe extern "C" {
    static host_secondary_entry: u8;
}

/// Where CPU_ON is to enter.
pub fn entry() -> u64 {
    &raw const host_secondary_entry as u64
}

/// A secondary CPU's life: set up, then one piece of work after the other.
extern "C" fn secondary_main(cpu: &'static Cpu) -> ! {
    cpu::make_current(cpu);
    vectors::install();
    interrupt::init_secondary();
    cpu.set_online(true);
    interrupt::wake(cpu::all()[0].mpidr());
    loop {
        match cpu.next_work() {
            Some((function, argument)) => {
                function(argument);
                cpu.finish_work();
            }
            None => interrupt::sleep_unless(|| cpu.has_work()),
        }
    }
}

/// Makes CPU `cpu` ready to be started: it gets a stack, and the entry code can see it.
pub fn prepare(cpu: &'static Cpu) {
    if cpu.stack_top() == 0 {
        let stack = Pages::allocate(STACK_PAGES).expect("no memory for a stack").given();
        cpu.set_stack_top(stack.address().raw() + STACK_PAGES * abi::PAGE_SIZE);
    }
    paging::clean_to_memory(core::ptr::from_ref(cpu) as u64, size_of::<Cpu>() as u64);
}

/// Starts `cpu` and waits until it takes work. False where PSCI refused or the CPU never came.
pub fn start(cpu: &'static Cpu) -> bool {
    prepare(cpu);
    psci::cpu_on(cpu.mpidr(), entry(), cpu.context()) == abi::psci::SUCCESS && wait_online(cpu)
}

/// Waits until `cpu` takes work.
pub fn wait_online(cpu: &Cpu) -> bool {
    wait_until(|| cpu.is_online())
}

/// Waits for a condition; false where it did not come for so long that it will not.
pub fn wait_until(condition: impl Fn() -> bool) -> bool {
    let start = interrupt::microseconds();
    while !condition() {
        if interrupt::microseconds() - start > PATIENCE {
            return false;
        }
        // The next tick ends the sleep at the latest.
        interrupt::sleep_unless(&condition);
    }
    true
}

/// Starts every CPU that is not yet on; returns how many are on.
pub fn start_all() -> usize {
    for cpu in cpu::all() {
        if !cpu.is_online() {
            start(cpu);
        }
    }
    online().count()
}

/// The CPUs that take work, the caller among them.
pub fn online() -> impl Iterator<Item = &'static Cpu> {
    cpu::all().iter().filter(|cpu| cpu.is_online())
}

/// Calls the closure behind `argument`.
fn call_closure<F: Fn() + Sync>(argument: *mut ()) {
    // SAFETY: `run_on` passes its closure's address, and does not return before this has.
    unsafe { (*argument.cast_const().cast::<F>())() }
}

/// Runs `work` on each of `cpus` at the same time, and returns when all are done. The calling CPU may be among them.
///
/// # Panics
/// Where one of the others has something to do already.
pub fn run_on<F: Fn() + Sync>(cpus: &[&'static Cpu], work: F) {
    let own = cpu::current();
    let others = || cpus.iter().filter(|cpu| !core::ptr::eq(**cpu, own));
    for cpu in others() {
        let posted = cpu.post(call_closure::<F>, (&raw const work).cast_mut().cast());
        assert!(posted, "CPU {:#x} is busy", cpu.mpidr());
    }
    if cpus.iter().any(|cpu| core::ptr::eq(*cpu, own)) {
        work();
    }
    for cpu in others() {
        cpu.wait();
    }
}

/// Turns `cpu`, which must not be the caller, off: it stops taking work and calls CPU_OFF.
pub fn stop(cpu: &'static Cpu) {
    fn go_off(_: *mut ()) {
        let cpu = cpu::current();
        interrupt::stop();
        cpu.set_online(false);
        cpu.finish_work();
        let refused = psci::cpu_off();
        panic!("CPU_OFF returned {refused}");
    }
    assert!(cpu.post(go_off, core::ptr::null_mut()), "CPU {:#x} is busy", cpu.mpidr());
    cpu.wait();
}
