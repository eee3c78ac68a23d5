//! The search through all states of the specification, breadth first.

use crate::code::{Code, renamed};
use crate::coverage::{Counter, Coverage};
use crate::domain::{Domain, NEXT};
use crate::named::Named;
use crate::rules;
use ownership_spec::{Call, Specification};
use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// How a state was found: from the state of that number by that call. The first is its own.
#[derive(Clone, Copy)]
struct Origin {
    state: u32,
    call: u32,
}

/// What a search found.
pub struct Found {
    /// States, each once whatever its pages, or VMs of one kind, are called.
    pub states: HashSet<Code>,
    /// Calls that were done.
    pub done: u64,
    /// Calls that were refused.
    pub refused: u64,
    /// Calls in states.
    pub coverage: Coverage,
}

/// The states of a domain, and how each was found.
struct Search<'a> {
    domain: &'a Domain,
    calls: Vec<Call>,
    counter: Counter,
    numbers: HashMap<Code, u32>,
    codes: Vec<Code>,
    origins: Vec<Origin>,
    done: u64,
    refused: u64,
}

/// Visits every state of a domain that the specification reaches, makes every call in each, and checks every rule.
pub fn search(domain: &Domain) -> Found {
    let calls = domain.calls();
    // Which page is which makes a difference to these alone.
    let (ranges, all): (Vec<_>, Vec<_>) =
        (0..calls.len() as u32).partition(|call| Named::of(&calls[*call as usize]).is_range());
    let all: Vec<_> = all.into_iter().chain(ranges.iter().copied()).collect();
    let (numbers, codes, origins) = (HashMap::new(), Vec::new(), Vec::new());
    let counter = Counter::new(domain, &calls);
    let mut search = Search { domain, calls, counter, numbers, codes, origins, done: 0, refused: 0 };
    let start = domain.start();
    search.add(&start, Origin { state: 0, call: 0 });
    let mut next = 0;
    while let Some(code) = search.codes.get(next).copied() {
        let visited = catch_unwind(AssertUnwindSafe(|| {
            for (number, arrangement) in code.arrangements(domain).iter().enumerate() {
                search.visit(next as u32, arrangement, if number == 0 { &all } else { &ranges });
            }
        }));
        if let Err(panic) = visited {
            search.print_way_to(next as u32);
            resume_unwind(panic);
        }
        next += 1;
    }
    let Search { numbers, counter, done, refused, .. } = search;
    Found { states: numbers.into_keys().collect(), done, refused, coverage: counter.coverage() }
}

impl Search<'_> {
    /// Makes calls in a state.
    fn visit(&mut self, number: u32, code: &Code, calls: &[u32]) {
        let state = code.state(self.domain);
        self.counter.visit(&state);
        for call in calls {
            let origin = Origin { state: number, call: *call };
            let result = state.apply(&self.calls[*call as usize]);
            self.counter.count(*call as usize, result.as_ref().err().copied());
            match result {
                Ok((after, _)) => {
                    self.done += 1;
                    rules::check(self.domain, &state, &self.calls[*call as usize], &after);
                    self.add(&after, origin);
                }
                Err(_) => self.refused += 1,
            }
        }
    }

    /// Adds a state, unless it is known or out of bounds.
    fn add(&mut self, state: &Specification, origin: Origin) {
        let Some(code) = Code::of(self.domain, state, NEXT) else { return };
        let canonical = code.canonical(self.domain);
        let number = self.codes.len() as u32;
        if *self.numbers.entry(canonical).or_insert(number) != number {
            return;
        }
        assert_eq!(code.state(self.domain), renamed(state, NEXT), "the code of a state loses something");
        rules::check_teardown(self.domain, state);
        self.codes.push(canonical);
        self.origins.push(origin);
    }

    /// Prints the calls that lead to a state. Pages and VMs may have other names from one to the next.
    fn print_way_to(&self, number: u32) {
        let mut way = Vec::new();
        let mut state = number;
        while state != 0 {
            let origin = self.origins[state as usize];
            way.push(origin);
            state = origin.state;
        }
        println!("the way there:");
        for origin in way.iter().rev() {
            println!("    {}", self.calls[origin.call as usize]);
        }
    }
}
