//! What a guest does in a script.

use crate::operand::{IpaName, Kind, Operand, VmNumber, parse_ipa, parse_vm_number};
use crate::words::{Readable, Words, Wrong};
use abi::guest::{self, GuestCall};
use alloc::format;
use alloc::vec::Vec;
use core::fmt;

/// A call that guests make.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum GuestFunction {
    /// KVM's FEATURES.
    Features,
    /// KVM's HYP_MEMINFO.
    HypMeminfo,
    /// KVM's MEM_SHARE.
    MemShare,
    /// KVM's MEM_UNSHARE.
    MemUnshare,
    /// KVM's MEM_RELINQUISH.
    MemRelinquish,
    /// MMIO_GUARD_INFO.
    GuardInfo,
    /// MMIO_GUARD_ENROLL.
    GuardEnroll,
    /// MMIO_GUARD_MAP.
    GuardMap,
    /// MMIO_GUARD_UNMAP.
    GuardUnmap,
    /// One of Freehold's own.
    Own(GuestCall),
}

/// Each call, its word, and what it takes, which are the registers from x1 on.
const CALLS: &[(GuestFunction, &str, &[Kind])] = &[
    (GuestFunction::Features, "features", &[]),
    (GuestFunction::HypMeminfo, "hyp_meminfo", &[]),
    (GuestFunction::MemShare, "mem_share", &[Kind::Ipa]),
    (GuestFunction::MemUnshare, "mem_unshare", &[Kind::Ipa]),
    (GuestFunction::MemRelinquish, "mem_relinquish", &[Kind::Ipa]),
    (GuestFunction::GuardInfo, "mmio_guard_info", &[]),
    (GuestFunction::GuardEnroll, "mmio_guard_enroll", &[]),
    (GuestFunction::GuardMap, "mmio_guard_map", &[Kind::Ipa]),
    (GuestFunction::GuardUnmap, "mmio_guard_unmap", &[Kind::Ipa]),
    (GuestFunction::Own(GuestCall::VmName), "vm_name", &[]),
    (GuestFunction::Own(GuestCall::MemLend), "mem_lend", &[Kind::Ipa]),
    (GuestFunction::Own(GuestCall::MemReturn), "mem_return", &[Kind::Ipa]),
    (GuestFunction::Own(GuestCall::MemOffer), "mem_offer", &[Kind::Ipa, Kind::Vm, Kind::Rights]),
    (
        GuestFunction::Own(GuestCall::MemAccept),
        "mem_accept",
        &[Kind::Vm, Kind::Number("offer"), Kind::Ipa, Kind::Rights],
    ),
    (GuestFunction::Own(GuestCall::MemWithdraw), "mem_withdraw", &[Kind::Number("offer")]),
    (GuestFunction::Own(GuestCall::MemDrop), "mem_drop", &[Kind::Vm, Kind::Number("offer")]),
];

impl GuestFunction {
    /// Every one.
    pub fn all() -> impl Iterator<Item = GuestFunction> {
        CALLS.iter().map(|(function, ..)| *function)
    }

    /// The SMCCC function identifier.
    pub const fn number(self) -> u32 {
        match self {
            GuestFunction::Features => guest::FEATURES,
            GuestFunction::HypMeminfo => guest::HYP_MEMINFO,
            GuestFunction::MemShare => guest::MEM_SHARE,
            GuestFunction::MemUnshare => guest::MEM_UNSHARE,
            GuestFunction::MemRelinquish => guest::MEM_RELINQUISH,
            GuestFunction::GuardInfo => guest::MMIO_GUARD_INFO,
            GuestFunction::GuardEnroll => guest::MMIO_GUARD_ENROLL,
            GuestFunction::GuardMap => guest::MMIO_GUARD_MAP,
            GuestFunction::GuardUnmap => guest::MMIO_GUARD_UNMAP,
            GuestFunction::Own(call) => call as u32,
        }
    }

    /// The call of a function identifier, as it is in x0.
    pub fn from_register(x0: u64) -> Option<Self> {
        Self::all().find(|function| u64::from(function.number()) == x0)
    }

    /// How many registers from x1 on are results. The others are as they were before the call.
    pub const fn results(self) -> usize {
        match self {
            GuestFunction::Features => 3,
            GuestFunction::Own(GuestCall::VmName) => 2,
            GuestFunction::Own(GuestCall::MemOffer) => 1,
            _ => 0,
        }
    }

    /// What the call takes, in order.
    pub fn kinds(self) -> &'static [Kind] {
        CALLS.iter().find(|(known, ..)| *known == self).map_or(&[], |(_, _, kinds)| kinds)
    }

    /// The call's word.
    pub fn word(self) -> &'static str {
        CALLS.iter().find(|(known, ..)| *known == self).map_or("?", |(_, word, _)| word)
    }
}

