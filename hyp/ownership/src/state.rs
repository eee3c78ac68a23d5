//! What is known of one page: who owns it, and who else may use it.

use abi::Gfn;
use core::fmt;

/// A VM's place in hyp's table of VMs, 0 to 63, by which the ledger and the host's stage 2 name it. It is free for
/// another VM only once this VM holds no page.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct VmSlot(u8);

impl VmSlot {
    /// How many slots there are.
    pub const COUNT: usize = abi::host::MAX_VMS;

    /// The slot of that number, or `None` where there are not that many.
    pub const fn new(number: usize) -> Option<Self> {
        if number < Self::COUNT { Some(Self(number as u8)) } else { None }
    }

    /// The slot's number, less than [`VmSlot::COUNT`].
    pub const fn number(self) -> usize {
        self.0 as usize
    }
}

/// Who may own a page.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Component {
    /// The kernel at EL1 that the machine belongs to.
    Host,
    /// The EL2 image.
    Hyp,
    /// A virtual machine.
    Guest(VmSlot),
}

/// How one component stands to one page.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum View {
    /// It has no access and no title.
    None,
    /// It owns the page, and nobody else has access.
    Owned,
    /// It owns the page, and somebody else has access too.
    SharedOwned,
    /// Somebody else owns the page and lets it have access.
    SharedBorrowed,
}

/// A page of RAM: its owner, and what the owner granted.
///
/// In the ledger it takes 64 bits, of which a page that the host owns and shares with nobody has none set:
///
/// | owner | bits 1:0 | bit 2 | others |
/// |---|---|---|---|
/// | host | 0 | shared with hyp | pins 31:16, borrowing guests' mappings 47:32 |
/// | hyp | 1 | 0 | 0 |
/// | guest | 2 | shared with the host | slot 9:4, guest frame number 51:16 |
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum PageState {
    /// The host owns it.
    Host {
        /// Hyp borrows it.
        hyp_borrows: bool,
        /// How many times hyp relies on it not being taken back. Not 0 only where hyp borrows it.
        pins: u16,
        /// At how many guest frames, of all non-protected guests together, it is mapped.
        guest_mappings: u16,
    },
    /// Hyp owns it.
    Hyp,
    /// A protected guest owns it.
    Guest {
        /// Which one.
        slot: VmSlot,
        /// Where the guest has it.
        gfn: Gfn,
        /// The host borrows it.
        host_borrows: bool,
    },
}

/// Guest frame numbers have at most this many bits: an IPA has at most 48.
const GFN_BITS: u32 = 36;
/// The largest count that an entry holds.
pub const MAX_COUNT: u16 = u16::MAX;

const OWNER_MASK: u64 = 0b11;
const OWNER_HOST: u64 = 0;
const OWNER_HYP: u64 = 1;
const OWNER_GUEST: u64 = 2;
const SHARED: u64 = 1 << 2;
const SLOT_SHIFT: u32 = 4;
const SLOT_MASK: u64 = 0x3f;
const PINS_SHIFT: u32 = 16;
const GUEST_MAPPINGS_SHIFT: u32 = 32;
const GFN_SHIFT: u32 = 16;
const GFN_MASK: u64 = (1 << GFN_BITS) - 1;

const _: () = assert!(VmSlot::COUNT as u64 - 1 <= SLOT_MASK);

impl PageState {
    /// The host's, shared with nobody: the state in which every page starts.
    pub const HOST_ALONE: Self = PageState::Host { hyp_borrows: false, pins: 0, guest_mappings: 0 };

    /// The ledger's 64 bits.
    pub const fn encode(self) -> u64 {
        match self {
            PageState::Host { hyp_borrows, pins, guest_mappings } => {
                OWNER_HOST
                    | if hyp_borrows { SHARED } else { 0 }
                    | (pins as u64) << PINS_SHIFT
                    | (guest_mappings as u64) << GUEST_MAPPINGS_SHIFT
            }
            PageState::Hyp => OWNER_HYP,
            PageState::Guest { slot, gfn, host_borrows } => {
                OWNER_GUEST
                    | if host_borrows { SHARED } else { 0 }
                    | (slot.0 as u64) << SLOT_SHIFT
                    | (gfn.raw() & GFN_MASK) << GFN_SHIFT
            }
        }
    }

