//! The mailbox of the test guest `actor`, through which the host tells it what to do, word by word.
//!
//! The guest reads [`COMMAND`] and, where the command takes some, its arguments one after the other from [`ARGUMENT`].
//! It does what it was told, writes the results one after the other to [`RESULT`], and reads [`COMMAND`] again. Each access
//! is of 64 bits, and is an MMIO exit.

use crate::Ipa;

/// The page of the mailbox's registers. No memory is ever there.
pub const MAILBOX: Ipa = Ipa::new(0x0a00_0000);
/// Offset in bytes; read: the next command, as [`Command::word`] makes it.
pub const COMMAND: u64 = 0;
/// Offset in bytes; read: the command's next argument.
pub const ARGUMENT: u64 = 8;
/// Offset in bytes; write: the command's next result.
pub const RESULT: u64 = 16;

/// Most arguments of a call: x0 to x7.
pub const MAX_ARGUMENTS: usize = 8;
/// Most results of a call: x0 to x3.
pub const MAX_RESULTS: usize = 4;

/// The result of an access that cannot be tried: the guest's own tables do not reach so far, or the vCPU is not the first,
/// which alone takes exceptions.
pub const UNABLE: u64 = u64::MAX;

/// What the guest is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Nothing.
    Idle,
    /// HVC #0 with so many registers from x0 on, the others zero; the results are so many registers from x0 on.
    Call {
        /// At most [`MAX_ARGUMENTS`].
        arguments: u8,
        /// At most [`MAX_RESULTS`].
        results: u8,
    },
    /// Load 64 bits from an IPA, the argument. Results: 0, and what was read; or ESR_EL1 of the abort, and 0.
    Load,
    /// Store 64 bits: the arguments are an IPA and the value. Result: 0, or ESR_EL1 of the abort.
    Store,
    /// Fetch an instruction, which must be undefined, from an IPA, the argument. Result: 0 where it was fetched, otherwise
    /// ESR_EL1.
    Execute,
    /// WFI. No results.
    Wait,
    /// Write the argument to CNTP_CVAL_EL0. No results.
    SetTimer,
    /// Write the argument to ICC_SGI1R_EL1. No results.
    SendSgi,
}

impl Command {
    /// The word that [`COMMAND`] reads as.
    pub const fn word(self) -> u64 {
        match self {
            Command::Idle => 0,
            Command::Call { arguments, results } => 1 | (arguments as u64) << 8 | (results as u64) << 16,
            Command::Load => 2,
            Command::Store => 3,
            Command::Execute => 4,
            Command::Wait => 5,
            Command::SetTimer => 6,
            Command::SendSgi => 7,
        }
    }

    /// The command of a word; [`Command::Idle`] for one that is none.
    pub const fn from_word(word: u64) -> Self {
        match word & 0xff {
            1 => Command::Call { arguments: (word >> 8) as u8, results: (word >> 16) as u8 },
            2 => Command::Load,
            3 => Command::Store,
            4 => Command::Execute,
            5 => Command::Wait,
            6 => Command::SetTimer,
            7 => Command::SendSgi,
            _ => Command::Idle,
        }
    }

    /// How many arguments the guest reads.
    pub const fn arguments(self) -> usize {
        match self {
            Command::Idle | Command::Wait => 0,
            Command::Call { arguments, .. } => arguments as usize,
            Command::Load | Command::Execute | Command::SetTimer | Command::SendSgi => 1,
            Command::Store => 2,
        }
    }

    /// How many results the guest writes.
    pub const fn results(self) -> usize {
        match self {
            Command::Idle | Command::Wait | Command::SetTimer | Command::SendSgi => 0,
            Command::Call { results, .. } => results as usize,
            Command::Load => 2,
            Command::Store | Command::Execute => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_cross_the_mailbox_unchanged() {
        let call = Command::Call { arguments: 8, results: 4 };
        let others = [Command::Load, Command::Store, Command::Execute];
        let without_results = [Command::Idle, Command::Wait, Command::SetTimer, Command::SendSgi];
        for command in [call].into_iter().chain(others).chain(without_results) {
            assert_eq!(Command::from_word(command.word()), command);
        }
        assert_eq!(Command::from_word(0xff), Command::Idle);
    }
}
