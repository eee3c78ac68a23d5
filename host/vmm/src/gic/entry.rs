//! What goes into the list registers at the entry of a vCPU, and what comes out of them at its exit.

use super::Gic;
use super::bank::bit;
use super::list_register::{is_active, is_pending};
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

/// The best candidates so far, in order; of equals the first that was offered.
struct Selection {
    best: [Candidate; MAX_LIST_REGISTERS],
    count: usize,
    limit: usize,
    /// There were more than `limit`.
    overflow: bool,
}

impl Selection {
    fn offer(&mut self, candidate: Candidate) {
        let mut carried = candidate;
        let mut shifting = false;
        for place in self.best.iter_mut().take(self.count) {
            shifting |= carried.rank < place.rank;
            if shifting {
                core::mem::swap(place, &mut carried);
            }
        }
        match self.best.get_mut(self.count) {
            Some(place) if self.count < self.limit => {
                *place = carried;
                self.count += 1;
            }
            _ => self.overflow = true,
        }
    }
}

impl Gic {
    /// Fills the list registers of `vcpu`, which is about to be entered, and returns the run page's `interrupt_control`.
    /// Registers beyond those that the CPU has are left alone. What `registers` holds is folded first, if it has not been:
    /// so nothing is lost where an entry was refused.
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
        let Loaded { count, interrupts } = core::mem::take(&mut state.loaded);
        // What comes back of its own registers is no news to this vCPU.
        let news = self.kicks & 1 << vcpu;
        for (interrupt, register) in interrupts.iter().zip(registers).take(count) {
            let bank = self.bank_index(vcpu, interrupt.summary.into());
            let index = interrupt.index.into();
            self.change(bank, |bank| {
                bank.unload(vcpu, index, is_pending(*register), is_active(*register));
                bit(index)
            });
        }
        self.kicks = self.kicks & !(1 << vcpu) | news;
    }

    /// The interrupts to load for `vcpu`.
    fn select(&self, vcpu: usize) -> Selection {
        let limit = self.list_registers;
        let mut selection =
            Selection { best: [Candidate::default(); MAX_LIST_REGISTERS], count: 0, limit, overflow: false };
        let Some(state) = self.vcpus.get(vcpu) else { return selection };
        for summary in ones(state.waiting | state.held) {
            let Some(bank) = self.banks.get(self.bank_index(vcpu, summary.into())) else { continue };
            let Some(lane) = bank.lane(vcpu) else { continue };
            let waiting = bank.ready(self.groups) & lane.routed;
            for index in ones(waiting | lane.held) {
                let inactive = u16::from(lane.held & bit(index.into()) == 0);
                let rank = inactive << 8 | u16::from(bank.priority(index.into()));
                selection.offer(Candidate { rank, summary, index });
            }
        }
        selection
    }

    /// Loads what is to be loaded for `vcpu`, of which nothing is yet.
    #[inline(never)]
    fn load(&mut self, vcpu: usize, registers: &mut [u64; MAX_LIST_REGISTERS]) -> u64 {
        let selection = self.select(vcpu);
        let mut some_pending = false;
        for (interrupt, register) in selection.best.iter().zip(registers.iter_mut()).take(selection.count) {
            let index = self.bank_index(vcpu, interrupt.summary.into());
            let crowded = selection.overflow;
            let bank = self.banks.get_mut(index);
            let Some(list_register) =
                bank.and_then(|bank| bank.load(vcpu, interrupt.index.into(), self.groups, crowded))
            else {
                continue;
            };
            some_pending |= list_register.pending && !list_register.active;
            *register = list_register.encode();
            self.settle(index, 0);
        }
        if let Some(state) = self.vcpus.get_mut(vcpu) {
            state.loaded = Loaded { count: selection.count, interrupts: selection.best };
        }
        if !selection.overflow {
            return 0;
        }
        // Either condition must not hold at once, or the guest would never run: ICH_HCR_EL2.UIE asks for at most one register
        // in use, NPIE for none that is pending.
        let underflow = if selection.count > 1 { NOTIFY_UNDERFLOW } else { 0 };
        underflow | if some_pending { NOTIFY_NONE_PENDING } else { 0 }
    }
}

/// The numbers of the bits that are set, lowest first.
fn ones(word: u32) -> impl Iterator<Item = u8> {
    let next = |rest: &u32| Some(rest & rest.wrapping_sub(1));
    core::iter::successors(Some(word), next).take_while(|rest| *rest != 0).map(|rest| rest.trailing_zeros() as u8)
}
