//! Calls as the host makes them: by registers, through the monitor's one entry point.

use crate::exception::hvc;
use crate::platform::TestPlatform;
use abi::Error;
use abi::host::HostCall;
use monitor::registers::HostRegisters;
use monitor::syndrome::{Exception, exception_class};
use monitor::{HostAction, Monitor};

/// PSTATE.SS and PSTATE.BTYPE.
const SS_BTYPE: u64 = 1 << 21 | 0b11 << 10;

/// An SMCCC call by a CPU: x0 to x3.
///
/// # Panics
/// Where another register does not survive it, or the program counter is not as the instruction leaves it.
#[track_caller]
pub fn smccc(
    monitor: &Monitor,
    cpu: &mut TestPlatform,
    exception: Exception,
    function: u64,
    arguments: &[u64],
) -> [u64; 4] {
    let mut registers = HostRegisters { elr: 0x1000, spsr: 0x3c5 | SS_BTYPE, ..HostRegisters::new() };
    for (index, register) in registers.x.iter_mut().enumerate() {
        *register = 0xdead_0000 + index as u64;
    }
    registers.x[0] = function;
    registers.x[1..=arguments.len()].copy_from_slice(arguments);
    let before = registers;
    let action = monitor.host_exit(cpu, &mut registers, &exception);
    assert_eq!(action, HostAction::Resume);
    assert_eq!(registers.x[4..], before.x[4..], "x4 to x30 are kept");
    // A trapped SMC is skipped, and leaves what an instruction that is done leaves.
    let after = match exception.syndrome().exception_class() {
        exception_class::SMC64 => (before.elr + 4, before.spsr & !SS_BTYPE),
        _ => (before.elr, before.spsr),
    };
    assert_eq!((registers.elr, registers.spsr), after);
    [registers.x[0], registers.x[1], registers.x[2], registers.x[3]]
}

/// A host call by a CPU.
///
/// # Errors
/// What the call was refused with.
///
/// # Panics
/// As [`smccc`], and where a call that is refused has results, or x0 is no error.
#[track_caller]
pub fn host_call(
    monitor: &Monitor,
    cpu: &mut TestPlatform,
    call: HostCall,
    arguments: &[u64],
) -> Result<[u64; 3], Error> {
    let [x0, x1, x2, x3] = smccc(monitor, cpu, hvc(0), u64::from(call as u32), arguments);
    if x0 == 0 {
        return Ok([x1, x2, x3]);
    }
    assert_eq!([x1, x2, x3], [0; 3], "a call that fails has no results");
    Err(Error::from_register(x0).expect("an error of the interface"))
}
