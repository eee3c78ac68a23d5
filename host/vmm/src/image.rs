//! The header of an arm64 `Image` (Linux, Documentation/arch/arm64/booting.rst).

use crate::layout::IMAGE_ALIGNMENT;

/// Bytes of the header.
const HEADER_SIZE: usize = 64;
/// Offset of the magic number.
const MAGIC_OFFSET: usize = 56;
/// "ARM\x64".
const MAGIC: [u8; 4] = *b"ARM\x64";
/// What compressed files start with, and what the compression is called; an arm64 kernel does not decompress itself.
const COMPRESSED: [(&[u8], Compression); 6] = [
    (b"\x1f\x8b", Compression::Gzip),
    (b"\x28\xb5\x2f\xfd", Compression::Zstd),
    (b"\xfd7zXZ\0", Compression::Xz),
    (b"\x04\x22\x4d\x18", Compression::Lz4),
    (b"\x02\x21\x4c\x18", Compression::Lz4),
    (b"BZh", Compression::Bzip2),
];
/// What an EFI application starts with. A kernel with an EFI stub does too, where it has code that runs.
const EFI_MAGIC: &[u8] = b"MZ";
/// Offset of the word that says that an EFI application unpacks a compressed kernel, and the word (Linux,
/// drivers/firmware/efi/libstub/zboot-header.S).
const EFI_ZBOOT: (usize, &[u8]) = (4, b"zimg");
/// Offset of the compression's name in such a file: up to 32 bytes, NUL-terminated.
const EFI_ZBOOT_COMPRESSION: usize = 24;
/// What the names say that there may be.
const EFI_ZBOOT_NAMES: [(&[u8], Compression); 5] = [
    (b"gzip\0", Compression::Gzip),
    (b"zstd", Compression::Zstd),
    (b"xzkern\0", Compression::Xz),
    (b"lz4\0", Compression::Lz4),
    (b"bzip2\0", Compression::Bzip2),
];
/// Where kernels before 3.17, which do not say how large they are, want to lie; they may say it in either byte order.
const OLD_TEXT_OFFSET: u64 = 0x8_0000;
/// `flags` bit 0: the kernel is big-endian.
const FLAG_BIG_ENDIAN: u64 = 1 << 0;
/// `flags` bits 2:1: the page size, 0 where unspecified.
const FLAG_PAGE_SIZE_SHIFT: u32 = 1;

/// The pages that a kernel makes its translation tables of. A CPU need not have each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageSize {
    /// 4 KiB, or what the kernel does not say.
    Kib4,
    /// 16 KiB.
    Kib16,
    /// 64 KiB.
    Kib64,
}

/// What an image's header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ImageHeader {
    /// Bytes from a 2 MiB boundary to where the image is loaded.
    pub text_offset: u64,
    /// Bytes that the image needs from there, zero-initialised data included.
    pub image_size: u64,
    /// The kernel's pages.
    pub page_size: PageSize,
}

/// How a file is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compression {
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
    /// xz.
    Xz,
    /// LZ4.
    Lz4,
    /// bzip2.
    Bzip2,
    /// Something that is not known here.
    Unknown,
}

/// Why a file is no image that a guest can start from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ImageError {
    /// The file ends before its header does.
    TooShort,
    /// The magic number is not there: it is no kernel for arm64.
    NoMagic,
    /// The file is compressed, and must be unpacked first.
    Compressed(Compression),
    /// The file is an EFI application that unpacks the kernel in it, which must be taken out first.
    EfiZboot(Compression),
    /// The kernel is big-endian.
    BigEndian,
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

/// What `bytes` start with, of what `names` has.
fn named(bytes: &[u8], names: &[(&[u8], Compression)]) -> Option<Compression> {
    names.iter().find(|(start, _)| bytes.starts_with(start)).map(|(_, compression)| *compression)
}

/// Why a file without the magic number is no image.
fn not_an_image(file: &[u8]) -> ImageError {
    let (zboot, word) = EFI_ZBOOT;
    if let Some(compression) = named(file, &COMPRESSED) {
        ImageError::Compressed(compression)
    } else if file.starts_with(EFI_MAGIC) && file.get(zboot..).is_some_and(|rest| rest.starts_with(word)) {
        let name = file.get(EFI_ZBOOT_COMPRESSION..).unwrap_or_default();
        ImageError::EfiZboot(named(name, &EFI_ZBOOT_NAMES).unwrap_or(Compression::Unknown))
    } else if file.len() < HEADER_SIZE {
        ImageError::TooShort
    } else {
        ImageError::NoMagic
    }
}

