//! A guest that never gives the CPU back: only an interrupt for the host gets it out.
#![no_std]
#![no_main]

use abi::payloads::spin::SPINNING;
use core::hint::spin_loop;
use payloads::{Machine, payload, println};

payload!(spin);

fn spin(_: &mut Machine) {
    println!("spin: {SPINNING}");
    loop {
        spin_loop();
    }
}
