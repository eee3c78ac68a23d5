//! A guest that breaks everything that is its own to break, and ends in exceptions without end.
#![no_std]
#![no_main]

use abi::{Ipa, PAGE_SIZE};
use core::arch::asm;
use payloads::memory::Kind;
use payloads::probe::{Access, probe};
use payloads::{Machine, payload, println};

/// Distance between the addresses that are touched, in bytes.
const STRIDE: u64 = (37 << 20) + PAGE_SIZE;

payload!(fault);

fn fault(machine: &mut Machine) {
    println!("fault: touching memory that is not there");
    let beyond = machine.platform.memory.end;
    for step in 0..64 {
        let target = Ipa::new(beyond + step * STRIDE);
        for access in [Access::StorePair, Access::Execute, Access::ZeroBlock] {
            let Ok(window) = machine.address_space.open_window(target, Kind::of(access)) else { continue };
            // SAFETY: Nothing of the payload is beyond its memory. Where the access does not abort there is someone's
            // memory behind it, which is what a test of the hypervisor has to show.
            unsafe { probe(access, window) };
        }
    }
    println!("fault: now without vectors");
    // SAFETY: Nothing of the payload runs after this: the store aborts, and so does the fetch of each vector.
    unsafe {
        asm!(
            "msr vbar_el1, {nowhere}",
            "isb",
            "str xzr, [{nowhere}]",
            "2: b 2b",
            nowhere = in(reg) 0x7f_dead_0000_u64,
            options(noreturn)
        )
    }
}
