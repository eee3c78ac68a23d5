//! Thirty-two interrupts with consecutive INTIDs: their state as one bit each in a few words.

use super::list_register::ListRegister;
use alloc::vec;
use alloc::vec::Vec;

/// Interrupts in a bank: as many as a register with one bit for each describes.
pub(super) const INTERRUPTS: usize = 32;

/// The registers that have one bit for each interrupt (Arm IHI 0069, sections 12.9 and 12.11).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum BitRegister {
    Igroupr,
    Isenabler,
    Icenabler,
    Ispendr,
    Icpendr,
    Isactiver,
    Icactiver,
}

/// The groups that GICD_CTLR enables, each as a word of all ones or all zeroes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct GroupEnables {
    pub group_zero: u32,
    pub group_one: u32,
}

/// What one vCPU has to do with the interrupts of a bank.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Lane {
    /// Interrupts that are delivered to it.
    pub routed: u32,
    /// Interrupts that are active on it. Of a loaded one: that were so when it was loaded.
    pub held: u32,
    /// Interrupts that it has in list registers.
    pub loaded: u32,
    /// Loaded interrupts whose active state a guest asked for since they were loaded.
    asked: u32,
    /// Loaded interrupts whose active state a guest had asked for before they were loaded.
    observed: u32,
}

/// The state of 32 interrupts. While one is *loaded*, in a list register of a running vCPU, what the guest does to it there
/// is not known here; what others do to it meanwhile is kept, and put together with it by [`Bank::unload`].
///
/// What changes something returns the interrupts that it changed.
#[derive(Debug)]
pub(super) struct Bank {
    /// Interrupts that exist; the others read as zero and ignore writes.
    implemented: u32,
    /// Interrupts whose trigger the guest may choose.
    configurable: u32,
    /// Interrupts that are linked to the physical one `physical`.
    linked: u32,
    physical: u32,
    /// INTID of bit 0.
    first_intid: u32,
    priority_mask: u8,
    group: u32,
    enabled: u32,
    /// Edge-triggered, rather than level-sensitive.
    edge: u32,
    line: u32,
    /// Pending by an edge, by an SGI, or because software said so; apart from the line.
    latch: u32,
    /// Loaded interrupts whose latch went into the list register.
    lent: u32,
    active: u32,
    loaded: u32,
    /// Loaded interrupts that a guest has made active, or inactive, since.
    activate: u32,
    deactivate: u32,
    priority: [u8; INTERRUPTS],
    /// The first vCPU that `lanes` has an element for.
    first_vcpu: usize,
    lanes: Vec<Lane>,
}

impl Bank {
    /// A bank of a vCPU's own SGIs and PPIs. The interrupt `intid` is linked to the physical one `physical`.
    pub(super) fn private(vcpu: usize, priority_mask: u8, intid: u32, physical: u32) -> Self {
        let lane = Lane { routed: u32::MAX, ..Lane::default() };
        Self {
            edge: 0xffff,
            configurable: 0,
            linked: bit(intid),
            physical,
            first_vcpu: vcpu,
            lanes: vec![lane],
            ..Self::shared(0, u32::MAX, priority_mask, 0)
        }
    }

    /// A bank of SPIs from `first_intid` up, of which those in `implemented` exist, for `vcpus` vCPUs.
    pub(super) fn shared(first_intid: u32, implemented: u32, priority_mask: u8, vcpus: usize) -> Self {
        let mut lanes = vec![Lane::default(); vcpus];
        if let Some(first) = lanes.first_mut() {
            first.routed = implemented;
        }
        Self {
            implemented,
            configurable: implemented,
            linked: 0,
            physical: 0,
            first_intid,
            priority_mask,
            group: implemented,
            enabled: 0,
            edge: 0,
            line: 0,
            latch: 0,
            lent: 0,
            active: 0,
            loaded: 0,
            activate: 0,
            deactivate: 0,
            priority: [0; INTERRUPTS],
            first_vcpu: 0,
            lanes,
        }
    }

    /// The first vCPU that these interrupts may go to.
    pub(super) const fn first_vcpu(&self) -> usize {
        self.first_vcpu
    }

    /// What that vCPU and those after it have to do with these interrupts.
    pub(super) fn lanes(&self) -> &[Lane] {
        &self.lanes
    }

    /// The bit of this bank in the vCPUs' summaries.
    pub(super) const fn summary(&self) -> u32 {
        bit(self.first_intid / INTERRUPTS as u32)
    }

    /// What `vcpu` has to do with these interrupts.
    pub(super) fn lane(&self, vcpu: usize) -> Option<&Lane> {
        self.lanes.get(vcpu.checked_sub(self.first_vcpu)?)
    }

