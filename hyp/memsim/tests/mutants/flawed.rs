//! An environment that does its maintenance wrong: every step of the code under test goes through one function, which may
//! drop it, weaken it, put it off, or put others in its place.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use abi::{PhysAddr, PhysRange};
use memsim::Cpu;
use pgtable::{DsbKind, Maintenance, TableFrames, Tlbi};

/// One step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Do {
    Write(PhysAddr, u64),
    /// Address, expected and new value.
    Exchange(PhysAddr, u64, u64),
    Dsb(DsbKind),
    Isb,
    Tlbi(Tlbi),
    LoadVttbr(u64),
    CleanToPoc(PhysRange),
    CleanToPou(PhysRange),
    InvalidateInstructions(PhysRange),
    /// A frame that was allocated is handed to the code under test.
    Hand(PhysAddr),
    Free(PhysAddr),
    /// The step, on the other CPU.
    Elsewhere(Box<Do>),
}

impl Do {
    pub fn elsewhere(self) -> Self {
        Self::Elsewhere(Box::new(self))
    }
}

/// What has happened up to the step that is decided on.
#[derive(Default)]
pub struct Past {
    /// DSBs since the last write of a descriptor, this one among them.
    pub dsbs: usize,
    /// ISBs since the last write of a descriptor, this one among them.
    pub isbs: usize,
    /// VTTBR_EL2 writes since the last write of a descriptor, this one among them.
    pub loads: usize,
    /// TLB invalidations since the last write of a descriptor, this one among them.
    pub tlbis: usize,
    /// Writes since the environment went wrong, this one among them.
    pub writes: usize,
    /// Valid descriptors among them.
    pub valid_writes: usize,
    /// Steps that were put off.
    pub held: Vec<Do>,
    /// What a write replaces.
    pub old: u64,
    /// What the code under test takes some words for, which are something else.
    pretended: HashMap<PhysAddr, u64>,
}

impl Past {
    /// Puts a step off.
    pub fn hold(&mut self, step: Do) -> Vec<Do> {
        self.held.push(step);
        Vec::new()
    }

    /// Lets the code under test believe that `address` holds `value`, until the word is written.
    pub fn pretend(&mut self, address: PhysAddr, value: u64) -> Vec<Do> {
        self.pretended.insert(address, value);
        Vec::new()
    }

    /// `step`, and then what was put off.
    pub fn before_the_held(&mut self, step: Do) -> Vec<Do> {
        let mut steps = vec![step];
        steps.append(&mut self.held);
        steps
    }

    /// Counts a step.
    fn count(&mut self, step: &Do) {
        match step {
            Do::Write(_, value) | Do::Exchange(_, _, value) => {
                (self.dsbs, self.isbs, self.loads, self.tlbis) = (0, 0, 0, 0);
                self.writes += 1;
                self.valid_writes += usize::from(value & 1 != 0);
            }
            Do::Dsb(_) => self.dsbs += 1,
            Do::Isb => self.isbs += 1,
            Do::LoadVttbr(_) => self.loads += 1,
            Do::Tlbi(_) => self.tlbis += 1,
            _ => {}
        }
    }
}

/// What is done in place of a step.
pub type Flaw = fn(&mut Past, Do) -> Vec<Do>;

/// Does every step as it is.
pub fn none(_past: &mut Past, step: Do) -> Vec<Do> {
    vec![step]
}

/// A CPU that does its maintenance wrong from [`arm`](Self::arm) on.
pub struct Flawed {
    pub cpu: Cpu,
    other: Cpu,
    flaw: Flaw,
    is_armed: Cell<bool>,
    past: RefCell<Past>,
    /// True where some step was not done as it was asked for.
    pub has_gone_wrong: Cell<bool>,
}

impl Flawed {
    pub fn new(cpu: Cpu, other: Cpu, flaw: Flaw) -> Self {
        let (is_armed, has_gone_wrong) = (Cell::new(false), Cell::new(false));
        Self { cpu, other, flaw, is_armed, past: RefCell::default(), has_gone_wrong }
    }

