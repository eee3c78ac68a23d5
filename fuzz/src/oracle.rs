//! What must come of an operation, worked out without tables.

use pgtable::TableError;
use pgtable::shared::Outcome;

use crate::flat::Flat;
use crate::operation::{Answer, Operation, Site};
use crate::place::PAGE;
use crate::regime::{AttributeCode, Configuration, Subject};
use crate::walk::{Held, Picture, Run, size_of};

/// AF, in every regime.
const ACCESS_FLAG: u64 = 1 << 10;

/// What must come of an operation, errors for want of frames aside.
pub enum Expected {
    /// It succeeds, and the space holds this.
    Done(Flat, Answer),
    /// It fails, by one of these.
    Errors(Vec<TableError>),
}

/// What an operation that may change the table must come to, where the space holds `flat` by the leaves of `picture`.
pub fn expected<R: Subject>(
    operation: Operation,
    configuration: &Configuration,
    site: Site,
    flat: &Flat,
    picture: &Picture,
) -> Expected {
    let bits = |code: AttributeCode| R::bits(configuration, R::attributes(code));
    let errors = argument_errors::<R>(operation, configuration, site);
    if !errors.is_empty() {
        return Expected::Errors(errors);
    }
    let Site { start, size, output } = site;
    // Of the operations that are about one address, any address will do.
    let end = start.saturating_add(size);
    let parts = || flat.parts(start, end).map(|(_, _, held)| held);
    let is_mapping = |held| matches!(held, Held::Mapping { .. });
    let mut after = flat.clone();
    let mut answer = Answer::Nothing;
    let mut errors = Vec::new();
    match operation {
        Operation::Map(mapping) => {
            let new = Held::Mapping { delta: output.wrapping_sub(start), bits: bits(mapping.attributes).unwrap_or(0) };
            if !mapping.replace && parts().any(|held| is_mapping(held) && held != new) {
                errors.push(TableError::Exists);
            }
            if !mapping.options.replace_annotations && parts().any(|held| matches!(held, Held::Note(_))) {
                errors.push(TableError::Annotated);
            }
            after.change(start, end, |_| new);
        }
        Operation::MapLeaf(mapping, _) => {
            let new = Held::Mapping { delta: output.wrapping_sub(start), bits: bits(mapping.attributes).unwrap_or(0) };
            let run = picture.run_at(start);
            if size_of(run.level) < size {
                // A table is there.
                errors.push(TableError::Exists);
            } else if is_mapping(run.held) && run.held != new && !mapping.replace {
                errors.push(TableError::Exists);
            } else if matches!(run.held, Held::Note(_)) && !mapping.options.replace_annotations {
                errors.push(TableError::Annotated);
            }
            answer = Answer::Outcome(if run.held == new { Outcome::AlreadyDone } else { Outcome::Done });
            after.change(start, end, |_| new);
        }
        Operation::Unmap | Operation::Annotate(None) => after.change(start, end, |_| Held::Nothing),
        Operation::Annotate(Some(note)) => after.change(start, end, |_| Held::Note(note)),
        Operation::Protect(attributes) => {
            if !parts().all(is_mapping) {
                errors.push(TableError::NotMapped);
            }
            let new = bits(attributes).unwrap_or(0);
            after.change(start, end, |held| held.with_bits(|_| new));
        }
        Operation::WriteProtect => after.change(start, end, |held| held.with_bits(R::write_protected)),
        Operation::ProtectLeaf(_) | Operation::MakeYoung => {
            let run = picture.run_at(start);
            let base = run.base_of(start);
            let new = match operation {
                Operation::ProtectLeaf(attributes) => run.held.with_bits(|_| bits(attributes).unwrap_or(0)),
                _ => run.held.with_bits(|bits| bits | ACCESS_FLAG),
            };
            if !is_mapping(run.held) {
                errors.push(TableError::NotMapped);
            }
            answer = Answer::Outcome(if new == run.held { Outcome::AlreadyDone } else { Outcome::Done });
            after.change(base, base + size_of(run.level), |_| new);
        }
        Operation::TestAndClearYoung => {
            let young = |held: Held| matches!(held, Held::Mapping { bits, .. } if bits & ACCESS_FLAG != 0);
            answer = Answer::Young(parts().any(young));
            // Whole leaves.
            let last = picture.run_at(end - 1);
            let until = last.base_of(end - 1) + size_of(last.level);
            let first = picture.run_at(start).base_of(start);
            after.change(first, until, |held| held.with_bits(|bits| bits & !ACCESS_FLAG));
        }
        Operation::Split(_) => {}
        // How many tables go is seen by their number.
        Operation::Coalesce => answer = Answer::Freed(0),
        Operation::LookUp | Operation::Visit(_) | Operation::Dump => {}
    }
    if errors.is_empty() { Expected::Done(after, answer) } else { Expected::Errors(errors) }
}

