//! Device trees that no firmware would hand over, and the means to hand them over: QEMU checks and completes every tree
//! that it loads itself.

use crate::{Failure, Machine};
use std::path::{Path, PathBuf};

/// Where the image under test is put.
const IMAGE_ADDRESS: u64 = 0x4100_0000;
/// Where the tree is put: not where QEMU puts its own.
const TREE_ADDRESS: u64 = 0x4a00_0000;

/// AArch64 code that puts the tree's address into x0 and jumps to the image: `ldr x0, 16f; ldr x1, 24f; br x1; udf`,
/// and the two addresses.
fn trampoline(tree: u64) -> Vec<u8> {
    let code: [u32; 4] = [0x5800_0080, 0x5800_00a1, 0xd61f_0020, 0];
    let mut bytes: Vec<u8> = code.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.extend_from_slice(&tree.to_le_bytes());
    bytes.extend_from_slice(&IMAGE_ADDRESS.to_le_bytes());
    bytes
}

/// A machine that enters `image` with x0 pointing at `tree`, byte for byte, `offset` bytes above a 2 MiB boundary. The
/// files that QEMU needs for it are written to `scratch`, under `name`.
pub fn machine_with_tree(
    image: &Path,
    tree: &[u8],
    offset: u64,
    scratch: &Path,
    name: &str,
) -> Result<Machine, Failure> {
    let address = TREE_ADDRESS + offset;
    let tree = write(scratch, &format!("{name}.dtb"), tree)?;
    let machine = machine_with_pointer(image, address, scratch, name)?;
    Ok(machine.argument("-device").argument(format!("loader,file={},addr={address:#x},force-raw=on", tree.display())))
}

/// A machine that enters `image` with x0 holding `pointer`, and no tree.
pub fn machine_with_pointer(image: &Path, pointer: u64, scratch: &Path, name: &str) -> Result<Machine, Failure> {
    let kernel = write(scratch, &format!("{name}.trampoline"), &trampoline(pointer))?;
    let load = format!("loader,file={},addr={IMAGE_ADDRESS:#x},force-raw=on", image.display());
    Ok(Machine::new(kernel).argument("-device").argument(load))
}

fn write(scratch: &Path, name: &str, bytes: &[u8]) -> Result<PathBuf, Failure> {
    let path = scratch.join(name);
    std::fs::write(&path, bytes)
        .map(|()| path.clone())
        .map_err(|error| Failure::new(format!("{}: {error}", path.display())))
}

/// A flattened device tree's header: offsets of its fields (Devicetree Specification v0.4, section 5.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeaderField {
    /// `totalsize`.
    TotalSize = 4,
    /// `off_dt_struct`.
    StructureOffset = 8,
    /// `off_dt_strings`.
    StringsOffset = 12,
    /// `version`.
    Version = 20,
}

/// `tree` with one field of its header replaced.
pub fn with_header_field(tree: &[u8], field: HeaderField, value: u32) -> Vec<u8> {
    let mut tree = tree.to_vec();
    if let Some(place) = tree.get_mut(field as usize..field as usize + 4) {
        place.copy_from_slice(&value.to_be_bytes());
    }
    tree
}

/// `tree` with every occurrence of `from` replaced by `to`, of the same length.
pub fn with_bytes(tree: &[u8], from: &[u8], to: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut changed = tree.to_vec();
    let mut found = false;
    let mut at = 0;
    while let Some(window) = changed.get_mut(at..at + from.len()) {
        if window == from {
            window.copy_from_slice(to);
            found = true;
        }
        at += 1;
    }
    if found && from.len() == to.len() { Ok(changed) } else { Err(Failure::new(format!("no {from:?} in the tree"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trampoline_finds_its_two_addresses() {
        let code = trampoline(0x1234);
        // LDR (literal): the offset is imm19 in bits 23:5, in words, from the instruction itself.
        for (instruction, address) in [(0usize, 0x1234), (4, IMAGE_ADDRESS)] {
            let word = u32::from_le_bytes(code[instruction..instruction + 4].try_into().unwrap());
            let literal = instruction + 4 * (word >> 5 & 0x7_ffff) as usize;
            assert_eq!(u64::from_le_bytes(code[literal..literal + 8].try_into().unwrap()), address);
        }
    }

    #[test]
    fn a_tree_is_changed_in_place() {
        let tree = [0u8, 1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(with_header_field(&tree, HeaderField::TotalSize, 0x0a0b_0c0d), [0, 1, 2, 3, 10, 11, 12, 13, 8]);
        assert_eq!(with_bytes(&tree, &[2, 3], &[9, 9]).unwrap(), [0, 1, 9, 9, 4, 5, 6, 7, 8]);
        assert!(with_bytes(&tree, &[3, 2], &[9, 9]).is_err());
    }
}
