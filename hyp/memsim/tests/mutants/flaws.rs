//! Flaws that are tried in several places.

use abi::{PhysAddr, PhysRange};
use pgtable::{DsbKind, Tlbi};

use crate::flawed::{Do, Past};
use crate::scene::{FIRST_TABLE, PAGE};

/// The `N`th DSB after a write is missing.
pub fn dsb_missing<const N: usize>(past: &mut Past, step: Do) -> Vec<Do> {
    match step {
        Do::Dsb(_) if past.dsbs == N => Vec::new(),
        _ => vec![step],
    }
}

/// The `N`th DSB after a write waits for stores only.
pub fn dsb_ishst<const N: usize>(past: &mut Past, step: Do) -> Vec<Do> {
    match step {
        Do::Dsb(_) if past.dsbs == N => vec![Do::Dsb(DsbKind::Ishst)],
        _ => vec![step],
    }
}

/// The `N`th DSB after a write is for its CPU only.
pub fn dsb_nsh<const N: usize>(past: &mut Past, step: Do) -> Vec<Do> {
    match step {
        Do::Dsb(_) if past.dsbs == N => vec![Do::Dsb(DsbKind::Nsh)],
        _ => vec![step],
    }
}

/// The `N`th DSB after a write is executed on another CPU.
pub fn dsb_elsewhere<const N: usize>(past: &mut Past, step: Do) -> Vec<Do> {
    match step {
        Do::Dsb(_) if past.dsbs == N => vec![step.elsewhere()],
        _ => vec![step],
    }
}

/// The `N`th ISB after a write is missing.
pub fn isb_missing<const N: usize>(past: &mut Past, step: Do) -> Vec<Do> {
    match step {
        Do::Isb if past.isbs == N => Vec::new(),
        _ => vec![step],
    }
}

/// The `N`th TLB invalidation after a write is missing.
pub fn tlbi_missing<const N: usize>(past: &mut Past, step: Do) -> Vec<Do> {
    match step {
        Do::Tlbi(_) if past.tlbis == N => Vec::new(),
        _ => vec![step],
    }
}

/// TLB invalidations are executed on another CPU.
pub fn tlbi_elsewhere(_past: &mut Past, step: Do) -> Vec<Do> {
    match step {
        Do::Tlbi(_) => vec![step.elsewhere()],
        _ => vec![step],
    }
}

/// The `N`th invalidation comes before the DSB that it should follow.
pub fn tlbi_before_dsb<const N: usize>(past: &mut Past, step: Do) -> Vec<Do> {
    match step {
        Do::Dsb(_) if past.tlbis + 1 == N => past.hold(step),
        Do::Tlbi(_) if !past.held.is_empty() => past.before_the_held(step),
        _ => vec![step],
    }
}

/// Descriptors are not made invalid before they are replaced.
pub fn break_missing(past: &mut Past, step: Do) -> Vec<Do> {
    match step {
        Do::Write(address, value) if value & 1 == 0 && past.old & 1 != 0 => past.pretend(address, value),
        _ => vec![step],
    }
}

/// Instead of being made invalid, a descriptor only loses its access flag before it is replaced.
pub fn break_clears_the_access_flag(past: &mut Past, step: Do) -> Vec<Do> {
    match step {
        Do::Write(address, value) if value & 1 == 0 && past.old & 1 != 0 => {
            past.pretend(address, value);
            vec![Do::Write(address, past.old & !(1 << 10))]
        }
        _ => vec![step],
    }
}

/// The flush comes after the new descriptor, not before it.
pub fn made_before_the_flush(past: &mut Past, step: Do) -> Vec<Do> {
    match step {
        Do::Write(_, value) if value & 1 == 0 => vec![step],
        Do::Write(..) => past.before_the_held(step),
        Do::Free(_) | Do::Hand(_) => vec![step],
        _ => past.hold(step),
    }
}

/// Unlinked tables are given back before the flush.
pub fn freed_before_the_flush(past: &mut Past, step: Do) -> Vec<Do> {
    match step {
        Do::Dsb(_) | Do::Tlbi(_) | Do::Isb | Do::LoadVttbr(_) => past.hold(step),
        Do::Free(_) => past.before_the_held(step),
        _ => vec![step],
    }
}

/// A table is given back before its descriptor is made invalid.
pub fn freed_while_linked(past: &mut Past, step: Do) -> Vec<Do> {
    match step {
        Do::Write(_, value) if value & 3 == 2 && past.old & 3 == 3 => {
            vec![Do::Free(PhysAddr::new(past.old & 0xffff_ffff_f000)), step]
        }
        Do::Free(_) => Vec::new(),
        _ => vec![step],
    }
}

