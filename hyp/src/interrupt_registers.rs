//! The virtual CPU interface of a guest: its registers in and out (Arm IHI 0069, section 12.4).
//!
//! While the host runs, ICH_HCR_EL2.En is 0 and what they hold has no effect.

use crate::system_register::{mrs, msr};
use monitor::features::GicFeatures;
use monitor::interrupt::InterruptRegisters;

/// One system register for each number, by an instruction each, since the number is in the instruction.
macro_rules! numbered {
    ($load:ident, $save:ident: $($number:literal = $name:literal,)*) => {
        fn $load(number: usize, value: u64) {
            match number {
                // SAFETY: registers of the virtual CPU interface, which only guests feel; the CPU has them, or the number is
                // not used.
                $($number => unsafe { msr!($name, value) },)*
                _ => {}
            }
        }

        fn $save(number: usize) -> u64 {
            match number {
                $($number => mrs!($name),)*
                _ => 0,
            }
        }
    };
}

numbered! {
    load_list_register, save_list_register:
    0 = "S3_4_C12_C12_0", 1 = "S3_4_C12_C12_1", 2 = "S3_4_C12_C12_2", 3 = "S3_4_C12_C12_3",
    4 = "S3_4_C12_C12_4", 5 = "S3_4_C12_C12_5", 6 = "S3_4_C12_C12_6", 7 = "S3_4_C12_C12_7",
    8 = "S3_4_C12_C13_0", 9 = "S3_4_C12_C13_1", 10 = "S3_4_C12_C13_2", 11 = "S3_4_C12_C13_3",
    12 = "S3_4_C12_C13_4", 13 = "S3_4_C12_C13_5", 14 = "S3_4_C12_C13_6", 15 = "S3_4_C12_C13_7",
}

numbered! {
    load_group0, save_group0:
    0 = "S3_4_C12_C8_0", 1 = "S3_4_C12_C8_1", 2 = "S3_4_C12_C8_2", 3 = "S3_4_C12_C8_3",
}

numbered! {
    load_group1, save_group1:
    0 = "S3_4_C12_C9_0", 1 = "S3_4_C12_C9_1", 2 = "S3_4_C12_C9_2", 3 = "S3_4_C12_C9_3",
}

/// Loads a guest's registers. ICH_HCR_EL2 is not among them: it goes with the other controls, before the guest is entered.
pub fn load(registers: &InterruptRegisters, gic: &GicFeatures) {
    // SAFETY: a register of the virtual CPU interface, which only guests feel; the caller has checked that the CPU has it.
    unsafe { msr!("S3_4_C12_C11_7", registers.ich_vmcr_el2) };
    for (number, value) in registers.ich_ap0r_el2.iter().enumerate().take(gic.active_priority_registers) {
        load_group0(number, *value);
    }
    for (number, value) in registers.ich_ap1r_el2.iter().enumerate().take(gic.active_priority_registers) {
        load_group1(number, *value);
    }
    for (number, value) in registers.list_registers.iter().enumerate().take(gic.list_registers) {
        load_list_register(number, *value);
    }
}

/// Takes a guest's registers out. A list register that was empty is so still: only software fills one.
pub fn save(registers: &mut InterruptRegisters, gic: &GicFeatures) {
    registers.ich_vmcr_el2 = mrs!("S3_4_C12_C11_7");
    for (number, value) in registers.ich_ap0r_el2.iter_mut().enumerate().take(gic.active_priority_registers) {
        *value = save_group0(number);
    }
    for (number, value) in registers.ich_ap1r_el2.iter_mut().enumerate().take(gic.active_priority_registers) {
        *value = save_group1(number);
    }
    for (number, value) in registers.list_registers.iter_mut().enumerate().take(gic.list_registers) {
        if *value != 0 {
            *value = save_list_register(number);
        }
    }
}
