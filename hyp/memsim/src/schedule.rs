//! Several CPUs at once, of which exactly one runs at any time: the order of their steps comes from a seed.
//!
//! Uniform choice alone rarely keeps a CPU waiting long enough for another to finish an operation in between, and
//! rarely lets one be interrupted just once. So the choice goes by phases: uniform, one CPU alone, one CPU starved, and
//! priorities with few changes.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::cpu::Cpu;
use crate::machine::Machine;

/// What one CPU does in [`Machine::interleave`].
pub type Program<'a, R> = Box<dyn FnOnce(&mut Cpu) -> R + Send + 'a>;

/// Steps after which an interleaving is taken to make no progress.
const STEP_LIMIT: u64 = 20_000_000;

/// Numbers from a seed (SplitMix64), the same on every machine.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// How the next CPU is chosen, for a number of steps.
enum Phase {
    /// Any, with equal chances.
    Uniform,
    /// This one.
    Alone(usize),
    /// Any but this one.
    Starved(usize),
    /// The first of the list; now and then the running one goes to its end.
    Priorities(Vec<usize>),
}

struct Turns {
    random: Random,
    phase: Phase,
    /// Steps that are left of the phase.
    left: usize,
    /// The CPU whose turn it is.
    current: usize,
    /// CPUs that have not finished.
    running: Vec<usize>,
    steps: u64,
    /// A program panicked: the others stop at their next step.
    stopping: bool,
}

impl Turns {
    fn start_phase(&mut self) {
        let random = &mut self.random;
        let any = self.running[random.below(self.running.len())];
        // Lengths spread over the orders of magnitude: a window of a few steps is met as well as a whole operation.
        let scale = random.below(9);
        self.left = 1 + random.below(1 << scale);
        self.phase = match random.below(8) {
            0..=2 => Phase::Uniform,
            3 | 4 => Phase::Alone(any),
            5 => Phase::Starved(any),
            _ => {
                let mut order = self.running.clone();
                for last in (1..order.len()).rev() {
                    order.swap(last, random.below(last + 1));
                }
                self.left *= 4;
                Phase::Priorities(order)
            }
        };
    }

    /// Chooses who runs next; `waiting` has nothing to do until another has run.
    fn choose(&mut self, waiting: Option<usize>) {
        if self.left == 0 {
            self.start_phase();
        }
        self.left -= 1;
        let mut candidates = self.running.clone();
        let without = |candidates: &mut Vec<usize>, cpu: usize| {
            if candidates.len() > 1 {
                candidates.retain(|candidate| *candidate != cpu);
            }
        };
        if let Some(cpu) = waiting {
            without(&mut candidates, cpu);
        }
        match &mut self.phase {
            Phase::Uniform => {}
            Phase::Alone(cpu) => {
                if candidates.contains(cpu) {
                    candidates = vec![*cpu];
                }
            }
            Phase::Starved(cpu) => without(&mut candidates, *cpu),
            Phase::Priorities(order) => {
                if waiting.is_some() || self.random.below(16) == 0 {
                    let lowered = order.iter().position(|cpu| *cpu == self.current);
                    if let Some(cpu) = lowered.map(|position| order.remove(position)) {
                        order.push(cpu);
                    }
                }
                if let Some(first) = order.iter().find(|cpu| candidates.contains(cpu)) {
                    candidates = vec![*first];
                }
            }
        }
        self.current = candidates[self.random.below(candidates.len())];
    }
}

/// Hands the turn from CPU to CPU.
pub(crate) struct Schedule {
    turns: Mutex<Turns>,
    /// One for each CPU: told when its turn has come.
    called: Vec<Condvar>,
}

/// Ends a program whose fellow has panicked.
struct Stopped;

impl Schedule {
    fn new(seed: u64, cpus: usize) -> Self {
        let mut turns = Turns {
            random: Random::new(seed),
            phase: Phase::Uniform,
            left: 0,
            current: 0,
            running: (0..cpus).collect(),
            steps: 0,
            stopping: false,
        };
        turns.choose(None);
        Self { turns: Mutex::new(turns), called: (0..cpus).map(|_| Condvar::new()).collect() }
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it is the turn of `cpu`.
    fn wait<'a>(&self, cpu: usize, turns: MutexGuard<'a, Turns>) -> MutexGuard<'a, Turns> {
        self.called[cpu].wait_while(turns, |turns| turns.current != cpu).unwrap_or_else(PoisonError::into_inner)
    }

    /// A step of `cpu`, whose turn it is, is due: others may come first. `waits` where another has to.
    pub(crate) fn step(&self, cpu: usize, waits: bool) {
        if thread::panicking() {
            return;
        }
        let mut turns = self.turns();
        turns.steps += 1;
        assert!(turns.steps < STEP_LIMIT, "no program ends");
        turns.choose(waits.then_some(cpu));
        if turns.current != cpu {
            self.called[turns.current].notify_one();
            turns = self.wait(cpu, turns);
        }
        let stopping = turns.stopping;
        drop(turns);
        if stopping {
            resume_unwind(Box::new(Stopped));
        }
    }

    /// Runs `program` as `cpu` from its first turn on, and gives the turn away at its end.
    fn run<R>(&self, cpu: usize, program: impl FnOnce() -> R) -> thread::Result<R> {
        drop(self.wait(cpu, self.turns()));
        let result = catch_unwind(AssertUnwindSafe(program));
        let mut turns = self.turns();
        turns.stopping |= result.is_err();
        turns.running.retain(|running| *running != cpu);
        if !turns.running.is_empty() {
            turns.left = 0;
            turns.choose(None);
            self.called[turns.current].notify_one();
        }
        result
    }
}

impl Machine {
    /// Runs the programs at once, the first on CPU 0 and so on, and returns what they returned. Exactly one runs at any
    /// time; before each operation of the [`Cpu`] that it is given (or of a clone of it) the turn may pass to another. The
    /// same seed gives the same order, as long as the programs themselves are deterministic.
    ///
    /// A program that waits for another in a loop calls [`Cpu::relax`] in it; it must not block in any other way, such as
    /// on a mutex that is held over an operation of the CPU.
    ///
    /// # Panics
    /// As the first program that panics, after the seed was written to standard error; the others end at their next step.
    pub fn interleave<R: Send>(&self, seed: u64, programs: Vec<Program<'_, R>>) -> Vec<R> {
        if programs.is_empty() {
            return Vec::new();
        }
        let schedule = Arc::new(Schedule::new(seed, programs.len()));
        let mut cpus = Vec::new();
        for index in 0..programs.len() {
            cpus.push(self.cpu(index).scheduled(Arc::clone(&schedule)));
        }
        let results: Vec<thread::Result<R>> = thread::scope(|scope| {
            let threads: Vec<_> = programs
                .into_iter()
                .zip(cpus)
                .map(|(program, mut cpu)| {
                    let schedule = &schedule;
                    scope.spawn(move || schedule.run(cpu.index(), || program(&mut cpu)))
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().and_then(|result| result)).collect()
        });
        let mut values = Vec::new();
        for (cpu, result) in results.into_iter().enumerate() {
            match result {
                Ok(value) => values.push(value),
                Err(panic) if panic.is::<Stopped>() => {}
                Err(panic) => {
                    eprintln!("CPU {cpu} panicked in the interleaving of seed {seed:#x}");
                    resume_unwind(panic);
                }
            }
        }
        values
    }
}
