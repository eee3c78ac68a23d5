//! A table as text, for whoever has to find out what went wrong.

use core::fmt::{self, Write};

use abi::PhysAddr;

use crate::bits;
use crate::descriptor::{Annotation, Descriptor, Kind, address, is_leaf, kind};
use crate::environment::TableFrames;
use crate::error::TableError;
use crate::geometry::entry_size;
use crate::regime::Regime;
use crate::table::PageTable;
use crate::walker::{Entry, Step, Visitor};

impl<R: Regime> PageTable<R> {
    /// Writes what the table maps and notes, a line for each run of descriptors of one level that are linear and have
    /// the same attributes, in ascending order:
    ///
    /// ```text
    /// 0x0000000040000000-0x00000000405fffff     6M block level 2 -> 0x000080000000 MemAttr=Normal SH=Inner S2AP=RW XN=none AF=1
    /// 0x0000000040600000-0x0000000040600fff     4K annotation level 3: 0x7
    /// 0x0000000040601000-0x0000000040601fff     4K undecodable level 3: 0x0000000000000001
    /// ```
    ///
    /// Both ends of a range of input belong to it. What is vacant is left out. Whatever the table holds, the dump
    /// goes on to its end.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn dump<F: TableFrames + ?Sized, W: Write + ?Sized>(&self, frames: &F, out: &mut W) -> fmt::Result {
        let geometry = self.geometry();
        let mut dump = Dump { frames, regime: self.regime(), out, run: None, result: Ok(()) };
        // Ends early only where a line could not be written.
        let _ = self.tables().walk(&mut dump, 0, geometry.input_size());
        dump.end_run();
        dump.result
    }
}

/// The smallest unit of sizes, 1 KiB.
const KIB: u64 = 1 << 10;

/// Descriptors that are shown by one line.
#[derive(Clone, Copy)]
struct Run {
    /// Offset of the first byte.
    start: u64,
    /// Offset past the last byte.
    end: u64,
    /// The level of all of them.
    level: u8,
    /// The first.
    raw: u64,
}

impl Run {
    /// True where the next descriptor, `raw` of `level` which decides for `base` on, is one more of the run.
    fn goes_on(&self, raw: u64, level: u8, base: u64) -> bool {
        if level != self.level {
            return false;
        }
        if !is_leaf(self.raw, level) {
            return raw == self.raw;
        }
        raw & !bits::ADDRESS == self.raw & !bits::ADDRESS
            && address(raw).raw() == address(self.raw).raw().wrapping_add(base.wrapping_sub(self.start))
    }
}

/// Writes lines.
struct Dump<'a, R, F: ?Sized, W: ?Sized> {
    frames: &'a F,
    regime: &'a R,
    out: &'a mut W,
    run: Option<Run>,
    result: fmt::Result,
}

impl<R: Regime, F: TableFrames + ?Sized, W: Write + ?Sized> Dump<'_, R, F, W> {
    fn show(&mut self, raw: u64, level: u8, base: u64) {
        let end = base.wrapping_add(entry_size(level));
        match &mut self.run {
            Some(run) if run.goes_on(raw, level, base) => run.end = end,
            _ => {
                self.end_run();
                if raw != 0 {
                    self.run = Some(Run { start: base, end, level, raw });
                }
            }
        }
    }

    fn end_run(&mut self) {
        if let Some(run) = self.run.take()
            && self.result.is_ok()
        {
            self.result = self.write(&run);
        }
    }

    fn write(&mut self, run: &Run) -> fmt::Result {
        let Self { regime, out, .. } = self;
        let Run { start, end, level, raw } = *run;
        let geometry = regime.geometry();
        let (first, last) = (geometry.input(start), geometry.input(end.wrapping_sub(1)));
        let (count, unit) = in_units(end.wrapping_sub(start));
        write!(out, "{first:#018x}-{last:#018x} {count:>5}{unit} ")?;
        match Descriptor::decode(raw, level, |bits| regime.decode(bits)) {
            Some(Descriptor::Block { output, attributes }) => {
                writeln!(out, "block level {level} -> {:#014x} {attributes}", output.raw())
            }
            Some(Descriptor::Page { output, attributes }) => {
                writeln!(out, "page level {level} -> {:#014x} {attributes}", output.raw())
            }
            Some(Descriptor::Invalid { annotation }) => {
                writeln!(out, "annotation level {level}: {:#x}", annotation.map_or(0, Annotation::value))
            }
            Some(Descriptor::Locked) => writeln!(out, "locked level {level}"),
            Some(Descriptor::Table { .. }) | None => writeln!(out, "undecodable level {level}: {raw:#018x}"),
        }
    }
}

impl<R: Regime, F: TableFrames + ?Sized, W: Write + ?Sized> Visitor for Dump<'_, R, F, W> {
    type Frames = F;

    fn frames(&self) -> &F {
        self.frames
    }

    fn shortcut(&mut self, _slot: PhysAddr, raw: u64, level: u8, base: u64) -> bool {
        // All that is no table is shown from here, as the walk ends at what is reserved.
        if self.result.is_err() || kind(raw, level) == Kind::Table {
            return false;
        }
        self.show(raw, level, base);
        true
    }

    fn table_before(&mut self, _entry: &Entry) -> Result<Step, TableError> {
        Ok(if self.result.is_ok() { Step::Descend } else { Step::Stop })
    }

    fn leaf(&mut self, _entry: &Entry) -> Result<Step, TableError> {
        Ok(Step::Stop)
    }
}

/// Bytes in the largest unit that leaves no rest, and that unit.
fn in_units(size: u64) -> (u64, char) {
    [(1 << 40, 'T'), (1 << 30, 'G'), (1 << 20, 'M')]
        .into_iter()
        .find(|(unit, _)| size.is_multiple_of(*unit))
        .map_or((size / KIB, 'K'), |(unit, letter)| (size / unit, letter))
}
