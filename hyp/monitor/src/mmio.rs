//! MMIO accesses of a guest: what the host learns of one, and what it may answer.

use crate::inject::Injection;
use crate::registers::GuestRegisters;
use crate::syndrome::Abort;
use abi::Ipa;

/// Guest addresses below this one are devices: an access that no memory backs is forwarded to the host there, and only
/// there. From it upwards is memory, which the host is asked for.
pub const DEVICE_IPA_LIMIT: Ipa = Ipa::new(1 << 30);

/// Bytes of an A64 instruction.
const INSTRUCTION_SIZE: u64 = 4;

/// An MMIO access whose instruction the CPU has decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// A load.
    Read {
        /// Bytes: 1, 2, 4 or 8.
        size: u64,
        /// How the answer reaches the register.
        pending: PendingRead,
    },
    /// A store, which is done as far as the guest is concerned.
    Write {
        /// Bytes: 1, 2, 4 or 8.
        size: u64,
        /// The value, clamped to the width.
        data: u64,
    },
}

/// How a load is completed. The host learns the width and nothing else of this.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PendingRead {
    abort: Abort,
}

/// What the host is to answer before a vCPU goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answerable {
    /// A load from a device: its value.
    Read(PendingRead),
    /// A store to a device, which is done where the host does not say otherwise.
    Write,
    /// A page of memory: the guest makes its access again.
    Memory,
}

/// An access, or a call about a page, that the host is to answer, and what comes of it where the host says that nothing
/// is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pending {
    what: Answerable,
    refused: Refused,
}

/// What comes of an access, or of a call, where nothing is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// The guest takes an exception.
    Injection(Injection),
    /// The call, at which the program counter is, has this result in x0.
    Result(u64),
}

impl Pending {
    /// What is to be answered, and the abort that may come of it.
    pub const fn new(what: Answerable, refused: Injection) -> Self {
        Self { what, refused: Refused::Injection(refused) }
    }

    /// A call that names a page of memory, and its result where there is to be none.
    pub const fn call(result: u64) -> Self {
        Self { what: Answerable::Memory, refused: Refused::Result(result) }
    }

    /// Goes on as the host has it; `data` is what a load gets.
    pub fn complete(&self, registers: &mut GuestRegisters, data: u64) {
        match &self.what {
            Answerable::Read(pending) => pending.complete(registers, data),
            Answerable::Write => skip_instruction(registers),
            Answerable::Memory => {}
        }
    }

    /// What comes of it where nothing is there.
    pub const fn refused(&self) -> Refused {
        self.refused
    }
}

impl Access {
    /// Bytes: 1, 2, 4 or 8.
    pub const fn size(&self) -> u64 {
        match *self {
            Access::Read { size, .. } | Access::Write { size, .. } => size,
        }
    }

    /// The access that a data abort describes; `None` where the CPU has not decoded the instruction, or where it is no
    /// load or store.
    pub fn decode(abort: Abort, registers: &GuestRegisters) -> Option<Self> {
        if !abort.has_instruction_syndrome() || abort.is_cache_maintenance() || abort.is_stage1_walk() {
            return None;
        }
        let size = abort.size();
        Some(if abort.is_write() {
            Access::Write { size, data: clamp(registers.x(abort.register()), size) }
        } else {
            Access::Read { size, pending: PendingRead { abort } }
        })
    }
}

impl PendingRead {
    /// Completes the load with the host's value: clamped to the width, extended as the instruction says, into the one
    /// register; and goes past the instruction.
    pub fn complete(&self, registers: &mut GuestRegisters, data: u64) {
        let size = self.abort.size();
        let mut value = clamp(data, size);
        if self.abort.is_sign_extended() {
            value = sign_extend(value, size);
        }
        if !self.abort.is_64_bit_register() {
            value &= 0xffff_ffff;
        }
        registers.set_x(self.abort.register(), value);
        skip_instruction(registers);
    }
}

/// Goes past the instruction that trapped.
pub fn skip_instruction(registers: &mut GuestRegisters) {
    registers.pc = registers.pc.wrapping_add(INSTRUCTION_SIZE);
    registers.pstate &= !PSTATE_BTYPE;
}

