//! Faults of EL2 itself: say all there is to say, and stop the machine. No such fault is resumed.

use crate::{console, cpu_data, firmware, layout};
use aarch64_cpu::registers::{ESR_EL2, FAR_EL2, HPFAR_EL2, Readable};
use core::fmt;
use core::sync::atomic::Ordering;
use monitor::registers::HostRegisters;
use monitor::syndrome::Syndrome;

unsafe extern "C" {
    /// In `entry.S`: the first byte of the image.
    static hyp_entry: u8;
}

/// Where the vector table was entered, by its offset in steps of 0x80 (Arm ARM D1.4.1).
const VECTOR_NAMES: [&str; 8] =
    ["synchronous, SP_EL0", "IRQ, SP_EL0", "FIQ, SP_EL0", "SError, SP_EL0", "synchronous", "IRQ", "FIQ", "SError"];

/// From the vectors: an exception that EL2 took from EL2. `stack_pointer` is SP_EL2 as it was.
pub extern "C" fn el2_fault(frame: &HostRegisters, stack_pointer: u64, kind: u64) -> ! {
    begin_report();
    let esr = ESR_EL2.get();
    let far = FAR_EL2.get();
    let vector = usize::try_from(kind).ok().and_then(|kind| VECTOR_NAMES.get(kind)).copied().unwrap_or("unknown");
    let heading = if in_stack_guard(far) { "stack overflow" } else { "EL2 fault" };

    let cpu = cpu_data::index();
    console::write_regardless(format_args!("\nhyp[{cpu}]: {heading} ({vector})\n"));
    console::write_regardless(format_args!("  ESR_EL2  {esr:#018x}  {}\n", Syndrome(esr)));
    console::write_regardless(format_args!("  FAR_EL2  {far:#018x}  HPFAR_EL2 {:#018x}\n", HPFAR_EL2.get()));
    console::write_regardless(format_args!(
        "  ELR_EL2  {:#018x}  image + {:#x}\n  SPSR_EL2 {:#018x}  SP {stack_pointer:#018x}\n",
        frame.elr,
        frame.elr.wrapping_sub((&raw const hyp_entry) as u64),
        frame.spsr
    ));
    for (row, values) in frame.x.chunks(4).enumerate() {
        for (column, value) in values.iter().enumerate() {
            console::write_regardless(format_args!("  x{:<2} {value:016x}", row.wrapping_mul(4).wrapping_add(column)));
        }
        console::write_regardless(format_args!("\n"));
    }
    end()
}

/// Marks this CPU as reporting its end. A second fault meanwhile stops it silently: the report itself is what fails.
fn begin_report() {
    if cpu_data::try_current().is_some_and(|data| data.faulting.swap(true, Ordering::Relaxed)) {
        firmware::halt();
    }
}

/// True where a fault address lies in a guard page of this CPU's private range.
fn in_stack_guard(far: u64) -> bool {
    match far.checked_sub(cpu_data::private_base()) {
        Some(offset) => offset < layout::STACK_BOTTOM,
        None => false,
    }
}

/// Says why hyp cannot go on, and ends it.
pub fn stop(why: fmt::Arguments<'_>) -> ! {
    console::write_regardless(format_args!("hyp[{}]: {why}\n", cpu_data::index()));
    end()
}

/// The end of hyp: the machine is powered off, since nothing that it protects may run on without it.
fn end() -> ! {
    console::write_regardless(format_args!("hyp[{}]: stopped\n", cpu_data::index()));
    firmware::power_off()
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    begin_report();
    console::write_regardless(format_args!("\nhyp[{}]: panic: {info}\n", cpu_data::index()));
    end()
}