    fn lane_mut(&mut self, vcpu: usize) -> Option<&mut Lane> {
        self.lanes.get_mut(vcpu.checked_sub(self.first_vcpu)?)
    }

    /// Pending by the latch or by the line.
    const fn pending(&self) -> u32 {
        self.latch | self.asserted()
    }

    /// Level-sensitive, and the line is high.
    const fn asserted(&self) -> u32 {
        self.line & !self.edge
    }

    /// Pending, enabled, and of a group that is enabled.
    const fn deliverable(&self, groups: GroupEnables) -> u32 {
        self.pending() & self.enabled & (self.group & groups.group_one | !self.group & groups.group_zero)
    }

    /// Interrupts that wait for a list register of the vCPU that they are routed to.
    pub(super) const fn ready(&self, groups: GroupEnables) -> u32 {
        self.deliverable(groups) & !self.active & !self.loaded
    }

    /// True where interrupt `index` has its line high, or is in a list register.
    pub(super) const fn in_use(&self, index: u32) -> bool {
        (self.line | self.loaded) & bit(index) != 0
    }

    /// The priority of interrupt `index`.
    pub(super) fn priority(&self, index: u32) -> u8 {
        usize::try_from(index).ok().and_then(|index| self.priority.get(index)).copied().unwrap_or(0)
    }

    /// Sets the priority of interrupt `index`, as many bits of it as are implemented.
    pub(super) fn set_priority(&mut self, index: u32, priority: u8) -> u32 {
        let new = priority & self.priority_mask;
        let implemented = self.implemented & bit(index) != 0;
        match usize::try_from(index).ok().and_then(|index| self.priority.get_mut(index)) {
            Some(old) if implemented && *old != new => {
                *old = new;
                bit(index)
            }
            _ => 0,
        }
    }

    /// The line of interrupt `index` goes to `level`.
    pub(super) fn set_line(&mut self, index: u32, level: bool) -> u32 {
        let changed = assign(&mut self.line, bit(index) & self.implemented, if level { u32::MAX } else { 0 });
        self.latch |= changed & self.line & self.edge;
        changed & (self.line | !self.edge)
    }

    /// Makes `bits` pending, whatever their lines say.
    pub(super) fn latch(&mut self, bits: u32) -> u32 {
        assign(&mut self.latch, bits & self.implemented, u32::MAX)
    }

    /// Reads a register. `ask` is called with each vCPU that has to come back before the answer is exact; see `read_active`.
    pub(super) fn read(&mut self, register: BitRegister, ask: impl FnMut(usize)) -> u32 {
        match register {
            BitRegister::Igroupr => self.group,
            BitRegister::Isenabler | BitRegister::Icenabler => self.enabled,
            BitRegister::Ispendr | BitRegister::Icpendr => self.pending() | self.lent,
            BitRegister::Isactiver | BitRegister::Icactiver => self.read_active(ask),
        }
    }

    /// Writes a register.
    pub(super) fn write(&mut self, register: BitRegister, value: u32) -> u32 {
        let bits = value & self.implemented;
        match register {
            BitRegister::Igroupr => assign(&mut self.group, self.implemented, value),
            BitRegister::Isenabler => assign(&mut self.enabled, bits, u32::MAX),
            BitRegister::Icenabler => assign(&mut self.enabled, bits, 0),
            BitRegister::Ispendr => self.latch(bits),
            BitRegister::Icpendr => {
                let lent = assign(&mut self.lent, bits, 0);
                lent | assign(&mut self.latch, bits, 0)
            }
            BitRegister::Isactiver => self.write_active(bits, true),
            BitRegister::Icactiver => self.write_active(bits, false),
        }
    }

    /// Makes `bits` active or inactive: at once, or when they come back from their list registers.
    fn write_active(&mut self, bits: u32, active: bool) -> u32 {
        let later = bits & self.loaded;
        let now = bits & !self.loaded;
        self.activate &= !later;
        self.deactivate &= !later;
        if !active {
            self.deactivate |= later;
            for lane in &mut self.lanes {
                lane.held &= !now;
            }
            return later | assign(&mut self.active, now, 0);
        }
        self.activate |= later;
        let changed = assign(&mut self.active, now, u32::MAX);
        let mut homeless = changed;
        for lane in &mut self.lanes {
            lane.held |= changed & lane.routed;
            homeless &= !lane.routed;
        }
        if let Some(lane) = self.lanes.first_mut() {
            lane.held |= homeless;
        }
        later | changed
    }