/// Frames are never given back.
pub fn frames_leak(_past: &mut Past, step: Do) -> Vec<Do> {
    match step {
        Do::Free(_) => Vec::new(),
        _ => vec![step],
    }
}

/// Frames are given back twice.
pub fn freed_twice(_past: &mut Past, step: Do) -> Vec<Do> {
    match step {
        Do::Free(_) => vec![step.clone(), step],
        _ => vec![step],
    }
}

/// Another frame is given back than the one that was meant.
pub fn another_freed(_past: &mut Past, step: Do) -> Vec<Do> {
    match step {
        Do::Free(frame) => vec![Do::Free(PhysAddr::new(frame.raw() + (1 << 30)))],
        _ => vec![step],
    }
}

/// Frames are not zero when they are handed out.
pub fn frames_not_zero(_past: &mut Past, step: Do) -> Vec<Do> {
    match step {
        Do::Hand(frame) => vec![Do::Write(PhysAddr::new(frame.raw() + 0xff8), 0x7_ffff_0001), step],
        _ => vec![step],
    }
}

/// A frame is handed out that is in use.
pub fn frame_in_use_handed_out(_past: &mut Past, step: Do) -> Vec<Do> {
    match step {
        Do::Hand(frame) => vec![Do::Free(frame), Do::Hand(FIRST_TABLE)],
        _ => vec![step],
    }
}

/// Valid descriptors are stored one half after the other, the lower first.
pub fn torn(past: &mut Past, step: Do) -> Vec<Do> {
    match step {
        Do::Write(address, value) if value & 1 != 0 => {
            vec![Do::Write(address, past.old >> 32 << 32 | value & 0xffff_ffff), step]
        }
        _ => vec![step],
    }
}

/// Every valid descriptor goes to the next slot as well.
pub fn doubled(_past: &mut Past, step: Do) -> Vec<Do> {
    match step {
        Do::Write(address, value) if value & 1 != 0 => vec![Do::Write(address.checked_add(8).unwrap(), value), step],
        _ => vec![step],
    }
}

/// Every valid descriptor goes to the next slot.
pub fn displaced(_past: &mut Past, step: Do) -> Vec<Do> {
    match step {
        Do::Write(address, value) if value & 1 != 0 => vec![Do::Write(address.checked_add(8).unwrap(), value)],
        _ => vec![step],
    }
}

/// Valid descriptors are put off until after their barrier.
pub fn made_after_the_barrier(past: &mut Past, step: Do) -> Vec<Do> {
    match step {
        Do::Write(_, value) if value & 1 != 0 => past.hold(step),
        Do::Dsb(DsbKind::Ishst) => past.before_the_held(step),
        _ => vec![step],
    }
}

/// Pages of a descriptor's level 3 are written as blocks.
pub fn page_as_block(_past: &mut Past, step: Do) -> Vec<Do> {
    match step {
        Do::Write(address, value) if value & 3 == 3 && value & 1 << 10 != 0 => vec![Do::Write(address, value & !2)],
        _ => vec![step],
    }
}

/// Leaves are written with an output that is misaligned for a block.
pub fn misaligned_output(_past: &mut Past, step: Do) -> Vec<Do> {
    match step {
        Do::Write(address, value) if value & 3 == 1 => vec![Do::Write(address, value + PAGE)],
        _ => vec![step],
    }
}

/// The last page of every cache maintenance is left out.
pub fn last_page_not_cleaned(_past: &mut Past, step: Do) -> Vec<Do> {
    let shorter = |range: PhysRange| PhysRange { start: range.start, end: PhysAddr::new(range.end.raw() - PAGE) };
    match step {
        Do::CleanToPoc(range) => vec![Do::CleanToPoc(shorter(range))],
        Do::CleanToPou(range) => vec![Do::CleanToPou(shorter(range))],
        Do::InvalidateInstructions(range) => vec![Do::InvalidateInstructions(shorter(range))],
        _ => vec![step],
    }
}

/// The other forms of TLB invalidations: `change` says which.
pub fn change_tlbi(step: Do, change: impl Fn(Tlbi) -> Option<Tlbi>) -> Vec<Do> {
    match step {
        Do::Tlbi(operation) => change(operation).map(Do::Tlbi).into_iter().collect(),
        _ => vec![step],
    }
}
