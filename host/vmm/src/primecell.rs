//! What Arm's PrimeCell devices have in common: registers that say what a device is.

/// Where the first of the eight identification registers lies, in bytes from the device's start; they are four bytes
/// apart: PeriphID0-3 and PCellID0-3.
const FIRST: u64 = 0xfe0;

/// Reads the identification register at `offset`, if there is one: a byte of `values`, and zero elsewhere.
pub fn identification(values: &[u8; 8], offset: u64) -> u64 {
    let index = offset.checked_sub(FIRST).filter(|distance| distance.is_multiple_of(4)).map(|distance| distance / 4);
    index.and_then(|index| values.get(usize::try_from(index).ok()?)).copied().unwrap_or(0).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_register_holds_one_byte_and_nothing_else_does() {
        let values = [1, 2, 3, 4, 5, 6, 7, 8];
        for (offset, value) in [(0xfe0, 1), (0xfe4, 2), (0xffc, 8), (0xfdc, 0), (0xfe1, 0), (0x1000, 0), (0, 0)] {
            assert_eq!(identification(&values, offset), value, "{offset:#x}");
        }
        assert_eq!(identification(&values, u64::MAX), 0);
    }
}
