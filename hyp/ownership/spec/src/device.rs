//! Pages of devices: whose they are, and how they change hands. A device is never memory, nor memory a device.

use crate::guest::Vm;
use crate::host_guest::frame_of;
use crate::page::Owner;
use crate::state::{Next, Specification};
use abi::{Error, Gfn, Pfn};
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

/// Whose a page of a device is. Nobody else uses it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Device {
    /// Who has it.
    pub owner: Owner,
    /// Where the owning guest has it; `None` for other owners.
    pub at: Option<Gfn>,
}

impl Device {
    /// The state in which a device starts.
    pub const HOSTS: Self = Self { owner: Owner::Host, at: None };

    /// The guest that has it, and where.
    pub fn frame(&self) -> Option<(Vm, Gfn)> {
        match (self.owner, self.at) {
            (Owner::Guest(vm), Some(gfn)) => Some((vm, gfn)),
            _ => None,
        }
    }
}

impl Specification {
    /// A page of a device; `None` where there is RAM, or nothing that can be named.
    pub fn device(&self, pfn: Pfn) -> Option<Device> {
        let exists = !self.machine.is_ram(pfn) && pfn.raw() < self.machine.pfn_limit;
        exists.then(|| self.devices.get(&pfn).copied().unwrap_or(Device::HOSTS))
    }

    /// The pages of devices that are not the host's.
    pub fn changed_devices(&self) -> impl Iterator<Item = (Pfn, Device)> {
        self.devices.iter().map(|(pfn, device)| (*pfn, *device))
    }

    /// Says whose a page of a device is: for building the state that an implementation is in.
    pub fn set_device(&mut self, pfn: Pfn, device: Device) {
        if device == Device::HOSTS {
            self.devices.remove(&pfn);
        } else {
            self.devices.insert(pfn, device);
        }
    }

    /// The host gives pages of devices to a guest of either kind, at frames that are vacant.
    pub fn host_grant_device(&self, vm: Vm, first: Pfn, gfn: Gfn, count: u64) -> Next {
        let numbers = self.devices_in(first, count)?;
        self.frames(vm, gfn, count)?;
        self.living(vm)?;
        let next = self.with_devices(numbers, Owner::Host, |pfn| Device {
            owner: Owner::Guest(vm),
            at: Some(frame_of(pfn, first, gfn)),
        })?;
        self.vacant(vm, gfn, count)?;
        Ok(next)
    }

    /// The host takes pages of devices back from a dying guest.
    pub fn reclaim_device(&self, vm: Vm, first: Pfn, count: u64) -> Next {
        let numbers = self.devices_in(first, count)?;
        self.dying(vm)?;
        self.with_devices(numbers, Owner::Guest(vm), |_| Device::HOSTS)
    }

    /// The host gives pages of devices to hyp.
    pub fn host_donate_device_hyp(&self, first: Pfn, count: u64) -> Next {
        let hyps = Device { owner: Owner::Hyp, at: None };
        self.with_devices(self.devices_in(first, count)?, Owner::Host, |_| hyps)
    }

    /// Hyp gives pages of devices to the host.
    pub fn hyp_donate_device_host(&self, first: Pfn, count: u64) -> Next {
        self.with_devices(self.devices_in(first, count)?, Owner::Hyp, |_| Device::HOSTS)
    }

    /// A range of pages without RAM.
    fn devices_in(&self, first: Pfn, count: u64) -> Result<Range<u64>, Error> {
        let numbers = self.existing(first, count)?;
        let any_ram = numbers.clone().any(|number| self.machine.is_ram(Pfn::new(number)));
        if any_ram { Err(Error::BadRange) } else { Ok(numbers) }
    }

    /// The state in which each page of a range, all of which are `owner`'s, is what `change` says.
    fn with_devices(&self, numbers: Range<u64>, owner: Owner, change: impl Fn(Pfn) -> Device) -> Next {
        let pages: Vec<_> = numbers.map(Pfn::new).collect();
        let its = |pfn: &Pfn| self.device(*pfn).is_some_and(|device| device.owner == owner);
        if !pages.iter().all(its) {
            return Err(Error::NotYours);
        }
        let mut next = self.clone();
        for pfn in pages {
            next.set_device(pfn, change(pfn));
        }
        Ok(next)
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "owner {}", self.owner)?;
        match self.at {
            Some(gfn) => write!(f, " at frame {gfn}"),
            None => Ok(()),
        }
    }
}