    /// Reads the active state. What vCPUs do to loaded interrupts is not known until they come back, which they are made to
    /// do: `ask` is called with each such vCPU. Until then a loaded interrupt reads as active, which it may be, so that who
    /// waits for it to end reads again.
    fn read_active(&mut self, mut ask: impl FnMut(usize)) -> u32 {
        let mut seen = self.active;
        for (vcpu, lane) in (self.first_vcpu..).zip(&mut self.lanes) {
            let unknown = lane.loaded & !lane.observed;
            lane.observed = 0;
            lane.asked |= unknown;
            seen |= unknown;
            if unknown != 0 {
                ask(vcpu);
            }
        }
        (seen | self.activate) & !self.deactivate
    }

    /// The trigger of the sixteen interrupts from `first` up, two bits each as in GICD_ICFGR: 0b10 for edge-triggered.
    pub(super) fn read_configuration(&self, first: u32) -> u32 {
        let edge = self.edge.checked_shr(first).unwrap_or(0);
        (0..16).fold(0, |value, index| value | (edge >> index & 1) << (2 * index + 1))
    }

    /// Sets the trigger of the sixteen interrupts from `first` up.
    pub(super) fn write_configuration(&mut self, first: u32, value: u32) -> u32 {
        let edge: u32 = (0..16).fold(0, |edge, index| edge | (value >> (2 * index + 1) & 1) << index);
        let change = self.configurable & 0xffff_u32.checked_shl(first).unwrap_or(0);
        let edge = edge.checked_shl(first).unwrap_or(0);
        assign(&mut self.edge, change, edge)
    }

    /// Delivers interrupt `index` to `vcpu` from now on, or to none.
    pub(super) fn route(&mut self, index: u32, vcpu: Option<usize>) -> u32 {
        let changed = bit(index) & self.implemented;
        for lane in &mut self.lanes {
            lane.routed &= !changed;
        }
        if let Some(lane) = vcpu.and_then(|vcpu| self.lane_mut(vcpu)) {
            lane.routed |= changed;
        }
        changed
    }

    /// Loads interrupt `index`, which is active on `vcpu` or ready for it; `None` where it is neither. Where the
    /// registers are `crowded`, the end of an active one makes room for others: it is reported, and leaves nothing
    /// pending in its place.
    pub(super) fn load(
        &mut self,
        vcpu: usize,
        index: u32,
        groups: GroupEnables,
        crowded: bool,
    ) -> Option<ListRegister> {
        let bit = bit(index);
        let deliverable = self.deliverable(groups) & bit != 0;
        let asserted = self.asserted() & bit != 0;
        let linked = self.linked & bit != 0;
        let lane = self.lane_mut(vcpu)?;
        let active = lane.held & bit != 0;
        // The architecture keeps the pending state of a linked interrupt that is active in the physical distributor.
        let pending = deliverable && lane.routed & bit != 0 && !(active && (linked || crowded));
        if !pending && !active {
            return None;
        }
        lane.loaded |= bit;
        self.loaded |= bit;
        if pending {
            self.lent |= self.latch & bit;
            self.latch &= !bit;
        }
        Some(ListRegister {
            intid: self.first_intid.wrapping_add(index),
            priority: self.priority(index),
            group_one: self.group & bit != 0,
            pending,
            active,
            physical: linked.then_some(self.physical),
            // It will be pending again once it has ended, because the line is high, or could not be loaded so.
            notify_end: deliverable && (asserted || !pending) || crowded && active,
        })
    }

    /// Takes interrupt `index` back from a list register of `vcpu`, where its state is now `pending` and `active`.
    pub(super) fn unload(&mut self, vcpu: usize, index: u32, pending: bool, active: bool) {
        let bit = bit(index);
        let active = (active || self.activate & bit != 0) && self.deactivate & bit == 0;
        let Some(lane) = self.lane_mut(vcpu).filter(|lane| lane.loaded & bit != 0) else { return };
        lane.loaded &= !bit;
        lane.observed = lane.observed & !bit | lane.asked & bit;
        lane.asked &= !bit;
        lane.held = if active { lane.held | bit } else { lane.held & !bit };
        self.active = if active { self.active | bit } else { self.active & !bit };
        if pending {
            self.latch |= self.lent & bit;
        }
        for word in [&mut self.loaded, &mut self.lent, &mut self.activate, &mut self.deactivate] {
            *word &= !bit;
        }
    }
}

/// The bit of interrupt `index`; none where a bank has no such interrupt.
pub(super) const fn bit(index: u32) -> u32 {
    match 1_u32.checked_shl(index) {
        Some(bit) => bit,
        None => 0,
    }
}

/// Makes the bits `mask` of `word` those of `new`, and returns the ones that this changed.
const fn assign(word: &mut u32, mask: u32, new: u32) -> u32 {
    let changed = (*word ^ new) & mask;
    *word ^= changed;
    changed
}
