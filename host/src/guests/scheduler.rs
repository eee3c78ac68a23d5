//! Which vCPU runs on which CPU. Every CPU of the host takes the next that is ready; a vCPU that waits is ready again
//! when its guest's interrupt controller has something for it, or when its deadline has come.

use crate::cpu::{self, Cpu};
use crate::interrupt;
use abi::run::NO_DEADLINE;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use spin::{Mutex, MutexGuard};

/// A vCPU by the number of its guest and its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VcpuId {
    /// Which guest.
    pub guest: usize,
    /// Which of its vCPUs.
    pub vcpu: usize,
}

/// What a vCPU does.
#[derive(Clone, Copy)]
enum State {
    /// Off, or its guest has ended.
    Off,
    /// It is in the queue.
    Ready,
    /// It runs on this CPU.
    Running(&'static Cpu),
    /// It waits for an interrupt, at most until CNTPCT_EL0 has this value.
    Waiting(u64),
}

/// The vCPUs of a guest.
struct Guest {
    states: Vec<State>,
    /// vCPUs that another turned on while they were, as far as was known here, still on: the two exits may be served in
    /// either order.
    turned_on_early: Vec<bool>,
    running: usize,
}

struct Queue {
    guests: Vec<Guest>,
    ready: VecDeque<VcpuId>,
    /// Guests that have not gone for good.
    live: usize,
}

/// The scheduler of some guests.
pub struct Scheduler {
    queue: Mutex<Queue>,
    /// By guest and vCPU: something has changed that the vCPU is to see before it is entered, or waits, again.
    kicked: Vec<Vec<AtomicBool>>,
    /// By guest: it has ended. Changed under the lock, and read without it after every exit.
    ended: Vec<AtomicBool>,
    /// How many are ready, how many guests live, and the earliest deadline of one that waits: what an idle CPU looks
    /// at, with interrupts masked and without the lock.
    ready: AtomicUsize,
    live: AtomicUsize,
    earliest: AtomicU64,
    /// A bit for each CPU that sleeps or is about to.
    idle: AtomicU64,
}

/// The bit of a CPU in [`Scheduler::idle`].
fn bit_of(cpu: &Cpu) -> u64 {
    let index = cpu::all().iter().position(|other| core::ptr::eq(other, cpu)).unwrap_or(0);
    1 << (index % 64)
}

impl Scheduler {
    /// For guests with so many vCPUs each; vCPU 0 of each is ready.
    pub fn new(vcpus: &[usize]) -> Self {
        let guest = |&count: &usize| Guest {
            states: (0..count).map(|_| State::Off).collect(),
            turned_on_early: (0..count).map(|_| false).collect(),
            running: 0,
        };
        let flags = |&count: &usize| (0..count).map(|_| AtomicBool::new(false)).collect();
        let queue = Queue { guests: vcpus.iter().map(guest).collect(), ready: VecDeque::new(), live: vcpus.len() };
        let scheduler = Self {
            queue: Mutex::new(queue),
            kicked: vcpus.iter().map(flags).collect(),
            ended: vcpus.iter().map(|_| AtomicBool::new(false)).collect(),
            ready: AtomicUsize::new(0),
            live: AtomicUsize::new(vcpus.len()),
            earliest: AtomicU64::new(NO_DEADLINE),
            idle: AtomicU64::new(0),
        };
        for guest in 0..vcpus.len() {
            scheduler.turn_on(VcpuId { guest, vcpu: 0 });
        }
        scheduler
    }

    /// Has the calling CPU run vCPUs until no guest is left.
    /// `between` is called between two of them, and while there are none.
    pub fn work(&self, run: impl Fn(VcpuId), between: impl Fn()) {
        let own = bit_of(cpu::current());
        loop {
            between();
            if let Some(id) = self.next() {
                run(id);
                continue;
            }
            if self.live.load(Ordering::Acquire) == 0 {
                break;
            }
            self.idle.fetch_or(own, Ordering::SeqCst);
            interrupt::set_event(self.earliest());
            interrupt::sleep_unless(|| self.has_news());
            self.idle.fetch_and(!own, Ordering::SeqCst);
        }
        interrupt::set_event(NO_DEADLINE);
        cpu::all().iter().filter(|cpu| cpu.is_online()).for_each(|cpu| interrupt::wake(cpu.mpidr()));
    }

