//! A translation table and what can be done with it.

use core::ops::ControlFlow;

use abi::{PAGE_SIZE, PhysAddr, PhysRange};

use crate::change::{Action, Pass, Plan};
use crate::commit::{Commit, free_tables, is_vacant_outside};
use crate::descriptor::{Annotation, Kind, Leaf, RawLeaf, address, kind, unlinked};
use crate::environment::{Environment, TableFrames};
use crate::error::TableError;
use crate::geometry::{ENTRIES, Geometry, LAST_LEVEL, entry_size};
use crate::regime::{InputAddress, Regime, Scope};
use crate::reserve::Reserve;
use crate::stage2::Stage2Regime;
use crate::walker::{Entry, Step, Subtree, Visitor, slot};

/// How a mapping is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MapOptions {
    /// Use 4 KiB pages even where a block would fit.
    pub force_pages: bool,
    /// Map over annotations, which are lost; otherwise they are an error.
    pub replace_annotations: bool,
    /// Clean and invalidate the memory to the point of coherency where the mapping, of Normal memory, may bypass the
    /// caches; where it is executable, clean at least to the point of unification and invalidate the instruction cache.
    /// All before it can be reached. What is mapped as Device, and not executable, is taken to be a device's and is
    /// left alone.
    pub synchronise_caches: bool,
}

/// A mapping that a table can hold.
pub(crate) struct Mapping {
    /// Offset of the first byte.
    pub(crate) start: u64,
    /// Offset past the last byte.
    pub(crate) end: u64,
    /// What is mapped.
    pub(crate) outputs: PhysRange,
    /// The bits of its leaves.
    pub(crate) attributes: u64,
    /// The change that makes it.
    pub(crate) action: Action,
}

/// A tree of translation tables of regime `R`. It holds only the root's address and the regime's parameters; frames are
/// the environment's.
///
/// Ranges are in bytes, multiples of 4 KiB, not empty. A range that cuts through a block keeps the rest of the block as
/// it was. Each operation does all maintenance that it makes necessary before it returns, on success as on failure.
#[derive(Debug)]
pub struct PageTable<R: Regime> {
    root: PhysAddr,
    regime: R,
    /// The descriptor that was found when last it was asked whether another than one is in use in a table. It is read only
    /// for a table that it is in: elsewhere its frame may be anything by now.
    pub(crate) last_in_use: PhysAddr,
}

impl<R: Regime> PageTable<R> {
    pub(crate) fn over(root: PhysAddr, regime: R) -> Result<Self, TableError> {
        let geometry = regime.geometry();
        let end = root.checked_add(geometry.root_size()).ok_or(TableError::BadConfiguration)?;
        if !root.is_aligned(geometry.root_size()) || end.raw() > geometry.output_end() {
            return Err(TableError::BadConfiguration);
        }
        Ok(Self { root, regime, last_in_use: root })
    }

    /// The address of the root.
    pub const fn root(&self) -> PhysAddr {
        self.root
    }

    /// The regime's parameters.
    pub const fn regime(&self) -> &R {
        &self.regime
    }

    /// The shape of the tree.
    pub fn geometry(&self) -> &Geometry {
        self.regime.geometry()
    }

    /// Maps `size` bytes from `input` to as many from `output`, with the largest leaves that fit. Where the same
    /// mapping stands already, it is kept.
    ///
    /// # Errors
    /// [`TableError::Exists`] where another mapping stands in the range, [`TableError::Annotated`] where an annotation
    /// does and `options` do not allow to replace it; [`TableError::Misaligned`], [`TableError::BadRange`],
    /// [`TableError::BadAttributes`], [`TableError::OutOfFrames`], [`TableError::Corrupt`].
    pub fn map<E: Environment + ?Sized>(
        &mut self,
        environment: &mut E,
        input: R::Input,
        output: PhysAddr,
        size: u64,
        attributes: R::Attributes,
        options: MapOptions,
    ) -> Result<(), TableError> {
        self.map_range(environment, input, output, size, attributes, options, false)
    }

    /// As [`map`](Self::map), but a mapping that stands in the range is broken, flushed and replaced. While that goes
    /// on, accesses to the range fault.
    ///
    /// # Errors
    /// As [`map`](Self::map), without [`TableError::Exists`].
    pub fn remap<E: Environment + ?Sized>(
        &mut self,
        environment: &mut E,
        input: R::Input,
        output: PhysAddr,
        size: u64,
        attributes: R::Attributes,
        options: MapOptions,
    ) -> Result<(), TableError> {
        self.map_range(environment, input, output, size, attributes, options, true)
    }

