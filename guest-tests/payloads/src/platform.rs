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

/// The machine, as far as payloads care.
#[derive(Clone, Debug)]
pub struct Platform {
    /// RAM: the first bank.
    pub memory: Range<u64>,
    /// The device tree itself, in bytes.
    pub device_tree: Range<u64>,
    /// The PL011.
    pub uart: Option<Ipa>,
    /// How to call PSCI, and whoever else answers.
    pub conduit: Conduit,
    /// How many CPUs there are.
    pub cpus: usize,
    /// `/chosen/bootargs`.
    pub bootargs: &'static str,
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
        Self {
            memory: start..start + bank.size.unwrap_or(0) as u64,
            device_tree: address..address + tree.total_size() as u64,
            uart: tree
                .find_compatible(&["arm,pl011"])
                .and_then(|node| node.reg()?.next())
                .map(|registers| Ipa::new(registers.starting_address as u64)),
            conduit: match method {
                Some("hvc") => Conduit::Hvc,
                Some("smc") => Conduit::Smc,
                _ => Conduit::None,
            },
            cpus: tree.cpus().count(),
            bootargs: tree.chosen().bootargs().unwrap_or(""),
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