    /// True while there is a guest that has not gone for good.
    pub fn is_any_alive(&self) -> bool {
        self.live.load(Ordering::Acquire) != 0
    }

    /// True where an idle CPU finds something to do.
    fn has_news(&self) -> bool {
        self.has_ready() || self.live.load(Ordering::SeqCst) == 0 || self.earliest() <= interrupt::counter()
    }

    /// True where a vCPU is waiting for a CPU.
    pub fn has_ready(&self) -> bool {
        self.ready.load(Ordering::SeqCst) != 0
    }

    /// The earliest deadline of a vCPU that waits.
    pub fn earliest(&self) -> u64 {
        self.earliest.load(Ordering::SeqCst)
    }

    /// The next vCPU for the calling CPU.
    fn next(&self) -> Option<VcpuId> {
        let mut queue = self.queue.lock();
        if self.earliest() <= interrupt::counter() {
            self.wake_due(&mut queue);
        }
        let id = queue.ready.pop_front()?;
        self.ready.store(queue.ready.len(), Ordering::SeqCst);
        queue.guests[id.guest].states[id.vcpu] = State::Running(cpu::current());
        queue.guests[id.guest].running += 1;
        Some(id)
    }

    /// Makes those ready whose deadline has come, where one has.
    pub fn wake_those_due(&self) {
        if self.earliest() <= interrupt::counter() {
            self.wake_due(&mut self.queue.lock());
        }
    }

    fn wake_due(&self, queue: &mut Queue) {
        let now = interrupt::counter();
        let mut earliest = NO_DEADLINE;
        for guest in 0..queue.guests.len() {
            for vcpu in 0..queue.guests[guest].states.len() {
                match queue.guests[guest].states[vcpu] {
                    State::Waiting(deadline) if deadline <= now => self.make_ready(queue, VcpuId { guest, vcpu }),
                    State::Waiting(deadline) => earliest = earliest.min(deadline),
                    _ => {}
                }
            }
        }
        self.earliest.store(earliest, Ordering::SeqCst);
    }

    fn make_ready(&self, queue: &mut Queue, id: VcpuId) {
        queue.guests[id.guest].states[id.vcpu] = State::Ready;
        queue.ready.push_back(id);
        self.ready.store(queue.ready.len(), Ordering::SeqCst);
        let idle = self.idle.load(Ordering::SeqCst);
        let sleeper = cpu::all().get(idle.trailing_zeros() as usize).filter(|_| idle != 0);
        if let Some(sleeper) = sleeper {
            self.idle.fetch_and(!bit_of(sleeper), Ordering::SeqCst);
            if !core::ptr::eq(sleeper, cpu::current()) {
                interrupt::wake(sleeper.mpidr());
            }
        }
    }

    /// Notes that the vCPU is about to see all that has changed. True where something has, since the last time.
    pub fn take_kick(&self, id: VcpuId) -> bool {
        let kicked = &self.kicked[id.guest][id.vcpu];
        kicked.load(Ordering::SeqCst) && kicked.swap(false, Ordering::SeqCst)
    }

    /// Has the vCPU look at its guest's interrupt controller again: it comes out if it runs, and stops waiting if it waits.
    pub fn kick(&self, id: VcpuId) {
        if self.kicked[id.guest][id.vcpu].swap(true, Ordering::SeqCst) {
            return;
        }
        let mut queue = self.queue.lock();
        match queue.guests[id.guest].states[id.vcpu] {
            State::Waiting(_) => self.make_ready(&mut queue, id),
            State::Running(cpu) if !core::ptr::eq(cpu, cpu::current()) => interrupt::wake(cpu.mpidr()),
            _ => {}
        }
    }

