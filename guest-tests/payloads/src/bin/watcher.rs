//! A guest for a host that forges: it watches for interrupts and values that no hypervisor should let through, leaving
//! the CPU as often as it can, until the host says that it is enough.
#![no_std]
#![no_main]

use abi::watch::{ALLOWED, ANSWERS, DEVICE, INTIDS, STOP};
use abi::{Ipa, psci};
use payloads::gic;
use payloads::hypervisor::call_status;
use payloads::memory::Kind;
use payloads::probe::{Access, Outcome, Width, probe};
use payloads::report::Report;
use payloads::{Machine, payload, println};

payload!(watcher);

fn watcher(machine: &mut Machine) {
    println!("watcher: watching");
    let mut report = Report::begin("watcher");
    gic::set_system_registers(gic::system_registers() | 1);
    gic::set_priority_mask(0xff);
    gic::set_group_one(1);
    let Ok(window) = machine.address_space.open_window(Ipa::new(DEVICE), Kind::Device) else { return };
    let mut taken = [0u64; INTIDS];
    let (mut forbidden, mut last_forbidden) = (0, 0);
    let (mut answers, mut aborts, mut odd, mut last_odd) = (0, 0, 0, 0);
    loop {
        let intid = gic::acknowledge();
        if intid != 1023 {
            match taken.get_mut(intid as usize).filter(|_| ALLOWED.contains(&intid)) {
                Some(count) => *count += 1,
                None => {
                    forbidden += 1;
                    last_forbidden = intid;
                }
            }
            if intid < gic::FIRST_SPECIAL {
                gic::end(intid);
            }
        }
        call_status(psci::CPU_SUSPEND_64, [0; 3]);
        // SAFETY: Nothing of the payload's is there; the host answers, or has it abort.
        match unsafe { probe(Access::Load(Width::Byte), window) } {
            Outcome::Done(STOP) => break,
            Outcome::Done(value) if ANSWERS.contains(&value) => answers += 1,
            Outcome::Done(value) => {
                odd += 1;
                last_odd = value;
            }
            Outcome::Exception(exception) if exception.esr & 0x3f == 0x10 => aborts += 1,
            Outcome::Exception(exception) => {
                odd += 1;
                last_odd = exception.esr;
            }
        }
    }
    report.check(
        "watcher.no-forbidden-interrupt",
        forbidden == 0,
        format_args!("{forbidden}, lastly {last_forbidden}"),
    );
    report.check("watcher.no-odd-answer", odd == 0, format_args!("{odd}, lastly {last_odd:#x}"));
    report.value("watcher.interrupts", taken.iter().sum());
    report.value("watcher.answers", answers);
    report.value("watcher.aborts", aborts);
    report.end();
}
