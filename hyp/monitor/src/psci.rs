//! The PSCI relay: the host's PSCI calls, checked, and passed on to the firmware with hyp's own entry point in the
//! place of the host's (Arm DEN0022).

use crate::cpu_power::{BootRequest, CpuPower, PowerState};
use crate::platform::{CpuIndex, Platform};
use abi::boot::{BootInfo, MAX_CPUS, PsciConduit};
use abi::psci::{self, MPIDR_AFFINITY_MASK};
use abi::{PhysAddr, smccc};

/// PSCI_FEATURES of CPU_SUSPEND, bit 1: power states have the extended StateID format.
const FEATURES_EXTENDED_STATE_ID: u64 = 1 << 1;
/// State type of a power state in the original format: 1 = power-down.
const POWER_DOWN_ORIGINAL: u64 = 1 << 16;
/// State type of a power state in the extended StateID format.
const POWER_DOWN_EXTENDED: u64 = 1 << 30;
/// The deepest affinity level.
const AFFINITY_LEVEL_MAX: u64 = 3;

/// A code as x0 returns it.
const fn code(value: i64) -> u64 {
    value as u64
}

/// What the firmware's answer is to an argument of the host that says where a CPU goes: may hyp enter the host there?
pub trait HostMemory {
    /// True where `address` is memory that the host owns.
    fn is_host_memory(&self, address: PhysAddr) -> bool;
}

/// The relay, shared by all CPUs.
pub struct PsciRelay {
    power: CpuPower,
    affinities: [u64; MAX_CPUS],
    cpu_count: usize,
    version: u64,
    extended_state_id: bool,
}

impl PsciRelay {
    /// The relay over the firmware that `boot_info` describes, as the boot CPU sets it up.
    pub fn new<P: Platform>(boot_info: &BootInfo, platform: &mut P) -> Self {
        let mut affinities = [0; MAX_CPUS];
        for (slot, affinity) in affinities.iter_mut().zip(boot_info.cpus()) {
            *slot = affinity & MPIDR_AFFINITY_MASK;
        }
        let version = match boot_info.psci_conduit {
            PsciConduit::None => 0,
            PsciConduit::Smc => u64::from(boot_info.psci_version).min(psci::VERSION_1_1),
        };
        let mut relay = Self {
            power: CpuPower::new(platform.cpu()),
            affinities,
            cpu_count: boot_info.cpus().len(),
            version,
            extended_state_id: false,
        };
        if relay.is_present() && version >= VERSION_1_0 {
            let [features, ..] = platform.firmware_call(psci::PSCI_FEATURES, [u64::from(psci::CPU_SUSPEND_64), 0, 0]);
            relay.extended_state_id = is_success_value(features) && features & FEATURES_EXTENDED_STATE_ID != 0;
        }
        relay
    }

    /// Whether the firmware has PSCI at all.
    fn is_present(&self) -> bool {
        self.version != 0
    }

    /// The calling CPU has come through hyp's entry: where it enters the host. `None` where the host did not ask for
    /// it; such a CPU must not enter the host.
    pub fn take_boot_request(&self, cpu: CpuIndex) -> Option<BootRequest> {
        self.power.take_boot_request(cpu)
    }

    /// How far a CPU is.
    pub fn power_state(&self, cpu: CpuIndex) -> PowerState {
        self.power.state(cpu)
    }

    /// Answers `function` if it is a PSCI function; `None` if it is not. `arguments` are x1 to x3; the result is x0.
    pub fn call<P: Platform>(
        &self,
        platform: &mut P,
        memory: &impl HostMemory,
        function: u32,
        arguments: [u64; 3],
    ) -> Option<u64> {
        let function = Function::decode(function)?;
        if !self.is_present() {
            return Some(code(psci::NOT_SUPPORTED));
        }
        let arguments = if smccc::is_64_bit(function.id) { arguments } else { arguments.map(|x| x & 0xffff_ffff) };
        let [first, second, third] = arguments;
        Some(match function.kind {
            Kind::Version => self.version,
            Kind::Features => self.features(platform, first),
            Kind::CpuOn => self.cpu_on(platform, memory, first, BootRequest { entry: second, context: third }),
            Kind::CpuOff => self.cpu_off(platform),
            Kind::CpuSuspend => {
                self.cpu_suspend(platform, memory, first, BootRequest { entry: second, context: third })
            }
            Kind::SystemSuspend => self.system_suspend(platform, memory, BootRequest { entry: first, context: second }),
            Kind::AffinityInfo => self.affinity_info(platform, function.id, first, second),
            Kind::PassedOn => {
                let [result, ..] = platform.firmware_call(function.id, arguments);
                result
            }
        })
    }

