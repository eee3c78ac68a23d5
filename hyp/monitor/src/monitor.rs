//! All that the monitor knows, shared by all CPUs.

use crate::cpu_power::BootRequest;
use crate::entropy::Entropy;
use crate::features::{CpuFeatures, IdRegisters};
use crate::platform::{CpuIndex, Platform};
use crate::psci::{HostMemory, PsciRelay};
use crate::vm_table::VmTable;
use abi::boot::{BootInfo, PsciConduit};
use abi::{Pfn, PhysAddr};
use ownership::Ownership;
use pgtable::Stage2Config;

/// What hyp decides by: the state of CPUs and VMs, and who holds each page.
pub struct Monitor {
    pub(crate) ownership: Ownership,
    pub(crate) psci: PsciRelay,
    pub(crate) vms: VmTable,
    pub(crate) features: CpuFeatures,
    pub(crate) id: IdRegisters,
    pub(crate) stage2: Stage2Config,
    pub(crate) firmware: PsciConduit,
    pub(crate) entropy: Entropy,
    /// INTID of the virtual timer's interrupt, where it is known.
    pub(crate) virtual_timer: Option<u32>,
}

impl Monitor {
    /// The monitor of a machine on which only the boot CPU, which calls this, runs. `id` are that CPU's ID registers,
    /// which every CPU is taken to have; guests see no more than they say. `stage2` is the configuration of the host's
    /// stage 2, which guests' follow but for the size of the IPA.
    pub fn new<P: Platform>(
        platform: &mut P,
        boot_info: &BootInfo,
        ownership: Ownership,
        id: IdRegisters,
        stage2: Stage2Config,
    ) -> Self {
        let features = CpuFeatures::from_id_registers(&id);
        Self {
            ownership,
            psci: PsciRelay::new(boot_info, platform),
            vms: VmTable::new(),
            entropy: Entropy::new(platform, boot_info, features.rng),
            features,
            id,
            stage2,
            firmware: boot_info.psci_conduit,
            virtual_timer: Some(boot_info.virtual_timer).filter(|intid| *intid != 0),
        }
    }

    /// Who holds each page.
    pub const fn ownership(&self) -> &Ownership {
        &self.ownership
    }

    /// The PSCI relay, to read.
    pub const fn psci(&self) -> &PsciRelay {
        &self.psci
    }

    /// The VMs, to read.
    pub const fn vms(&self) -> &VmTable {
        &self.vms
    }

    /// What the CPU can do.
    pub const fn features(&self) -> &CpuFeatures {
        &self.features
    }

    /// The calling CPU has come through hyp's entry, by the host's CPU_ON or out of a suspend: where it enters the host.
    /// `None` where the host did not ask for it; such a CPU must not enter the host.
    pub fn take_boot_request(&self, cpu: CpuIndex) -> Option<BootRequest> {
        self.psci.take_boot_request(cpu)
    }
}

impl HostMemory for Ownership {
    fn is_host_memory(&self, address: PhysAddr) -> bool {
        Ownership::is_host_memory(self, Pfn::containing(address), 1)
    }
}
