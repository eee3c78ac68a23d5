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

/// Who uses a page that a protected guest owns.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum GuestUse {
    /// The guest, and nobody else.
    Alone,
    /// The guest; it has offered the page to another guest, which has not accepted it yet.
    Offered,
    /// The guest and the host.
    SharedWithHost,
    /// The host; the guest gets it back.
    LentToHost,
    /// The guest and another one.
    SharedWithGuest(VmSlot),
}

/// A page of RAM: its owner, and what the owner granted.
///
/// In the ledger it takes 64 bits, of which a page that the host owns and shares with nobody has none set:
///
/// | owner | bits 1:0 | others |
/// |---|---|---|
/// | host | 0 | shared with hyp 2, restricted 3, pins 31:16, borrowing guests' mappings 47:32 |
/// | hyp | 1 | 0 |
/// | guest | 2 | slot 9:4, use 12:10, guest frame number 51:16, borrowing guest's slot 57:52 |
/// | host, lent to a guest | 3 | slot 9:4, guest frame number 51:16 |
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum PageState {
    /// The host owns it.
    Host {
        /// Hyp borrows it.
        hyp_borrows: bool,
        /// The host may only read it, for as long as somebody borrows it.
        restricted: bool,
        /// How many times hyp relies on it not being taken back. Not 0 only where hyp borrows it.
        pins: u16,
        /// At how many guest frames, of all non-protected guests together, it is mapped.
        guest_mappings: u16,
    },
    /// The host owns it and has lent it to a protected guest: it has no access itself.
    LentToGuest {
        /// Which guest.
        slot: VmSlot,
        /// Where the guest has it.
        gfn: Gfn,
    },
    /// Hyp owns it.
    Hyp,
    /// A protected guest owns it.
    Guest {
        /// Which one.
        slot: VmSlot,
        /// Where the guest has it, or gets it back.
        gfn: Gfn,
        /// Who uses it.
        usage: GuestUse,
    },
}

/// Guest frame numbers have at most this many bits: an IPA has at most 48.
pub(crate) const GFN_BITS: u32 = 36;
/// The largest count that an entry holds.
pub const MAX_COUNT: u16 = u16::MAX;

const OWNER_MASK: u64 = 0b11;
const OWNER_HOST: u64 = 0;
const OWNER_HYP: u64 = 1;
const OWNER_GUEST: u64 = 2;
const OWNER_HOST_LENT: u64 = 3;
const SHARED_WITH_HYP: u64 = 1 << 2;
const RESTRICTED: u64 = 1 << 3;
const SLOT_SHIFT: u32 = 4;
const SLOT_MASK: u64 = 0x3f;
const USE_SHIFT: u32 = 10;
const USE_MASK: u64 = 0b111;
const USE_ALONE: u64 = 0;
const USE_OFFERED: u64 = 1;
const USE_SHARED_WITH_HOST: u64 = 2;
const USE_LENT_TO_HOST: u64 = 3;
const USE_SHARED_WITH_GUEST: u64 = 4;
const PINS_SHIFT: u32 = 16;
const GUEST_MAPPINGS_SHIFT: u32 = 32;
const GFN_SHIFT: u32 = 16;
const GFN_MASK: u64 = (1 << GFN_BITS) - 1;
const BORROWER_SHIFT: u32 = GFN_SHIFT + GFN_BITS;

const _: () = assert!(VmSlot::COUNT as u64 - 1 <= SLOT_MASK);

impl GuestUse {
    const fn encode(self) -> u64 {
        match self {
            GuestUse::Alone => USE_ALONE << USE_SHIFT,
            GuestUse::Offered => USE_OFFERED << USE_SHIFT,
            GuestUse::SharedWithHost => USE_SHARED_WITH_HOST << USE_SHIFT,
            GuestUse::LentToHost => USE_LENT_TO_HOST << USE_SHIFT,
            GuestUse::SharedWithGuest(slot) => USE_SHARED_WITH_GUEST << USE_SHIFT | (slot.0 as u64) << BORROWER_SHIFT,
        }
    }

    const fn decode(bits: u64) -> Option<Self> {
        match bits >> USE_SHIFT & USE_MASK {
            USE_ALONE => Some(GuestUse::Alone),
            USE_OFFERED => Some(GuestUse::Offered),
            USE_SHARED_WITH_HOST => Some(GuestUse::SharedWithHost),
            USE_LENT_TO_HOST => Some(GuestUse::LentToHost),
            USE_SHARED_WITH_GUEST => Some(GuestUse::SharedWithGuest(slot_at(bits, BORROWER_SHIFT))),
            _ => None,
        }
    }
}

const fn slot_at(bits: u64, shift: u32) -> VmSlot {
    VmSlot((bits >> shift & SLOT_MASK) as u8)
}

const fn gfn_of(bits: u64) -> Gfn {
    Gfn::new(bits >> GFN_SHIFT & GFN_MASK)
}

const fn place(slot: VmSlot, gfn: Gfn) -> u64 {
    (slot.0 as u64) << SLOT_SHIFT | (gfn.raw() & GFN_MASK) << GFN_SHIFT
}

impl PageState {
    /// The host's, shared with nobody: the state in which every page starts.
    pub const HOST_ALONE: Self = PageState::Host { hyp_borrows: false, restricted: false, pins: 0, guest_mappings: 0 };

