//! The host's synchronous exceptions: one entry point, which says how the host goes on.

use crate::inject::Injection;
use crate::monitor::Monitor;
use crate::platform::Platform;
use crate::registers::HostRegisters;
use crate::smccc::{ArchitectureCall, Call, Conduit, NOT_SUPPORTED_REGISTER, architecture_call};
use crate::syndrome::{Abort, Cause, Exception, FaultKind};
use abi::host::{FREEHOLD_UUID, HostCall, REVISION_MAJOR, REVISION_MINOR};
use abi::smccc;
use ownership::{Access, HostFault};

/// How the host goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostAction {
    /// With the registers as they are now.
    Resume,
    /// By taking an exception at EL1; see [`Injection::take`].
    Inject(Injection),
}

/// Bytes of an A64 instruction.
const INSTRUCTION_SIZE: u64 = 4;
/// PSTATE.SS and PSTATE.BTYPE, which an instruction that is done leaves clear: the step of a debugger is over.
const PSTATE_SS_BTYPE: u64 = 1 << 21 | 0b11 << 10;

impl Monitor {
    /// Decides a synchronous exception of the host's. `registers` hold the results where the action is to resume.
    pub fn host_exit<P: Platform>(
        &self,
        platform: &mut P,
        registers: &mut HostRegisters,
        exception: &Exception,
    ) -> HostAction {
        match exception.syndrome().cause() {
            Cause::Hypercall { immediate } => {
                self.host_hypercall(platform, registers, immediate);
                HostAction::Resume
            }
            Cause::SecureCall { immediate } => {
                // A trapped SMC has not been executed, where an HVC has: its return address is its own.
                registers.elr = registers.elr.wrapping_add(INSTRUCTION_SIZE);
                registers.spsr &= !PSTATE_SS_BTYPE;
                self.host_call(platform, registers, Conduit::Smc, immediate);
                HostAction::Resume
            }
            Cause::DataAbort(abort) => {
                // Cache maintenance counts as a write, but needs the rights of a read.
                let writes = abort.is_write() && !abort.is_cache_maintenance();
                self.host_abort(platform, exception, abort, if writes { Access::Write } else { Access::Read })
            }
            Cause::InstructionAbort(abort) => {
                let access = if abort.is_stage1_walk() { Access::Read } else { Access::Execute };
                self.host_abort(platform, exception, abort, access)
            }
            Cause::Wait(_)
            | Cause::FloatingPoint
            | Cause::PointerAuthentication
            | Cause::SystemRegister(_)
            | Cause::Other => HostAction::Inject(Injection::Undefined),
        }
    }

    /// Does what an HVC of the host's asks for, which is most of what it comes for: the same as
    /// [`host_exit`](Self::host_exit). `registers` hold the results.
    #[inline(always)]
    pub fn host_hypercall<P: Platform>(&self, platform: &mut P, registers: &mut HostRegisters, immediate: u16) {
        self.host_call(platform, registers, Conduit::Hvc, immediate);
    }

    /// A stage-2 fault: the host's own memory and devices are mapped as they are touched; the rest is not there.
    fn host_abort<P: Platform>(
        &self,
        platform: &mut P,
        exception: &Exception,
        abort: Abort,
        access: Access,
    ) -> HostAction {
        let resolved = match abort.kind() {
            FaultKind::Translation | FaultKind::AccessFlag => {
                self.ownership.resolve_host_fault(platform, exception.fault_ipa(abort), access)
            }
            _ => HostFault::Inject,
        };
        match resolved {
            HostFault::Resume => HostAction::Resume,
            HostFault::Inject => HostAction::Inject(Injection::for_abort(exception.syndrome(), exception.far)),
        }
    }

    /// An HVC or SMC of the host's: by HVC hyp's own calls; PSCI, the Arm Architecture and TRNG calls that are allowed.
    /// The one that comes most often by far is told apart first.
    #[inline(always)]
    fn host_call<P: Platform>(
        &self,
        platform: &mut P,
        registers: &mut HostRegisters,
        conduit: Conduit,
        immediate: u16,
    ) {
        let Some(function) = Call::function(immediate, &registers.x) else {
            registers.set_x(0, NOT_SUPPORTED_REGISTER);
            return;
        };
        if conduit == Conduit::Hvc && function == HostCall::VcpuRun as u32 {
            let [_, handle, index, ..] = registers.x;
            registers.set_results(match self.vcpu_run(platform, handle, index) {
                Ok(reason) => [0, reason as u64, 0, 0],
                Err(error) => [error.to_register(), 0, 0, 0],
            });
        } else {
            self.any_call(platform, registers, conduit, function);
        }
    }

    /// Any of those calls.
    #[inline(never)]
    fn any_call<P: Platform>(&self, platform: &mut P, registers: &mut HostRegisters, conduit: Conduit, function: u32) {
        let call = Call::of(function, &registers.x);
        if conduit == Conduit::Hvc
            && let Some(host_call) = HostCall::from_function(call.function)
        {
            registers.set_results(match self.hypercall(platform, host_call, &call.arguments) {
                Ok([first, second, third]) => [0, first, second, third],
                Err(error) => [error.to_register(), 0, 0, 0],
            });
        } else {
            self.standard_call(platform, registers, conduit, call);
        }
    }

    /// A call that is none of hyp's own but the general queries. Out of line, so that the others do not pay for it.
    #[inline(never)]
    fn standard_call<P: Platform>(
        &self,
        platform: &mut P,
        registers: &mut HostRegisters,
        conduit: Conduit,
        call: Call,
    ) {
        let [first, second, third, ..] = call.arguments;
        if let Some(result) = self.psci.call(platform, &self.ownership, call.function, [first, second, third]) {
            registers.set_x(0, result);
        } else if let Some(answer) = architecture_call(&call, self.firmware) {
            match answer {
                ArchitectureCall::Answer(result) => registers.set_x(0, result),
                ArchitectureCall::Firmware(arguments) => {
                    registers.set_results(platform.firmware_call(call.function, arguments));
                }
            }
        } else if conduit == Conduit::Hvc {
            registers.set_results(general_query(call.function));
        } else {
            registers.set_x(0, NOT_SUPPORTED_REGISTER);
        }
    }
}

/// The general queries of the vendor-specific hypervisor range (DEN0028, section 6.2): x0 to x3.
fn general_query(function: u32) -> [u64; 4] {
    match function {
        smccc::VENDOR_HYP_CALL_COUNT => [HostCall::ALL.len() as u64, 0, 0, 0],
        smccc::VENDOR_HYP_CALL_UID => smccc::uuid_words(FREEHOLD_UUID).map(u64::from),
        smccc::VENDOR_HYP_REVISION => [REVISION_MAJOR, REVISION_MINOR, 0, 0],
        _ => [NOT_SUPPORTED_REGISTER, 0, 0, 0],
    }
}
