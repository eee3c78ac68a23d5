//! Who may enter a lock, and when; apart from what the lock guards.
//!
//! A CPU that wants to be alone draws a ticket and waits until that is served, so that all get their turn in the order in
//! which they asked. Others may be in side by side for as long as nobody wants to be alone; they never wait. They are
//! counted in the word that has the next ticket: by one access, a CPU that wants to be alone both says so and learns whether
//! it has to wait for others, and one that joins them both counts itself and learns whether it came too late. No two of
//! these accesses are at the same time, so none of it takes a barrier.
//!
//! With `spin` this would be its ticket lock, its reader-writer lock, and a counter to keep those who share from starving
//! who does not: three words to change on the way in and three on the way out, where one of each is enough, and counts
//! whose overflow panics. Besides, these accesses are few enough to be run in every order that memory allows.

use core::hint::spin_loop;
use core::sync::atomic::{AtomicU64, Ordering};

/// One in the count of CPUs that draw tickets. Below it in the same word is the count of those who share.
///
/// Tickets start again after 2^48 of them. A CPU could mistake one for the other if it stopped between two instructions
/// for that long, which is most of a year at ten million a second.
const TICKET: u64 = 1 << 16;
/// The count of those who share. A CPU is in a lock once at most.
const SHARERS: u64 = TICKET - 1;

const _: () = assert!((abi::boot::MAX_CPUS as u64) < SHARERS);

/// A word of memory that CPUs share, and the accesses to it that locks are made of.
///
/// # Safety
/// All accesses are atomic, ordered as they say, and do what they say: what a lock guards is safe by that alone.
pub unsafe trait Word {
    /// Loads it.
    fn load(&self, order: Ordering) -> u64;
    /// Stores to it.
    fn store(&self, value: u64, order: Ordering);
    /// Adds to it, wrapping around, and returns what it was before.
    fn fetch_add(&self, value: u64, order: Ordering) -> u64;
    /// Subtracts from it, wrapping around.
    fn subtract(&self, value: u64, order: Ordering);
    /// Makes it `new` where it is `current`, with this ordering then, and says whether it was.
    fn replace(&self, current: u64, new: u64, order: Ordering) -> bool;
    /// Loads it until the value is as the caller wants it.
    fn wait(&self, order: Ordering, wanted: impl Fn(u64) -> bool);
}

// SAFETY: the standard library's word for it, access by access.
unsafe impl Word for AtomicU64 {
    fn load(&self, order: Ordering) -> u64 {
        self.load(order)
    }

    fn store(&self, value: u64, order: Ordering) {
        self.store(value, order);
    }

    fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        self.fetch_add(value, order)
    }

    fn subtract(&self, value: u64, order: Ordering) {
        self.fetch_sub(value, order);
    }

    fn replace(&self, current: u64, new: u64, order: Ordering) -> bool {
        self.compare_exchange(current, new, order, Ordering::Relaxed).is_ok()
    }

    fn wait(&self, order: Ordering, wanted: impl Fn(u64) -> bool) {
        while !wanted(self.load(order)) {
            spin_loop();
        }
    }
}

/// The entry to one lock.
///
/// What a CPU did before it left happens before what the next one does that has entered, wherever either of the two was
/// alone.
pub struct Turns<W = AtomicU64> {
    /// The next ticket to be drawn, and how many share.
    drawn: W,
    /// The ticket that is served: the holder's who is alone, or the next that will be drawn. Who is alone writes it.
    served: W,
}

impl Turns {
    /// Nobody is in.
    pub const fn new() -> Self {
        Self::of(AtomicU64::new(0), AtomicU64::new(0))
    }
}

impl Default for Turns {
    fn default() -> Self {
        Self::new()
    }
}

impl<W> Turns<W> {
    /// Nobody is in. Both words are zero; or the same multiple of 2^16, which is the first ticket then.
    pub const fn of(drawn: W, served: W) -> Self {
        Self { drawn, served }
    }
}

