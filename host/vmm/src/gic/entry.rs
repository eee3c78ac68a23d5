//! What goes into the list registers at the entry of a vCPU, and what comes out of them at its exit.

use super::bank::bit;
use super::list_register::{is_active, is_pending};
use super::{Gic, bank_index};
use abi::run::{MAX_LIST_REGISTERS, NOTIFY_NONE_PENDING, NOTIFY_UNDERFLOW};

/// An interrupt that is to be loaded.
#[derive(Clone, Copy, Default, Debug)]
struct Candidate {
    /// Smaller goes first: what is active, then what has the higher priority.
    rank: u16,
    /// Which bank, as a bit number of the vCPU's summaries.
    summary: u8,
    /// Which interrupt of the bank.
    index: u8,
}

/// What a vCPU has in its list registers.
#[derive(Default, Debug)]
pub(super) struct Loaded {
    count: usize,
    interrupts: [Candidate; MAX_LIST_REGISTERS],
}

/// The best candidates so far, in order; of equals the first that was offered. They are where they will stay.
struct Selection<'a> {
    best: &'a mut Loaded,
    limit: usize,
    /// There were more than `limit`.
    overflow: bool,
}

impl Selection<'_> {
    fn offer(&mut self, candidate: Candidate) {
        let mut carried = candidate;
        let mut shifting = false;
        let Loaded { count, interrupts } = &mut *self.best;
        for place in interrupts.iter_mut().take(*count) {
            shifting |= carried.rank < place.rank;
            if shifting {
                core::mem::swap(place, &mut carried);
            }
        }
        match interrupts.get_mut(*count) {
            Some(place) if *count < self.limit => {
                *place = carried;
                *count += 1;
            }
            _ => self.overflow = true,
        }
    }
}

impl Gic {
    /// Fills the list registers of `vcpu`, which is about to be entered, and returns the run page's
    /// `interrupt_control`. What is not used, of those that the CPU has, is zero. What `registers` holds is folded
    /// first, if it has not been: so nothing is lost where an entry was refused.
    ///
    /// With more interrupts than registers, active ones go first, then the higher priorities; the vCPU comes back for the
    /// others when it has few left, has taken all that it can take, or ends an active one.
    pub fn fill(&mut self, vcpu: usize, registers: &mut [u64; MAX_LIST_REGISTERS]) -> u64 {
        self.fold(vcpu, registers);
        registers.iter_mut().take(self.list_registers).for_each(|register| *register = 0);
        let Some(state) = self.vcpus.get(vcpu) else { return 0 };
        self.kicks &= !(1 << vcpu);
        if state.waiting | state.held == 0 { 0 } else { self.load(vcpu, registers) }
    }

    /// Takes back the list registers of `vcpu` as they were when it exited. Does nothing where none was in use.
    pub fn fold(&mut self, vcpu: usize, registers: &[u64; MAX_LIST_REGISTERS]) {
        if self.vcpus.get(vcpu).is_some_and(|state| state.loaded.count != 0) {
            self.unload(vcpu, registers);
        }
    }

    /// Takes back what `vcpu` has in its list registers. Out of line, as is `load`: mostly there is nothing.
    #[inline(never)]
    fn unload(&mut self, vcpu: usize, registers: &[u64; MAX_LIST_REGISTERS]) {
        let Some(state) = self.vcpus.get_mut(vcpu) else { return };
        let count = core::mem::take(&mut state.loaded.count);
        // What comes back of its own registers is no news to this vCPU.
        let news = self.kicks & 1 << vcpu;
        for (place, register) in registers.iter().enumerate().take(count) {
            let Some(interrupt) = self.loaded_at(vcpu, place) else { continue };
            let bank = self.bank_index(vcpu, interrupt.summary.into());
            let index = interrupt.index.into();
            self.change(bank, |bank| {
                bank.unload(vcpu, index, is_pending(*register), is_active(*register));
                bit(index)
            });
        }
        self.kicks = self.kicks & !(1 << vcpu) | news;
    }

    /// How many list registers [`fill`](Gic::fill) has filled for `vcpu`; 0 once they have been folded.
    pub fn loaded_count(&self, vcpu: usize) -> usize {
        self.vcpus.get(vcpu).map_or(0, |state| state.loaded.count)
    }

    /// What list register `place` of `vcpu` was last filled with.
    fn loaded_at(&self, vcpu: usize, place: usize) -> Option<Candidate> {
        self.vcpus.get(vcpu)?.loaded.interrupts.get(place).copied()
    }

    /// Chooses the interrupts to load for `vcpu`, of which nothing is yet. True where there are more than fit.
    fn select(&mut self, vcpu: usize) -> bool {
        let private_banks = self.vcpus.len();
        let Some(state) = self.vcpus.get_mut(vcpu) else { return false };
        let mut selection = Selection { best: &mut state.loaded, limit: self.list_registers, overflow: false };
        for summary in ones(state.waiting | state.held) {
            let Some(bank) = self.banks.get(bank_index(private_banks, vcpu, summary.into())) else { continue };
            let Some(lane) = bank.lane(vcpu) else { continue };
            let waiting = bank.ready(self.groups) & lane.routed;
            for index in ones(waiting | lane.held) {
                let inactive = u16::from(lane.held & bit(index.into()) == 0);
                let rank = inactive << 8 | u16::from(bank.priority(index.into()));
                selection.offer(Candidate { rank, summary, index });
            }
        }
        selection.overflow
    }

    /// Loads what is to be loaded for `vcpu`, of which nothing is yet.
    #[inline(never)]
    fn load(&mut self, vcpu: usize, registers: &mut [u64; MAX_LIST_REGISTERS]) -> u64 {
        let overflow = self.select(vcpu);
        let count = self.loaded_count(vcpu);
        let mut some_pending = false;
        for (place, register) in registers.iter_mut().enumerate().take(count) {
            let Some(interrupt) = self.loaded_at(vcpu, place) else { continue };
            let index = self.bank_index(vcpu, interrupt.summary.into());
            let bank = self.banks.get_mut(index);
            let Some(list_register) =
                bank.and_then(|bank| bank.load(vcpu, interrupt.index.into(), self.groups, overflow))
            else {
                continue;
            };
            some_pending |= list_register.pending && !list_register.active;
            *register = list_register.encode();
            self.settle(index, 0);
        }
        if !overflow {
            return 0;
        }
        // Either condition must not hold at once, or the guest would never run: ICH_HCR_EL2.UIE asks for at most one
        // register in use, NPIE for none that is pending.
        let underflow = if count > 1 { NOTIFY_UNDERFLOW } else { 0 };
        underflow | if some_pending { NOTIFY_NONE_PENDING } else { 0 }
    }
}

/// The numbers of the bits that are set, lowest first.
fn ones(word: u32) -> impl Iterator<Item = u8> {
    let mut rest = word;
    core::iter::from_fn(move || {
        let lowest = rest.trailing_zeros() as u8;
        let is_none = rest == 0;
        rest &= rest.wrapping_sub(1);
        (!is_none).then_some(lowest)
    })
}
