//! What a script runs on.

use crate::expectation::Outcome;
use crate::operand::VmNumber;
use crate::step::VmSetup;
use abi::host::VmHandle;
use abi::{Error, Gfn, Ipa, Pfn, PhysAddr};
use ownership_spec::Machine;

/// How memory is touched: one access of 64 bits, or one fetch of an instruction.
///
/// Whatever a script, or a guest that follows it, writes is no instruction: see [`Access::word`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Access {
    /// A load.
    Read,
    /// A store of this value, as [`Access::word`] makes it.
    Write(u64),
    /// A fetch. What is fetched is undefined (UDF), so that nothing is done beyond.
    Execute,
}

impl Access {
    /// What is stored for a value: bits 15:0 and 63:32 of it. Its low word is UDF (Arm ARM C6.2), so that a page that
    /// holds it can be executed at no risk; so can a page of zeroes.
    pub const fn word(value: u64) -> u64 {
        value & 0xffff_ffff_0000_ffff
    }
}

/// What a vCPU is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum GuestRequest {
    /// HVC #0 with x0 and x1 to x7.
    Call {
        /// x0.
        function: u64,
        /// x1 to x7.
        arguments: [u64; 7],
    },
    /// An access.
    Access {
        /// How.
        access: Access,
        /// Byte address, 8-byte aligned or not.
        ipa: Ipa,
    },
    /// Go on with what it could not finish.
    Resume,
}

/// A step with numbers in the place of symbols.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Request {
    /// A host call: HVC #0 with x0 and x1 to x7.
    Call {
        /// x0.
        function: u64,
        /// x1 to x7.
        arguments: [u64; 7],
        /// The name of the VM that the call makes, if it is done.
        names: Option<VmNumber>,
    },
    /// The host touches memory.
    Access {
        /// How.
        access: Access,
        /// Byte address.
        address: PhysAddr,
    },
    /// A vCPU acts.
    Guest {
        /// Of which VM.
        vm: VmNumber,
        /// Its index.
        vcpu: u64,
        /// What it does.
        request: GuestRequest,
    },
    /// Hyp is to find so many frames.
    Frames(Option<u32>),
}

/// Where the places are that a script names, and how large VMs are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Places {
    /// First page of the pool.
    pub pool: Pfn,
    /// Pages in the pool.
    pub pool_pages: u64,
    /// First page of hyp's carve-out.
    pub hyp: Pfn,
    /// Pages in it.
    pub hyp_pages: u64,
    /// First page of a device that nothing else uses.
    pub device: Pfn,
    /// Its pages.
    pub device_pages: u64,
    /// The guests' first frame for scripts, 2 MiB aligned, and far from what else guests have.
    pub frames: Gfn,
    /// Bits of the address space of guests.
    pub ipa_bits: u64,
    /// Pages that VM_INIT takes for a VM with as many.
    pub vm_pages: u64,
    /// Alignment of the first of them, in pages.
    pub vm_alignment: u64,
    /// Pages that VCPU_INIT takes.
    pub vcpu_pages: u64,
}

impl Places {
    /// Where the guests' frames for scripts begin: 128 MiB above the start of their RAM.
    pub const FRAMES: Gfn = Gfn::new(0x4_8000);
}

/// A machine with hyp on it, real or simulated.
pub trait Executor {
    /// Makes a VM of the setup: its vCPUs are there, tables have pages enough for a GiB of frames in 4 KiB pages here and
    /// there, and vCPU 0 waits for what it is to do.
    ///
    /// # Errors
    /// What hyp said.
    fn create(&mut self, number: VmNumber, setup: &VmSetup) -> Result<VmHandle, Error>;

    /// Where things are. The pool is there from the beginning.
    fn places(&self) -> Places;

    /// The machine, as the specification sees it: what hyp answers is then judged by that. `None` where only what a script
    /// says itself is expected.
    fn machine(&self) -> Option<Machine> {
        None
    }

    /// HVC #0 of the host with x0 and x1 to x7, on a CPU; x0 to x3.
    fn host_call(&mut self, cpu: usize, function: u64, arguments: [u64; 7]) -> [u64; 4];

    /// Has a vCPU do something, run by a CPU. Exits that only tell the host something are noted and passed over; an exit
    /// that repeats ends the attempt with [`Status::Stopped`](crate::Status::Stopped), and the next request is
    /// [`GuestRequest::Resume`].
    fn guest(&mut self, cpu: usize, vm: VmNumber, vcpu: u64, request: &GuestRequest) -> Outcome;

    /// The host touches memory, on a CPU.
    fn access(&mut self, cpu: usize, access: Access, address: PhysAddr) -> Outcome;

    /// Lets hyp find so many frames for tables, or all there are. False where that is not in the executor's hands.
    fn limit_frames(&mut self, count: Option<u32>) -> bool {
        let _ = count;
        false
    }

    /// True where hyp lacks frames for tables just where a script says that it does.
    fn counts_frames(&self) -> bool {
        false
    }

    /// Does `outer` on a CPU, and `inner` on another when `outer` is at its `boundary`th lock boundary, counted from 1;
    /// after it, where there are not so many. `None` where that cannot be arranged, and nothing has been done.
    fn interleave(
        &mut self,
        boundary: u32,
        outer: (usize, &Request),
        inner: (usize, &Request),
    ) -> Option<(Outcome, Outcome)> {
        let _ = (boundary, outer, inner);
        None
    }

    /// True where the host itself needs one of `count` pages, so that no script may give them away or write to them.
    fn is_in_use(&self, first: Pfn, count: u64) -> bool {
        let _ = (first, count);
        false
    }

    /// Takes back what the executor itself gave to a VM of the setup, where the VM is dying: it is about to be finalised.
    fn before_finalise(&mut self, number: VmNumber) {
        let _ = number;
    }

    /// Takes note that a VM of the setup has been finalised.
    fn finalised(&mut self, number: VmNumber) {
        let _ = number;
    }
}
