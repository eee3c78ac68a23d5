//! How instructions name system registers and system instructions (Arm ARM, section C5.1.3).

use core::fmt;

/// The encoding of a system register or of a system instruction, in one word as ESR_EL2.ISS has it, so that two are
/// compared at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SystemRegister(u32);

impl SystemRegister {
    /// The register of an encoding, in the order in which the Arm ARM writes it.
    pub const fn new(op0: u8, op1: u8, crn: u8, crm: u8, op2: u8) -> Self {
        Self(
            (op0 as u32 & 0b11) << 20
                | (op2 as u32 & 0b111) << 17
                | (op1 as u32 & 0b111) << 14
                | (crn as u32 & 0b1111) << 10
                | (crm as u32 & 0b1111) << 1,
        )
    }

    /// The register of ISS of a trapped access (Arm ARM, ISS encoding for an exception from MSR, MRS, or System instruction
    /// execution).
    pub const fn from_iss(iss: u64) -> Self {
        Self((iss & Self::ENCODING) as u32)
    }

    /// The bits of the ISS that say which register: op0, op2, op1, CRn and CRm.
    const ENCODING: u64 = 0b11 << 20 | 0b111 << 17 | 0b111 << 14 | 0b1111 << 10 | 0b1111 << 1;

    /// Those bits of the ISS of an access to it.
    pub const fn iss(self) -> u64 {
        self.0 as u64
    }

    /// op0, 0 to 3.
    pub const fn op0(self) -> u8 {
        (self.0 >> 20 & 0b11) as u8
    }

    /// op1, 0 to 7.
    pub const fn op1(self) -> u8 {
        (self.0 >> 14 & 0b111) as u8
    }

    /// CRn, 0 to 15.
    pub const fn crn(self) -> u8 {
        (self.0 >> 10 & 0b1111) as u8
    }

    /// CRm, 0 to 15.
    pub const fn crm(self) -> u8 {
        (self.0 >> 1 & 0b1111) as u8
    }

    /// op2, 0 to 7.
    pub const fn op2(self) -> u8 {
        (self.0 >> 17 & 0b111) as u8
    }

    /// Every encoding with `op0`.
    pub fn all(op0: u8) -> impl Iterator<Item = Self> + Clone {
        (0..1u16 << 14).map(move |number| {
            let [high, low] = [(number >> 7) as u8, number as u8];
            Self::new(op0, high >> 4, high, low >> 3, low)
        })
    }
}

impl fmt::Display for SystemRegister {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S{}_{}_C{}_C{}_{}", self.op0(), self.op1(), self.crn(), self.crm(), self.op2())
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::collections::HashSet;
    use std::string::ToString;

    #[test]
    fn every_encoding_comes_once() {
        let names: HashSet<_> = (0..4).flat_map(SystemRegister::all).map(|register| register.to_string()).collect();
        assert_eq!(names.len(), 1 << 16);
        assert!(names.contains("S3_7_C15_C15_7") && names.contains("S2_3_C0_C5_0"));
    }

    #[test]
    fn a_register_is_what_its_numbers_say() {
        let register = SystemRegister::new(2, 5, 13, 6, 7);
        let numbers = (register.op0(), register.op1(), register.crn(), register.crm(), register.op2());
        assert_eq!(numbers, (2, 5, 13, 6, 7));
        assert_eq!(SystemRegister::from_iss(register.iss() | 31 << 5 | 1), register);
    }
}