    /// Leaves the range vacant: mappings and annotations go, tables that are empty then are freed, and no CPU can use
    /// what was mapped when this returns. What is vacant already stays so.
    ///
    /// # Errors
    /// [`TableError::OutOfFrames`] where a block had to be split; [`TableError::Misaligned`],
    /// [`TableError::BadRange`], [`TableError::Corrupt`].
    pub fn unmap<E: Environment + ?Sized>(
        &mut self,
        environment: &mut E,
        input: R::Input,
        size: u64,
    ) -> Result<(), TableError> {
        self.invalidate_range(environment, input, size, 0)
    }

    /// The leaf that decides for `input`: a block or a page, or the invalid descriptor at which the walk ends, with the
    /// range that it decides for. Any alignment.
    ///
    /// # Errors
    /// [`TableError::BadRange`] where `input` is out of bounds; [`TableError::Corrupt`].
    #[inline]
    pub fn lookup<F: TableFrames + ?Sized>(&self, frames: &F, input: R::Input) -> Result<Leaf<R>, TableError> {
        let geometry = self.regime.geometry();
        let offset = geometry.offset(input.into_raw()).ok_or(TableError::BadRange)?;
        let (raw, level) = self.tables().leaf_of(frames, offset);
        Leaf::decode(&self.regime, raw, level, offset & !(entry_size(level) - 1)).ok_or(TableError::Corrupt)
    }

    /// The same leaf as it stands in the table, which takes less time.
    ///
    /// # Errors
    /// [`TableError::BadRange`] where `input` is out of bounds.
    #[inline]
    pub fn find<F: TableFrames + ?Sized>(&self, frames: &F, input: R::Input) -> Result<RawLeaf<R::Input>, TableError> {
        let geometry = self.regime.geometry();
        let offset = geometry.offset(input.into_raw()).ok_or(TableError::BadRange)?;
        let (tables, raw) = self.tables().deciding(frames, offset);
        Ok(self.raw_leaf(tables, raw, offset))
    }

    /// The leaf of value `raw` in `tables` that decides for `offset`.
    #[inline]
    fn raw_leaf(&self, tables: Subtree, raw: u64, offset: u64) -> RawLeaf<R::Input> {
        let size = tables.entry_size();
        let base = offset & size.wrapping_neg();
        RawLeaf::new(raw, tables.level, R::Input::from_raw(self.regime.geometry().input(base)), size)
    }

