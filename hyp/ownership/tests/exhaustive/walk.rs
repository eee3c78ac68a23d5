//! The walk of the implementation through every state of a domain.
//!
//! The real tables cannot be copied, so that there is no going back to a state but by calls. In a state that it meets
//! for the first time the walk makes all calls that are refused, since they leave it there. Then it makes one that is
//! done and was not made here yet; and where none is left, it goes by the shortest way that it knows to a state where
//! one is.

use crate::code::Code;
use crate::coverage::{Counter, Coverage};
use crate::domain::Domain;
use crate::world::World;
use ownership_spec::{Call, Specification};
use std::collections::{HashMap, HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// A state that was met.
#[derive(Default)]
struct Node {
    /// Calls that are done in it and were not made yet.
    untried: Vec<u32>,
    /// Those that were, and where they lead.
    edges: Vec<(u32, u32)>,
}

/// What a walk found.
pub struct Walked {
    /// States. Each page and each VM counts as itself.
    pub states: usize,
    /// States that differ in more than in which page, or which VM of one kind, is which.
    pub unlike: HashSet<Code>,
    /// Calls in states that were done.
    pub done: u64,
    /// Calls in states that were refused.
    pub refused: u64,
    /// Calls that were done only to get somewhere.
    pub detours: u64,
    /// Calls that were compared with the specification under their own locks.
    pub compared: u64,
    /// Calls in states.
    pub coverage: Coverage,
}

struct Walk<'d> {
    domain: &'d Domain,
    world: World<'d>,
    calls: Vec<Call>,
    counter: Counter,
    numbers: HashMap<Code, u32>,
    nodes: Vec<Node>,
    here: u32,
    done: u64,
    refused: u64,
    detours: u64,
}

/// Walks all of a domain.
pub fn walk(domain: &Domain) -> Walked {
    let calls = domain.calls();
    let counter = Counter::new(domain, &calls);
    let mut walk = Walk {
        domain,
        world: World::new(domain),
        calls,
        counter,
        numbers: HashMap::new(),
        nodes: Vec::new(),
        here: 0,
        done: 0,
        refused: 0,
        detours: 0,
    };
    let frames = walk.world.allocated_frames();
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| walk.go())) {
        walk.print_way_here();
        resume_unwind(panic);
    }
    assert!(walk.world.allocated_frames() <= frames + MOST_FRAMES_MORE, "table frames leak");
    Walked {
        states: walk.nodes.len(),
        unlike: walk.numbers.keys().map(|code| code.canonical(domain)).collect(),
        done: walk.done,
        refused: walk.refused,
        detours: walk.detours,
        compared: walk.world.compared(),
        coverage: walk.counter.coverage(),
    }
}

/// Frames that the tables of host and hyp may have more of than at the start: they map what was never touched then.
const MOST_FRAMES_MORE: usize = 8;

impl Walk<'_> {
    fn go(&mut self) {
        self.here = self.arrive();
        loop {
            while let Some(call) = self.nodes[self.here as usize].untried.pop() {
                let from = self.here;
                self.done += 1;
                self.make(call);
                self.world.compare("after a call that was done");
                self.nodes[from as usize].edges.push((call, self.here));
            }
            let Some(way) = self.way_to_untried() else { return };
            for (call, target) in way {
                self.detours += 1;
                self.make(call);
                // A state is all that decides what a call does. Were it not, this would go on for ever.
                assert_eq!(self.here, target, "{}: it led elsewhere before", self.calls[call as usize]);
            }
        }
    }

    /// Makes a call that is done, by its number; its result is compared, and what it does by the ghost. Half of the
    /// times the host touches all of its memory first, so that tables change that map everything, and ones that map
    /// nothing yet.
    fn make(&mut self, call: u32) {
        if (self.done + self.detours).is_multiple_of(2) {
            self.world.fault_on_all();
        }
        let call = self.world.real(&self.calls[call as usize]);
        self.world.is_done(&call);
        self.here = self.arrive();
    }

    /// The number of the state that the world is in now; a new one is looked at.
    fn arrive(&mut self) -> u32 {
        let code = self.code(&self.world.specification).expect("a state of the domain");
        let number = self.nodes.len() as u32;
        let number = *self.numbers.entry(code).or_insert(number);
        self.here = number;
        if number as usize == self.nodes.len() {
            self.nodes.push(Node::default());
            self.explore(code);
        }
        number
    }

    fn code(&self, state: &Specification) -> Option<Code> {
        Code::of(self.domain, state, self.world.next_name)
    }

    /// Makes all calls that are refused here, and notes those that are not.
    fn explore(&mut self, code: Code) {
        self.counter.visit(&code.state(self.domain));
        let mut untried = Vec::new();
        for number in 0..self.calls.len() {
            let call = self.world.real(&self.calls[number]);
            match self.world.specification.apply(&call) {
                Ok((next, _)) => {
                    if self.code(&next).is_some() {
                        self.counter.count(number, None);
                        untried.push(number as u32);
                    }
                }
                Err(error) => {
                    if self.world.is_refused(&call, error) {
                        self.counter.count(number, Some(error));
                        self.refused += 1;
                    }
                }
            }
        }
        self.world.fault_on_all();
        self.world.compare("after calls that were refused, and the host touched everything");
        self.nodes[self.here as usize].untried = untried;
    }

    /// The shortest known way to a state with a call that was not made yet.
    fn way_to_untried(&self) -> Option<Vec<(u32, u32)>> {
        self.way(self.here, |number| !self.nodes[number as usize].untried.is_empty())
    }

    /// The shortest known way from a state to one that `suits`: calls, and where each leads.
    fn way(&self, from: u32, suits: impl Fn(u32) -> bool) -> Option<Vec<(u32, u32)>> {
        let mut origins = HashMap::from([(from, (from, 0))]);
        let mut queue = VecDeque::from([from]);
        while let Some(number) = queue.pop_front() {
            if suits(number) {
                let mut way = Vec::new();
                let mut at = number;
                while at != from {
                    let (before, call) = origins[&at];
                    way.push((call, at));
                    at = before;
                }
                way.reverse();
                return Some(way);
            }
            for (call, target) in &self.nodes[number as usize].edges {
                origins.entry(*target).or_insert_with(|| {
                    queue.push_back(*target);
                    (number, *call)
                });
            }
        }
        None
    }

    /// Prints the shortest known way from the start to the state that the world is in.
    fn print_way_here(&self) {
        println!("the way there:");
        for (call, _) in self.way(0, |number| number == self.here).unwrap_or_default() {
            println!("    {}", self.calls[call as usize]);
        }
    }
}
