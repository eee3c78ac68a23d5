//! The way in to something that goes by a name: whoever knows the name and finds it open goes in at once, beside all others.
//!
//! With it a vCPU is run without waiting for a lock that all CPUs share. Where CPUs are emulated, and fewer than they seem,
//! such a wait can outlast the host's tick: the next interrupt would be pending whenever a guest is entered, and no guest
//! would get any further.

use crate::turns::Word;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

/// The name stands in bits 63:32.
const NAME_SHIFT: u32 = 32;
/// What who opened it says to those who want in.
const FLAG: u64 = 1 << 31;
/// It is open.
const OPEN: u64 = 1 << 30;
/// How many are in. A CPU is in a few times at most.
const USERS: u64 = OPEN - 1;

/// A way in. Of those who open and close it, only one may do so at a time; the others may come whenever they like.
///
/// What was done before it was opened happens before what those do who are in, and that before what comes after it was
/// closed.
pub struct Door<W = AtomicU64> {
    word: W,
}

impl Door {
    /// Closed.
    pub const fn closed() -> Self {
        Self::of(AtomicU64::new(0))
    }
}

impl<W> Door<W> {
    /// Closed, in a word that is zero.
    pub const fn of(word: W) -> Self {
        Self { word }
    }
}

impl<W: Word> Door<W> {
    /// Opens it, closed until now, under a name, and with a flag that those hear of who want in.
    pub fn open(&self, name: u32, flag: bool) {
        let flag = if flag { FLAG } else { 0 };
        // Release: to those who go in.
        self.word.store(u64::from(name) << NAME_SHIFT | flag | OPEN, Ordering::Release);
    }

    /// Closes it unless somebody is in, and says whether it is closed. Until it is opened again, nobody goes in.
    #[must_use]
    pub fn close(&self) -> bool {
        let word = self.word.load(Ordering::Relaxed);
        // Acquire: from those who were in.
        word & USERS == 0 && self.word.replace(word, 0, Ordering::Acquire)
    }

    /// Goes in where it is open under that name, and `allow` has nothing against the flag.
    pub fn enter(&self, name: u32, allow: impl Fn(bool) -> bool) -> Option<Inside<'_, W>> {
        loop {
            let word = self.word.load(Ordering::Relaxed);
            let is_open = word & OPEN != 0 && word >> NAME_SHIFT == u64::from(name);
            if !is_open || word & USERS == USERS || !allow(word & FLAG != 0) {
                return None;
            }
            // Acquire: from who opened it. Where this fails, another CPU has got further.
            if self.word.replace(word, word.wrapping_add(1), Ordering::Acquire) {
                return Some(Inside { door: self });
            }
        }
    }
}

/// Being inside; dropping it is going out. Meanwhile the door is not closed.
pub struct Inside<'a, W: Word = AtomicU64> {
    door: &'a Door<W>,
}

impl<W: Word> fmt::Debug for Inside<'_, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Inside")
    }
}

impl<W: Word> Drop for Inside<'_, W> {
    fn drop(&mut self) {
        // Release: to who closes it.
        self.door.word.subtract(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    #[test]
    fn only_the_right_name_finds_it_open() {
        let door = Door::closed();
        assert!(door.enter(7, |_| true).is_none() && door.enter(0, |_| true).is_none());
        door.open(7, false);
        assert!(door.enter(8, |_| true).is_none());
        assert!(door.enter(7, |flag| flag).is_none());
        assert!(door.enter(7, |flag| !flag).is_some());
        assert!(door.close() && door.enter(7, |_| true).is_none());
        door.open(u32::MAX, true);
        assert!(door.enter(u32::MAX, |flag| !flag).is_none());
        assert!(door.enter(u32::MAX, |flag| flag).is_some());
    }

    #[test]
    fn it_is_not_closed_while_somebody_is_in() {
        let door = Door::closed();
        door.open(7, false);
        let (first, second) = (door.enter(7, |_| true), door.enter(7, |_| true));
        assert!(!door.close());
        drop(first);
        assert!(!door.close());
        drop(second);
        assert!(door.close() && door.close());
    }

    #[test]
    fn who_is_in_is_shown_as_inside() {
        let door = Door::closed();
        door.open(7, false);
        assert_eq!(std::format!("{:?}", door.enter(7, |_| true)), "Some(Inside)");
    }

    #[test]
    fn nobody_goes_in_where_the_count_is_full() {
        let door = Door::of(AtomicU64::new(7 << NAME_SHIFT | OPEN | (USERS - 1)));
        let last = door.enter(7, |_| true).expect("one more fits");
        assert!(door.enter(7, |_| true).is_none());
        drop(last);
        assert!(door.enter(7, |_| true).is_some());
    }
}