    /// As [`visit`](Self::visit), with each leaf as it stands in the table, which takes less time.
    ///
    /// # Errors
    /// [`TableError::Misaligned`], [`TableError::BadRange`].
    #[inline]
    pub fn visit_raw<F: TableFrames + ?Sized, B>(
        &self,
        frames: &F,
        input: R::Input,
        size: u64,
        mut visitor: impl FnMut(RawLeaf<R::Input>) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, TableError> {
        let (start, end) = self.range(input, size)?;
        let mut next = start;
        while next < end {
            let (tables, mut raw) = self.tables().deciding(frames, next);
            loop {
                if let ControlFlow::Break(value) = visitor(self.raw_leaf(tables, raw, next)) {
                    return Ok(ControlFlow::Break(value));
                }
                let size = tables.entry_size();
                next = (next & size.wrapping_neg()).wrapping_add(size);
                // On in the same table, where all are leaves.
                if next >= end || tables.level < LAST_LEVEL || tables.index_of(next) == 0 {
                    break;
                }
                raw = frames.read(tables.slot_of(next));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Calls `visitor` for every leaf, valid or not, that decides for a page of the range, in ascending order; the
    /// first and the last may reach beyond it. Stops early where the visitor breaks, with the value that it gave.
    ///
    /// # Errors
    /// [`TableError::Misaligned`], [`TableError::BadRange`], [`TableError::Corrupt`].
    pub fn visit<F: TableFrames + ?Sized, B>(
        &self,
        frames: &F,
        input: R::Input,
        size: u64,
        visitor: impl FnMut(Leaf<R>) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, TableError> {
        let (start, end) = self.range(input, size)?;
        let mut visitor = Leaves { frames, regime: &self.regime, call: visitor, broken: None };
        self.tables().walk(&mut visitor, start, end)?;
        Ok(match visitor.broken {
            Some(value) => ControlFlow::Break(value),
            None => ControlFlow::Continue(()),
        })
    }

    /// Calls `visitor` with the address of every table page of the tree below the root, children before parents.
    ///
    /// # Errors
    /// [`TableError::Corrupt`].
    pub fn visit_tables<F: TableFrames + ?Sized>(
        &self,
        frames: &F,
        visitor: impl FnMut(PhysAddr),
    ) -> Result<(), TableError> {
        self.tables().walk(&mut Tables { frames, call: visitor }, 0, self.regime.geometry().input_size())
    }

    /// Takes the whole tree down: everything is unlinked, flushed by the widest operation of the regime, and every
    /// frame but the root's is freed. Returns the root's memory, which holds zeroes. No CPU runs on the table.
    pub fn destroy<E: Environment + ?Sized>(self, environment: &mut E) -> PhysRange {
        let geometry = self.regime.geometry();
        let level = geometry.start_level();
        let slots = || (0..u64::from(geometry.root_tables()) * ENTRIES).map(|index| slot(self.root, index));
        for slot in slots() {
            let raw = environment.read(slot);
            match kind(raw, level) {
                Kind::Vacant => {}
                Kind::Table => environment.write(slot, unlinked(raw)),
                Kind::Annotated | Kind::Leaf | Kind::Unlinked | Kind::Locked | Kind::Reserved => {
                    environment.write(slot, 0)
                }
            }
        }
        self.regime.invalidate(&*environment, self.root, Scope::All);
        for slot in slots() {
            let raw = environment.read(slot);
            if raw != 0 {
                environment.write(slot, 0);
                free_tables(environment, address(raw), level + 1);
            }
        }
        let end = PhysAddr::new(self.root.raw() + geometry.root_size());
        PhysRange { start: self.root, end }
    }

    /// The offsets of a range of input addresses.
    pub(crate) fn range(&self, input: R::Input, size: u64) -> Result<(u64, u64), TableError> {
        let geometry = self.regime.geometry();
        let raw = input.into_raw();
        if (raw | size) & (PAGE_SIZE - 1) != 0 {
            return Err(TableError::Misaligned);
        }
        let start = geometry.offset(raw).ok_or(TableError::BadRange)?;
        let end = start.checked_add(size).ok_or(TableError::BadRange)?;
        if size == 0 || end > geometry.input_size() {
            return Err(TableError::BadRange);
        }
        Ok((start, end))
    }

    /// The whole tree, to walk.
    pub(crate) fn tables(&self) -> Subtree {
        Subtree::whole(self.regime.geometry(), self.root)
    }

    /// Checks that `action` may be done all over the range, which `tables` decide for, and sets aside the frames that
    /// it takes.
    #[inline]
    fn prepare<E: Environment + ?Sized>(
        environment: &mut E,
        action: Action,
        tables: Subtree,
        start: u64,
        end: u64,
    ) -> Result<Reserve, TableError> {
        if tables.level >= LAST_LEVEL && end - start == PAGE_SIZE {
            // A single descriptor is changed or not, without any frame: the change itself asks whether it is permitted.
            return Ok(Reserve::default());
        }
        Self::plan(environment, action, tables, start, end)
    }

    /// As [`prepare`](Self::prepare), for more than a single descriptor.
    #[inline(never)]
    fn plan<E: Environment + ?Sized>(
        environment: &mut E,
        action: Action,
        tables: Subtree,
        start: u64,
        end: u64,
    ) -> Result<Reserve, TableError> {
        let mut plan = Plan::new(&*environment, action);
        tables.walk(&mut plan, start, end)?;
        let count = plan.tables;
        Reserve::allocate(environment, count)
    }

    /// What a mapping asks for, once it is known to be one that the table can hold.
    #[inline]
    pub(crate) fn mapping(
        &self,
        input: R::Input,
        output: PhysAddr,
        size: u64,
        attributes: R::Attributes,
        options: MapOptions,
        replace_mappings: bool,
    ) -> Result<Mapping, TableError> {
        let (start, end) = self.range(input, size)?;
        if !output.is_aligned(PAGE_SIZE) {
            return Err(TableError::Misaligned);
        }
        let outputs = PhysRange::from_size(output, size).ok_or(TableError::BadRange)?;
        if outputs.end.raw() > self.regime.geometry().output_end() {
            return Err(TableError::BadRange);
        }
        let attributes = self.regime.encode(attributes)?;
        let action = Action::Map {
            delta: output.raw().wrapping_sub(start),
            attributes,
            force_pages: options.force_pages,
            replace_annotations: options.replace_annotations,
            replace_mappings,
        };
        Ok(Mapping { start, end, outputs, attributes, action })
    }

    #[expect(clippy::too_many_arguments, reason = "those of `map`, and which of its two forms it is")]
    fn map_range<E: Environment + ?Sized>(
        &mut self,
        environment: &mut E,
        input: R::Input,
        output: PhysAddr,
        size: u64,
        attributes: R::Attributes,
        options: MapOptions,
        replace_mappings: bool,
    ) -> Result<(), TableError> {
        if size == PAGE_SIZE
            && let Some(entry) = self.page_entry(&*environment, input)
            && self.write_mapping(environment, &entry, output, attributes, options, replace_mappings).is_some()
        {
            return Ok(());
        }
        let Mapping { start, end, outputs, attributes, action } =
            self.mapping(input, output, size, attributes, options, replace_mappings)?;
        let tables = self.tables().enclosing(&*environment, start, end);
        let reserve = Self::prepare(environment, action, tables, start, end)?;
        let mut commit = Commit::new(environment, &self.regime, self.root, action, reserve);
        let mut result = Ok(());
        if replace_mappings {
            commit.set_pass(Pass::Break);
            result = tables.walk(&mut commit, start, end);
            commit.settle();
            commit.set_pass(Pass::Make);
        }
        if options.synchronise_caches {
            self.regime.synchronise_caches(&*commit.environment(), attributes, outputs);
        }
        if result.is_ok() {
            result = tables.walk(&mut commit, start, end);
        }
        commit.finish(tables, start, end, result)
    }

    fn invalidate_range<E: Environment + ?Sized>(
        &mut self,
        environment: &mut E,
        input: R::Input,
        size: u64,
        value: u64,
    ) -> Result<(), TableError> {
        if size == PAGE_SIZE
            && let Some(entry) = self.page_entry(&*environment, input)
            && self.write_invalid(environment, &entry, value).is_some()
        {
            return Ok(());
        }
        self.invalidate_tables(environment, input, size, value)
    }

    /// [`invalidate_range`](Self::invalidate_range) where it may take more than to write a page's descriptor.
    pub(crate) fn invalidate_tables<E: Environment + ?Sized>(
        &mut self,
        environment: &mut E,
        input: R::Input,
        size: u64,
        value: u64,
    ) -> Result<(), TableError> {
        let (start, end) = self.range(input, size)?;
        let mut tables = self.tables().enclosing(&*environment, start, end);
        if value == 0 && tables.is_below_root() && is_vacant_outside(&*environment, tables, start, end) {
            // The table itself goes, and perhaps that above it.
            tables = self.tables();
        }
        self.change(environment, Action::Invalidate(value), tables, start, end)
    }

    /// Does `action` all over the range, which `tables` decide for, in one go.
    #[inline(always)]
    pub(crate) fn change<E: Environment + ?Sized>(
        &mut self,
        environment: &mut E,
        action: Action,
        tables: Subtree,
        start: u64,
        end: u64,
    ) -> Result<(), TableError> {
        let reserve = Self::prepare(environment, action, tables, start, end)?;
        let mut commit = Commit::new(environment, &self.regime, self.root, action, reserve);
        let result = tables.walk(&mut commit, start, end);
        commit.finish(tables, start, end, result)
    }
}

/// Shows every leaf to a closure.
struct Leaves<'a, R: Regime, F: ?Sized, C, B> {
    frames: &'a F,
    regime: &'a R,
    call: C,
    broken: Option<B>,
}

impl<R: Regime, F: TableFrames + ?Sized, B, C: FnMut(Leaf<R>) -> ControlFlow<B>> Visitor for Leaves<'_, R, F, C, B> {
    type Frames = F;

    fn frames(&self) -> &F {
        self.frames
    }

    fn leaf(&mut self, entry: &Entry) -> Result<Step, TableError> {
        let leaf = Leaf::decode(self.regime, entry.raw, entry.level, entry.base).ok_or(TableError::Corrupt)?;
        Ok(match (self.call)(leaf) {
            ControlFlow::Continue(()) => Step::Skip,
            ControlFlow::Break(value) => {
                self.broken = Some(value);
                Step::Stop
            }
        })
    }
}

/// Shows every table to a closure.
struct Tables<'a, F: ?Sized, C> {
    frames: &'a F,
    call: C,
}

impl<F: TableFrames + ?Sized, C: FnMut(PhysAddr)> Visitor for Tables<'_, F, C> {
    type Frames = F;

    fn frames(&self) -> &F {
        self.frames
    }

    fn leaf(&mut self, _entry: &Entry) -> Result<Step, TableError> {
        Ok(Step::Skip)
    }

    fn table_after(&mut self, entry: &Entry) -> Result<Step, TableError> {
        (self.call)(address(entry.raw));
        Ok(Step::Skip)
    }
}

impl PageTable<Stage2Regime> {
    /// Leaves the range invalid, with `annotation` noted in every descriptor, or vacant where it is `None`; otherwise
    /// as [`unmap`](Self::unmap). The largest descriptors that fit are used: a whole block's range takes one.
    ///
    /// # Errors
    /// [`TableError::OutOfFrames`] where a block or a larger invalid range had to be split;
    /// [`TableError::Misaligned`], [`TableError::BadRange`], [`TableError::Corrupt`].
    pub fn annotate<E: Environment + ?Sized>(
        &mut self,
        environment: &mut E,
        input: abi::Ipa,
        size: u64,
        annotation: Option<Annotation>,
    ) -> Result<(), TableError> {
        self.invalidate_range(environment, input, size, annotation.map_or(0, Annotation::encode))
    }
}
