//! What can go wrong, and whose fault it is.

use core::fmt;

/// Why an operation on a table was refused. A refused operation has changed nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TableError {
    /// An address or size of the configuration is not one the architecture allows: input size, output size, root.
    BadConfiguration,
    /// An address or a size is not a multiple of 4 KiB.
    Misaligned,
    /// The range is empty, wraps, or reaches beyond the input or the output size of the table.
    BadRange,
    /// The attributes cannot be expressed on this CPU or regime (for instance one exception level's execute-never
    /// without FEAT_XNX).
    BadAttributes,
    /// Another valid mapping stands in the range.
    Exists,
    /// An annotation stands in the range, and the caller did not ask to replace it.
    Annotated,
    /// A page of the range has no valid mapping.
    NotMapped,
    /// The environment had no frame for a table.
    OutOfFrames,
    /// The table holds a descriptor that this crate cannot have written.
    Corrupt,
}

/// Who has to act for an operation to succeed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blame {
    /// The caller asked for something that is not allowed, or not in this state of the table.
    Caller,
    /// Frames have to be provided.
    Resources,
    /// Someone else wrote to the table's memory.
    Hypervisor,
}

impl TableError {
    /// Who is to blame for this error.
    pub const fn blame(self) -> Blame {
        match self {
            Self::OutOfFrames => Blame::Resources,
            Self::Corrupt => Blame::Hypervisor,
            _ => Blame::Caller,
        }
    }
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadConfiguration => "the table's configuration is not valid",
            Self::Misaligned => "address or size is not a multiple of 4 KiB",
            Self::BadRange => "range is empty, wraps or is out of bounds",
            Self::BadAttributes => "attributes cannot be expressed here",
            Self::Exists => "another mapping exists in the range",
            Self::Annotated => "an annotation stands in the range",
            Self::NotMapped => "a page of the range is not mapped",
            Self::OutOfFrames => "no frame for a table",
            Self::Corrupt => "the table holds a foreign descriptor",
        })
    }
}

impl core::error::Error for TableError {}