/// The errors that the arguments alone call for.
fn argument_errors<R: Subject>(operation: Operation, configuration: &Configuration, site: Site) -> Vec<TableError> {
    if operation == Operation::MakeYoung {
        let is_inside = site.start < 1 << configuration.input_bits;
        return if is_inside { Vec::new() } else { vec![TableError::BadRange] };
    }
    let mut errors = site.range_errors(configuration);
    let attributes = match operation {
        Operation::Map(mapping) | Operation::MapLeaf(mapping, _) => Some(mapping.attributes),
        Operation::Protect(attributes) | Operation::ProtectLeaf(attributes) => Some(attributes),
        _ => None,
    };
    if attributes.is_some_and(|code| R::bits(configuration, R::attributes(code)).is_none()) {
        errors.push(TableError::BadAttributes);
    }
    if matches!(operation, Operation::Map(_) | Operation::MapLeaf(..)) {
        if !site.output.is_multiple_of(PAGE) {
            errors.push(TableError::Misaligned);
        }
        if site.output.checked_add(site.size).is_none_or(|end| end > 1 << configuration.output_bits) {
            errors.push(TableError::BadRange);
        }
    }
    if let Operation::MapLeaf(mapping, _) = operation {
        let least = if mapping.options.force_pages { 3 } else { configuration.shape().start_level.max(1) };
        let is_leaf = (least..=3).any(|level| size_of(level) == site.size);
        if !is_leaf || (site.start | site.output) & (site.size - 1) != 0 {
            errors.push(TableError::Misaligned);
        }
    }
    if matches!(operation, Operation::Split(level) if !(2..=3).contains(&level)) {
        errors.push(TableError::BadRange);
    }
    errors
}

/// Checks that what a successful change made is made of the largest descriptors that it may be made of, and no larger.
///
/// # Panics
/// Where that is not so.
pub fn check_shape(operation: Operation, start_level: u8, site: Site, before: &Picture, after: &Picture) {
    let (mut start, mut end) = (site.start, site.start.saturating_add(site.size));
    match operation {
        Operation::TestAndClearYoung | Operation::MakeYoung | Operation::ProtectLeaf(_) => {
            assert_eq!(before.tables, after.tables, "attributes of leaves change, and no leaf is split");
            return;
        }
        Operation::Split(level) => {
            start &= !(size_of(level) - 1);
            end = end.next_multiple_of(size_of(level));
        }
        _ => {}
    }
    let is_inside = |from: u64, to: u64| from >= start && to <= end;
    let is_outside = |from: u64, to: u64| to <= start || from >= end;
    for run in &after.runs {
        let is_mapping = matches!(run.held, Held::Mapping { .. });
        let fits = |size: u64| !matches!(run.held, Held::Mapping { delta, .. } if delta & (size - 1) != 0);
        // Larger descriptors that could stand for a part of the run, or of which the run could be a part.
        let larger = (start_level.max(is_mapping.into())..run.level).map(size_of).filter(|size| fits(*size));
        let is_covered = is_inside(run.start, run.end);
        match operation {
            Operation::Unmap | Operation::Annotate(_) if is_covered => {
                // What is covered goes as a whole.
                let size = larger.into_iter().find(|size| {
                    let base = run.start & !(size - 1);
                    is_inside(base, base + size)
                });
                assert_eq!(size, None, "{run:x?} should be part of a larger descriptor");
                continue;
            }
            Operation::Coalesce => {
                let size = larger.into_iter().find(|size| {
                    let base = run.start.max(start).next_multiple_of(*size);
                    base + size <= run.end.min(end)
                });
                assert_eq!(size, None, "{run:x?} should have been coalesced");
                continue;
            }
            Operation::Split(level) if is_covered && is_mapping => {
                assert!(run.level >= level, "{run:x?} should have been split");
            }
            _ => {}
        }
        check_leaf_sizes(operation, run, before, larger, &is_inside, &is_outside);
    }
}

