//! The registers that describe interrupts by their INTID. They lie at the same offsets in the distributor, for SPIs, and in
//! SGI_base of each redistributor, for SGIs and PPIs (Arm IHI 0069, sections 12.9 and 12.11).

use super::Gic;
use super::bank::{BitRegister, INTERRUPTS};

/// IGROUPR, the first of the registers with a bit for each interrupt.
const BITS: u64 = 0x080;
/// IPRIORITYR: a byte for each interrupt.
const IPRIORITYR: u64 = 0x400;
/// Where IPRIORITYR ends.
const IPRIORITYR_END: u64 = 0x800;
/// ICFGR: two bits for each interrupt.
const ICFGR: u64 = 0xc00;
/// Where ICFGR ends.
const ICFGR_END: u64 = 0xd00;

/// Whose registers are accessed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Frame {
    /// The distributor's.
    Distributor,
    /// Those in SGI_base of this vCPU.
    Redistributor(usize),
}

/// A register, and the interrupts that it describes where these are not a whole bank, counted from the start of theirs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Register {
    Bits(BitRegister),
    Priorities { first: u32, end: u32 },
    Configuration { first: u32 },
}

impl Gic {
    /// Reads `width` bytes at `offset`.
    pub(super) fn read_array(&mut self, frame: Frame, offset: u64, width: u64) -> u64 {
        let Some((index, register)) = self.decode(frame, offset, width) else { return 0 };
        let Some(bank) = self.banks.get_mut(index) else { return 0 };
        match register {
            Register::Bits(register) => {
                let kicks = &mut self.kicks;
                bank.read(register, |vcpu| *kicks |= 1 << vcpu).into()
            }
            Register::Priorities { first, end } => {
                (first..end).rev().fold(0, |value, index| value << 8 | u64::from(bank.priority(index)))
            }
            Register::Configuration { first } => bank.read_configuration(first).into(),
        }
    }

    /// Writes the low `width` bytes of `value` at `offset`.
    pub(super) fn write_array(&mut self, frame: Frame, offset: u64, width: u64, value: u64) {
        let Some((index, register)) = self.decode(frame, offset, width) else { return };
        let word = value as u32;
        self.change(index, |bank| match register {
            Register::Bits(register) => bank.write(register, word),
            Register::Priorities { first, end } => (first..end)
                .zip(word.to_le_bytes())
                .fold(0, |touched, (index, byte)| touched | bank.set_priority(index, byte)),
            Register::Configuration { first } => bank.write_configuration(first, word),
        });
    }

    /// The bank and register that an access is for; `None` where it is for none, or the register takes no such width.
    fn decode(&self, frame: Frame, offset: u64, width: u64) -> Option<(usize, Register)> {
        let aligned = offset.checked_rem(width)? == 0;
        let (number, register) = match (offset, width) {
            _ if !aligned => return None,
            (BITS..IPRIORITYR, 4) => {
                let register = match offset / 0x80 {
                    1 => BitRegister::Igroupr,
                    2 => BitRegister::Isenabler,
                    3 => BitRegister::Icenabler,
                    4 => BitRegister::Ispendr,
                    5 => BitRegister::Icpendr,
                    6 => BitRegister::Isactiver,
                    _ => BitRegister::Icactiver,
                };
                (offset % 0x80 / 4, Register::Bits(register))
            }
            (IPRIORITYR..IPRIORITYR_END, 1 | 4) => {
                let intid = offset - IPRIORITYR;
                let first = (intid % INTERRUPTS as u64) as u32;
                (intid / INTERRUPTS as u64, Register::Priorities { first, end: first + width as u32 })
            }
            (ICFGR..ICFGR_END, 4) => {
                let first = if offset.is_multiple_of(8) { 0 } else { 16 };
                ((offset - ICFGR) / 8, Register::Configuration { first })
            }
            _ => return None,
        };
        let number = usize::try_from(number).ok()?;
        match frame {
            Frame::Distributor if number != 0 => Some((self.bank_index(0, number), register)),
            Frame::Redistributor(vcpu) if number == 0 => Some((vcpu, register)),
            _ => None,
        }
    }
}
