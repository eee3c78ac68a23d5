//! Devices, which are no RAM and in no ledger: the annotations in the host's stage 2 alone say who has their pages.

use super::guest_tables::VacantFrames;
use super::locks::{HostAndGuest, HostAndHyp};
use super::{Call, Scene};
use crate::annotation::{GrantedDevice, Holder};
use crate::environment::Environment;
use crate::guest_memory::{GuestAccount, GuestLock};
use crate::ownership::{HostMemory, Ownership, host_ipa, table_error};
use abi::{Error, Gfn, Ipa, PAGE_SIZE, Pfn, PhysAddr, PhysRange, VirtAddr};
use core::ops::ControlFlow;
use pgtable::{El2Attributes, RawLeaf, TableFrames};

/// Proof that these pages of devices may go from the host to a guest.
struct Grantable {
    device: PhysRange,
    frames: VacantFrames,
}

/// Proof that these pages of devices may go back to the host.
struct ToBeTaken(PhysRange);

/// Proof that these pages of devices may go from the host to hyp, who maps them already.
struct MappedByHyp(PhysRange);

impl HostMemory {
    /// Refuses unless all of a range of device memory is held as `expected` says.
    fn check_device<F: TableFrames>(
        &self,
        env: &F,
        device: &PhysRange,
        expected: impl Fn(Holder) -> bool,
    ) -> Result<(), Error> {
        let outcome = self.stage2.visit_raw(env, host_ipa(device.start), device.size(), |leaf| {
            match Holder::of(leaf.annotation()) {
                Some(holder) if expected(holder) => ControlFlow::Continue(()),
                _ => ControlFlow::Break(()),
            }
        });
        if outcome.map_err(table_error)?.is_break() { Err(Error::NotYours) } else { Ok(()) }
    }
}

impl Ownership {
    /// The host gives `count` pages of devices to a guest, protected or not, which has them from `gfn` on, to read and
    /// write and as device memory. The host cannot reach them any more on return.
    ///
    /// # Errors
    /// [`Error::BadRange`], also where a page is RAM; [`Error::VmGone`] where the guest is dying; [`Error::NotYours`]
    /// where a page is not the host's; [`Error::WrongState`] where the guest has something at one of the frames or may not
    /// get anything there; [`Error::OutOfMemory`] where the guest's cache is too small or the host's stage 2 needs a frame
    /// that there is not.
    pub fn host_grant_device<'g, E: Environment>(
        &self,
        env: &mut E,
        guest: impl Into<GuestAccount<'g>>,
        first: Pfn,
        gfn: Gfn,
        count: u64,
    ) -> Result<(), Error> {
        self.transition(
            env,
            HostAndGuest::lock(self, guest.into()),
            |locks| Call::HostGrantDevice { slot: locks.guest.slot(), first, gfn, count },
            |scene| {
                let device = self.named_device(first, count)?;
                let Scene { locks: HostAndGuest { host, guest }, env, .. } = scene;
                let frames = guest.named_frames(gfn, count)?;
                if guest.is_dying() {
                    return Err(Error::VmGone);
                }
                host.check_device(env, &device, |holder| holder == Holder::Host)?;
                let frames = guest.check_vacant(env, frames, device.start)?;
                env.reserve_for_host(host, &device)?;
                Ok(Grantable { device, frames })
            },
            |scene, Grantable { device, frames }| {
                let Scene { locks: HostAndGuest { host, guest }, env, .. } = scene;
                let grant = GrantedDevice::new(guest.slot(), first, gfn);
                host.note_holder(env, device, Holder::Device(grant));
                guest.map_device(env.environment(), frames, device.start);
            },
        )
    }

    /// The host takes `count` pages of devices back from a dying guest. What is in the device's registers stays there.
    ///
    /// # Errors
    /// [`Error::BadRange`], also where a page is RAM; [`Error::Busy`] where the guest is not dying; [`Error::NotYours`]
    /// where a page is not the guest's; [`Error::OutOfMemory`] where there is no frame for a table of the host's stage 2.
    pub fn reclaim_device<E: Environment>(
        &self,
        env: &mut E,
        guest: &GuestLock,
        first: Pfn,
        count: u64,
    ) -> Result<(), Error> {
        self.transition(
            env,
            HostAndGuest::lock(self, guest.into()),
            |locks| Call::ReclaimDevice { slot: locks.guest.slot(), first, count },
            |scene| {
                let device = self.named_device(first, count)?;
                let Scene { locks: HostAndGuest { host, guest }, env, .. } = scene;
                if !guest.is_dying() {
                    return Err(Error::Busy);
                }
                let slot = guest.slot();
                host.check_device(
                    env,
                    &device,
                    |holder| matches!(holder, Holder::Device(grant) if grant.slot == slot),
                )?;
                env.reserve_for_host(host, &device)?;
                Ok(ToBeTaken(device))
            },
            |scene, ToBeTaken(device)| {
                scene.forget_device(&device);
                let Scene { locks: HostAndGuest { host, guest }, env, .. } = scene;
                host.note_holder(env, device, Holder::Host);
                guest.pages_held = guest.pages_held.saturating_sub(device.size() / PAGE_SIZE);
            },
        )
    }

    /// Hyp takes `count` pages of devices from the host and maps them, as device memory, at their physical addresses.
    ///
    /// # Errors
    /// [`Error::BadRange`], also where a page is RAM; [`Error::NotYours`] where a page is not the host's;
    /// [`Error::Busy`] where hyp has mapped something there for itself; [`Error::OutOfMemory`] where there is no frame for
    /// a table.
    pub fn host_donate_device_hyp<E: Environment>(&self, env: &mut E, first: Pfn, count: u64) -> Result<(), Error> {
        self.transition(
            env,
            HostAndHyp::lock(self),
            |_| Call::HostDonateDeviceHyp { first, count },
            |scene| {
                let device = self.named_device(first, count)?;
                scene.locks.host.check_device(&scene.env, &device, |holder| holder == Holder::Host)?;
                scene.check_unmapped(&device)?;
                scene.env.reserve_for_host(&scene.locks.host, &device)?;
                scene.map_range(device, El2Attributes::device())?;
                Ok(MappedByHyp(device))
            },
            |scene, MappedByHyp(device)| scene.locks.host.note_holder(&mut scene.env, device, Holder::Hyp),
        )
    }

    /// Hyp gives `count` pages of devices to the host, which it took from it.
    ///
    /// # Errors
    /// [`Error::BadRange`], also where a page is RAM; [`Error::NotYours`] where a page is not hyp's;
    /// [`Error::OutOfMemory`] where there is no frame for a table of the host's stage 2.
    pub fn hyp_donate_device_host<E: Environment>(&self, env: &mut E, first: Pfn, count: u64) -> Result<(), Error> {
        self.transition(
            env,
            HostAndHyp::lock(self),
            |_| Call::HypDonateDeviceHost { first, count },
            |scene| {
                let device = self.named_device(first, count)?;
                scene.locks.host.check_device(&scene.env, &device, |holder| holder == Holder::Hyp)?;
                scene.env.reserve_for_host(&scene.locks.host, &device)?;
                Ok(ToBeTaken(device))
            },
            |scene, ToBeTaken(device)| {
                scene.unmap_range(device);
                scene.locks.host.note_holder(&mut scene.env, device, Holder::Host);
            },
        )
    }
}

