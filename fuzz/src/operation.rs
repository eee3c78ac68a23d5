//! What may be done to a table, as the input has it.

use abi::PhysAddr;
use arbitrary::{Arbitrary, Result, Unstructured};
use pgtable::regime::InputAddress;
use pgtable::shared::Outcome;
use pgtable::{Annotation, Environment, MapOptions, PageTable, TableError};

use crate::place::{GIB, Length, MIB2, Output, PAGE, Place, Range};
use crate::regime::{AttributeCode, Configuration, Subject, Which};
use crate::walk::size_of;

/// A mapping that is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// Where to.
    pub output: Output,
    /// Attributes.
    pub attributes: AttributeCode,
    /// Options.
    pub options: MapOptions,
    /// Other mappings may be replaced.
    pub replace: bool,
}

impl<'a> Arbitrary<'a> for Mapping {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let flags: u8 = u.arbitrary()?;
        Ok(Self {
            output: u.arbitrary()?,
            attributes: u.arbitrary()?,
            options: MapOptions {
                force_pages: flags & 0x7 == 7,
                replace_annotations: flags & 8 != 0,
                synchronise_caches: flags & 16 != 0,
            },
            replace: flags & 96 == 96,
        })
    }
}

/// One operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// `map`, or `remap`.
    Map(Mapping),
    /// `map_leaf`, of a leaf's size and aligned where a level is given.
    MapLeaf(Mapping, Option<u8>),
    /// `unmap`.
    Unmap,
    /// `annotate`; `unmap` where the regime has none.
    Annotate(Option<u64>),
    /// `protect`.
    Protect(AttributeCode),
    /// `protect_leaf`.
    ProtectLeaf(AttributeCode),
    /// `write_protect`.
    WriteProtect,
    /// `test_and_clear_young`.
    TestAndClearYoung,
    /// `make_young`.
    MakeYoung,
    /// `split`, to leaves of a level.
    Split(u8),
    /// `coalesce`.
    Coalesce,
    /// `lookup`.
    LookUp,
    /// `visit`, as far as so many leaves.
    Visit(u16),
    /// `dump`.
    Dump,
}

impl<'a> Arbitrary<'a> for Operation {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(match u.int_in_range(0..=31)? {
            0..=8 => Self::Map(u.arbitrary()?),
            9..=11 => {
                let level = u.int_in_range(0..=7)?;
                Self::MapLeaf(u.arbitrary()?, (1..=6).contains(&level).then_some(level / 2 + level % 2))
            }
            12..=14 => Self::Unmap,
            15..=17 => Self::Annotate(match u.int_in_range(0..=7)? {
                0 => None,
                1 => Some(Annotation::MAX),
                2 => Some(u.int_in_range(1..=Annotation::MAX)?),
                note => Some(note - 2),
            }),
            18..=19 => Self::Protect(u.arbitrary()?),
            20 => Self::ProtectLeaf(u.arbitrary()?),
            21 => Self::WriteProtect,
            22 => Self::TestAndClearYoung,
            23 => Self::MakeYoung,
            24..=25 => Self::Split(u.int_in_range(1..=4)?),
            26..=28 => Self::Coalesce,
            29 => Self::LookUp,
            30 => Self::Visit(u.arbitrary()?),
            _ => Self::Dump,
        })
    }
}

/// One step of a sequence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// The CPU that does it.
    pub cpu: u8,
    /// Where.
    pub place: Place,
    /// How far.
    pub length: Length,
    /// What.
    pub operation: Operation,
    /// Allocations that succeed before one fails; `None` for no limit.
    pub frames: Option<u8>,
}

impl<'a> Arbitrary<'a> for Step {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let flags: u8 = u.arbitrary()?;
        Ok(Self {
            cpu: flags & 3,
            frames: (flags & 0x30 == 0).then_some(flags >> 6),
            operation: u.arbitrary()?,
            place: u.arbitrary()?,
            length: u.arbitrary()?,
        })
    }
}

/// Steps until the input ends, and not more than `most`.
pub fn steps(u: &mut Unstructured<'_>, configuration: &Configuration, most: usize) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    while !u.is_empty() && steps.len() < most {
        let mut step: Step = u.arbitrary()?;
        if configuration.which != Which::Stage2 && matches!(step.operation, Operation::Annotate(_)) {
            step.operation = Operation::Unmap;
        }
        steps.push(step);
    }
    Ok(steps)
}

/// Where a step takes place in a given table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Site {
    /// First offset; may be out of bounds.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// Output address of a mapping.
    pub output: u64,
}

