//! Memory that the guest was not given: every kind of access, at addresses where the host, hyp, devices or other guests
//! may be.

use aarch64_cpu::registers::{ID_AA64MMFR0_EL1, Readable};
use abi::{Ipa, PAGE_SIZE};
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use payloads::Machine;
use payloads::memory::Kind;
use payloads::platform::Platform;
use payloads::probe::{Access, Outcome, Width, has_lse, probe};
use payloads::report::Report;

/// First byte of RAM on QEMU's `virt` board, for the physical addresses where others may be.
const BOARD_RAM: u64 = 0x4000_0000;
/// Sizes of the board's RAM for which the addresses of hyp's carve-out are tried, in bytes.
const BOARD_RAM_SIZES: [u64; 8] = [256 << 20, 512 << 20, 1 << 30, 2 << 30, 3 << 30, 4 << 30, 8 << 30, 16 << 30];
/// Distances of the tried addresses from the end of the board's RAM, in bytes.
const FROM_THE_TOP: [u64; 6] = [PAGE_SIZE, 64 << 10, 1 << 20, 2 << 20, 4 << 20, 16 << 20];
/// Devices of the board: flash, GIC distributor, ITS, redistributors, a second UART, clock, fw_cfg, GPIO, virtio,
/// PCIe memory, I/O and configuration space, and what lies below RAM.
const BOARD_DEVICES: [u64; 14] = [
    0,
    0x0400_0000,
    0x0800_0000,
    0x0801_0000,
    0x0808_0000,
    0x080a_0000,
    0x0900_1000,
    0x0901_0000,
    0x0902_0000,
    0x0903_0000,
    0x0a00_0000,
    0x1000_0000,
    0x3eff_0000,
    0x3fff_f000,
];
/// Widths of address spaces whose last page and first page beyond are tried, in bits.
const ADDRESS_WIDTHS: [u32; 7] = [32, 36, 39, 40, 42, 44, 47];
/// The last page that a descriptor can point to.
const LAST_PAGE: u64 = (1 << 48) - PAGE_SIZE;

/// Distance of the addresses of the sweep, in bytes.
const SWEEP_STRIDE: u64 = 1 << 20;

/// From here up to the end of its address space a protected guest's touch asks the host for memory, as it must for memory
/// to be given late. A host that has none to give ends the guest; the payload `fault` is for that.
const MEMORY_BASE: u64 = 1 << 30;

/// A page that no attack may change.
#[repr(C, align(4096))]
struct Canary([AtomicU64; PAGE_SIZE as usize / 8]);

static CANARY: Canary = Canary([const { AtomicU64::new(0) }; PAGE_SIZE as usize / 8]);

/// What the canary's words are made of.
const CANARY_WORD: u64 = 0x0ca7_a217_0ca7_a217;

/// All accesses at the chosen addresses, and loads over a sweep of the address space. `guest` says that there is a
/// hypervisor; without one, the board's devices and memory are rightly the payload's.
pub fn attack(machine: &mut Machine, report: &mut Report, guest: bool) {
    for (index, word) in CANARY.0.iter().enumerate() {
        word.store(CANARY_WORD ^ index as u64, Ordering::Relaxed);
    }
    let lse = has_lse();
    for access in Access::ALL {
        if lse || !access.needs_lse() {
            everywhere(machine, report, guest, access);
        }
    }
    if guest {
        sweep(machine, report);
        unaligned(machine, report);
        at_the_console(machine, report);
    }
    let kept =
        CANARY.0.iter().enumerate().all(|(index, word)| word.load(Ordering::Relaxed) == CANARY_WORD ^ index as u64);
    report.check("holes.own-memory-kept", kept, format_args!("a page of the guest's own changed"));
}

/// Which addresses may be tried.
#[derive(Clone)]
struct Bounds {
    own: Range<u64>,
    guest: bool,
    /// First address beyond the guest's address space, as its ID registers tell it.
    end: u64,
}

impl Bounds {
    fn new(platform: &Platform, guest: bool) -> Self {
        let bits = match ID_AA64MMFR0_EL1.read(ID_AA64MMFR0_EL1::PARange) {
            0 => 32,
            1 => 36,
            2 => 40,
            3 => 42,
            4 => 44,
            _ => 48,
        };
        Self { own: platform.memory.clone(), guest, end: 1 << bits }
    }

    /// True where nothing is the guest's. Without a hypervisor that is RAM beyond the board's own, below its devices.
    fn allow(&self, address: u64) -> bool {
        if self.guest {
            !(MEMORY_BASE..self.end).contains(&address)
        } else {
            address >= self.own.end && address < 1 << 32
        }
    }
}

/// The addresses to try.
fn addresses(bounds: Bounds) -> impl Iterator<Item = Ipa> {
    let own = bounds.own.clone();
    let carve_outs = BOARD_RAM_SIZES
        .into_iter()
        .flat_map(|size| FROM_THE_TOP.into_iter().map(move |below| BOARD_RAM + size - below));
    let widths = ADDRESS_WIDTHS.into_iter().flat_map(|bits| [(1 << bits) - PAGE_SIZE, 1 << bits]);
    let edges = [own.start.saturating_sub(PAGE_SIZE), own.end, own.end + (1 << 20), LAST_PAGE];
    BOARD_DEVICES
        .into_iter()
        .chain(carve_outs)
        .chain(widths)
        .chain(edges)
        .filter(move |address| bounds.allow(*address))
        .map(Ipa::new)
}

