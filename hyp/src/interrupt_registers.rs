//! The virtual CPU interface of a guest: its registers in and out (Arm IHI 0069, section 12.4).
//!
//! While the host runs, ICH_HCR_EL2.En is 0 and what they hold has no effect. The list registers are empty then, so that a
//! guest with few interrupts, as most are entered, needs few of them loaded and saved.

use crate::machine::Machine;
use crate::system_register::{mrs, msr};
use aarch64_cpu::registers::{ICH_HCR_EL2, Writeable};
use abi::run::MAX_LIST_REGISTERS;
use monitor::features::GicFeatures;
use monitor::interrupt::InterruptRegisters;
use monitor::switch_features::SwitchFeatures;

/// Functions that deal with the first registers of a row of them, by an instruction each, since the number is in the
/// instruction.
macro_rules! list_registers {
    ($($number:literal = $name:literal,)*) => {
        fn load_list_registers(values: &[u64; MAX_LIST_REGISTERS], count: usize) {
            $(
                if count <= $number {
                    return;
                }
                // SAFETY: a register of the virtual CPU interface, which only guests feel, and which the CPU has.
                unsafe { msr!($name, values[$number]) };
            )*
        }

        /// Leaves them empty.
        fn take_list_registers(values: &mut [u64; MAX_LIST_REGISTERS], count: usize) {
            $(
                if count <= $number {
                    return;
                }
                values[$number] = mrs!($name);
                // SAFETY: as for the load.
                unsafe { msr!($name, 0) };
            )*
        }
    };
}

list_registers! {
    0 = "S3_4_C12_C12_0", 1 = "S3_4_C12_C12_1", 2 = "S3_4_C12_C12_2", 3 = "S3_4_C12_C12_3",
    4 = "S3_4_C12_C12_4", 5 = "S3_4_C12_C12_5", 6 = "S3_4_C12_C12_6", 7 = "S3_4_C12_C12_7",
    8 = "S3_4_C12_C13_0", 9 = "S3_4_C12_C13_1", 10 = "S3_4_C12_C13_2", 11 = "S3_4_C12_C13_3",
    12 = "S3_4_C12_C13_4", 13 = "S3_4_C12_C13_5", 14 = "S3_4_C12_C13_6", 15 = "S3_4_C12_C13_7",
}

/// As above, for the active priorities: the first of each group is always there.
macro_rules! active_priorities {
    ($($number:literal = $group0:literal, $group1:literal;)*) => {
        #[inline(never)]
        fn load_more_priorities(registers: &InterruptRegisters, count: usize) {
            $(
                if count <= $number {
                    return;
                }
                // SAFETY: as for the list registers.
                unsafe {
                    msr!($group0, registers.ich_ap0r_el2[$number]);
                    msr!($group1, registers.ich_ap1r_el2[$number]);
                }
            )*
        }

        #[inline(never)]
        fn save_more_priorities(registers: &mut InterruptRegisters, count: usize) {
            $(
                if count <= $number {
                    return;
                }
                registers.ich_ap0r_el2[$number] = mrs!($group0);
                registers.ich_ap1r_el2[$number] = mrs!($group1);
            )*
        }
    };
}

active_priorities! {
    1 = "S3_4_C12_C8_1", "S3_4_C12_C9_1";
    2 = "S3_4_C12_C8_2", "S3_4_C12_C9_2";
    3 = "S3_4_C12_C8_3", "S3_4_C12_C9_3";
}

/// Empties the list registers, whose values after a reset are unknown. The CPU has the virtual CPU interface.
pub fn initialise(gic: &GicFeatures) {
    load_list_registers(&[0; MAX_LIST_REGISTERS], gic.list_registers);
}

/// Loads a guest's registers. ICH_HCR_EL2 is not among them: it goes with the other controls.
#[inline(always)]
pub fn load(registers: &InterruptRegisters, machine: &Machine) {
    // SAFETY: registers of the virtual CPU interface, which only guests feel; the caller has checked that the CPU has it.
    unsafe {
        msr!("S3_4_C12_C11_7", registers.ich_vmcr_el2);
        msr!("S3_4_C12_C8_0", registers.ich_ap0r_el2[0]);
        msr!("S3_4_C12_C9_0", registers.ich_ap1r_el2[0]);
    }
    if machine.switch_features.has(SwitchFeatures::MORE_PRIORITIES) {
        load_more_priorities(registers, machine.features.gic.active_priority_registers);
    }
    if registers.list_registers_in_use != 0 {
        load_list_registers(&registers.list_registers, registers.list_registers_in_use);
    }
}

/// Takes a guest's registers out.
#[inline(always)]
pub fn save(registers: &mut InterruptRegisters, machine: &Machine) {
    registers.ich_vmcr_el2 = mrs!("S3_4_C12_C11_7");
    registers.ich_ap0r_el2[0] = mrs!("S3_4_C12_C8_0");
    registers.ich_ap1r_el2[0] = mrs!("S3_4_C12_C9_0");
    if machine.switch_features.has(SwitchFeatures::MORE_PRIORITIES) {
        save_more_priorities(registers, machine.features.gic.active_priority_registers);
    }
    if registers.list_registers_in_use != 0 {
        // Empty ones are what the maintenance interrupt may be asked to tell of.
        ICH_HCR_EL2.set(0);
        take_list_registers(&mut registers.list_registers, registers.list_registers_in_use);
    }
}