    pub fn arm(&self) {
        self.is_armed.set(true);
    }

    /// Does what was put off, and nothing wrong from now on.
    pub fn disarm(&self) {
        self.is_armed.set(false);
        let past = self.past.take();
        for step in past.held {
            perform(&self.cpu, &self.other, step);
        }
    }

    /// What is done in place of `step`.
    fn decide(&self, step: Do) -> Vec<Do> {
        if !self.is_armed.get() {
            return vec![step];
        }
        let mut past = self.past.borrow_mut();
        past.count(&step);
        if let Do::Write(address, _) | Do::Exchange(address, ..) = step {
            past.old = self.cpu.read(address);
            past.pretended.remove(&address);
        }
        let steps = (self.flaw)(&mut past, step.clone());
        if steps != [step] {
            self.has_gone_wrong.set(true);
        }
        steps
    }

    fn act(&self, step: Do) {
        for step in self.decide(step) {
            perform(&self.cpu, &self.other, step);
        }
    }
}

/// Does one step on `cpu`.
fn perform(cpu: &Cpu, other: &Cpu, step: Do) {
    match step {
        Do::Write(address, value) => cpu.write(address, value),
        Do::Exchange(address, current, new) => {
            let _ = cpu.compare_exchange(address, current, new);
        }
        Do::Dsb(kind) => cpu.dsb(kind),
        Do::Isb => cpu.isb(),
        Do::Tlbi(operation) => cpu.tlbi(operation),
        Do::LoadVttbr(value) => {
            cpu.load_vttbr(value);
        }
        Do::CleanToPoc(range) => cpu.clean_invalidate_to_poc(range),
        Do::CleanToPou(range) => cpu.clean_to_pou(range),
        Do::InvalidateInstructions(range) => cpu.invalidate_instruction_cache(range),
        Do::Hand(_) => {}
        Do::Free(frame) => cpu.clone().free(frame),
        Do::Elsewhere(step) => perform(other, cpu, *step),
    }
}

impl TableFrames for Flawed {
    fn allocate(&mut self) -> Option<PhysAddr> {
        let mut handed = self.cpu.allocate()?;
        for step in self.decide(Do::Hand(handed)) {
            if let Do::Hand(frame) = step {
                handed = frame;
            }
            perform(&self.cpu, &self.other, step);
        }
        Some(handed)
    }

    fn free(&mut self, frame: PhysAddr) {
        self.act(Do::Free(frame));
    }

    fn read(&self, descriptor: PhysAddr) -> u64 {
        let pretended = self.past.borrow().pretended.get(&descriptor).copied();
        pretended.unwrap_or_else(|| self.cpu.read(descriptor))
    }

    fn write(&self, descriptor: PhysAddr, value: u64) {
        self.act(Do::Write(descriptor, value));
    }

    fn compare_exchange(&self, descriptor: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        let mut result = Ok(current);
        for step in self.decide(Do::Exchange(descriptor, current, new)) {
            match step {
                Do::Exchange(address, current, new) => result = self.cpu.compare_exchange(address, current, new),
                other => perform(&self.cpu, &self.other, other),
            }
        }
        result
    }
}

impl Maintenance for Flawed {
    fn dsb(&self, kind: DsbKind) {
        self.act(Do::Dsb(kind));
    }

    fn isb(&self) {
        self.act(Do::Isb);
    }

    fn tlbi(&self, operation: Tlbi) {
        self.act(Do::Tlbi(operation));
    }

    fn load_vttbr(&self, vttbr: u64) -> u64 {
        let previous = self.cpu.vttbr();
        self.act(Do::LoadVttbr(vttbr));
        previous
    }

    fn clean_invalidate_to_poc(&self, range: PhysRange) {
        self.act(Do::CleanToPoc(range));
    }

    fn clean_to_pou(&self, range: PhysRange) {
        self.act(Do::CleanToPou(range));
    }

    fn invalidate_instruction_cache(&self, range: PhysRange) {
        self.act(Do::InvalidateInstructions(range));
    }
}
