//! Results of Freehold's hypercalls.

use core::fmt;

/// Why a hypercall was refused. An error blames the caller and leaves everything as it was.
///
/// The value travels in x0 as a negative number. The codes start at -16, below those that the SMC Calling Convention
/// (Arm DEN0028, section 7) and PSCI (DEN0022, section 5.2.2) give out, so that a caller can tell them apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
#[repr(i64)]
pub enum Error {
    /// SMCCC NOT_SUPPORTED: no such function, or not from this caller.
    NotSupported = -1,
    /// SMCCC INVALID_PARAMETER: an argument is malformed whatever the state.
    InvalidParameter = -3,
    /// A page of the range does not belong to the component that offers it.
    NotYours = -16,
    /// A page is the caller's, but not in the state that the transition starts from.
    WrongState = -17,
    /// The range is empty, wraps, or lies beyond the address size.
    BadRange = -18,
    /// A page of the range is not memory.
    NotMemory = -19,
    /// A page is pinned, a vCPU runs, or a VM is in use elsewhere.
    Busy = -20,
    /// The donated memory that the call would draw from is used up.
    OutOfMemory = -21,
    /// There is no such VM or vCPU, or it is dying.
    VmGone = -22,
    /// A count or a table is full.
    Limit = -23,
}

impl Error {
    /// Every error, in the order of the codes.
    pub const ALL: [Error; 10] = [
        Error::NotSupported,
        Error::InvalidParameter,
        Error::NotYours,
        Error::WrongState,
        Error::BadRange,
        Error::NotMemory,
        Error::Busy,
        Error::OutOfMemory,
        Error::VmGone,
        Error::Limit,
    ];

    /// The value for x0: the negative code in two's complement.
    pub const fn to_register(self) -> u64 {
        self as i64 as u64
    }

    /// The error that x0 holds, or `None` where the value is no error of this interface.
    pub fn from_register(x0: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|error| error.to_register() == x0)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Error::NotSupported => "not supported",
            Error::InvalidParameter => "invalid parameter",
            Error::NotYours => "not yours",
            Error::WrongState => "wrong state",
            Error::BadRange => "bad range",
            Error::NotMemory => "not memory",
            Error::Busy => "busy",
            Error::OutOfMemory => "out of donated memory",
            Error::VmGone => "no such VM",
            Error::Limit => "limit reached",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_survives_the_register() {
        for error in Error::ALL {
            assert_eq!(Error::from_register(error.to_register()), Some(error));
        }
        assert_eq!(Error::from_register(0), None);
        assert_eq!(Error::from_register(u64::MAX - 1), None);
    }
}
