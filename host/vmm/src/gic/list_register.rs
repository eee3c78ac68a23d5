//! The layout of the list registers, ICH_LR0_EL2 and on (Arm IHI 0069, section 12.4.6).

/// State: pending.
const PENDING: u64 = 1 << 62;
/// State: active. Both bits together are pending and active, none is invalid.
const ACTIVE: u64 = 1 << 63;
/// A physical interrupt is behind this one and is deactivated with it.
const HW: u64 = 1 << 61;
/// Group 1.
const GROUP: u64 = 1 << 60;
/// Where the priority starts.
const PRIORITY_SHIFT: u32 = 48;
/// Where pINTID starts, with HW.
const PHYSICAL_SHIFT: u32 = 32;
/// Without HW: a maintenance interrupt when the guest deactivates the interrupt.
const EOI: u64 = 1 << 41;

/// What a list register tells the CPU interface about one interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ListRegister {
    /// vINTID.
    pub intid: u32,
    /// Priority, as many upper bits as are implemented.
    pub priority: u8,
    /// Group 1 rather than Group 0.
    pub group_one: bool,
    /// The interrupt is pending.
    pub pending: bool,
    /// The interrupt is active.
    pub active: bool,
    /// pINTID, where a physical interrupt is behind it.
    pub physical: Option<u32>,
    /// Ask for a maintenance interrupt when the guest deactivates it; means nothing with `physical`.
    pub notify_end: bool,
}

impl ListRegister {
    /// The register's value.
    pub(super) fn encode(&self) -> u64 {
        let flag = |set: bool, bit: u64| if set { bit } else { 0 };
        let link = match self.physical {
            Some(physical) => HW | u64::from(physical) << PHYSICAL_SHIFT,
            None => flag(self.notify_end, EOI),
        };
        flag(self.pending, PENDING)
            | flag(self.active, ACTIVE)
            | flag(self.group_one, GROUP)
            | u64::from(self.priority) << PRIORITY_SHIFT
            | link
            | u64::from(self.intid)
    }
}

/// True where the state in `register` is pending, or pending and active.
pub(super) const fn is_pending(register: u64) -> bool {
    register & PENDING != 0
}

/// True where the state in `register` is active, or pending and active.
pub(super) const fn is_active(register: u64) -> bool {
    register & ACTIVE != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: ListRegister = ListRegister {
        intid: 0,
        priority: 0,
        group_one: false,
        pending: false,
        active: false,
        physical: None,
        notify_end: false,
    };

    #[test]
    fn each_field_lies_where_the_architecture_has_it() {
        assert_eq!(PLAIN.encode(), 0);
        for (register, expected) in [
            (ListRegister { intid: 1019, ..PLAIN }, 1019),
            (ListRegister { priority: 0xa8, ..PLAIN }, 0x00a8_0000_0000_0000),
            (ListRegister { group_one: true, ..PLAIN }, 0x1000_0000_0000_0000),
            (ListRegister { pending: true, ..PLAIN }, 0x4000_0000_0000_0000),
            (ListRegister { active: true, ..PLAIN }, 0x8000_0000_0000_0000),
            (ListRegister { notify_end: true, ..PLAIN }, 0x0000_0200_0000_0000),
            (ListRegister { physical: Some(27), ..PLAIN }, 0x2000_001b_0000_0000),
        ] {
            assert_eq!(register.encode(), expected, "{register:?}");
        }
    }

    #[test]
    fn a_physical_number_is_never_taken_for_the_maintenance_bit() {
        let linked = ListRegister { physical: Some(16), notify_end: true, ..PLAIN };
        assert_eq!(linked.encode() & EOI, 0);
    }

    #[test]
    fn the_state_is_read_from_its_two_bits() {
        for (pending, active) in [(false, false), (true, false), (false, true), (true, true)] {
            let register = ListRegister { pending, active, ..PLAIN }.encode() | !(PENDING | ACTIVE);
            assert_eq!((is_pending(register), is_active(register)), (pending, active));
        }
    }
}
