//! How the host ends when it cannot go on.

use crate::console::Raw;
use crate::{psci, report};
use abi::report::Line;
use core::fmt::Write;
use core::panic::PanicInfo;

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    // The raw console cannot fail.
    let _ = writeln!(Raw, "\nhost: {info}");
    stop("panic")
}

/// Reports a failed run and powers off, without any lock: the CPU that holds it may be this one.
pub fn stop(reason: &str) -> ! {
    let (passed, failed) = report::counts();
    let _ = writeln!(Raw, "{}", Line::Fail("panic", reason));
    let _ = writeln!(Raw, "{}", Line::End(passed, failed.saturating_add(1)));
    psci::system_off()
}