/// What a vCPU does.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub enum GuestAction {
    /// A call, with operands of the kinds that it takes.
    Call(GuestFunction, Vec<Operand>),
    /// `call 0xc6000181 1 2 3`: any x0, and x1 to x7.
    RawCall(u64, [u64; 7]),
    /// `read frame 2`: loads 64 bits.
    Read(IpaName),
    /// `write frame 2 0x11`: stores 64 bits.
    Write(IpaName, u64),
    /// `execute frame 2`: fetches an instruction.
    Execute(IpaName),
    /// `resume`: goes on with what it could not finish.
    Resume,
}

/// An action of a vCPU of a VM.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct GuestStep {
    /// Which VM.
    pub vm: VmNumber,
    /// Index of the vCPU.
    pub vcpu: u64,
    /// What it does.
    pub action: GuestAction,
}

impl GuestStep {
    /// Reads a step from the VM's name on.
    pub(crate) fn parse(words: &mut Words<'_>) -> Result<Self, Wrong> {
        let vm = parse_vm_number(words)?;
        let vcpu = if words.take("vcpu") { words.number("vcpu")? } else { 0 };
        let word = words.required("what the guest does")?;
        let action = match word {
            "call" => {
                let (function, arguments) = parse_raw_call(words)?;
                GuestAction::RawCall(function, arguments)
            }
            "read" => GuestAction::Read(parse_ipa(words)?),
            "write" => GuestAction::Write(parse_ipa(words)?, words.number("a value")?),
            "execute" => GuestAction::Execute(parse_ipa(words)?),
            "resume" => GuestAction::Resume,
            _ => {
                let (function, _, kinds) = CALLS
                    .iter()
                    .find(|(_, known, _)| *known == word)
                    .ok_or_else(|| format!("{word:?} is nothing that a guest does"))?;
                let operands: Result<Vec<Operand>, Wrong> = kinds.iter().map(|kind| kind.parse(words)).collect();
                GuestAction::Call(*function, operands?)
            }
        };
        Ok(Self { vm, vcpu, action })
    }
}

/// A function identifier and up to seven arguments.
pub(crate) fn parse_raw_call(words: &mut Words<'_>) -> Result<(u64, [u64; 7]), Wrong> {
    let function = words.number("the function")?;
    let mut arguments = [0; 7];
    for argument in &mut arguments {
        match words.peek() {
            None | Some("=>") => break,
            Some(_) => *argument = words.number("an argument")?,
        }
    }
    Ok((function, arguments))
}

/// Writes a function identifier and its arguments, but for zeroes at the end.
pub(crate) fn write_raw_call(f: &mut fmt::Formatter<'_>, function: u64, arguments: &[u64; 7]) -> fmt::Result {
    write!(f, "call {function:#x}")?;
    let used = arguments.iter().rposition(|argument| *argument != 0).map_or(0, |last| last + 1);
    arguments.iter().take(used).try_for_each(|argument| write!(f, " {}", Readable(*argument)))
}

impl fmt::Display for GuestAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GuestAction::Call(function, operands) => {
                f.write_str(function.word())?;
                function.kinds().iter().zip(operands).try_for_each(|(kind, operand)| kind.write(operand, f))
            }
            GuestAction::RawCall(function, arguments) => write_raw_call(f, *function, arguments),
            GuestAction::Read(ipa) => write!(f, "read {ipa}"),
            GuestAction::Write(ipa, value) => write!(f, "write {ipa} {}", Readable(*value)),
            GuestAction::Execute(ipa) => write!(f, "execute {ipa}"),
            GuestAction::Resume => f.write_str("resume"),
        }
    }
}

impl fmt::Display for GuestStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vm{}", self.vm)?;
        if self.vcpu != 0 {
            write!(f, " vcpu {}", Readable(self.vcpu))?;
        }
        write!(f, " {}", self.action)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_of_freeholds_own_can_be_said() {
        for call in GuestCall::ALL {
            assert!(GuestFunction::all().any(|function| function == GuestFunction::Own(*call)), "{call:?}");
        }
    }

    #[test]
    fn every_call_that_features_tells_of_can_be_said() {
        for number in (0..32).filter(|bit| guest::FEATURES_BITMAP >> bit & 1 != 0) {
            let is_it =
                |function: GuestFunction| function.number() & 0xffff == number && (function.number() & 0xff) < 0x80;
            assert!(GuestFunction::all().any(is_it), "function {number}");
        }
    }
}
