//! What calls are about, by the names that a script gives.

use crate::words::{Readable, Words, Wrong, parse_number};
use abi::host::{RIGHT_EXECUTE, RIGHT_READ, RIGHT_RESTRICTED, RIGHT_WRITE};
use alloc::format;
use core::fmt;

/// A VM by its number in the script: `vm3` is 3.
pub type VmNumber = u8;

/// A page.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum PageName {
    /// `page 3`: a page of the pool.
    Pool(u32),
    /// `page hyp 0`: a page of hyp's carve-out.
    Hyp(u32),
    /// `page device 0`: a page of a device that nothing else uses.
    Device(u32),
    /// `page raw 0x1000`: this page number.
    Raw(u64),
}

/// A guest's frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum FrameName {
    /// `frame 2`: counted from where the guests' frames for scripts begin.
    Test(u32),
    /// `frame raw 0x40000`: this frame number.
    Raw(u64),
}

/// A VM.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum VmName {
    /// `vm0`.
    Named(VmNumber),
    /// `vm raw 7`: this handle.
    Raw(u64),
}

/// How many pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum CountName {
    /// `count 2`.
    Number(u64),
    /// `count vm`: what VM_INIT takes for the VM.
    VmObject,
    /// `count vcpu`: what VCPU_INIT takes.
    VcpuObject,
}

/// A guest's own address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum IpaName {
    /// `frame 2`: its first byte.
    Frame(u32),
    /// `ipa 0x48000001`.
    Raw(u64),
}

/// One operand of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Operand {
    /// `vm2`: the name that the VM gets. It is no argument of the call.
    NewVm(VmNumber),
    /// A VM.
    Vm(VmName),
    /// `vcpu 1`; 0 where nothing is said.
    Vcpu(u64),
    /// A page, or the first of several.
    Page(PageName),
    /// `run_page 3`, named as a page is.
    RunPage(PageName),
    /// A frame, or the first of several.
    Frame(FrameName),
    /// How many pages; 1 where nothing is said.
    Count(CountName),
    /// `rights rw`, `rights r+restricted`, `rights none`, `rights raw 0x10`.
    Rights(u64),
    /// `protected` or `flags 2`; none where nothing is said.
    Flags(u64),
    /// `bits 32 vcpus 1`: bits of the guest's address space, and how many vCPUs, in one register.
    Shape(u64),
    /// A guest's own address.
    Ipa(IpaName),
    /// Any other number.
    Number(u64),
}