    /// PSCI_FEATURES (section 5.15): the firmware's answer for what the relay knows.
    fn features<P: Platform>(&self, platform: &mut P, asked: u64) -> u64 {
        let Ok(asked) = u32::try_from(asked) else {
            return code(psci::NOT_SUPPORTED);
        };
        if self.version < VERSION_1_0 {
            return code(psci::NOT_SUPPORTED);
        }
        if asked == smccc::VERSION {
            return code(psci::SUCCESS);
        }
        if Function::decode(asked).is_none() {
            return code(psci::NOT_SUPPORTED);
        }
        let [result, ..] = platform.firmware_call(psci::PSCI_FEATURES, [u64::from(asked), 0, 0]);
        result
    }

    /// CPU_ON (section 5.4).
    fn cpu_on<P: Platform>(
        &self,
        platform: &mut P,
        memory: &impl HostMemory,
        target: u64,
        request: BootRequest,
    ) -> u64 {
        let Some(cpu) = self.cpu_of(target) else {
            return code(psci::INVALID_PARAMETERS);
        };
        if !is_entry(memory, request.entry) {
            return code(psci::INVALID_ADDRESS);
        }
        match self.power.begin_on(cpu, request) {
            Ok(()) => {}
            Err(PowerState::Claimed | PowerState::OnPending) => return code(psci::ON_PENDING),
            Err(_) => return code(psci::ALREADY_ON),
        }
        let (entry, context) = platform.firmware_entry(cpu);
        let [result, ..] = platform.firmware_call(psci::CPU_ON_64, [target, entry.raw(), context]);
        if result != code(psci::SUCCESS) {
            self.power.cancel_on(cpu);
        }
        result
    }

    /// CPU_OFF (section 5.5), which returns only where the firmware denies it.
    fn cpu_off<P: Platform>(&self, platform: &mut P) -> u64 {
        let cpu = platform.cpu();
        self.power.begin_off(cpu);
        let [result, ..] = platform.firmware_call(psci::CPU_OFF, [0; 3]);
        self.power.cancel_off(cpu);
        result
    }

    /// CPU_SUSPEND (section 5.3): a standby state keeps everything and returns here; from a power-down state the CPU
    /// may come back through hyp's entry.
    fn cpu_suspend<P: Platform>(
        &self,
        platform: &mut P,
        memory: &impl HostMemory,
        power_state: u64,
        request: BootRequest,
    ) -> u64 {
        let power_down = if self.extended_state_id { POWER_DOWN_EXTENDED } else { POWER_DOWN_ORIGINAL };
        if power_state & power_down == 0 {
            let [result, ..] = platform.firmware_call(psci::CPU_SUSPEND_64, [power_state, 0, 0]);
            return result;
        }
        self.suspend(platform, memory, request, |platform, entry, context| {
            platform.firmware_call(psci::CPU_SUSPEND_64, [power_state, entry, context])
        })
    }

    /// SYSTEM_SUSPEND (section 5.19).
    fn system_suspend<P: Platform>(&self, platform: &mut P, memory: &impl HostMemory, request: BootRequest) -> u64 {
        self.suspend(platform, memory, request, |platform, entry, context| {
            platform.firmware_call(psci::SYSTEM_SUSPEND_64, [entry, context, 0])
        })
    }

