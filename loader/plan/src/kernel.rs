//! The header of an arm64 Linux `Image` (Linux, `Documentation/arch/arm64/booting.rst`), which the host kernel has.

use core::fmt;

/// Bytes of the header.
pub const HEADER_SIZE: usize = 64;
/// What a kernel's base is aligned to, in bytes; it lies `text_offset` above.
pub const BASE_ALIGNMENT: u64 = 2 << 20;
/// "ARM\x64" at byte 56.
const MAGIC: [u8; 4] = *b"ARM\x64";
/// Flag: the kernel is big endian.
const FLAG_BIG_ENDIAN: u64 = 1;

/// Why the host kernel cannot be started. The fault is with the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KernelError {
    /// The file is shorter than the header.
    Short(u64),
    /// An EFI zboot image: a small program that unpacks the kernel, and needs EFI for it.
    EfiZboot,
    /// The file is packed with the named program.
    Packed(&'static str),
    /// An ELF file.
    Elf,
    /// The magic number is missing.
    NoImage,
    /// A big-endian kernel.
    BigEndian,
    /// The header has no image size: older than Linux 3.17.
    TooOld,
    /// `text_offset` is not below 2 MiB, or not a multiple of 4 KiB.
    TextOffset(u64),
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the host kernel ")?;
        match self {
            Self::Short(size) => write!(f, "is only {size} bytes long: no arm64 Image"),
            Self::EfiZboot => write!(
                f,
                "is an EFI zboot image, which needs EFI to unpack itself; give the unpacked Image (`make setup` unpacks \
                 Debian's)"
            ),
            Self::Packed(program) => write!(f, "is compressed with {program}; unpack it first ({program} -d)"),
            Self::Elf => write!(f, "is an ELF file; give the arm64 Image (arch/arm64/boot/Image)"),
            Self::NoImage => write!(f, "is no arm64 Image: the magic number at byte 56 is missing"),
            Self::BigEndian => write!(f, "is big endian; only little endian is handled"),
            Self::TooOld => write!(f, "does not say how large it is (older than Linux 3.17)"),
            Self::TextOffset(offset) => {
                write!(f, "has a text offset of {offset:#x}, which is no multiple of 4 KiB below 2 MiB")
            }
        }
    }
}

/// What the header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KernelImage {
    /// Bytes above a 2 MiB boundary at which the image starts.
    pub text_offset: u64,
    /// Bytes from the image's start that it takes when it runs, zero-initialised data included.
    pub image_size: u64,
}

impl KernelImage {
    /// Reads the header at the start of a file of `file_size` bytes.
    ///
    /// # Errors
    /// [`KernelError`]: what the file is instead, and what to do.
    pub fn parse(header: &[u8; HEADER_SIZE], file_size: u64) -> Result<Self, KernelError> {
        if file_size < HEADER_SIZE as u64 {
            return Err(KernelError::Short(file_size));
        }
        match header {
            [b'M', b'Z', _, _, b'z', b'i', b'm', b'g', ..] => return Err(KernelError::EfiZboot),
            [0x1f, 0x8b, ..] => return Err(KernelError::Packed("gzip")),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => return Err(KernelError::Packed("zstd")),
            [0xfd, b'7', b'z', b'X', b'Z', ..] => return Err(KernelError::Packed("xz")),
            [0x7f, b'E', b'L', b'F', ..] => return Err(KernelError::Elf),
            _ => {}
        }
        if field::<4>(header, 56) != MAGIC {
            return Err(KernelError::NoImage);
        }
        let text_offset = u64::from_le_bytes(field(header, 8));
        let image_size = u64::from_le_bytes(field(header, 16));
        let flags = u64::from_le_bytes(field(header, 24));
        if flags & FLAG_BIG_ENDIAN != 0 {
            return Err(KernelError::BigEndian);
        }
        if image_size == 0 {
            return Err(KernelError::TooOld);
        }
        if text_offset >= BASE_ALIGNMENT || text_offset % abi::PAGE_SIZE != 0 {
            return Err(KernelError::TextOffset(text_offset));
        }
        Ok(Self { text_offset, image_size: image_size.max(file_size) })
    }
}

/// The `N` bytes at `offset`; zeros where the header is too short for that.
fn field<const N: usize>(header: &[u8; HEADER_SIZE], offset: usize) -> [u8; N] {
    header.get(offset..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}
