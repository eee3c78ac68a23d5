//! What the host does, by name. Each scenario ends with a report's last line and power-off.

mod aarch32;
mod actor;
mod attacks;
mod attacks_guest;
mod calls;
mod cost;
mod demand;
mod forged;
mod machine;
mod many;
mod memory;
mod neighbours;
mod preempt;
mod registers;
mod replay;
mod seeds;
mod shared;
mod sharing;
mod slots;
mod smp;
mod story;
mod sweep;
mod torture;
mod turns;
mod vcpus;

use crate::device_tree::Machine;
use crate::ramdisk::Ramdisk;
use crate::vm::{Returned, Setup, Vm, VmError};
use crate::{println, psci, report};
use aarch64_cpu::registers::{CNTFRQ_EL0, Readable};

/// What a scenario has to work with.
pub struct Context {
    /// The machine.
    pub machine: &'static Machine,
    /// The guests' images.
    pub ramdisk: Ramdisk,
    /// How many CPUs are on.
    pub online: usize,
    /// CNTVCT_EL0 at the host's first instruction.
    pub counter_at_entry: u64,
}

impl Context {
    /// Builds the protected guest of that name, with one vCPU and 16 MiB of RAM; a failure is a failed check.
    pub fn guest(&self, name: &str) -> Option<Vm> {
        self.guest_with(name, "", |_| {})
    }

    /// The same with these boot arguments, and with what `change` makes different.
    pub fn guest_with(&self, name: &str, bootargs: &str, change: impl FnOnce(&mut Setup<'_>)) -> Option<Vm> {
        let mut setup = Setup {
            name,
            image: self.ramdisk.file(name).unwrap_or(&[]),
            initrd: &[],
            ram_size: vmm::layout::DEFAULT_RAM_SIZE,
            vcpus: 1,
            protected: true,
            bootargs,
        };
        change(&mut setup);
        match Vm::create(&setup) {
            Ok(vm) => Some(vm),
            Err(reason) => {
                report::check("guest-created", false, format_args!("{name}: {reason}"));
                None
            }
        }
    }
}

/// Takes a guest apart; a failure, or a page that is not wiped, is a failed check.
fn take_apart(vm: Vm) -> Option<Returned> {
    check_returned(vm.destroy())
}

/// Checks what came back of a guest.
fn check_returned(result: Result<Returned, VmError>) -> Option<Returned> {
    match result {
        Ok(returned) => {
            crate::expect!("pages-wiped", returned.dirty, 0);
            Some(returned)
        }
        Err(reason) => {
            report::check("guest-destroyed", false, format_args!("{reason}"));
            None
        }
    }
}

/// True where what the guests say is for the host's report, and not for a user.
fn spoken_guests(context: &Context) -> bool {
    context.machine.argument("report").is_some()
}

/// Runs the scenario that the boot arguments name, and powers off.
pub fn run(context: &Context) -> ! {
    let name = context.machine.argument("scenario").unwrap_or("story");
    let spoken = !matches!(name, "story" | "guests") || spoken_guests(context);
    report::begin(name, spoken);
    report::value("counter-at-host-entry", context.counter_at_entry);
    report::value("counter-frequency", CNTFRQ_EL0.get());
    match name {
        "story" => story::run(context),
        "aarch32" => aarch32::run(context),
        "attacks" => attacks::run(context),
        "attacks-guest" => attacks_guest::run(context),
        "smp" => smp::run(context),
        "memory" => memory::run(context),
        "many" => many::run(context),
        "cost" => cost::run(context),
        "preempt" => preempt::run(context),
        "demand" => demand::run(context),
        "forged" => forged::run(context),
        "neighbours" => neighbours::run(context),
        "registers" => registers::run(context),
        "replay" => replay::run(context),
        "seeds" => seeds::run(context),
        "shared" => shared::run(context),
        "sharing" => sharing::run(context),
        "slots" => slots::run(context),
        "guests" => {
            let all_well = {
                let pries = context.machine.argument("pry").is_some();
                crate::guests::run(context.ramdisk, spoken_guests(context), pries)
            };
            report::check("guests-ended-well", all_well, format_args!(""));
        }
        "torture" => torture::run(context),
        "turns" => turns::run(context),
        "vcpus" => vcpus::run(context),
        "reset" => {
            report::end();
            println!("host: reset");
            psci::system_reset()
        }
        _ => {
            report::check("scenario-known", false, format_args!("{name}"));
        }
    }
    crate::expect!("no-guest-left", crate::vm::alive_count(), 0);
    report::end();
    psci::system_off()
}
