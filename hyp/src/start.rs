//! The boot of each CPU, once it runs in hyp's address space.

use crate::environment::{El2Environment, POOL};
use crate::machine::{self, Machine};
use crate::tables::{self, EarlyResult};
use crate::{cache, console, cpu_data, fault, firmware, fixmap, ghost, host, id_registers, self_test};
use aarch64_cpu::registers::{CNTFRQ_EL0, CNTPCT_EL0, Readable};
use abi::PhysRange;
use abi::boot::{BootInfo, SelfTest};
use core::fmt;
use monitor::Monitor;
use monitor::cpu_power::BootRequest;
use monitor::features::{CpuFeatures, IdRegisters};
use monitor::platform::CpuIndex;
use monitor::switch_features::SwitchFeatures;
use monitor::traps::{Translation, TrapControls};
use ownership::Ownership;
use pgtable::Stage2;

/// The VMID of the host.
const HOST_VMID: u16 = 0;

/// From `entry.S`: the boot CPU, on its own stack.
pub extern "C" fn boot_cpu_main(boot: &'static BootInfo) -> ! {
    // SAFETY: this is the boot CPU, and no other was started.
    let Some(early) = (unsafe { tables::take_early_result() }) else { firmware::halt() };
    // SAFETY: the early stage mapped the console's registers for good, and this is EL2's only user of them.
    unsafe { console::initialise(early.uart, console::level_filter(boot.log_level)) };
    let id = id_registers::read();
    let features = CpuFeatures::from_id_registers(&id);
    introduce(boot, &features);
    ghost::start(boot);
    let machine = take_machine(boot, early, id, features);
    if let Some(test) = SelfTest::from_number(boot.self_test) {
        self_test::commit(test, boot);
    }
    log::info!("entering the host at EL1, {}, device tree {}", boot.host_entry, boot.host_device_tree);
    let ticks = CNTPCT_EL0.get().wrapping_sub(boot.counter_at_entry);
    log::info!("boot took {ticks} counter ticks at {} Hz", CNTFRQ_EL0.get());
    host::start(machine, BootRequest { entry: boot.host_entry.raw(), context: boot.host_device_tree.raw() })
}

/// From `entry.S`: a CPU that the host turned on, or that comes back from a suspend.
pub extern "C" fn secondary_cpu_main(cpu: u64) -> ! {
    let Some(machine) = machine::get() else { firmware::halt() };
    if CpuFeatures::from_id_registers(&id_registers::read()) != machine.features {
        // A register that is there and never written, or written and not there: neither is safe.
        log::error!("CPU {cpu} has other features than the boot CPU: it stays off");
        firmware::halt();
    }
    match machine.monitor.take_boot_request(CpuIndex(cpu_data::index())) {
        Some(request) => {
            log::debug!("entering the host at EL1, {:#x}", request.entry);
            host::start(machine, request)
        }
        None => {
            log::error!("CPU {cpu} came without a request");
            firmware::halt()
        }
    }
}

/// Says what hyp runs on.
fn introduce(boot: &BootInfo, features: &CpuFeatures) {
    log::info!("Freehold {} at EL2, {} CPUs", env!("CARGO_PKG_VERSION"), boot.cpu_count);
    log::info!(
        "features: PA {} bits, VMID {} bits{}{}{}{}{}{}{}{}",
        features.pa_bits,
        if features.vmid16 { 16 } else { 8 },
        named(features.fwb, "S2FWB"),
        named(features.xnx, "XNX"),
        named(features.tlbirange, "TLBIRANGE"),
        named(features.pauth, "PAuth"),
        named(features.mte2, "MTE"),
        named(features.sve, "SVE"),
        named(features.sme, "SME"),
        named(features.fgt, "FGT"),
    );
}

/// A feature's name with its separator, or nothing.
fn named(present: bool, name: &'static str) -> Present {
    Present(present.then_some(name))
}

/// What [`named`] prints.
struct Present(Option<&'static str>);

impl fmt::Display for Present {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(name) => write!(f, ", {name}"),
            None => Ok(()),
        }
    }
}

/// Takes the whole machine's memory over and sets up what all CPUs share.
fn take_machine(
    boot: &'static BootInfo,
    early: EarlyResult,
    id: IdRegisters,
    features: CpuFeatures,
) -> &'static Machine {
    let Some(plan) = tables::carve_out(boot) else { fault::stop(format_args!("the carve-out does not add up")) };
    let carve_out = plan.range();
    machine::set_pool(early.pool);
    if let Err(error) = fixmap::find_slots(&early.stage1, boot.cpus().len()) {
        fault::stop(format_args!("fixmap: {error}"));
    }
    // SAFETY: the ledger's part of the carve-out is mapped, and nothing uses it yet.
    unsafe { cache::zero(plan.ledger) };
    // SAFETY: it is mapped for good, zeroed, aligned to a page, and nothing else refers to it.
    let storage = unsafe {
        core::slice::from_raw_parts_mut(plan.ledger.start.raw() as *mut u64, (plan.ledger.size() / 8) as usize)
    };
    let stage2 = match Stage2::new(early.host_root, early.host_config, HOST_VMID) {
        Ok(stage2) => stage2,
        Err(error) => fault::stop(format_args!("host stage 2: {error}")),
    };
    let host_translation = Translation { vtcr_el2: stage2.vtcr_el2(), vttbr_el2: stage2.vttbr_el2() };
    let mut environment = El2Environment;
    let ownership = match Ownership::new(&mut environment, boot.memory(), storage, carve_out, stage2, early.stage1) {
        Ok(ownership) => ownership,
        Err(error) => fault::stop(format_args!("taking over the memory: {error}")),
    };
    let ram: u64 = boot.memory().iter().map(PhysRange::size).sum();
    log::info!(
        "memory: {} MiB of RAM, of which hyp holds {} KiB at {}; every other page is the host's",
        ram >> 20,
        carve_out.size() >> 10,
        carve_out
    );
    log::debug!(
        "carve-out: image {}, per-CPU {}, ledger {}, pool {} ({} pages free)",
        plan.image,
        plan.per_cpu,
        plan.ledger,
        plan.pool,
        POOL.lock().as_ref().map_or(0, |pool| pool.free_frames())
    );
    let monitor = Monitor::new(&mut environment, boot, ownership, id, early.host_config);
    // The identity in it is the boot CPU's; each CPU loads its own.
    let host_controls = TrapControls::host(&features, id.midr_el1, id.mpidr_el1, host_translation);
    let switch_features = SwitchFeatures::new(&features);
    machine::set(Machine { features, switch_features, host_controls, monitor })
}
