//! One virtual machine.

use crate::object::Object;
use crate::platform::CpuIndex;
use crate::registers::{VcpuContext, mpidr_of_vcpu};
use crate::traps::TrapControls;
use crate::vcpu::Vcpu;
use abi::boot::MAX_CPUS;
use abi::host::{MAX_VCPUS, VmHandle};
use abi::{Error, Ipa, Pfn};
use core::sync::atomic::{AtomicU8, Ordering};
use ownership::{GuestAccount, GuestLock, Lock, Payer, Rank};
use spin::Once;

/// Whether the guest has asked for the end of its VM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum VmPower {
    /// It runs.
    On = 0,
    /// PSCI SYSTEM_OFF.
    Off = 1,
    /// PSCI SYSTEM_RESET. What is in memory is the guest's own doing, so hyp does not start it again: the host makes
    /// another VM.
    Reset = 2,
}

/// What a VM is made of, fixed when it is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VmConfig {
    /// The VM's handle.
    pub handle: VmHandle,
    /// Memory is donated, not shared; registers are hidden from the host.
    pub protected: bool,
    /// Bits of an IPA.
    pub ipa_bits: u32,
    /// vCPUs that it may have.
    pub vcpu_limit: u64,
    /// Where vCPU 0 starts.
    pub entry: Ipa,
    /// What vCPU 0 finds in x0.
    pub argument: u64,
    /// First page of the stage 2's root.
    pub root: Pfn,
    /// Pages of the root.
    pub root_pages: u64,
    /// What CNTVCT_EL0 is behind CNTPCT_EL0, in ticks: one number for all vCPUs, so that they agree on the time.
    pub counter_offset: u64,
    /// EL2's control registers while a vCPU of it is in.
    pub traps: TrapControls,
}

// A vCPU's index and one more fit a byte.
const _: () = assert!(MAX_VCPUS < 0xff);

/// A VM, in memory that the host donated for it.
pub struct Vm {
    config: VmConfig,
    memory: GuestLock,
    power: AtomicU8,
    /// For each CPU, which vCPU it was the last to run: its index and one more, or zero. A CPU's own.
    last_vcpus: [AtomicU8; MAX_CPUS],
    vcpus: [Once<Object<Vcpu>>; MAX_VCPUS as usize],
    created: Lock<u64>,
}

impl Vm {
    /// A VM without vCPUs, over its memory.
    pub const fn new(config: VmConfig, memory: GuestLock) -> Self {
        Self {
            config,
            memory,
            power: AtomicU8::new(VmPower::On as u8),
            last_vcpus: [const { AtomicU8::new(0) }; MAX_CPUS],
            vcpus: [const { Once::new() }; MAX_VCPUS as usize],
            created: Lock::new(Rank::Vm, 0),
        }
    }

    /// What it was made of.
    pub const fn config(&self) -> &VmConfig {
        &self.config
    }

    /// Its memory.
    pub const fn memory(&self) -> &GuestLock {
        &self.memory
    }

    /// Its memory, for what is done in the name of a vCPU, which pays for tables.
    pub const fn memory_of(&self, vcpu: &Vcpu) -> GuestAccount<'_> {
        GuestAccount::new(&self.memory, Payer::Vcpu(vcpu.index()))
    }

    /// Whether it has ended.
    pub fn power(&self) -> VmPower {
        match self.power.load(Ordering::Acquire) {
            0 => VmPower::On,
            1 => VmPower::Off,
            _ => VmPower::Reset,
        }
    }

    /// Ends it. The first end counts.
    pub fn end(&self, how: VmPower) {
        let _ = self.power.compare_exchange(VmPower::On as u8, how as u8, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Notes that `cpu`, the calling one, is about to run vCPU `index`: true where the last vCPU of this VM that it ran
    /// was another.
    pub fn is_change_of_vcpu(&self, cpu: CpuIndex, index: u64) -> bool {
        let name = (index as u8).wrapping_add(1);
        let Some(place) = self.last_vcpus.get(cpu.0) else { return true };
        let last = place.load(Ordering::Relaxed);
        if last == name {
            return false;
        }
        place.store(name, Ordering::Relaxed);
        last != 0
    }

    /// vCPU `index`.
    ///
    /// # Errors
    /// [`Error::VmGone`] where there is none, or not yet.
    pub fn vcpu(&self, index: u64) -> Result<&Vcpu, Error> {
        let slot = usize::try_from(index).ok().and_then(|index| self.vcpus.get(index));
        slot.and_then(Once::get).map(|object| &**object).ok_or(Error::VmGone)
    }

    /// The vCPU with these affinity fields.
    pub fn vcpu_by_affinity(&self, affinity: u64) -> Option<&Vcpu> {
        self.vcpus
            .iter()
            .filter_map(Once::get)
            .map(|object| &**object)
            .find(|vcpu| mpidr_of_vcpu(vcpu.index()) == affinity)
    }

    /// Makes vCPU `index`, which must be the next: `make` produces the object from the registers that it starts with,
    /// or refuses. vCPU 0 is ready to run; the others are off.
    ///
    /// # Errors
    /// [`Error::Limit`] where the VM may have no more; [`Error::InvalidParameter`] where the index is not the next; and
    /// those of `make`.
    pub fn create_vcpu(
        &self,
        index: u64,
        make: impl FnOnce(VcpuContext, bool) -> Result<Object<Vcpu>, Error>,
    ) -> Result<(), Error> {
        let mut created = self.created.lock();
        if index >= self.config.vcpu_limit {
            return Err(Error::Limit);
        }
        if index != *created {
            return Err(Error::InvalidParameter);
        }
        let slot = usize::try_from(index).ok().and_then(|index| self.vcpus.get(index)).ok_or(Error::Limit)?;
        let is_first = index == 0;
        let (entry, argument) = if is_first { (self.config.entry.raw(), self.config.argument) } else { (0, 0) };
        let VmConfig { traps, counter_offset, .. } = self.config;
        let object = make(VcpuContext::reset(index, entry, argument, traps, counter_offset), is_first)?;
        slot.call_once(|| object);
        *created = index.saturating_add(1);
        Ok(())
    }

    /// The last vCPU that is left.
    pub fn last_vcpu(&self) -> Option<&Object<Vcpu>> {
        self.vcpus.iter().rev().find_map(Once::get)
    }

    /// Forgets the last vCPU that is left, whose pages are hyp's no more.
    pub fn forget_last_vcpu(&mut self) {
        if let Some(slot) = self.vcpus.iter_mut().rev().find(|slot| slot.is_completed()) {
            *slot = Once::new();
        }
    }
}