/// Checks that a single descriptor of before is in no more parts than what is done to it makes necessary.
fn check_leaf_sizes(
    operation: Operation,
    run: &Run,
    before: &Picture,
    larger: impl Iterator<Item = u64>,
    is_inside: &dyn Fn(u64, u64) -> bool,
    is_outside: &dyn Fn(u64, u64) -> bool,
) {
    let old = before.run_at(run.start);
    let kept = match operation {
        Operation::Map(mapping) | Operation::MapLeaf(mapping, _) if mapping.options.force_pages => 3,
        Operation::Split(level) => level,
        _ => 0,
    };
    for size in larger.filter(|size| *size <= size_of(old.level)) {
        let base = run.start & !(size - 1);
        let (inside, outside) = (is_inside(base, base + size), is_outside(base, base + size));
        let is_kept_small = inside && size > size_of(kept);
        assert!(!(inside || outside) || is_kept_small, "{run:x?} should be part of a larger descriptor");
    }
    let is_new = old.held != run.held && is_inside(run.start, run.end);
    if matches!(operation, Operation::Map(mapping) if mapping.options.force_pages) && is_new {
        assert_eq!(run.level, 3, "{run:x?} should be pages");
    }
}

/// Checks a dump of the table that a walk has seen as `picture`.
///
/// # Panics
/// Where a line is not as it should be.
pub fn check_dump<R: Subject>(configuration: &Configuration, picture: &Picture, text: &str) {
    let runs = picture.runs.iter().filter(|run| run.held != Held::Nothing);
    let mut lines = text.lines();
    for run in runs {
        let line = lines.next().unwrap_or_default();
        let base = configuration.input_base();
        let (first, last) = (base.wrapping_add(run.start), base.wrapping_add(run.end - 1));
        assert!(line.starts_with(&format!("{first:#018x}-{last:#018x} ")), "{line}: {run:x?}");
        assert!(line.contains(&format!(" level {}", run.level)), "{line}: {run:x?}");
        let size = line[37..].split_whitespace().next().unwrap_or_default();
        let (count, unit) = size.split_at(size.len() - 1);
        let shift = 10 + 10 * "KMGT".find(unit).expect("a unit") as u32;
        assert_eq!(count.parse::<u64>().map(|count| count << shift), Ok(run.end - run.start), "{line}");
        let expected = match run.held {
            Held::Mapping { .. } => {
                let raw = run.descriptor(run.start).expect("a mapping");
                let output = raw & 0x0000_ffff_ffff_f000;
                let is_good = R::is_defined(configuration, raw) && output & (size_of(run.level) - 1) == 0;
                if is_good {
                    format!("-> {output:#014x} ")
                } else {
                    format!("undecodable level {}: {raw:#018x}", run.level)
                }
            }
            Held::Note(note) => format!("annotation level {}: {note:#x}", run.level),
            Held::Foreign(0b110) => format!("locked level {}", run.level),
            Held::Foreign(raw) => format!("undecodable level {}: {raw:#018x}", run.level),
            Held::Nothing => String::new(),
        };
        assert!(line.contains(&expected), "{line}: not {expected}");
    }
    assert_eq!(lines.next(), None);
}
