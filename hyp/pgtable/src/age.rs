//! The access flag, by which software learns what is in use (Arm ARM D8.4.4).
//!
//! While AF is clear, the first access faults, or the hardware sets AF by itself where that is enabled. A descriptor
//! with AF clear is not kept in a TLB, as is none that gives rise to a translation, address size or access flag fault
//! (D8.16): setting the flag needs no flush, and what is cleared must be flushed for the next access to be noticed.

use abi::PhysAddr;

use crate::bits::AF;
use crate::descriptor::{Kind, is_leaf, kind};
use crate::environment::{Environment, TableFrames};
use crate::error::TableError;
use crate::flush::Unflushed;
use crate::geometry::{LAST_LEVEL, entry_size};
use crate::regime::{InputAddress, Regime};
use crate::shared::Outcome;
use crate::table::PageTable;
use crate::walker::{Entry, Step, Visitor};

/// How often [`PageTable::make_young`] reads a leaf again that has changed under its hands. The hardware sets the flag
/// once; another CPU got on each other time.
const ATTEMPTS: u32 = 8;

impl<R: Regime> PageTable<R> {
    /// Clears the access flag of every leaf in the range, and tells whether one was set: whether anything of the range
    /// was accessed since the last call, or was mapped with the flag set. The next access to each is noticed again. A
    /// leaf that the range cuts through is asked and cleared as a whole; what is not mapped is skipped.
    ///
    /// # Errors
    /// [`TableError::Misaligned`], [`TableError::BadRange`]; [`TableError::Corrupt`], which may be found when some
    /// flags are cleared already.
    pub fn test_and_clear_young<E: Environment + ?Sized>(
        &mut self,
        environment: &mut E,
        input: R::Input,
        size: u64,
    ) -> Result<bool, TableError> {
        let (start, end) = self.range(input, size)?;
        let mut age = Age { frames: &*environment, unflushed: Unflushed::none(), was_young: false };
        let result = self.tables().walk(&mut age, start, end);
        let Age { mut unflushed, was_young, .. } = age;
        unflushed.flush(self.regime(), &*environment, self.root());
        result.map(|()| was_young)
    }

    /// Sets the access flag of the leaf that decides for `input`, any alignment: what an access flag fault asks for.
    /// May run on several CPUs at once, beside the operations of [`shared`](crate::shared).
    ///
    /// # Errors
    /// [`TableError::NotMapped`] where no leaf is valid there; [`TableError::BadRange`], [`TableError::Corrupt`].
    pub fn make_young<E: Environment + ?Sized>(
        &self,
        environment: &mut E,
        input: R::Input,
    ) -> Result<Outcome, TableError> {
        let page = entry_size(LAST_LEVEL);
        let offset = self.geometry().offset(input.into_raw()).ok_or(TableError::BadRange)?;
        let start = offset & !(page - 1);
        for _ in 0..ATTEMPTS {
            let mut rejuvenate = Rejuvenate { frames: &*environment, outcome: None };
            self.tables().walk(&mut rejuvenate, start, start + page)?;
            if let Some(outcome) = rejuvenate.outcome {
                // Where another CPU has set the flag, it may not have come to its barrier yet.
                self.regime().publish(&*environment);
                return Ok(outcome);
            }
        }
        Ok(Outcome::Busy)
    }
}

/// Clears access flags.
struct Age<'a, F: ?Sized> {
    frames: &'a F,
    unflushed: Unflushed,
    was_young: bool,
}

impl<F: TableFrames + ?Sized> Age<'_, F> {
    /// Clears the flag of the leaf `raw`, if it is set.
    #[inline]
    fn clear(&mut self, slot: PhysAddr, raw: u64, level: u8, base: u64) {
        if raw & AF == 0 {
            return;
        }
        self.was_young = true;
        // The hardware updates the same descriptor: a leaf that is no longer what was read stays young.
        if self.frames.compare_exchange(slot, raw, raw & !AF).is_ok() {
            self.unflushed.add(base, base.wrapping_add(entry_size(level)), level);
        }
    }
}

impl<F: TableFrames + ?Sized> Visitor for Age<'_, F> {
    type Frames = F;

    fn frames(&self) -> &F {
        self.frames
    }

    #[inline(always)]
    fn shortcut(&mut self, slot: PhysAddr, raw: u64, level: u8, base: u64) -> bool {
        if !is_leaf(raw, level) {
            return raw == 0;
        }
        self.clear(slot, raw, level, base);
        true
    }

    fn leaf(&mut self, entry: &Entry) -> Result<Step, TableError> {
        match kind(entry.raw, entry.level) {
            Kind::Leaf => self.clear(entry.slot, entry.raw, entry.level, entry.base),
            Kind::Vacant | Kind::Annotated => {}
            _ => return Err(TableError::Corrupt),
        }
        Ok(Step::Skip)
    }
}

/// Sets the access flag of one leaf.
struct Rejuvenate<'a, F: ?Sized> {
    frames: &'a F,
    /// `None` where the leaf was changed under our hands.
    outcome: Option<Outcome>,
}

impl<F: TableFrames + ?Sized> Visitor for Rejuvenate<'_, F> {
    type Frames = F;

    fn frames(&self) -> &F {
        self.frames
    }

    fn leaf(&mut self, entry: &Entry) -> Result<Step, TableError> {
        self.outcome = match kind(entry.raw, entry.level) {
            Kind::Leaf if entry.raw & AF != 0 => Some(Outcome::AlreadyDone),
            Kind::Leaf => self
                .frames
                .compare_exchange(entry.slot, entry.raw, entry.raw | AF)
                .map_or(None, |_| Some(Outcome::Done)),
            Kind::Locked => Some(Outcome::Busy),
            Kind::Vacant | Kind::Annotated => return Err(TableError::NotMapped),
            _ => return Err(TableError::Corrupt),
        };
        Ok(Step::Stop)
    }
}