/// PSTATE.BTYPE, which every instruction but an indirect branch clears.
const PSTATE_BTYPE: u64 = 0b11 << 10;

/// The low `size` bytes of a value.
const fn clamp(value: u64, size: u64) -> u64 {
    match size {
        1 => value & 0xff,
        2 => value & 0xffff,
        4 => value & 0xffff_ffff,
        _ => value,
    }
}

/// A value of `size` bytes, sign-extended to 64 bits.
const fn sign_extend(value: u64, size: u64) -> u64 {
    match size {
        1 => value as i8 as u64,
        2 => value as i16 as u64,
        4 => value as i32 as u64,
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISV: u64 = 1 << 24;
    const SSE: u64 = 1 << 21;
    const SF: u64 = 1 << 15;
    const WNR: u64 = 1 << 6;

    fn abort(log2_size: u64, register: u64, flags: u64) -> Abort {
        Abort::from_iss(ISV | log2_size << 22 | register << 16 | 0x07 | flags)
    }

    fn registers() -> GuestRegisters {
        GuestRegisters { x: [0x1111_2222_3333_4444; 31], pc: 0x1000, pstate: 0b11 << 10 | 0x3c5 }
    }

    fn read(log2_size: u64, flags: u64, data: u64) -> u64 {
        let mut guest = registers();
        let Some(Access::Read { size, pending }) = Access::decode(abort(log2_size, 3, flags), &guest) else {
            panic!("not a read")
        };
        assert_eq!(size, 1 << log2_size);
        pending.complete(&mut guest, data);
        assert_eq!((guest.pc, guest.pstate), (0x1004, 0x3c5));
        let mut others = guest.x;
        others[3] = 0x1111_2222_3333_4444;
        assert_eq!(others, registers().x, "only the one register changes");
        guest.x[3]
    }

    #[test]
    fn a_read_is_clamped_and_extended_as_the_instruction_says() {
        assert_eq!(read(0, 0, 0xffff_ffff_ffff_ff80), 0x80, "LDRB");
        assert_eq!(read(0, SSE, 0x80), 0xffff_ff80, "LDRSB to a 32-bit register");
        assert_eq!(read(0, SSE | SF, 0x80), 0xffff_ffff_ffff_ff80, "LDRSB to a 64-bit register");
        assert_eq!(read(1, SSE | SF, 0x1_8000), 0xffff_ffff_ffff_8000, "LDRSH");
        assert_eq!(read(2, 0, !0), 0xffff_ffff, "LDR w");
        assert_eq!(read(2, SSE | SF, 0x8000_0000), 0xffff_ffff_8000_0000, "LDRSW");
        assert_eq!(read(3, SF, !0), !0, "LDR x");
    }

    #[test]
    fn a_write_hands_over_no_more_than_its_width() {
        let guest = registers();
        for (log2_size, data) in [(0, 0x44), (1, 0x4444), (2, 0x3333_4444), (3, 0x1111_2222_3333_4444)] {
            let access = Access::decode(abort(log2_size, 3, WNR), &guest);
            assert_eq!(access, Some(Access::Write { size: 1 << log2_size, data }));
        }
        assert_eq!(Access::decode(abort(3, 31, WNR), &guest), Some(Access::Write { size: 8, data: 0 }), "XZR");
    }

    #[test]
    fn a_read_to_xzr_changes_nothing_but_the_program_counter() {
        let mut guest = registers();
        let Some(Access::Read { pending, .. }) = Access::decode(abort(2, 31, 0), &guest) else { panic!() };
        pending.complete(&mut guest, 5);
        assert_eq!((guest.x, guest.pc), (registers().x, 0x1004));
    }

    #[test]
    fn what_the_cpu_has_not_decoded_is_no_access() {
        let guest = registers();
        assert_eq!(Access::decode(Abort::from_iss(0x07), &guest), None, "pre-indexed, pair, or DC ZVA");
        assert_eq!(Access::decode(abort(0, 0, 1 << 8), &guest), None, "cache maintenance");
        assert_eq!(Access::decode(abort(0, 0, 1 << 7), &guest), None, "a walk of stage 1");
    }
}