/// One kind of access at every address: a check.
fn everywhere(machine: &mut Machine, report: &mut Report, guest: bool, access: Access) {
    let mut wrong = None;
    let mut tried = 0;
    for target in addresses(Bounds::new(&machine.platform, guest)) {
        let outcome = reach(machine, target, 0, access, Kind::of(access));
        tried += 1;
        if !is_clean(access, outcome) && wrong.is_none() {
            wrong = Some((target, outcome));
        }
    }
    check(report, "holes", access.name(), wrong, tried);
}

/// Loads all over the part of the address space where devices may be.
fn sweep(machine: &mut Machine, report: &mut Report) {
    let access = Access::Load(Width::Doubleword);
    let console = machine.platform.uart;
    let mut wrong = None;
    let mut tried = 0;
    for target in (0..MEMORY_BASE).step_by(SWEEP_STRIDE as usize).map(Ipa::new).filter(|page| Some(*page) != console) {
        let outcome = reach(machine, target, 8, access, Kind::Data);
        tried += 1;
        if !is_clean(access, outcome) && wrong.is_none() {
            wrong = Some((target, outcome));
        }
    }
    check(report, "holes", "sweep", wrong, tried);
}

/// Loads that cross a register, and one that crosses the page, at the console and at a hole.
fn unaligned(machine: &mut Machine, report: &mut Report) {
    let targets = [machine.platform.uart, Some(Ipa::new(BOARD_DEVICES[1]))];
    let mut wrong = None;
    let mut tried = 0;
    for target in targets.into_iter().flatten() {
        for kind in [Kind::Data, Kind::Device] {
            for offset in [1, 3, 0xffd] {
                for access in
                    [Access::Load(Width::Word), Access::Load(Width::Doubleword), Access::Store(Width::Halfword)]
                {
                    // A store at an even distance from the data register would print.
                    if matches!(access, Access::Store(_)) && offset == 1 && Some(target) == machine.platform.uart {
                        continue;
                    }
                    let outcome = reach(machine, target, offset, access, kind);
                    tried += 1;
                    let expected = match outcome {
                        Outcome::Done(_) => true,
                        Outcome::Exception(exception) => exception.is_abort(),
                    };
                    if !expected && wrong.is_none() {
                        wrong = Some((target, outcome));
                    }
                }
            }
        }
    }
    check(report, "holes", "unaligned", wrong, tried);
}

/// Accesses without a valid syndrome at a device that is there: an abort, for nobody can emulate them.
fn at_the_console(machine: &mut Machine, report: &mut Report) {
    let Some(uart) = machine.platform.uart else { return };
    let lse = has_lse();
    let mut wrong = None;
    let mut tried = 0;
    for access in Access::ALL {
        if access.has_syndrome() || access.is_maintenance() || (access.needs_lse() && !lse) {
            continue;
        }
        // The identification registers at the end: nothing there has side effects.
        let outcome = reach(machine, uart, 0xfe0, access, Kind::of(access));
        tried += 1;
        if !matches!(outcome, Outcome::Exception(exception) if exception.is_abort()) && wrong.is_none() {
            wrong = Some((uart, outcome));
        }
    }
    check(report, "console", "no-syndrome", wrong, tried);
}

/// Maps the page at `target` and touches it `offset` bytes in.
fn reach(machine: &mut Machine, target: Ipa, offset: u64, access: Access, kind: Kind) -> Outcome {
    let window = match machine.address_space.open_window(target, kind) {
        Ok(window) => window,
        Err(error) => panic!("{target} cannot be mapped: {error:?}"),
    };
    let Some(address) = window.checked_add(offset) else { panic!("the window is at the end of the address space") };
    // SAFETY: The target is outside the payload's memory, so nothing of its own is there. Code that runs there would be
    // somebody else's, which the check is to show; the vectors catch what it does wrong.
    let outcome = unsafe { probe(access, address) };
    machine.address_space.close_window();
    outcome
}

/// True where the outcome gives nothing away: an abort, or what an empty bus answers.
fn is_clean(access: Access, outcome: Outcome) -> bool {
    match (access, outcome) {
        (_, Outcome::Exception(exception)) => exception.is_abort(),
        (Access::Load(width), Outcome::Done(value)) => value == 0 || value == width.all_ones(),
        (Access::LoadSigned, Outcome::Done(value)) => value == 0 || value == u64::MAX,
        (Access::Store(_), Outcome::Done(_)) => true,
        (access, Outcome::Done(_)) => access.is_maintenance(),
    }
}

/// Reports `<group>.<name>`, with the first outcome that was wrong.
fn check(report: &mut Report, group: &str, name: &str, wrong: Option<(Ipa, Outcome)>, tried: u64) {
    match wrong {
        None => report.check_in(group, name, tried != 0, format_args!("no address was tried")),
        Some((target, outcome)) => report.check_in(group, name, false, format_args!("at {target}: {outcome}")),
    }
}
