//! Every host call with hostile arguments, while there is no VM: each must be refused, and none may crash.

use crate::call::{self, Instruction};
use crate::{hypercall, report};
use abi::host::HostCall;
use abi::{Error, PAGE_SHIFT, PhysRange};
use alloc::format;

/// Arguments of a call that are varied.
const ARGUMENTS: usize = 7;

/// Calls that succeed whatever their arguments are, or with some of those that are tried.
const HARMLESS: [HostCall; 5] =
    [HostCall::Version, HostCall::MemoryInfo, HostCall::InterruptInfo, HostCall::VmSizes, HostCall::VmReserve];

/// See the module. The host's memory starts at a page number that is not tried.
pub fn run(carve_out: PhysRange) {
    let carve_out_page = carve_out.start.raw() >> PAGE_SHIFT;
    let values = [
        0,
        1,
        u64::MAX,
        1 << 63,
        carve_out_page,
        (1 << 36) - 1,
        1 << 36,
        (1 << 52) - 1,
        1 << 52,
        u64::MAX >> PAGE_SHIFT,
    ];
    for &function in HostCall::ALL {
        if function == HostCall::VmReserve {
            continue;
        }
        let mut wrong = None;
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ function as u64);
        for first in values {
            for second in values {
                let mut arguments = [0; ARGUMENTS];
                for argument in &mut arguments {
                    *argument = values[(random.next() % values.len() as u64) as usize];
                }
                (arguments[0], arguments[1]) = (first, second);
                // SAFETY: none of the values is the number of a page of the host's.
                let result = unsafe { hypercall::raw(function, arguments) };
                let refused = Error::from_register(result).is_some();
                let may_succeed = HARMLESS.contains(&function) && result == 0;
                if !(refused || may_succeed) {
                    wrong = wrong.or(Some((arguments, result)));
                }
            }
        }
        report::check(&format!("sweep.{function:?}"), wrong.is_none(), format_args!("{wrong:x?}"));
    }
    // SAFETY: a query.
    let after = unsafe { call::raw(Instruction::Hvc, [HostCall::Version as u64, 0, 0, 0]) };
    report::check("sweep.survived", after[0] == 0 && hypercall::memory_info().is_ok(), format_args!("{after:x?}"));
}

/// Numbers that are the same in every run (xorshift64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