/// What an operand is, for a call that takes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// [`Operand::NewVm`].
    NewVm,
    /// [`Operand::Vm`].
    Vm,
    /// [`Operand::Vcpu`].
    Vcpu,
    /// [`Operand::Page`].
    Page,
    /// [`Operand::RunPage`].
    RunPage,
    /// [`Operand::Frame`].
    Frame,
    /// [`Operand::Count`].
    Count,
    /// [`Operand::Rights`].
    Rights,
    /// [`Operand::Flags`], bit 0 by this word.
    Flags(&'static str),
    /// [`Operand::Shape`].
    Shape,
    /// [`Operand::Ipa`].
    Ipa,
    /// [`Operand::Number`] behind this word.
    Number(&'static str),
    /// The same, 0 where nothing is said.
    OptionalNumber(&'static str),
}

impl Kind {
    /// True where `operand` is of this kind.
    pub const fn fits(self, operand: &Operand) -> bool {
        matches!(
            (self, operand),
            (Kind::NewVm, Operand::NewVm(_))
                | (Kind::Vm, Operand::Vm(_))
                | (Kind::Vcpu, Operand::Vcpu(_))
                | (Kind::Page, Operand::Page(_))
                | (Kind::RunPage, Operand::RunPage(_))
                | (Kind::Frame, Operand::Frame(_))
                | (Kind::Count, Operand::Count(_))
                | (Kind::Rights, Operand::Rights(_))
                | (Kind::Flags(_), Operand::Flags(_))
                | (Kind::Shape, Operand::Shape(_))
                | (Kind::Ipa, Operand::Ipa(_))
                | (Kind::Number(_) | Kind::OptionalNumber(_), Operand::Number(_))
        )
    }

    /// Reads an operand of this kind.
    pub(crate) fn parse(self, words: &mut Words<'_>) -> Result<Operand, Wrong> {
        Ok(match self {
            Kind::NewVm => Operand::NewVm(parse_vm_number(words)?),
            Kind::Vm => Operand::Vm(parse_vm(words)?),
            Kind::Vcpu => Operand::Vcpu(optional_number(words, "vcpu")?),
            Kind::Page => Operand::Page(parse_page(words, "page")?),
            Kind::RunPage => Operand::RunPage(parse_page(words, "run_page")?),
            Kind::Frame => Operand::Frame(parse_frame(words)?),
            Kind::Count => Operand::Count(parse_count(words)?),
            Kind::Rights => Operand::Rights(parse_rights(words)?),
            Kind::Flags(word) => Operand::Flags(if words.take(word) { 1 } else { optional_number(words, "flags")? }),
            Kind::Shape => {
                let (bits, vcpus) = (labelled_small(words, "bits")?, labelled_small(words, "vcpus")?);
                Operand::Shape(u64::from(bits) | u64::from(vcpus) << 32)
            }
            Kind::Ipa => Operand::Ipa(parse_ipa(words)?),
            Kind::Number(label) => {
                expect_label(words, label)?;
                Operand::Number(words.number(label)?)
            }
            Kind::OptionalNumber(label) => Operand::Number(optional_number(words, label)?),
        })
    }

    /// Writes an operand of this kind, with a blank before it; nothing where it is what it is without a word.
    pub(crate) fn write(self, operand: &Operand, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, *operand) {
            (Kind::Flags(_), Operand::Flags(0))
            | (Kind::OptionalNumber(_), Operand::Number(0))
            | (_, Operand::Vcpu(0) | Operand::Count(CountName::Number(1))) => Ok(()),
            (_, Operand::NewVm(number)) => write!(f, " vm{number}"),
            (_, Operand::Vm(VmName::Named(number))) => write!(f, " vm{number}"),
            (_, Operand::Vm(VmName::Raw(handle))) => write!(f, " vm raw {}", Readable(handle)),
            (_, Operand::Vcpu(index)) => write!(f, " vcpu {}", Readable(index)),
            (_, Operand::Page(page)) => write!(f, " page {page}"),
            (_, Operand::RunPage(page)) => write!(f, " run_page {page}"),
            (_, Operand::Frame(FrameName::Test(frame))) => write!(f, " frame {frame}"),
            (_, Operand::Frame(FrameName::Raw(frame))) => write!(f, " frame raw {frame:#x}"),
            (_, Operand::Count(CountName::Number(count))) => write!(f, " count {}", Readable(count)),
            (_, Operand::Count(CountName::VmObject)) => f.write_str(" count vm"),
            (_, Operand::Count(CountName::VcpuObject)) => f.write_str(" count vcpu"),
            (_, Operand::Rights(rights)) => write!(f, " rights {}", RightsText(rights)),
            (Kind::Flags(word), Operand::Flags(1)) => write!(f, " {word}"),
            (_, Operand::Flags(flags)) => write!(f, " flags {}", Readable(flags)),
            (_, Operand::Shape(shape)) => {
                write!(f, " bits {} vcpus {}", Readable(shape & 0xffff_ffff), Readable(shape >> 32))
            }
            (_, Operand::Ipa(ipa)) => write!(f, " {ipa}"),
            (Kind::Number(label) | Kind::OptionalNumber(label), Operand::Number(number)) => {
                write!(f, " {label} {}", Readable(number))
            }
            (_, Operand::Number(number)) => write!(f, " {}", Readable(number)),
        }
    }
}

impl fmt::Display for PageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PageName::Pool(number) => write!(f, "{number}"),
            PageName::Hyp(number) => write!(f, "hyp {number}"),
            PageName::Device(number) => write!(f, "device {number}"),
            PageName::Raw(number) => write!(f, "raw {number:#x}"),
        }
    }
}

impl fmt::Display for IpaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IpaName::Frame(frame) => write!(f, "frame {frame}"),
            IpaName::Raw(ipa) => write!(f, "ipa {ipa:#x}"),
        }
    }
}

/// The letters of the rights, and their bits.
const LETTERS: [(char, u64); 3] = [('r', RIGHT_READ), ('w', RIGHT_WRITE), ('x', RIGHT_EXECUTE)];
/// Behind the letters: the host keeps reading only.
const RESTRICTED: &str = "+restricted";

