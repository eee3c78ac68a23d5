//! The virtual half of a CPU interface, as a guest and the list registers see it (Arm IHI 0069, section 6.3), for tests.
//! It reads list registers by itself, and holds each entry against what hyp takes.

use super::{Gic, GicConfig, LinkedInterrupt};
use abi::run::{MAX_LIST_REGISTERS, NOTIFY_NONE_PENDING, NOTIFY_UNDERFLOW};
use alloc::vec::Vec;

/// INTID of the virtual timer's interrupt.
pub const TIMER: u32 = 27;
/// INTID of the physical interrupt behind it, chosen to differ.
pub const PHYSICAL: u32 = 29;

const INVALID: u64 = 0;
const PENDING: u64 = 1;
const ACTIVE: u64 = 2;
const PENDING_ACTIVE: u64 = 3;

/// A GIC with both groups enabled and all else as after reset.
pub fn gic(vcpus: usize, spis: usize, list_registers: usize) -> Gic {
    let virtual_timer = LinkedInterrupt { intid: TIMER, physical: PHYSICAL };
    let mut gic = Gic::new(&GicConfig { vcpus, spis, list_registers, priority_bits: 5, virtual_timer }).unwrap();
    gic.write_distributor(0, 4, 3);
    gic.take_kicks();
    gic
}

/// The state of a list register.
pub fn state(register: u64) -> u64 {
    register >> 62
}

/// True where the end of the interrupt in a list register, which has no physical one behind it, is to be reported.
pub fn notifies(register: u64) -> bool {
    register >> 61 & 1 == 0 && register >> 41 & 1 != 0
}

/// One vCPU's CPU interface, in EOImode 0.
#[derive(Debug)]
pub struct SimulatedCpu {
    pub vcpu: usize,
    pub registers: [u64; MAX_LIST_REGISTERS],
    pub control: u64,
    pub running: bool,
    /// ICC_PMR_EL1.
    pub mask: u8,
    /// What is active, innermost last: INTID and priority.
    pub active: Vec<(u32, u8)>,
    list_registers: usize,
}

impl SimulatedCpu {
    pub fn new(gic: &Gic, vcpu: usize) -> Self {
        let list_registers = gic.list_registers;
        Self { vcpu, registers: [0; 16], control: 0, running: false, mask: 0xff, active: Vec::new(), list_registers }
    }

    /// Enters the vCPU.
    pub fn enter(&mut self, gic: &mut Gic) {
        assert!(!self.running);
        self.control = gic.fill(self.vcpu, &mut self.registers);
        self.running = true;
        self.check();
        assert!(!self.maintenance(), "an entry that ends at once: {self:x?}");
    }

    /// The vCPU exits.
    pub fn exit(&mut self, gic: &mut Gic) {
        assert!(core::mem::take(&mut self.running));
        gic.fold(self.vcpu, &self.registers);
    }

    /// Holds the list registers against what the run page may hold.
    fn check(&self) {
        let mut intids = Vec::new();
        for (index, register) in self.registers.iter().copied().enumerate() {
            if state(register) == INVALID {
                assert_eq!(register, 0, "an invalid register that is not zero");
                continue;
            }
            assert!(index < self.list_registers);
            let intid = register & 0xffff_ffff;
            assert!(intid < 1020 && !intids.contains(&intid), "{intid} in {self:x?}");
            intids.push(intid);
            assert_eq!(register & 0x0f00_0000_0000_0000, 0);
            let link = register >> 32 & 0xffff;
            if register >> 61 & 1 != 0 {
                assert_eq!((intid, link), (TIMER.into(), PHYSICAL.into()));
                assert_ne!(state(register), PENDING_ACTIVE);
            } else {
                assert_eq!(link & !(1 << 9), 0);
                assert_ne!(intid, TIMER.into());
            }
        }
    }

    /// The INTIDs of the registers in use, with their states.
    pub fn loaded(&self) -> Vec<(u32, u64)> {
        let used = self.registers.iter().filter(|register| state(**register) != INVALID);
        used.map(|register| (*register as u32, state(*register))).collect()
    }

    /// True where ICH_MISR_EL2 would have a bit set.
    pub fn maintenance(&self) -> bool {
        let registers = &self.registers[..self.list_registers];
        let in_use = registers.iter().filter(|register| state(**register) != INVALID).count();
        let none_pending = registers.iter().all(|register| state(*register) != PENDING);
        let ended = registers.iter().any(|register| state(*register) == INVALID && notifies(*register));
        self.control & NOTIFY_UNDERFLOW != 0 && in_use <= 1
            || self.control & NOTIFY_NONE_PENDING != 0 && none_pending
            || ended
    }

    /// The list register, INTID and priority of what the guest would acknowledge now.
    pub fn offered(&self) -> Option<(usize, u32, u8)> {
        let limit = self.active.iter().map(|(_, priority)| *priority).min().unwrap_or(0xff).min(self.mask);
        let pending = self.registers.iter().enumerate().filter(|(_, register)| state(**register) == PENDING);
        pending
            .map(|(index, register)| (index, *register as u32, (register >> 48) as u8))
            .filter(|(_, _, priority)| *priority < limit)
            .min_by_key(|(_, _, priority)| *priority)
    }

    /// The guest reads ICC_IAR1_EL1 or ICC_IAR0_EL1: the INTID that it gets.
    pub fn acknowledge(&mut self) -> Option<u32> {
        assert!(self.running);
        let (index, intid, priority) = self.offered()?;
        self.set_state(index, ACTIVE);
        self.active.push((intid, priority));
        Some(intid)
    }

    /// The guest ends the innermost active interrupt: its INTID, and whether a physical one ended with it.
    pub fn end(&mut self) -> Option<(u32, bool)> {
        assert!(self.running);
        let (intid, _) = self.active.pop()?;
        let holds = |register: &u64| *register as u32 == intid && state(*register) & ACTIVE != 0;
        let index = self.registers.iter().position(holds).expect("an active interrupt has no list register");
        self.set_state(index, state(self.registers[index]) & PENDING);
        Some((intid, self.registers[index] >> 61 & 1 != 0))
    }

    fn set_state(&mut self, index: usize, state: u64) {
        self.registers[index] = self.registers[index] << 2 >> 2 | state << 62;
    }
}
