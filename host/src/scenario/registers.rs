//! Two guests that use every register run on one CPU after the other, while the host has values of its own in the same
//! registers: each finds its own again, and nobody else's.

use super::{Context, take_apart};
use crate::cpu::Cpu;
use crate::run::{self, Exits, Stop};
use crate::user_registers::{self, UserRegisters};
use crate::vm::{Vm, VmError};
use crate::{expect, hypercall, report, smp};
use aarch64_cpu::registers::{MDSCR_EL1, Readable, Writeable};
use abi::run::ExitReason;
use abi::{Gfn, PAGE_SIZE};
use alloc::vec::Vec;
use spin::Mutex;

/// MDSCR_EL1.TDCC: EL0 is kept from the debug communications channel, which nobody uses here. A guest has the register
/// cleared while it runs.
const MDSCR_TDCC: u64 = 1 << 12;

/// Interrupts that the payload `registers` waits for.
const INTERRUPTS: u64 = 16;

/// A guest, and what it did.
struct Guest {
    vm: Vm,
    exits: Exits,
    /// Address of the page where it waits for the count of its interrupts.
    counter: Option<u64>,
    stop: Option<Stop>,
    /// Indices of the CPUs that it ran on, a bit for each.
    cpus: u64,
    /// Words of its run page, beyond those that its exits fill, that held something.
    leaked: usize,
}

/// See the module.
pub fn run(context: &Context) {
    let cpus: Vec<&'static Cpu> = smp::online().collect();
    report::value("with-sve", user_registers::has_sve().into());
    report::value("with-pointer-authentication", user_registers::has_pointer_authentication().into());
    let mut guests = Vec::new();
    for _ in 0..2 {
        let Some(vm) = context.guest("registers") else { return };
        guests.push(Guest { vm, exits: Exits::default(), counter: None, stop: None, cpus: 0, leaked: 0 });
    }
    let mut changed = 0;
    let mut turn = 0;
    while guests.iter().any(|guest| guest.stop.is_none()) {
        // The second guest begins when the first has left values of its own in the registers.
        let begun = guests[0].exits.waits != 0 || guests[0].stop.is_some();
        let index = if begun { turn % guests.len() } else { 0 };
        if guests[index].stop.is_none() {
            let place = turn / guests.len() % cpus.len();
            changed += guests[index].step(cpus[place], turn as u64);
            guests[index].cpus |= 1 << place;
        }
        turn += 1;
    }
    expect!("host-registers-kept", changed, 0);
    for Guest { vm, exits, stop, cpus: ran_on, leaked, .. } in guests {
        expect!("guest-powers-off", stop, Some(Stop::Off));
        expect!("guest-ran-on-every-cpu", ran_on.count_ones() as usize, cpus.len());
        report::check("guest-was-interrupted", exits.interrupts >= INTERRUPTS, format_args!("{exits:?}"));
        expect!("run-page-blank", leaked, 0);
        let end = vm.spoken().lock().end;
        let good = end.is_some_and(|(passed, failed)| passed > 0 && failed == 0);
        report::check("guest-reports", good, format_args!("{end:?}"));
        take_apart(vm);
    }
}

impl Guest {
    /// Runs the guest on `cpu` up to its next exit. Returns how many of the host's registers that changed.
    fn step(&mut self, cpu: &'static Cpu, seed: u64) -> usize {
        let handle = self.vm.handle();
        let outcome = Mutex::new(None);
        smp::run_on(&[cpu], || {
            user_registers::enable();
            let debug = if seed & 1 == 0 { 0 } else { MDSCR_TDCC };
            MDSCR_EL1.set(debug);
            let before = UserRegisters::from_seed(seed).load();
            let result = hypercall::vcpu_run(handle, 0);
            let changed = UserRegisters::of_this_cpu().differences(&before);
            let changed = changed + usize::from(MDSCR_EL1.get() != debug);
            MDSCR_EL1.set(0);
            *outcome.lock() = Some((result, changed));
        });
        let Some((result, changed)) = outcome.into_inner() else { return 1 };
        match result {
            Ok(reason) => self.serve(reason),
            Err(error) => self.stop = Some(Stop::Failed(VmError::Refused("VCPU_RUN", error))),
        }
        changed
    }

    fn serve(&mut self, reason: ExitReason) {
        let page = self.vm.vcpus[0].run_page();
        // SAFETY: the page is the host's, and hyp writes it only during VCPU_RUN.
        let reserved = unsafe { (&raw const (*page).reserved).read_volatile() };
        self.leaked += reserved.iter().filter(|word| **word != 0).count();
        let exit = run::read_exit(&self.vm, 0, reason);
        let frame = Gfn::containing(exit.ipa);
        if reason == ExitReason::Shared {
            self.counter = self.vm.map().page_of(frame).map(|page| page.raw() * PAGE_SIZE);
            self.exits.shares += 1;
        } else {
            self.stop = run::serve(&mut self.vm, 0, &exit, &mut self.exits);
        }
        if let Some(counter) = self.counter {
            // SAFETY: the guest shared the page for this; it reads it at the same time, therefore volatile.
            unsafe { (counter as *mut u64).write_volatile(self.exits.interrupts) };
        }
    }
}
