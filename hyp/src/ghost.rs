//! Hyp beside its specification: each transition, and each fault of the host's, is compared with what the specification
//! says, under the transition's own locks. A difference stops the machine.

use crate::cpu_data;
use crate::environment::{El2Environment, POOL};
use crate::fault;
use crate::frame_pool::FramePool;
use abi::boot::{BootInfo, MAX_CPUS};
use abi::{Error, Ipa};
use buddy_system_allocator::LockedHeap;
use core::cell::UnsafeCell;
use core::fmt::Display;
use core::sync::atomic::{AtomicU64, Ordering};
use ownership::lock::{Lock, Rank};
use ownership::{Access, Call, HostFault, LockedMemory, Witness};
use ownership_ghost::{Ghost, Settings};

/// Bytes of the heap: room for several CPUs that compare [`MOST_PAGES`] pages at once.
const HEAP_SIZE: usize = 8 << 20;
/// Orders of the heap's blocks: up to all of it.
const ORDERS: usize = 24;
/// Of a range, so many pages are compared: a block of 2 MiB.
const MOST_PAGES: u64 = 512;
/// After each call, so many pages are compared that it is not about.
const SWEEP: u64 = 32;
/// With fewer free frames, a fault may find none.
const FEW_FRAMES: u64 = 8;

/// Zeroed memory for the heap.
#[repr(C, align(4096))]
struct Memory(UnsafeCell<[u8; HEAP_SIZE]>);

// SAFETY: only the heap uses it, which has a lock.
unsafe impl Sync for Memory {}

static MEMORY: Memory = Memory(UnsafeCell::new([0; HEAP_SIZE]));

#[global_allocator]
static HEAP: LockedHeap<ORDERS> = LockedHeap::empty();

const SETTINGS: Settings = Settings { one_in: 1, most_pages: MOST_PAGES, sweep: SWEEP };

/// Each CPU's. Nobody else takes its lock, so nobody waits for it.
static GHOSTS: [Lock<Ghost>; MAX_CPUS] = [const { Lock::new(Rank::Leaf, Ghost::new(SETTINGS)) }; MAX_CPUS];

/// Calls and faults that all CPUs have compared.
static COMPARED: AtomicU64 = AtomicU64::new(0);

/// Gets ready, before any transition: once, while the boot CPU is alone.
pub fn start(boot: &BootInfo) {
    // SAFETY: the memory is the heap's alone from here on, and nothing was allocated yet.
    unsafe { HEAP.lock().init(MEMORY.0.get() as usize, HEAP_SIZE) };
    let one_in = u64::from(boot.ghost_one_in).max(1);
    for ghost in &GHOSTS {
        *ghost.lock() = Ghost::new(Settings { one_in, ..SETTINGS });
    }
    log::info!("ghost: one in {one_in} calls and faults is compared with the specification");
}

/// Says how much was compared.
pub fn report() {
    log::info!("ghost: {} calls compared", COMPARED.load(Ordering::Relaxed));
}

/// Has the calling CPU's ghost look at something.
fn with_ghost<W: Display>(look: impl FnOnce(&mut Ghost) -> Result<(), W>) {
    let Some(ghost) = GHOSTS.get(cpu_data::index()) else { return };
    let mut ghost = ghost.lock();
    let before = ghost.compared();
    if let Err(report) = look(&mut ghost) {
        fault::stop(format_args!("ghost: {report}"));
    }
    COMPARED.fetch_add(ghost.compared().saturating_sub(before), Ordering::Relaxed);
}

impl Witness for El2Environment {
    fn before(&mut self, memory: &LockedMemory<'_>, call: &Call) {
        with_ghost(|ghost| ghost.before(self, memory, call));
    }

    fn after(&mut self, memory: &LockedMemory<'_>, _call: &Call, result: Result<(), Error>) {
        with_ghost(|ghost| ghost.after(self, memory, result));
    }

    fn fault(&mut self, memory: &LockedMemory<'_>, ipa: Ipa, access: Access, fault: HostFault) {
        let starved = POOL.lock().as_ref().map_or(0, FramePool::free_frames) < FEW_FRAMES;
        with_ghost(|ghost| ghost.fault(self, memory, ipa, access, fault, starved));
    }
}