    /// The vCPU, which the calling CPU runs, waits until `deadline`. False where it was kicked, and goes on.
    pub fn wait(&self, id: VcpuId, deadline: u64) -> bool {
        let mut queue = self.queue.lock();
        if self.kicked[id.guest][id.vcpu].load(Ordering::SeqCst) || self.has_ended(id.guest) {
            return false;
        }
        Self::stop_running(&mut queue, id, State::Waiting(deadline));
        self.earliest.fetch_min(deadline, Ordering::SeqCst);
        true
    }

    /// The vCPU, which the calling CPU runs, lets others run first. False where there are none.
    pub fn give_way(&self, id: VcpuId) -> bool {
        let mut queue = self.queue.lock();
        if queue.ready.is_empty() || self.has_ended(id.guest) {
            return false;
        }
        Self::stop_running(&mut queue, id, State::Ready);
        self.make_ready(&mut queue, id);
        true
    }

    /// The vCPU, which the calling CPU runs, is off. False where another has turned it on again by now, or has ended
    /// the guest: then it is to [`leave`](Self::leave).
    pub fn turn_off(&self, id: VcpuId) -> bool {
        let mut queue = self.queue.lock();
        if self.has_ended(id.guest) {
            return false;
        }
        if core::mem::take(&mut queue.guests[id.guest].turned_on_early[id.vcpu]) {
            return false;
        }
        Self::stop_running(&mut queue, id, State::Off);
        true
    }

    /// The vCPU is on.
    pub fn turn_on(&self, id: VcpuId) {
        let mut queue = self.queue.lock();
        let guest = &mut queue.guests[id.guest];
        match guest.states[id.vcpu] {
            _ if self.has_ended(id.guest) => {}
            State::Off => self.make_ready(&mut queue, id),
            _ => guest.turned_on_early[id.vcpu] = true,
        }
    }

    fn stop_running(queue: &mut Queue, id: VcpuId, next: State) {
        queue.guests[id.guest].states[id.vcpu] = next;
        queue.guests[id.guest].running -= 1;
    }

    /// True where none of the guest's vCPUs is on, so that none will be again.
    pub fn is_off(&self, guest: usize) -> bool {
        self.queue.lock().guests[guest].states.iter().all(|state| matches!(state, State::Off))
    }

    /// The guest has ended: none of its vCPUs is to run again, and those that run come out. True for the first who says
    /// so where none runs: then nobody has anything to do with the guest any more but the caller.
    pub fn end(&self, guest: usize) -> bool {
        let mut queue = self.queue.lock();
        if self.ended[guest].swap(true, Ordering::SeqCst) {
            return false;
        }
        queue.ready.retain(|id| id.guest != guest);
        self.ready.store(queue.ready.len(), Ordering::SeqCst);
        for state in &mut queue.guests[guest].states {
            match *state {
                State::Running(cpu) if !core::ptr::eq(cpu, cpu::current()) => interrupt::wake(cpu.mpidr()),
                State::Running(_) => {}
                _ => *state = State::Off,
            }
        }
        queue.guests[guest].running == 0
    }

    /// The vCPU of a guest that has ended, which the calling CPU runs, does not run any more. True for the last of
    /// them: nobody has anything to do with the guest any more but the caller.
    pub fn leave(&self, id: VcpuId) -> bool {
        let mut queue = self.queue.lock();
        Self::stop_running(&mut queue, id, State::Off);
        queue.guests[id.guest].running == 0
    }

    /// True where the guest has ended.
    pub fn has_ended(&self, guest: usize) -> bool {
        self.ended[guest].load(Ordering::SeqCst)
    }

    /// The guest starts anew.
    pub fn restart(&self, guest: usize) {
        {
            let mut queue: MutexGuard<'_, Queue> = self.queue.lock();
            self.ended[guest].store(false, Ordering::SeqCst);
            queue.guests[guest].turned_on_early.fill(false);
        }
        self.turn_on(VcpuId { guest, vcpu: 0 });
    }

    /// The guest is gone for good.
    pub fn remove(&self) {
        let mut queue = self.queue.lock();
        queue.live -= 1;
        self.live.store(queue.live, Ordering::SeqCst);
    }
}
