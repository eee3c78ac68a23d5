//! The header of an arm64 `Image` (Linux, Documentation/arch/arm64/booting.rst).

use crate::layout::IMAGE_ALIGNMENT;

/// Bytes of the header.
const HEADER_SIZE: usize = 64;
/// Offset of the magic number.
const MAGIC_OFFSET: usize = 56;
/// "ARM\x64".
const MAGIC: [u8; 4] = *b"ARM\x64";
/// `flags` bit 0: the kernel is big-endian.
const FLAG_BIG_ENDIAN: u64 = 1 << 0;
/// `flags` bits 2:1: the page size, 0 where unspecified and 1 for 4 KiB.
const FLAG_PAGE_SIZE_SHIFT: u32 = 1;

/// What an image's header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ImageHeader {
    /// Bytes from a 2 MiB boundary to where the image is loaded.
    pub text_offset: u64,
    /// Bytes that the image needs from there, zero-initialised data included.
    pub image_size: u64,
}

/// Why a file is no image that a guest can start from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ImageError {
    /// The file ends before its header does.
    TooShort,
    /// The magic number is not there; a compressed or EFI-zboot kernel, perhaps.
    NoMagic,
    /// The kernel is big-endian.
    BigEndian,
    /// The kernel wants pages of another size than 4 KiB.
    PageSize,
    /// The text offset is not below 2 MiB.
    BadTextOffset,
    /// The file is longer than the header says that the image is.
    LongerThanSaid,
}

/// Eight bytes, little-endian.
fn field(header: &[u8; HEADER_SIZE], offset: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&header[offset..offset + 8]);
    u64::from_le_bytes(bytes)
}

impl ImageHeader {
    /// Reads and checks the header of `file`. An image size of 0, as kernels before 3.17 have it, becomes the size of
    /// the file.
    ///
    /// # Errors
    /// See [`ImageError`].
    pub fn parse(file: &[u8]) -> Result<Self, ImageError> {
        let header: &[u8; HEADER_SIZE] = file.first_chunk().ok_or(ImageError::TooShort)?;
        if header[MAGIC_OFFSET..MAGIC_OFFSET + MAGIC.len()] != MAGIC {
            return Err(ImageError::NoMagic);
        }
        let (text_offset, image_size, flags) = (field(header, 8), field(header, 16), field(header, 24));
        if flags & FLAG_BIG_ENDIAN != 0 {
            return Err(ImageError::BigEndian);
        }
        if !matches!(flags >> FLAG_PAGE_SIZE_SHIFT & 3, 0 | 1) {
            return Err(ImageError::PageSize);
        }
        if text_offset >= IMAGE_ALIGNMENT {
            return Err(ImageError::BadTextOffset);
        }
        let file_size = file.len() as u64;
        let image_size = if image_size == 0 { file_size } else { image_size };
        if image_size < file_size {
            return Err(ImageError::LongerThanSaid);
        }
        Ok(Self { text_offset, image_size })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn file(text_offset: u64, image_size: u64, flags: u64) -> Vec<u8> {
        let mut bytes = alloc::vec![0; 128];
        bytes[8..16].copy_from_slice(&text_offset.to_le_bytes());
        bytes[16..24].copy_from_slice(&image_size.to_le_bytes());
        bytes[24..32].copy_from_slice(&flags.to_le_bytes());
        bytes[56..60].copy_from_slice(&MAGIC);
        bytes
    }

    #[test]
    fn a_good_header_says_where_and_how_large() {
        let header = ImageHeader::parse(&file(0x8_0000, 0x1234, 0b1010)).unwrap();
        assert_eq!(header, ImageHeader { text_offset: 0x8_0000, image_size: 0x1234 });
        assert_eq!(ImageHeader::parse(&file(0, 0, 0)).unwrap().image_size, 128);
    }

    #[test]
    fn each_flaw_is_named() {
        assert_eq!(ImageHeader::parse(&[0; 63]), Err(ImageError::TooShort));
        assert_eq!(ImageHeader::parse(&[0; 64]), Err(ImageError::NoMagic));
        assert_eq!(ImageHeader::parse(&file(0, 0x1000, 1)), Err(ImageError::BigEndian));
        assert_eq!(ImageHeader::parse(&file(0, 0x1000, 0b100)), Err(ImageError::PageSize));
        assert_eq!(ImageHeader::parse(&file(0x20_0000, 0x1000, 0)), Err(ImageError::BadTextOffset));
        assert_eq!(ImageHeader::parse(&file(0, 127, 0)), Err(ImageError::LongerThanSaid));
    }
}
