//! Memory types and shareability; the layout of MAIR_ELx that every stage-1 regime of the project uses.

/// A memory type of stage 1. The value is the index into MAIR_ELx (Arm ARM D19.2.97 MAIR_EL2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum MemoryType {
    /// Normal, inner and outer write-back, read and write allocate, non-transient.
    Normal = 0,
    /// Device-nGnRE: no gathering, no reordering, early write acknowledgement.
    DeviceNgnre = 1,
    /// Device-nGnRnE: no gathering, no reordering, no early write acknowledgement.
    DeviceNgnrne = 2,
}

/// Attribute byte of Normal write-back memory in MAIR_ELx.
const MAIR_NORMAL: u64 = 0xff;
/// Attribute byte of Device-nGnRE memory in MAIR_ELx.
const MAIR_DEVICE_NGNRE: u64 = 0x04;
/// Attribute byte of Device-nGnRnE memory in MAIR_ELx.
const MAIR_DEVICE_NGNRNE: u64 = 0x00;

/// The value for MAIR_EL2 and MAIR_EL1 that gives each [`MemoryType`] its meaning. Indices without a type hold
/// Device-nGnRnE.
pub const MAIR_VALUE: u64 = MAIR_NORMAL << (8 * MemoryType::Normal as u64)
    | MAIR_DEVICE_NGNRE << (8 * MemoryType::DeviceNgnre as u64)
    | MAIR_DEVICE_NGNRNE << (8 * MemoryType::DeviceNgnrne as u64);

impl MemoryType {
    /// The type with AttrIndx `index`, if there is one.
    pub const fn from_index(index: u64) -> Option<Self> {
        match index {
            0 => Some(Self::Normal),
            1 => Some(Self::DeviceNgnre),
            2 => Some(Self::DeviceNgnrne),
            _ => None,
        }
    }
}

/// Shareability of Normal memory, the SH field (Arm ARM D8.5.2). Device memory is outer shareable whatever it says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Shareability {
    /// Not coherent with other CPUs.
    NonShareable = 0,
    /// Coherent with every observer of the system.
    Outer = 2,
    /// Coherent with the CPUs that run the system.
    Inner = 3,
}

impl Shareability {
    /// The shareability that a two-bit SH field means, `None` for the reserved value 1.
    pub const fn from_field(field: u64) -> Option<Self> {
        match field {
            0 => Some(Self::NonShareable),
            2 => Some(Self::Outer),
            3 => Some(Self::Inner),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mair_gives_each_index_its_type() {
        assert_eq!(MAIR_VALUE, 0x04ff);
        for memory in [MemoryType::Normal, MemoryType::DeviceNgnre, MemoryType::DeviceNgnrne] {
            assert_eq!(MemoryType::from_index(memory as u64), Some(memory));
        }
        assert_eq!(MemoryType::from_index(3), None);
        assert_eq!(Shareability::from_field(1), None);
    }
}