impl ImageHeader {
    /// Reads and checks the header of `file`. An EFI stub before the code does no harm. An image size of 0, as kernels
    /// before 3.17 have it, becomes the size of the file, and what such a kernel says of its text offset does not count.
    ///
    /// # Errors
    /// See [`ImageError`].
    pub fn parse(file: &[u8]) -> Result<Self, ImageError> {
        let header: &[u8; HEADER_SIZE] = file
            .first_chunk()
            .filter(|header: &&[u8; HEADER_SIZE]| header[MAGIC_OFFSET..].starts_with(&MAGIC))
            .ok_or_else(|| not_an_image(file))?;
        let (text_offset, image_size, flags) = (field(header, 8), field(header, 16), field(header, 24));
        if flags & FLAG_BIG_ENDIAN != 0 {
            return Err(ImageError::BigEndian);
        }
        let page_size = match flags >> FLAG_PAGE_SIZE_SHIFT & 3 {
            2 => PageSize::Kib16,
            3 => PageSize::Kib64,
            _ => PageSize::Kib4,
        };
        let file_size = file.len() as u64;
        if image_size == 0 {
            return Ok(Self { text_offset: OLD_TEXT_OFFSET, image_size: file_size, page_size });
        }
        if text_offset >= IMAGE_ALIGNMENT {
            return Err(ImageError::BadTextOffset);
        }
        if image_size < file_size {
            return Err(ImageError::LongerThanSaid);
        }
        Ok(Self { text_offset, image_size, page_size })
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
        let sizes = [PageSize::Kib4, PageSize::Kib4, PageSize::Kib16, PageSize::Kib64];
        for (flags, page_size) in [0b1000, 0b1010, 0b1100, 0b1110].into_iter().zip(sizes) {
            let header = ImageHeader::parse(&file(0x8_0000, 0x1234, flags)).unwrap();
            assert_eq!(header, ImageHeader { text_offset: 0x8_0000, image_size: 0x1234, page_size });
        }
        assert!(ImageHeader::parse(&file(0, 128, 0)).is_ok());
    }

    #[test]
    fn an_old_kernel_lies_where_they_all_did_whatever_it_says() {
        for text_offset in [0, 0x8_0000, 0x8_0000u64.swap_bytes()] {
            let header = ImageHeader::parse(&file(text_offset, 0, 0)).unwrap();
            let page_size = PageSize::Kib4;
            assert_eq!(header, ImageHeader { text_offset: 0x8_0000, image_size: 128, page_size });
        }
    }

    #[test]
    fn an_efi_stub_does_no_harm() {
        let mut bytes = file(0, 0x1000, 0b1010);
        bytes[..2].copy_from_slice(b"MZ");
        bytes[60..64].copy_from_slice(&0x40u32.to_le_bytes());
        bytes[64..68].copy_from_slice(b"PE\0\0");
        assert!(ImageHeader::parse(&bytes).is_ok());
    }

    #[test]
    fn each_flaw_is_named() {
        assert_eq!(ImageHeader::parse(&[]), Err(ImageError::TooShort));
        assert_eq!(ImageHeader::parse(&[0; 63]), Err(ImageError::TooShort));
        assert_eq!(ImageHeader::parse(&[0; 64]), Err(ImageError::NoMagic));
        assert_eq!(ImageHeader::parse(&file(0, 0x1000, 1)), Err(ImageError::BigEndian));
        assert_eq!(ImageHeader::parse(&file(0x20_0000, 0x1000, 0)), Err(ImageError::BadTextOffset));
        assert_eq!(ImageHeader::parse(&file(0, 127, 0)), Err(ImageError::LongerThanSaid));
    }

    #[test]
    fn a_compressed_kernel_is_told_by_its_compression() {
        for (start, compression) in [
            (b"\x1f\x8b\x08\0".as_slice(), Compression::Gzip),
            (b"\x28\xb5\x2f\xfd", Compression::Zstd),
            (b"\xfd7zXZ\0", Compression::Xz),
            (b"\x04\x22\x4d\x18", Compression::Lz4),
            (b"BZh9", Compression::Bzip2),
        ] {
            let bytes = [start, &[0; 100]].concat();
            assert_eq!(ImageHeader::parse(&bytes), Err(ImageError::Compressed(compression)));
        }
    }

    #[test]
    fn an_efi_application_that_unpacks_a_kernel_is_told_from_a_kernel_with_an_efi_stub() {
        for (name, compression) in [
            (b"gzip\0".as_slice(), Compression::Gzip),
            (b"zstd\0", Compression::Zstd),
            (b"zstd22\0", Compression::Zstd),
            (b"xzkern\0", Compression::Xz),
            (b"lz4\0", Compression::Lz4),
            (b"arithmetic\0", Compression::Unknown),
        ] {
            let mut bytes = alloc::vec![0; 128];
            bytes[..8].copy_from_slice(b"MZ\0\0zimg");
            bytes[24..24 + name.len()].copy_from_slice(name);
            assert_eq!(ImageHeader::parse(&bytes), Err(ImageError::EfiZboot(compression)));
        }
        assert_eq!(ImageHeader::parse(b"MZ\0\0zimg"), Err(ImageError::EfiZboot(Compression::Unknown)));
        assert_eq!(ImageHeader::parse(&[b"MZ".as_slice(), &[0; 62]].concat()), Err(ImageError::NoMagic));
    }
}