    /// What the ledger's 64 bits say. A value that [`PageState::encode`] never gives reads as hyp's: nobody else gets
    /// such a page.
    pub const fn decode(bits: u64) -> Self {
        match bits & OWNER_MASK {
            OWNER_HOST => PageState::Host {
                hyp_borrows: bits & SHARED != 0,
                pins: (bits >> PINS_SHIFT) as u16,
                guest_mappings: (bits >> GUEST_MAPPINGS_SHIFT) as u16,
            },
            OWNER_GUEST => PageState::Guest {
                slot: VmSlot((bits >> SLOT_SHIFT & SLOT_MASK) as u8),
                gfn: Gfn::new(bits >> GFN_SHIFT & GFN_MASK),
                host_borrows: bits & SHARED != 0,
            },
            _ => PageState::Hyp,
        }
    }

    /// The one owner.
    pub const fn owner(self) -> Component {
        match self {
            PageState::Host { .. } => Component::Host,
            PageState::Hyp => Component::Hyp,
            PageState::Guest { slot, .. } => Component::Guest(slot),
        }
    }

    /// How the host stands to the page.
    pub const fn host_view(self) -> View {
        match self {
            PageState::Host { hyp_borrows: false, guest_mappings: 0, .. } => View::Owned,
            PageState::Host { .. } => View::SharedOwned,
            PageState::Guest { host_borrows: true, .. } => View::SharedBorrowed,
            PageState::Hyp | PageState::Guest { .. } => View::None,
        }
    }

    /// How hyp stands to the page.
    pub const fn hyp_view(self) -> View {
        match self {
            PageState::Hyp => View::Owned,
            PageState::Host { hyp_borrows: true, .. } => View::SharedBorrowed,
            PageState::Host { .. } | PageState::Guest { .. } => View::None,
        }
    }

    /// How the protected guest in `slot` stands to the page. Which non-protected guests borrow a page only their
    /// stage 2 knows; the ledger counts their mappings.
    pub fn guest_view(self, slot: VmSlot) -> View {
        match self {
            PageState::Guest { slot: owner, host_borrows, .. } if owner == slot => {
                if host_borrows {
                    View::SharedOwned
                } else {
                    View::Owned
                }
            }
            _ => View::None,
        }
    }
}

impl fmt::Display for PageState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PageState::Host { hyp_borrows, pins, guest_mappings } => {
                f.write_str("host")?;
                if *hyp_borrows {
                    write!(f, ", shared with hyp, {pins} pins")?;
                }
                if *guest_mappings != 0 {
                    write!(f, ", mapped by guests {guest_mappings} times")?;
                }
                Ok(())
            }
            PageState::Hyp => f.write_str("hyp"),
            PageState::Guest { slot, gfn, host_borrows } => {
                write!(f, "guest {} at frame {gfn}", slot.number())?;
                if *host_borrows {
                    f.write_str(", shared with the host")?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;

    fn any_state() -> impl Strategy<Value = PageState> {
        prop_oneof![
            (any::<bool>(), any::<u16>(), any::<u16>()).prop_map(|(hyp_borrows, pins, guest_mappings)| {
                PageState::Host { hyp_borrows, pins, guest_mappings }
            }),
            Just(PageState::Hyp),
            (0..VmSlot::COUNT, 0..1_u64 << GFN_BITS, any::<bool>()).prop_map(|(slot, gfn, host_borrows)| {
                PageState::Guest { slot: VmSlot::new(slot).unwrap(), gfn: Gfn::new(gfn), host_borrows }
            }),
        ]
    }

    proptest! {
        #[test]
        fn every_state_survives_the_ledger(state in any_state()) {
            prop_assert_eq!(PageState::decode(state.encode()), state);
        }

        #[test]
        fn any_bits_decode_to_something(bits in any::<u64>()) {
            let state = PageState::decode(bits);
            prop_assert_eq!(PageState::decode(state.encode()), state);
        }
    }

    #[test]
    fn a_page_starts_as_the_hosts_alone() {
        assert_eq!(PageState::HOST_ALONE.encode(), 0);
        assert_eq!(PageState::decode(0).host_view(), View::Owned);
        assert_eq!(PageState::decode(0).hyp_view(), View::None);
    }

    #[test]
    fn there_are_no_more_slots_than_vms() {
        assert_eq!(VmSlot::new(63).map(VmSlot::number), Some(63));
        assert_eq!(VmSlot::new(64), None);
    }
}
