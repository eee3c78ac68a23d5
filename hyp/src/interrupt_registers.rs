//! The virtual CPU interface of a guest: its registers in and out (Arm IHI 0069, section 12.4).
//!
//! While the host runs, ICH_HCR_EL2.En is 0 and what they hold has no effect.

use crate::system_register::{mrs, msr};
use abi::run::MAX_LIST_REGISTERS;
use monitor::features::GicFeatures;
use monitor::interrupt::InterruptRegisters;

/// Functions that load and save the first registers of a row of them, by an instruction each, since the number is in the
/// instruction.
macro_rules! numbered {
    ($load:ident, $save:ident, $values:ty, $is_used:expr; $($number:literal = $name:literal,)*) => {
        fn $load(values: &$values, count: usize) {
            $(
                if count <= $number {
                    return;
                }
                // SAFETY: a register of the virtual CPU interface, which only guests feel, and which the CPU has.
                unsafe { msr!($name, values[$number]) };
            )*
        }

        fn $save(values: &mut $values, count: usize) {
            $(
                if count <= $number {
                    return;
                }
                if $is_used(values[$number]) {
                    values[$number] = mrs!($name);
                }
            )*
        }
    };
}

numbered! {
    load_list_registers, save_list_registers, [u64; MAX_LIST_REGISTERS], |value| value != 0;
    0 = "S3_4_C12_C12_0", 1 = "S3_4_C12_C12_1", 2 = "S3_4_C12_C12_2", 3 = "S3_4_C12_C12_3",
    4 = "S3_4_C12_C12_4", 5 = "S3_4_C12_C12_5", 6 = "S3_4_C12_C12_6", 7 = "S3_4_C12_C12_7",
    8 = "S3_4_C12_C13_0", 9 = "S3_4_C12_C13_1", 10 = "S3_4_C12_C13_2", 11 = "S3_4_C12_C13_3",
    12 = "S3_4_C12_C13_4", 13 = "S3_4_C12_C13_5", 14 = "S3_4_C12_C13_6", 15 = "S3_4_C12_C13_7",
}

numbered! {
    load_group0, save_group0, [u64; 4], |_| true;
    0 = "S3_4_C12_C8_0", 1 = "S3_4_C12_C8_1", 2 = "S3_4_C12_C8_2", 3 = "S3_4_C12_C8_3",
}

numbered! {
    load_group1, save_group1, [u64; 4], |_| true;
    0 = "S3_4_C12_C9_0", 1 = "S3_4_C12_C9_1", 2 = "S3_4_C12_C9_2", 3 = "S3_4_C12_C9_3",
}

/// Loads a guest's registers. ICH_HCR_EL2 is not among them: it goes with the other controls, before the guest is entered.
pub fn load(registers: &InterruptRegisters, gic: &GicFeatures) {
    // SAFETY: a register of the virtual CPU interface, which only guests feel; the caller has checked that the CPU has it.
    unsafe { msr!("S3_4_C12_C11_7", registers.ich_vmcr_el2) };
    load_group0(&registers.ich_ap0r_el2, gic.active_priority_registers);
    load_group1(&registers.ich_ap1r_el2, gic.active_priority_registers);
    load_list_registers(&registers.list_registers, gic.list_registers);
}

/// Takes a guest's registers out. A list register that was empty is so still, since only software fills one: it is not read.
pub fn save(registers: &mut InterruptRegisters, gic: &GicFeatures) {
    registers.ich_vmcr_el2 = mrs!("S3_4_C12_C11_7");
    save_group0(&mut registers.ich_ap0r_el2, gic.active_priority_registers);
    save_group1(&mut registers.ich_ap1r_el2, gic.active_priority_registers);
    save_list_registers(&mut registers.list_registers, gic.list_registers);
}