    /// Leaves the request for the way back, and calls the firmware with hyp's entry.
    fn suspend<P: Platform>(
        &self,
        platform: &mut P,
        memory: &impl HostMemory,
        request: BootRequest,
        firmware: impl FnOnce(&mut P, u64, u64) -> [u64; 4],
    ) -> u64 {
        if !is_entry(memory, request.entry) {
            return code(psci::INVALID_ADDRESS);
        }
        let cpu = platform.cpu();
        let (entry, context) = platform.firmware_entry(cpu);
        self.power.begin_suspend(cpu, request);
        let [result, ..] = firmware(platform, entry.raw(), context);
        self.power.cancel_suspend(cpu);
        result
    }

    /// AFFINITY_INFO (section 5.7). A CPU that the host has turned on is pending until it is in hyp, whatever the
    /// firmware thinks; for the rest the firmware knows best, since a CPU is not off before the firmware says so.
    fn affinity_info<P: Platform>(&self, platform: &mut P, function: u32, target: u64, lowest_level: u64) -> u64 {
        if lowest_level > AFFINITY_LEVEL_MAX {
            return code(psci::INVALID_PARAMETERS);
        }
        if lowest_level == 0 {
            let Some(cpu) = self.cpu_of(target) else {
                return code(psci::INVALID_PARAMETERS);
            };
            if matches!(self.power.state(cpu), PowerState::Claimed | PowerState::OnPending) {
                return code(psci::AFFINITY_ON_PENDING);
            }
        }
        let [result, ..] = platform.firmware_call(function, [target, lowest_level, 0]);
        result
    }

    /// The CPU that an argument names; bits outside the affinity fields name none.
    fn cpu_of(&self, target: u64) -> Option<CpuIndex> {
        self.affinities.iter().take(self.cpu_count).position(|&affinity| affinity == target).map(CpuIndex)
    }
}

/// PSCI 1.0, the first with PSCI_FEATURES.
const VERSION_1_0: u64 = 0x1_0000;

/// True where a result in x0 is no error.
const fn is_success_value(result: u64) -> bool {
    (result as i32) >= 0
}

/// True where the host may be entered at `entry`: an instruction's address, in memory that is the host's.
fn is_entry(memory: &impl HostMemory, entry: u64) -> bool {
    let address = PhysAddr::new(entry);
    address.is_aligned(4) && memory.is_host_memory(address)
}

/// A PSCI function that the relay knows.
struct Function {
    id: u32,
    kind: Kind,
}

/// How the relay answers a function.
enum Kind {
    Version,
    Features,
    CpuOn,
    CpuOff,
    CpuSuspend,
    SystemSuspend,
    AffinityInfo,
    /// Holds no address, and concerns nothing of hyp: the firmware decides.
    PassedOn,
}

impl Function {
    /// The function of an identifier, or `None` where it is not relayed.
    const fn decode(id: u32) -> Option<Self> {
        let kind = match id {
            psci::PSCI_VERSION => Kind::Version,
            psci::PSCI_FEATURES => Kind::Features,
            psci::CPU_ON_32 | psci::CPU_ON_64 => Kind::CpuOn,
            psci::CPU_OFF => Kind::CpuOff,
            psci::CPU_SUSPEND_32 | psci::CPU_SUSPEND_64 => Kind::CpuSuspend,
            psci::SYSTEM_SUSPEND_32 | psci::SYSTEM_SUSPEND_64 => Kind::SystemSuspend,
            psci::AFFINITY_INFO_32 | psci::AFFINITY_INFO_64 => Kind::AffinityInfo,
            psci::MIGRATE_32
            | psci::MIGRATE_64
            | psci::MIGRATE_INFO_TYPE
            | psci::MIGRATE_INFO_UP_CPU_32
            | psci::MIGRATE_INFO_UP_CPU_64
            | psci::SYSTEM_OFF
            | psci::SYSTEM_RESET
            | psci::SYSTEM_RESET2_32
            | psci::SYSTEM_RESET2_64 => Kind::PassedOn,
            _ => return None,
        };
        Some(Self { id, kind })
    }
}
