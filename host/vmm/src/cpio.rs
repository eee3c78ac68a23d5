//! Archives of files in the format that `cpio -o -H newc` writes (Linux,
//! `Documentation/driver-api/early-userspace/buffer-format.rst`).

/// Bytes of a header: the magic number and 13 fields of 8 hexadecimal digits.
const HEADER_SIZE: usize = 110;
/// The magic numbers: without, and with, a sum of the file's bytes. The sum is not looked at.
const MAGICS: [&[u8]; 2] = [b"070701", b"070702"];
/// Bytes of a magic number, and of a field.
const MAGIC_SIZE: usize = 6;
const FIELD_SIZE: usize = 8;
/// Which of the fields are the file's size, and that of its name with the zero behind it.
const FILE_SIZE: usize = 6;
const NAME_SIZE: usize = 11;
/// Names with their header, and files, end at multiples of this many bytes.
const ALIGNMENT: usize = 4;
/// The name that comes after the last file.
const TRAILER: &[u8] = b"TRAILER!!!";

/// A file of an archive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct File<'a> {
    /// Its name, with the path.
    pub name: &'a [u8],
    /// What is in it.
    pub content: &'a [u8],
}

/// An archive.
#[derive(Clone, Copy, Debug)]
pub struct Archive<'a>(&'a [u8]);

impl<'a> Archive<'a> {
    /// The archive that `bytes` begin with.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Its files, in order. Where the archive is cut off, or is none, they end there.
    pub fn files(self) -> impl Iterator<Item = File<'a>> {
        let mut rest = self.0;
        core::iter::from_fn(move || {
            let (file, after) = next(rest)?;
            rest = after;
            (file.name != TRAILER).then_some(file)
        })
    }

    /// What is in the file of that name, whatever leads from the archive's root to it.
    pub fn file(self, name: &str) -> Option<&'a [u8]> {
        let wanted = from_root(name.as_bytes());
        self.files().find_map(|file| (from_root(file.name) == wanted).then_some(file.content))
    }
}

/// A name without what leads to it from the archive's root: `./` and `/`, any number of times.
fn from_root(mut name: &[u8]) -> &[u8] {
    while let Some(rest) = name.strip_prefix(b"./").or_else(|| name.strip_prefix(b"/")) {
        name = rest;
    }
    name
}

/// The first file of `archive`, and what follows it.
fn next(archive: &[u8]) -> Option<(File<'_>, &[u8])> {
    let header = archive.get(..HEADER_SIZE)?;
    if !MAGICS.contains(&&header[..MAGIC_SIZE]) {
        return None;
    }
    let name_end = HEADER_SIZE.checked_add(field(header, NAME_SIZE)?)?;
    let name = archive.get(HEADER_SIZE..name_end)?.strip_suffix(b"\0")?;
    let start = name_end.checked_next_multiple_of(ALIGNMENT)?;
    let end = start.checked_add(field(header, FILE_SIZE)?)?;
    let content = archive.get(start..end)?;
    let rest = end.checked_next_multiple_of(ALIGNMENT).and_then(|next| archive.get(next..));
    Some((File { name, content }, rest.unwrap_or_default()))
}

/// A field of a header.
fn field(header: &[u8], index: usize) -> Option<usize> {
    let digits = header.get(MAGIC_SIZE..)?.chunks_exact(FIELD_SIZE).nth(index)?;
    let digit = |value: usize, byte: &u8| Some(value << 4 | char::from(*byte).to_digit(16)? as usize);
    digits.iter().try_fold(0, digit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::vec::Vec;

    /// An archive as cpio writes it.
    fn archive(magic: &str, files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, content) in files.iter().chain(&[("TRAILER!!!", &[][..])]) {
            let mut fields = [0xabcd_ef01; 13];
            (fields[FILE_SIZE], fields[NAME_SIZE]) = (content.len(), name.len() + 1);
            bytes.extend(magic.bytes());
            fields.iter().for_each(|field| bytes.extend(format!("{field:08X}").bytes()));
            bytes.extend(name.bytes().chain([0]));
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes.extend(*content);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    const FILES: [(&str, &[u8]); 4] = [("./first", b"1"), (".", b""), ("dir/second", b"12345678"), ("/third", b"xyz")];

    #[test]
    fn files_of_any_length_are_found_in_order() {
        for magic in ["070701", "070702"] {
            let bytes = archive(magic, &FILES);
            let files: Vec<_> = Archive::new(&bytes).files().collect();
            let expected = FILES.map(|(name, content)| File { name: name.as_bytes(), content });
            assert_eq!(files, expected);
        }
    }

    #[test]
    fn a_file_is_found_by_its_name_whatever_leads_to_it_from_the_root() {
        let bytes = archive("070701", &FILES);
        let found =
            ["first", "dir/second", "third", "second", "TRAILER!!!"].map(|name| Archive::new(&bytes).file(name));
        assert_eq!(found, [Some(FILES[0].1), Some(FILES[2].1), Some(FILES[3].1), None, None]);
    }

    #[test]
    fn a_hidden_file_and_one_elsewhere_have_other_names() {
        let bytes = archive("070701", &[(".name", b"1"), ("../name", b"2"), (".././/name", b"3"), (".//./name", b"4")]);
        let found =
            ["name", "./name", "/name", ".name", "../name", "..name"].map(|name| Archive::new(&bytes).file(name));
        assert_eq!(found, [Some(&b"4"[..]), Some(b"4"), Some(b"4"), Some(b"1"), Some(b"2"), None]);
    }

    #[test]
    fn what_is_cut_off_or_no_archive_has_the_files_that_are_whole() {
        let bytes = archive("070701", &FILES);
        let mut counts = Vec::new();
        for size in 0..bytes.len() {
            let count = Archive::new(&bytes[..size]).files().count();
            assert!(counts.last().is_none_or(|last| *last <= count), "{size}");
            counts.push(count);
        }
        assert_eq!((counts[0], counts.last()), (0, Some(&FILES.len())));
        assert_eq!(Archive::new(&[0x30; 4096]).files().count(), 0);
    }

    #[test]
    fn headers_that_lie_do_no_harm() {
        let good = archive("070701", &FILES);
        for index in 0..13 {
            for digits in [*b"FFFFFFFF", *b"00000000", *b"0000000g", *b"+0000001"] {
                let mut bytes = good.clone();
                let start = MAGIC_SIZE + index * FIELD_SIZE;
                bytes[start..start + FIELD_SIZE].copy_from_slice(&digits);
                let expected = if index == NAME_SIZE || index == FILE_SIZE { 0..=1 } else { 4..=4 };
                assert!(expected.contains(&Archive::new(&bytes).files().count()), "{index} {digits:?}");
            }
        }
    }
}