    /// The ledger's 64 bits.
    #[inline(always)]
    pub const fn encode(self) -> u64 {
        match self {
            PageState::Host { hyp_borrows, restricted, pins, guest_mappings } => {
                OWNER_HOST
                    | if hyp_borrows { SHARED_WITH_HYP } else { 0 }
                    | if restricted { RESTRICTED } else { 0 }
                    | (pins as u64) << PINS_SHIFT
                    | (guest_mappings as u64) << GUEST_MAPPINGS_SHIFT
            }
            PageState::LentToGuest { slot, gfn } => OWNER_HOST_LENT | place(slot, gfn),
            PageState::Hyp => OWNER_HYP,
            PageState::Guest { slot, gfn, usage } => OWNER_GUEST | place(slot, gfn) | usage.encode(),
        }
    }

    /// What the ledger's 64 bits say. A value that [`PageState::encode`] never gives reads as hyp's: nobody else gets
    /// such a page.
    #[inline(always)]
    pub const fn decode(bits: u64) -> Self {
        match bits & OWNER_MASK {
            OWNER_HOST => PageState::Host {
                hyp_borrows: bits & SHARED_WITH_HYP != 0,
                restricted: bits & RESTRICTED != 0,
                pins: (bits >> PINS_SHIFT) as u16,
                guest_mappings: (bits >> GUEST_MAPPINGS_SHIFT) as u16,
            },
            OWNER_GUEST => match GuestUse::decode(bits) {
                Some(usage) => PageState::Guest { slot: slot_at(bits, SLOT_SHIFT), gfn: gfn_of(bits), usage },
                None => PageState::Hyp,
            },
            OWNER_HOST_LENT => PageState::LentToGuest { slot: slot_at(bits, SLOT_SHIFT), gfn: gfn_of(bits) },
            _ => PageState::Hyp,
        }
    }

    /// By how much the ledger's 64 bits of the next page of a run differ: a guest has each page at the frame behind that of
    /// the page before.
    #[inline(always)]
    pub(crate) const fn step(self) -> u64 {
        match self {
            PageState::LentToGuest { .. } | PageState::Guest { .. } => 1 << GFN_SHIFT,
            PageState::Host { .. } | PageState::Hyp => 0,
        }
    }

    /// The one owner.
    pub const fn owner(self) -> Component {
        match self {
            PageState::Host { .. } | PageState::LentToGuest { .. } => Component::Host,
            PageState::Hyp => Component::Hyp,
            PageState::Guest { slot, .. } => Component::Guest(slot),
        }
    }
}

impl fmt::Display for PageState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PageState::Host { hyp_borrows, restricted, pins, guest_mappings } => {
                f.write_str("host")?;
                if *hyp_borrows {
                    write!(f, ", shared with hyp, {pins} pins")?;
                }
                if *guest_mappings != 0 {
                    write!(f, ", mapped by guests {guest_mappings} times")?;
                }
                if *restricted {
                    f.write_str(", read-only to the host")?;
                }
                Ok(())
            }
            PageState::LentToGuest { slot, gfn } => write!(f, "host, lent to guest {} at frame {gfn}", slot.number()),
            PageState::Hyp => f.write_str("hyp"),
            PageState::Guest { slot, gfn, usage } => {
                write!(f, "guest {} at frame {gfn}", slot.number())?;
                match usage {
                    GuestUse::Alone => Ok(()),
                    GuestUse::Offered => f.write_str(", offered to a guest"),
                    GuestUse::SharedWithHost => f.write_str(", shared with the host"),
                    GuestUse::LentToHost => f.write_str(", lent to the host"),
                    GuestUse::SharedWithGuest(borrower) => write!(f, ", shared with guest {}", borrower.number()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;

    fn any_slot() -> impl Strategy<Value = VmSlot> {
        (0..VmSlot::COUNT).prop_map(|number| VmSlot::new(number).unwrap())
    }

    fn any_gfn() -> impl Strategy<Value = Gfn> {
        (0..1_u64 << GFN_BITS).prop_map(Gfn::new)
    }

    fn any_use() -> impl Strategy<Value = GuestUse> {
        prop_oneof![
            Just(GuestUse::Alone),
            Just(GuestUse::Offered),
            Just(GuestUse::SharedWithHost),
            Just(GuestUse::LentToHost),
            any_slot().prop_map(GuestUse::SharedWithGuest),
        ]
    }

    fn any_state() -> impl Strategy<Value = PageState> {
        prop_oneof![
            (any::<[bool; 2]>(), any::<[u16; 2]>()).prop_map(|([hyp_borrows, restricted], [pins, guest_mappings])| {
                PageState::Host { hyp_borrows, restricted, pins, guest_mappings }
            }),
            Just(PageState::Hyp),
            (any_slot(), any_gfn()).prop_map(|(slot, gfn)| PageState::LentToGuest { slot, gfn }),
            (any_slot(), any_gfn(), any_use()).prop_map(|(slot, gfn, usage)| PageState::Guest { slot, gfn, usage }),
        ]
    }

    proptest! {
        #[test]
        fn a_state_survives_the_ledger(state in any_state()) {
            prop_assert_eq!(PageState::decode(state.encode()), state);
        }

        #[test]
        fn any_bits_decode_to_a_state_that_survives(bits in any::<u64>()) {
            let state = PageState::decode(bits);
            prop_assert_eq!(PageState::decode(state.encode()), state);
        }
    }

    #[test]
    fn zero_is_the_hosts_own() {
        assert_eq!(PageState::HOST_ALONE.encode(), 0);
    }

    #[test]
    fn a_use_that_there_is_not_is_hyps() {
        for usage in 5..=USE_MASK {
            assert_eq!(PageState::decode(OWNER_GUEST | usage << USE_SHIFT), PageState::Hyp);
        }
    }

    #[test]
    fn slots_end_where_vms_do() {
        assert!(VmSlot::new(VmSlot::COUNT - 1).is_some() && VmSlot::new(VmSlot::COUNT).is_none());
    }
}
