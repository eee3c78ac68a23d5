//! What the host does about an exception: a probe's is data, an interrupt is served, anything else ends the host.

use crate::console::Raw;
use crate::vectors::Frame;
use crate::{interrupt, panic, probe};
use core::fmt::{self, Write};

/// Vector table entry of a synchronous exception from EL1 with SP_EL1.
const SYNCHRONOUS: u64 = 4;
/// Vector table entry of an interrupt in EL1 with SP_EL1.
const INTERRUPT: u64 = 5;

/// Called by the vectors.
pub extern "C" fn exception(frame: &mut Frame, vector: u64) {
    match vector {
        SYNCHRONOUS if probe::recover(frame) => {}
        INTERRUPT => interrupt::serve(),
        _ => fatal(frame, vector),
    }
}

/// ESR_EL1 in words: the exception class, and for an abort its cause (Arm ARM, ESR_EL1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Syndrome(pub u64);

impl Syndrome {
    /// ESR_EL1.EC.
    pub const fn class(self) -> u64 {
        self.0 >> 26 & 0x3f
    }

    /// ISS.DFSC or ISS.IFSC of an abort.
    pub const fn fault_status(self) -> u64 {
        self.0 & 0x3f
    }

    /// True for a synchronous external abort of a data access or an instruction fetch at EL1: what an access to memory
    /// that is not the host's ends in.
    pub const fn is_external_abort(self) -> bool {
        matches!(self.class(), 0x21 | 0x25) && self.fault_status() == 0x10
    }
}

impl fmt::Display for Syndrome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.class() {
            0x00 => "undefined instruction",
            0x15 => "SVC",
            0x18 => "trapped system register access",
            0x21 => "instruction abort",
            0x22 => "PC alignment fault",
            0x25 => "data abort",
            0x26 => "SP alignment fault",
            0x2f => "SError",
            0x3c => "BRK",
            _ => "exception",
        })?;
        if matches!(self.class(), 0x21 | 0x25) {
            let cause = match self.fault_status() {
                0x00..=0x03 => "address size fault",
                0x04..=0x07 => "translation fault",
                0x08..=0x0b => "access flag fault",
                0x0c..=0x0f => "permission fault",
                0x10 => "synchronous external abort",
                0x13..=0x17 => "synchronous external abort on a table walk",
                0x21 => "alignment fault",
                0x30 => "TLB conflict",
                _ => "other fault",
            };
            write!(f, ", {cause}")?;
        }
        write!(f, ", ESR {:#x}", self.0)
    }
}

/// Prints the registers and ends the host.
fn fatal(frame: &Frame, vector: u64) -> ! {
    let mut console = Raw;
    // Errors of the raw console do not happen, and there is nobody to tell.
    let _ = writeln!(console, "\nhost: unexpected exception, vector {vector}: {}", Syndrome(frame.esr));
    let _ = writeln!(
        console,
        "  ELR {:#018x}  SPSR {:#x}  FAR {:#018x}  SP {:#x}",
        frame.elr, frame.spsr, frame.far, frame.sp
    );
    for (index, value) in frame.x.iter().enumerate() {
        let end = if index % 4 == 3 { "\n" } else { "  " };
        let _ = write!(console, "  x{index:<2} {value:#018x}{end}");
    }
    let _ = writeln!(console);
    panic::stop("unexpected exception")
}
