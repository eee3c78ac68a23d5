//! What a payload does when it is at its wits' end.

use crate::{hypervisor, println};
use abi::report::Line;
use core::panic::PanicInfo;

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    println!("{info}");
    println!("{}", Line::Fail("payload", "panic"));
    hypervisor::power_off()
}
