//! What the device tree says about the machine.

use abi::Ipa;
use core::ops::Range;
use core::sync::atomic::{AtomicU8, Ordering};
use fdt::Fdt;

/// Which instruction makes an SMCCC call (Arm DEN0028, section 2.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Conduit {
    /// There is nothing to call.
    None = 0,
    /// HVC.
    Hvc = 1,
    /// SMC.
    Smc = 2,
}

/// INTID of the first shared peripheral interrupt.
const FIRST_SHARED_INTERRUPT: u32 = 32;

/// The conduit for code that has no [`Platform`] at hand.
static CONDUIT: AtomicU8 = AtomicU8::new(Conduit::None as u8);

/// Remembers the conduit.
pub fn set_conduit(conduit: Conduit) {
    CONDUIT.store(conduit as u8, Ordering::Relaxed);
}

/// The conduit that was last remembered.
pub fn conduit() -> Conduit {
    match CONDUIT.load(Ordering::Relaxed) {
        1 => Conduit::Hvc,
        2 => Conduit::Smc,
        _ => Conduit::None,
    }
}

/// Where a GICv3's registers are, in bytes.
#[derive(Clone, Debug)]
pub struct GicRegions {
    /// The distributor.
    pub distributor: Range<u64>,
    /// The redistributors of all CPUs.
    pub redistributors: Range<u64>,
}

/// The machine, as far as payloads care.
#[derive(Clone, Debug)]
pub struct Platform {
    /// RAM: the first bank.
    pub memory: Range<u64>,
    /// The device tree itself, in bytes.
    pub device_tree: Range<u64>,
    /// The PL011.
    pub uart: Option<Ipa>,
    /// INTID of the PL011's interrupt.
    pub uart_interrupt: Option<u32>,
    /// The PL031, a clock.
    pub clock: Option<Ipa>,
    /// INTID of the PL031's interrupt.
    pub clock_interrupt: Option<u32>,
    /// The GICv3.
    pub gic: Option<GicRegions>,
    /// How to call PSCI, and whoever else answers.
    pub conduit: Conduit,
    /// How many CPUs there are.
    pub cpus: usize,
    /// `/chosen/bootargs`.
    pub bootargs: &'static str,
    /// `/chosen/kaslr-seed`; empty where there is none.
    pub kaslr_seed: &'static [u8],
    /// `/chosen/rng-seed`; empty where there is none.
    pub rng_seed: &'static [u8],
}

impl Platform {
    /// Reads the device tree at `address`.
    ///
    /// # Panics
    /// Where there is none, or it describes no memory: a payload without those can do nothing else.
    pub fn read(address: u64) -> Self {
        // SAFETY: By the boot protocol x0 holds the address of a device tree that stays where it is; whoever started
        // the payload is trusted to have kept to it. Nothing writes to it.
        let tree = match unsafe { Fdt::from_ptr(address as *const u8) } {
            Ok(tree) => tree,
            Err(error) => panic!("the device tree is unusable: {error:?}"),
        };
        let Some(bank) = tree.memory().regions().next() else { panic!("the device tree describes no memory") };
        let start = bank.starting_address as u64;
        let method =
            tree.find_node("/psci").and_then(|node| node.property("method")).and_then(|method| method.as_str());
        let uart = tree.find_compatible(&["arm,pl011"]);
        let clock = tree.find_compatible(&["arm,pl031"]);
        let gic = tree.find_compatible(&["arm,gic-v3"]).and_then(|node| {
            let mut regions = node.reg()?.map(|region| {
                let start = region.starting_address as u64;
                start..start + region.size.unwrap_or(0) as u64
            });
            Some(GicRegions { distributor: regions.next()?, redistributors: regions.next()? })
        });
        let seed = |name| tree.find_node("/chosen").and_then(|node| node.property(name)).map_or(&[][..], |it| it.value);
        Self {
            memory: start..start + bank.size.unwrap_or(0) as u64,
            device_tree: address..address + tree.total_size() as u64,
            uart: uart.and_then(|node| node.reg()?.next()).map(|registers| Ipa::new(registers.starting_address as u64)),
            clock: clock
                .and_then(|node| node.reg()?.next())
                .map(|registers| Ipa::new(registers.starting_address as u64)),
            clock_interrupt: clock.and_then(|node| shared_interrupt(node.property("interrupts")?.value)),
            uart_interrupt: uart.and_then(|node| shared_interrupt(node.property("interrupts")?.value)),
            gic,
            conduit: match method {
                Some("hvc") => Conduit::Hvc,
                Some("smc") => Conduit::Smc,
                _ => Conduit::None,
            },
            cpus: tree.cpus().count(),
            bootargs: tree.chosen().bootargs().unwrap_or(""),
            kaslr_seed: seed("kaslr-seed"),
            rng_seed: seed("rng-seed"),
        }
    }

    /// The number of the boot argument `name=0x…`.
    pub fn hexadecimal_argument(&self, name: &str) -> Option<u64> {
        self.bootargs.split_ascii_whitespace().find_map(|argument| {
            let (key, value) = argument.split_once('=')?;
            let digits = value.strip_prefix("0x").filter(|_| key == name)?;
            u64::from_str_radix(digits, 16).ok()
        })
    }
}

/// INTID of the first interrupt of an `interrupts` property, if it is shared: cells 0, number, flags (Linux, device
/// tree binding of arm,gic-v3).
fn shared_interrupt(cells: &[u8]) -> Option<u32> {
    let cell = |index: usize| Some(u32::from_be_bytes(*cells.get(index * 4..)?.first_chunk()?));
    let shared = cell(0)? == 0;
    cell(1).filter(|_| shared).map(|number| number + FIRST_SHARED_INTERRUPT)
}