impl Step {
    /// Works out the addresses. A mapping by many pages shows nothing that one by a few does not, and takes long: it is cut.
    pub fn site(&self, configuration: &Configuration, earlier: &[Range]) -> Site {
        let space = 1 << configuration.input_bits;
        let outputs = 1 << configuration.output_bits;
        let start = self.place.offset(space, earlier);
        let size = self.length.bytes(start, space, earlier);
        match self.operation {
            Operation::Map(mapping) => {
                let output = mapping.output.address(start, outputs);
                let apart = output.wrapping_sub(start);
                let most = if mapping.options.force_pages || apart & (MIB2 - 1) != 0 {
                    4 * MIB2
                } else if apart & (GIB - 1) != 0 {
                    4 * GIB
                } else {
                    u64::MAX
                };
                let size = if size > most { most + size % (4 * PAGE) } else { size };
                Site { start, size, output }
            }
            Operation::MapLeaf(mapping, level) => {
                let output = mapping.output.address(start, outputs);
                let Some(level) = level else { return Site { start, size, output } };
                let size = size_of(level);
                Site { start: start & !(size - 1), size, output: output & !(size - 1) }
            }
            Operation::ProtectLeaf(_) => Site { start, size: PAGE, output: 0 },
            Operation::Coalesce => {
                // Only what is covered as a whole is coalesced: most often, the range is made to cover something.
                let mask = [PAGE, MIB2, MIB2, GIB][usize::from(self.cpu & 3)] - 1;
                let end = start.saturating_add(size).saturating_add(mask) & !mask;
                let covered = Site { start: start & !mask, size: end - (start & !mask), output: 0 };
                if mask < PAGE || covered.end() > space { Site { start, size, output: 0 } } else { covered }
            }
            _ => Site { start, size, output: 0 },
        }
    }
}

impl Site {
    /// One past the last offset, of a site that is in bounds.
    pub fn end(&self) -> u64 {
        self.start + self.size
    }

    /// The errors that the range alone calls for.
    pub fn range_errors(&self, configuration: &Configuration) -> Vec<TableError> {
        let mut errors = Vec::new();
        let input = self.start.wrapping_add(configuration.input_base());
        if !(input | self.size).is_multiple_of(PAGE) {
            errors.push(TableError::Misaligned);
        }
        let space = 1 << configuration.input_bits;
        if self.size == 0 || self.start >= space || self.size > space - self.start {
            errors.push(TableError::BadRange);
        }
        errors
    }
}

/// What an operation that succeeds answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Nothing.
    Nothing,
    /// Whether something was young.
    Young(bool),
    /// How many tables went.
    Freed(u64),
    /// What came of it.
    Outcome(Outcome),
}

impl Operation {
    /// True where the table cannot change.
    pub fn is_reading(self) -> bool {
        matches!(self, Self::LookUp | Self::Visit(_) | Self::Dump)
    }

    /// Does it to `table`, unless it [reads](Self::is_reading).
    pub fn attempt<R: Subject, E: Environment>(
        self,
        table: &mut PageTable<R>,
        environment: &mut E,
        configuration: &Configuration,
        site: Site,
    ) -> std::result::Result<Answer, TableError> {
        let Site { start, size, output } = site;
        let input = R::Input::from_raw(configuration.input_base().wrapping_add(start));
        let output = PhysAddr::new(output);
        match self {
            Self::Map(Mapping { attributes, options, replace: true, .. }) => {
                table.remap(environment, input, output, size, R::attributes(attributes), options)
            }
            Self::Map(Mapping { attributes, options, .. }) => {
                table.map(environment, input, output, size, R::attributes(attributes), options)
            }
            Self::MapLeaf(Mapping { attributes, options, replace, .. }, _) => {
                let attributes = R::attributes(attributes);
                let outcome = table.map_leaf(environment, input, output, size, attributes, options, replace);
                return outcome.map(Answer::Outcome);
            }
            Self::Annotate(note) => {
                let annotation = note.and_then(Annotation::new);
                R::annotate(table, environment, input, size, annotation).unwrap_or(Err(TableError::BadConfiguration))
            }
            Self::Unmap => table.unmap(environment, input, size),
            Self::Protect(attributes) => table.protect(environment, input, size, R::attributes(attributes)),
            Self::ProtectLeaf(attributes) => {
                let outcome = table.protect_leaf(environment, input, R::attributes(attributes));
                return outcome.map(Answer::Outcome);
            }
            Self::WriteProtect => table.write_protect(environment, input, size),
            Self::TestAndClearYoung => {
                return table.test_and_clear_young(environment, input, size).map(Answer::Young);
            }
            Self::MakeYoung => return table.make_young(environment, input).map(Answer::Outcome),
            Self::Split(level) => table.split(environment, input, size, level),
            Self::Coalesce => return table.coalesce(environment, input, size).map(Answer::Freed),
            Self::LookUp | Self::Visit(_) | Self::Dump => Ok(()),
        }
        .map(|()| Answer::Nothing)
    }
}