impl<E: Environment> Scene<'_, HostAndHyp<'_>, E> {
    /// Refuses where EL2 has something mapped in a range.
    fn check_unmapped(&self, bytes: &PhysRange) -> Result<(), Error> {
        let address = VirtAddr::new(bytes.start.raw());
        let outcome = self.locks.hyp.visit(&self.env, address, bytes.size(), |leaf| {
            if leaf.is_valid() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        match outcome {
            Ok(ControlFlow::Continue(())) => Ok(()),
            // Also where EL2's address space has no room for it.
            _ => Err(Error::Busy),
        }
    }
}

impl<E: Environment> Scene<'_, HostAndGuest<'_>, E> {
    /// Unmaps pages of devices from their dying holder, with the whole of every leaf that they are in.
    fn forget_device(&mut self, device: &PhysRange) {
        let Self { locks: HostAndGuest { host, guest }, env, .. } = self;
        let mut next = device.start.raw();
        while next < device.end.raw() {
            let Ok(granted) = host.stage2.find(env, host_ipa(PhysAddr::new(next))) else { return };
            let page = Pfn::containing(PhysAddr::new(next));
            let mut step = PAGE_SIZE;
            if let Some(Holder::Device(grant)) = Holder::of(granted.annotation())
                && let Some(ipa) = grant.gfn(page).checked_address()
                && let Ok(leaf) = guest.stage2.find(env, ipa)
            {
                if leaf.is_valid() {
                    guest.forget_range(env.environment(), leaf.base, leaf.size);
                }
                let rest = |leaf: &RawLeaf<Ipa>, at: u64| leaf.base.raw().saturating_add(leaf.size).saturating_sub(at);
                step = rest(&leaf, ipa.raw()).min(rest(&granted, next));
            }
            next = next.saturating_add(step.max(PAGE_SIZE));
        }
    }
}