impl<W: Word> Turns<W> {
    /// Waits until the calling CPU is alone.
    #[inline]
    pub fn enter(&self) {
        // Acquire: from the last of those who shared, if they are out already.
        let before = self.drawn.fetch_add(TICKET, Ordering::Acquire);
        // Acquire: from who was alone before.
        if self.served.load(Ordering::Acquire) != before {
            self.wait_since(before);
        }
    }

    /// Waits for the turn of the ticket in `before`, and until those who shared when it was drawn are out.
    #[cold]
    fn wait_since(&self, before: u64) {
        self.served.wait(Ordering::Acquire, |served| served == before & !SHARERS);
        // Acquire: from the last of those who shared.
        self.drawn.wait(Ordering::Acquire, |drawn| drawn & SHARERS == 0);
    }

    /// Enters alone where nobody is in or waits, and says whether it did.
    #[inline]
    pub fn try_enter(&self) -> bool {
        // A ticket that is served and not drawn yet is served still when it is drawn.
        let free = self.served.load(Ordering::Acquire);
        self.drawn.replace(free, free.wrapping_add(TICKET), Ordering::Acquire)
    }

    /// Leaves, as the one who was alone.
    #[inline]
    pub fn leave(&self) {
        let ticket = self.served.load(Ordering::Relaxed);
        self.served.store(ticket.wrapping_add(TICKET), Ordering::Release);
    }

    /// Enters beside others unless a CPU is alone or waits to be, and says whether it did.
    #[inline]
    pub fn try_join(&self) -> bool {
        let free = self.served.load(Ordering::Acquire);
        // Those who come too late mostly find out here, and disturb nobody.
        if self.drawn.load(Ordering::Relaxed) & !SHARERS != free {
            return false;
        }
        let in_time = self.drawn.fetch_add(1, Ordering::Relaxed) & !SHARERS == free;
        if !in_time {
            self.drawn.subtract(1, Ordering::Relaxed);
        }
        in_time
    }

    /// Leaves, as one of those who shared.
    #[inline]
    pub fn part(&self) {
        self.drawn.subtract(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A word that counts how often it is written.
    #[derive(Default)]
    struct Watched {
        word: AtomicU64,
        writes: AtomicU64,
    }

    impl Watched {
        fn written(&self) -> &AtomicU64 {
            self.writes.fetch_add(1, Ordering::Relaxed);
            &self.word
        }
    }

    // SAFETY: each access is that of `AtomicU64`.
    unsafe impl Word for Watched {
        fn load(&self, order: Ordering) -> u64 {
            self.word.load(order)
        }

        fn store(&self, value: u64, order: Ordering) {
            self.written().store(value, order);
        }

        fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
            self.written().fetch_add(value, order)
        }

        fn subtract(&self, value: u64, order: Ordering) {
            self.written().subtract(value, order);
        }

        fn replace(&self, current: u64, new: u64, order: Ordering) -> bool {
            self.written().replace(current, new, order)
        }

        fn wait(&self, order: Ordering, wanted: impl Fn(u64) -> bool) {
            self.word.wait(order, wanted);
        }
    }

    #[test]
    fn who_comes_too_late_to_join_writes_nothing() {
        let turns: Turns<Watched> = Turns::of(Watched::default(), Watched::default());
        let writes = || [&turns.drawn, &turns.served].map(|word| word.writes.load(Ordering::Relaxed));
        turns.enter();
        assert_eq!(writes(), [1, 0]);
        assert!(!turns.try_join());
        assert_eq!(writes(), [1, 0]);
        turns.leave();
        assert!(turns.try_join());
        turns.part();
        assert_eq!(writes(), [3, 1]);
    }

    #[test]
    fn tickets_start_again() {
        let last = !SHARERS;
        let turns = Turns::of(AtomicU64::new(last), AtomicU64::new(last));
        for _ in 0..3 {
            turns.enter();
            assert!(!turns.try_enter() && !turns.try_join());
            turns.leave();
            assert!(turns.try_enter());
            turns.leave();
            assert!(turns.try_join() && turns.try_join() && !turns.try_enter());
            turns.part();
            turns.part();
        }
    }
}