/// Rights as one word, or as two where there are bits without a letter.
struct RightsText(u64);

impl fmt::Display for RightsText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters = RIGHT_READ | RIGHT_WRITE | RIGHT_EXECUTE;
        if self.0 & !(letters | RIGHT_RESTRICTED) != 0 {
            return write!(f, "raw {:#x}", self.0);
        }
        if self.0 & letters == 0 {
            f.write_str("none")?;
        }
        for (letter, _) in LETTERS.iter().filter(|(_, bit)| self.0 & bit != 0) {
            write!(f, "{letter}")?;
        }
        if self.0 & RIGHT_RESTRICTED != 0 { f.write_str(RESTRICTED) } else { Ok(()) }
    }
}

fn parse_rights(words: &mut Words<'_>) -> Result<u64, Wrong> {
    expect_label(words, "rights")?;
    if words.take("raw") {
        return words.number("rights");
    }
    let word = words.required("rights")?;
    let (letters, restricted) = match word.strip_suffix(RESTRICTED) {
        Some(letters) => (letters, RIGHT_RESTRICTED),
        None => (word, 0),
    };
    if letters == "none" {
        return Ok(restricted);
    }
    letters.chars().try_fold(restricted, |rights, letter| {
        let bit = LETTERS.iter().find(|(known, _)| *known == letter).map(|(_, bit)| *bit);
        bit.map(|bit| rights | bit).ok_or_else(|| format!("rights: {word:?} is not made of r, w and x"))
    })
}

fn expect_label(words: &mut Words<'_>, label: &str) -> Result<(), Wrong> {
    if words.take(label) { Ok(()) } else { Err(format!("{label:?} is missing")) }
}

fn optional_number(words: &mut Words<'_>, label: &str) -> Result<u64, Wrong> {
    if words.take(label) { words.number(label) } else { Ok(0) }
}

fn labelled_small(words: &mut Words<'_>, label: &str) -> Result<u32, Wrong> {
    expect_label(words, label)?;
    words.small(label)
}

/// The number of the VM that a word names.
pub(crate) fn vm_number(word: &str) -> Option<VmNumber> {
    parse_number(word.strip_prefix("vm")?).and_then(|number| VmNumber::try_from(number).ok())
}

pub(crate) fn parse_vm_number(words: &mut Words<'_>) -> Result<VmNumber, Wrong> {
    let word = words.required("a VM")?;
    vm_number(word).ok_or_else(|| format!("{word:?} is no VM: one is called vm0 or vm1"))
}

fn parse_vm(words: &mut Words<'_>) -> Result<VmName, Wrong> {
    if words.take("vm") {
        expect_label(words, "raw")?;
        return words.number("vm").map(VmName::Raw);
    }
    parse_vm_number(words).map(VmName::Named)
}

/// A page behind the word `label`.
pub(crate) fn parse_page(words: &mut Words<'_>, label: &str) -> Result<PageName, Wrong> {
    expect_label(words, label)?;
    match words.peek() {
        Some("hyp") => {
            words.next();
            words.small(label).map(PageName::Hyp)
        }
        Some("device") => {
            words.next();
            words.small(label).map(PageName::Device)
        }
        Some("raw") => {
            words.next();
            words.number(label).map(PageName::Raw)
        }
        _ => words.small(label).map(PageName::Pool),
    }
}

fn parse_frame(words: &mut Words<'_>) -> Result<FrameName, Wrong> {
    expect_label(words, "frame")?;
    if words.take("raw") {
        words.number("frame").map(FrameName::Raw)
    } else {
        words.small("frame").map(FrameName::Test)
    }
}

fn parse_count(words: &mut Words<'_>) -> Result<CountName, Wrong> {
    if !words.take("count") {
        return Ok(CountName::Number(1));
    }
    if words.take("vm") {
        return Ok(CountName::VmObject);
    }
    if words.take("vcpu") {
        return Ok(CountName::VcpuObject);
    }
    words.number("count").map(CountName::Number)
}

/// A guest's own address.
pub(crate) fn parse_ipa(words: &mut Words<'_>) -> Result<IpaName, Wrong> {
    if words.take("ipa") {
        return words.number("ipa").map(IpaName::Raw);
    }
    expect_label(words, "frame")?;
    words.small("frame").map(IpaName::Frame)
}
