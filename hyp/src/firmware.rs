//! Calls to the firmware below, by SMC (SMC Calling Convention, DEN0028).

/// Makes an SMCCC call with up to three arguments and returns x0 to x3. May not return, as PSCI SYSTEM_OFF does not.
pub fn call(function: u32, arguments: [u64; 3]) -> [u64; 4] {
    let [mut x0, mut x1, mut x2, mut x3] = [u64::from(function), arguments[0], arguments[1], arguments[2]];
    // SAFETY: the firmware keeps to SMCCC 1.0 at least: it may change x0 to x17 and nothing else of ours. Whether the
    // call may be made at all was decided before it came here.
    unsafe {
        core::arch::asm!(
            "smc #0",
            inout("x0") x0, inout("x1") x1, inout("x2") x2, inout("x3") x3,
            lateout("x4") _, lateout("x5") _, lateout("x6") _, lateout("x7") _, lateout("x8") _, lateout("x9") _,
            lateout("x10") _, lateout("x11") _, lateout("x12") _, lateout("x13") _, lateout("x14") _,
            lateout("x15") _, lateout("x16") _, lateout("x17") _,
            options(nostack)
        );
    }
    [x0, x1, x2, x3]
}

/// Stops this CPU for good.
pub fn halt() -> ! {
    loop {
        crate::barrier::wait_for_event();
    }
}

/// Powers the machine off, or stops this CPU where the firmware cannot.
pub fn power_off() -> ! {
    call(abi::psci::SYSTEM_OFF, [0; 3]);
    halt()
}
