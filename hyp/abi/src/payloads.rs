//! What the reference host and its test guests agree on, guest by guest. `actor` and `watcher`, which the host talks to,
//! have modules of their own.

/// The payload `aarch32`, which goes to AArch32.
pub mod aarch32 {
    /// The last line that it says before it goes there to stay, but for its name.
    pub const FOR_GOOD: &str = "now for good";
}

/// The payload `pages`, which uses memory that it was not given when it started.
pub mod pages {
    /// Pages that it touches.
    pub const TOUCHED: u64 = 48;
    /// One in so many of them it gives back, and touches again.
    pub const GIVEN_BACK: usize = 3;
    /// The boot argument that says how often it is to give the same page back, in place of all else.
    pub const OVER_AND_OVER: &str = "over-and-over";
}

/// The payload `sharing`, which shares pages with the host.
pub mod sharing {
    use crate::PAGE_SIZE;

    /// Words of a page.
    pub const WORDS: u64 = PAGE_SIZE / 8;
    /// How often a page goes to and fro.
    pub const ROUNDS: u64 = 8;
    /// From which word on the host writes.
    pub const HOSTS_FIRST: u64 = WORDS / 2;

    /// What the guest writes to word `index` in a round.
    pub const fn guest_word(round: u64, index: u64) -> u64 {
        0x6e57_0000_0000_0000 | round << 32 | index
    }

    /// What the host writes over it, from [`HOSTS_FIRST`] on.
    pub const fn host_word(round: u64, index: u64) -> u64 {
        0x4057_0000_0000_0000 | round << 32 | index
    }
}

/// The payload `smp`, whose first CPU turns the others on.
pub mod smp {
    /// How often it does so with each.
    pub const STARTS: u64 = 3;
}

/// The payload `spin`, which never gives the CPU back.
pub mod spin {
    /// The last line that it says, but for its name.
    pub const SPINNING: &str = "spinning";
}

/// The payload `turns`, whose two CPUs share one page and take it back in turns.
pub mod turns {
    use crate::PAGE_SIZE;

    /// Words of the half of the page that the guest fills, from its beginning on; the host answers in the other.
    pub const WORDS: usize = PAGE_SIZE as usize / 16;
    /// How often the page is shared at least, and after how often at the latest the guest gives up.
    pub const ROUNDS: u64 = 250;
    /// See [`ROUNDS`].
    pub const MOST_ROUNDS: u64 = 20_000;
    /// First letter of what is in the page while it is shared.
    pub const SHARED: u8 = b'p';
    /// First letter of what is in it while it is not.
    pub const SECRET: u8 = b's';

    /// A word of the page as text: what it is, and the round in seven digits.
    pub const fn word(kind: u8, round: u64) -> [u8; 8] {
        let mut text = [kind; 8];
        let (mut place, mut rest) = (7, round);
        while place > 0 {
            text[place] = b'0' + (rest % 10) as u8;
            rest /= 10;
            place -= 1;
        }
        text
    }

    /// The round of a word of the shared page; `None` where it is none.
    pub fn round(word: &[u8]) -> Option<u64> {
        let (kind, digits) = word.split_first()?;
        let is_one = *kind == SHARED && digits.len() == 7 && digits.iter().all(u8::is_ascii_digit);
        is_one.then(|| digits.iter().fold(0, |round, digit| 10 * round + u64::from(digit - b'0')))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_round_is_read_as_it_was_written_and_nothing_else_is() {
            for number in [0, 7, 1_234_567, 9_999_999] {
                assert_eq!(round(&word(SHARED, number)), Some(number));
                assert_eq!(round(&word(SECRET, number)), None);
            }
            for wrong in [&b"p00"[..], b"", b"p00000x1", b"p00000012"] {
                assert_eq!(round(wrong), None);
            }
        }
    }
}
