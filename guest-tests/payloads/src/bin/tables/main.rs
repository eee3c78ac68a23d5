//! A guest whose own translation tables lead where they should not: to devices, to holes, to others' memory, to
//! themselves, and to memory that comes late, is given back, or is shared while they are in use. Each walk ends in what
//! its tables say or in an abort that the guest survives.
//!
//! Without a hypervisor below, only those checks run that hold on a bare machine as well.
#![no_std]
#![no_main]

mod entries;
mod hostile;
mod memory;
mod roots;
mod shapes;

use payloads::hypervisor::{self, KvmCalls};
use payloads::probe::enable_simd;
use payloads::report::Report;
use payloads::{Machine, payload, println};

payload!(tables);

fn tables(machine: &mut Machine) {
    println!("tables: translation tables that lead astray");
    let mut report = Report::begin("tables");
    enable_simd();
    let guest = hypervisor::is_present();
    hostile::attack(machine, &mut report, guest);
    roots::attack(machine, &mut report, guest);
    memory::attack(machine, &mut report, KvmCalls::find().filter(|calls| calls.granule != 0));
    shapes::attack(&mut report, machine.platform.memory.clone());
    report.value("tables.below-a-hypervisor", guest.into());
    report.end();
}
