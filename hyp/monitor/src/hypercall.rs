//! The host's own calls: decoding and checking the arguments, and doing what they ask.

use crate::mmio::DEVICE_IPA_LIMIT;
use crate::monitor::Monitor;
use crate::object::Object;
use crate::platform::Platform;
use crate::traps::{Translation, TrapControls};
use crate::vcpu::{Claim, Vcpu};
use crate::vcpu_registers;
use crate::vm::{Vm, VmConfig};
use abi::host::{
    HostCall, MAX_PAGES_PER_CALL, MAX_VCPUS, RECLAIM_MOST, REVISION_MAJOR, REVISION_MINOR, RIGHT_RESTRICTED,
    VM_PROTECTED, VmHandle,
};
use abi::register::Register;
use abi::run::ExitReason;
use abi::{Error, Gfn, Ipa, Pfn};
use ownership::{GuestMemory, Rights, VmSlot};
use pgtable::{Stage2, Stage2Config};

/// What a call returns in x1 to x3.
pub type Results = [u64; 3];

/// No results.
const NONE: Results = [0; 3];

/// First function identifier of the calls that VERSION's bitmap describes.
const BITMAP_BASE: u32 = HostCall::Version as u32;

/// A number of pages, at least one and no more than a call may name.
fn page_count(raw: u64) -> Result<u64, Error> {
    if (1..=MAX_PAGES_PER_CALL).contains(&raw) { Ok(raw) } else { Err(Error::BadRange) }
}

/// Checks that a VM may have devices at `count` frames from `gfn` on. A protected guest takes for memory whatever lies
/// from [`DEVICE_IPA_LIMIT`] upwards: what it stored there would go to the device.
fn check_device_frames(config: &VmConfig, gfn: Gfn, count: u64) -> Result<(), Error> {
    let end = gfn.checked_add(count).ok_or(Error::BadRange)?;
    if config.protected && end > Gfn::containing(DEVICE_IPA_LIMIT) { Err(Error::BadRange) } else { Ok(()) }
}

/// Claims a vCPU for the host to deal with one of its registers. Of a protected VM's the host learns nothing, not even
/// whether it runs.
fn examine<'a>(vm: &Vm, vcpu: &'a Vcpu, register: u64) -> Result<(Claim<'a>, Register), Error> {
    if vm.config().protected {
        return Err(Error::NotYours);
    }
    let register = Register::from_number(register).ok_or(Error::InvalidParameter)?;
    Ok((vcpu.claim_to_examine()?, register))
}

/// A VM's handle. A number that does not fit names no VM.
fn vm_handle(raw: u64) -> Result<VmHandle, Error> {
    u32::try_from(raw).map(VmHandle).map_err(|_| Error::VmGone)
}

/// The sizes that VM_SIZES and VM_INIT name.
#[derive(Clone, Copy)]
struct Sizes {
    stage2: Stage2Config,
    vcpus: u64,
    root_pages: u64,
}

impl Sizes {
    /// Pages that VM_INIT takes: the root of stage 2, and behind it the VM object.
    fn vm_pages(&self) -> u64 {
        self.root_pages.saturating_add(Object::<Vm>::PAGES)
    }
}

impl Monitor {
    /// Does a host call with arguments x1 to x7. A call that fails has changed nothing, but for VM_FINALISE, which may
    /// be made again.
    pub(crate) fn hypercall<P: Platform>(
        &self,
        platform: &mut P,
        call: HostCall,
        arguments: &[u64; 7],
    ) -> Result<Results, Error> {
        let [a1, a2, a3, a4, a5, a6, a7] = *arguments;
        match call {
            HostCall::Version => Ok([REVISION_MAJOR << 16 | REVISION_MINOR, call_bitmap(), 0]),
            HostCall::MemoryInfo => {
                let carve_out = self.ownership.carve_out();
                Ok([carve_out.start.raw(), carve_out.size(), platform.free_frames()])
            }
            HostCall::HypShare | HostCall::HypShareRestricted => {
                let (first, count) = (Pfn::new(a1), page_count(a2)?);
                let restricted = call == HostCall::HypShareRestricted;
                self.ownership.host_share_hyp(platform, first, count, restricted).map(|()| NONE)
            }
            HostCall::HypUnshare => {
                self.ownership.host_unshare_hyp(platform, Pfn::new(a1), page_count(a2)?).map(|()| NONE)
            }
            HostCall::VmSizes => {
                let sizes = self.sizes(a1, a2)?;
                Ok([sizes.vm_pages(), sizes.root_pages, Object::<Vcpu>::PAGES])
            }
            HostCall::VmReserve => self.vms.reserve().map(|handle| [u64::from(handle.0), 0, 0]),
            HostCall::VmInit => {
                let pages = DonatedPages { first: Pfn::new(a4), count: a5 };
                let sizes = self.sizes(a3 & 0xffff_ffff, a3 >> 32)?;
                let start = Start { entry: Ipa::new(a6), argument: a7 };
                self.vm_init(platform, vm_handle(a1)?, a2, sizes, pages, start).map(|()| NONE)
            }
            HostCall::VcpuInit => {
                let pages = DonatedPages { first: Pfn::new(a3), count: a4 };
                self.vcpu_init(platform, vm_handle(a1)?, a2, pages, Pfn::new(a5)).map(|()| NONE)
            }
            HostCall::VcpuTopUp => {
                let vm = self.vms.initialised(vm_handle(a1)?)?;
                let memory = vm.memory_of(vm.vcpu(a2)?);
                self.ownership.top_up(platform, memory, Pfn::new(a3), page_count(a4)?).map(|()| NONE)
            }
            HostCall::VmDonate => {
                let vm = self.vms.live(vm_handle(a1)?)?;
                let memory = vm.memory_of(vm.vcpu(a2)?);
                let (first, gfn, count) = (Pfn::new(a3), Gfn::new(a4), page_count(a5)?);
                self.ownership.host_donate_guest(platform, memory, first, gfn, count).map(|()| NONE)
            }
            HostCall::VmShare => {
                let vm = self.vms.live(vm_handle(a1)?)?;
                let memory = vm.memory_of(vm.vcpu(a2)?);
                let (first, gfn, count) = (Pfn::new(a3), Gfn::new(a4), page_count(a5)?);
                let rights = Rights::from_bits(a6 & !RIGHT_RESTRICTED).ok_or(Error::InvalidParameter)?;
                let restricted = a6 & RIGHT_RESTRICTED != 0;
                self.ownership.host_share_guest(platform, memory, first, gfn, count, rights, restricted).map(|()| NONE)
            }
            HostCall::VmUnshare => {
                let vm = self.vms.initialised(vm_handle(a1)?)?;
                let (gfn, count) = (Gfn::new(a2), page_count(a3)?);
                self.ownership.host_unshare_guest(platform, vm.memory(), gfn, count).map(|()| NONE)
            }
            HostCall::VcpuRun => self.vcpu_run(platform, a1, a2).map(|reason| [reason as u64, 0, 0]),
            HostCall::VmTeardown => self.vms.teardown(vm_handle(a1)?).map(|()| NONE),
            HostCall::VmReclaim => {
                let vm = self.vms.dying(vm_handle(a1)?)?;
                let count = page_count(a3)?.min(RECLAIM_MOST);
                self.ownership.reclaim(platform, vm.memory(), Pfn::new(a2), count).map(|()| [count, 0, 0])
            }
            HostCall::VmFinalise => self.vm_finalise(platform, vm_handle(a1)?).map(|()| NONE),
            HostCall::VmLend => {
                let vm = self.vms.live(vm_handle(a1)?)?;
                let memory = vm.memory_of(vm.vcpu(a2)?);
                let (first, gfn, count) = (Pfn::new(a3), Gfn::new(a4), page_count(a5)?);
                self.ownership.host_lend_guest(platform, memory, first, gfn, count).map(|()| NONE)
            }
            HostCall::VmReturn => {
                let vm = self.vms.live(vm_handle(a1)?)?;
                let (first, count) = (Pfn::new(a2), page_count(a3)?);
                self.ownership.host_return_guest(platform, vm.memory(), first, count).map(|()| NONE)
            }
            HostCall::VmForceReclaim => {
                let vm = self.vms.live(vm_handle(a1)?)?;
                let (first, count) = (Pfn::new(a2), page_count(a3)?);
                self.ownership.force_reclaim(platform, vm.memory(), first, count).map(|()| NONE)
            }
            HostCall::VmEndShare => {
                let owner = self.vms.initialised(vm_handle(a1)?)?;
                let borrower = self.vms.initialised(vm_handle(a2)?)?;
                self.ownership.host_end_share(platform, owner.memory(), borrower.memory(), a3).map(|()| NONE)
            }
            HostCall::VmGrantDevice => {
                let vm = self.vms.live(vm_handle(a1)?)?;
                let memory = vm.memory_of(vm.vcpu(a2)?);
                let (first, gfn, count) = (Pfn::new(a3), Gfn::new(a4), page_count(a5)?);
                check_device_frames(vm.config(), gfn, count)?;
                self.ownership.host_grant_device(platform, memory, first, gfn, count).map(|()| NONE)
            }
            HostCall::InterruptInfo => {
                let gic = &self.features.gic;
                let virtual_timer = self.virtual_timer.unwrap_or(0);
                Ok([gic.list_registers as u64, u64::from(gic.priority_bits), u64::from(virtual_timer)])
            }
            HostCall::VcpuGetRegister => {
                let vm = self.vms.live(vm_handle(a1)?)?;
                let (mut claim, register) = examine(&vm, vm.vcpu(a2)?, a3)?;
                Ok([vcpu_registers::get(&mut claim.context, register), 0, 0])
            }
            HostCall::VcpuSetRegister => {
                let vm = self.vms.live(vm_handle(a1)?)?;
                let (mut claim, register) = examine(&vm, vm.vcpu(a2)?, a3)?;
                vcpu_registers::set(&mut claim.context, register, a4).map(|()| NONE)
            }
            HostCall::VmReclaimDevice => {
                let vm = self.vms.dying(vm_handle(a1)?)?;
                let (first, count) = (Pfn::new(a2), page_count(a3)?);
                self.ownership.reclaim_device(platform, vm.memory(), first, count).map(|()| NONE)
            }
        }
    }

    /// VCPU_RUN.
    #[inline(never)]
    pub(crate) fn vcpu_run<P: Platform>(&self, platform: &mut P, handle: u64, index: u64) -> Result<ExitReason, Error> {
        let vm = self.vms.live(vm_handle(handle)?)?;
        self.run_vcpu(platform, &vm, vm.vcpu(index)?)
    }

    /// Checks the sizes of a VM.
    fn sizes(&self, ipa_bits: u64, vcpus: u64) -> Result<Sizes, Error> {
        let ipa_bits = u32::try_from(ipa_bits).map_err(|_| Error::InvalidParameter)?;
        let stage2 = Stage2Config { ipa_bits, ..self.stage2 };
        let root_pages = stage2.root_pages().map_err(|_| Error::InvalidParameter)?;
        if !(1..=MAX_VCPUS).contains(&vcpus) {
            return Err(Error::InvalidParameter);
        }
        Ok(Sizes { stage2, vcpus, root_pages })
    }

    /// VM_INIT.
    fn vm_init<P: Platform>(
        &self,
        platform: &mut P,
        handle: VmHandle,
        flags: u64,
        sizes: Sizes,
        pages: DonatedPages,
        start: Start,
    ) -> Result<(), Error> {
        let Start { entry, argument } = start;
        if flags & !VM_PROTECTED != 0 || !entry.is_aligned(4) || entry.raw() >> sizes.stage2.ipa_bits != 0 {
            return Err(Error::InvalidParameter);
        }
        let root = pages.first.checked_address().ok_or(Error::BadRange)?;
        if pages.count != sizes.vm_pages() {
            return Err(Error::InvalidParameter);
        }
        let object_first = pages.first.checked_add(sizes.root_pages).ok_or(Error::BadRange)?;
        let place = self.vms.begin_init(handle)?;
        let stage2 = Stage2::new(root, sizes.stage2, vmid(place.slot())).map_err(|_| Error::InvalidParameter)?;
        let translation = Translation { vtcr_el2: stage2.vtcr_el2(), vttbr_el2: stage2.vttbr_el2() };
        let protected = flags & VM_PROTECTED != 0;
        let config = VmConfig {
            handle,
            protected,
            ipa_bits: sizes.stage2.ipa_bits,
            vcpu_limit: sizes.vcpus,
            entry,
            argument,
            root: pages.first,
            root_pages: sizes.root_pages,
            counter_offset: platform.counter(),
            traps: TrapControls::guest(&self.features, self.id.midr_el1, translation),
        };
        self.take_pages(platform, pages)?;
        let vm = Vm::new(config, GuestMemory::locked(stage2, place.slot(), handle, protected));
        // SAFETY: `take_pages` has just made the pages hyp's; those of the object are behind the root's and in no other
        // use; and `vm_finalise` gives them back only after it has taken the object out of them.
        let object = unsafe { Object::place(platform, object_first, vm) };
        place.publish(object);
        Ok(())
    }

    /// VCPU_INIT.
    fn vcpu_init<P: Platform>(
        &self,
        platform: &mut P,
        handle: VmHandle,
        index: u64,
        pages: DonatedPages,
        run_page: Pfn,
    ) -> Result<(), Error> {
        if pages.count != Object::<Vcpu>::PAGES {
            return Err(Error::InvalidParameter);
        }
        let vm = self.vms.live(handle)?;
        vm.create_vcpu(index, |context, ready| {
            self.ownership.host_share_hyp(platform, run_page, 1, false)?;
            self.ownership.hyp_pin(platform, run_page).inspect_err(|_| self.release_share(platform, run_page))?;
            self.take_pages(platform, pages).inspect_err(|_| self.release_run_page(platform, run_page))?;
            // SAFETY: `take_pages` has just made the pages hyp's, nothing else is in them, and `vm_finalise` gives them
            // back only after it has taken the object out of them.
            Ok(unsafe { Object::place(platform, pages.first, Vcpu::new(index, run_page, context, ready)) })
        })
    }

    /// VM_FINALISE. Everything goes back step by step; where a step fails, what has not gone back is still there.
    fn vm_finalise<P: Platform>(&self, platform: &mut P, handle: VmHandle) -> Result<(), Error> {
        let mut place = self.vms.begin_finalise(handle)?;
        if let Some(vm) = place.object() {
            // Refuses where the VM still holds a page, before anything has been changed.
            self.ownership.drain(platform, vm.memory())?;
            while let Some(vcpu) = vm.last_vcpu() {
                let (run_page, first) = (vcpu.run_page(), vcpu.first_page());
                self.ownership.hyp_donate_host(platform, first, Object::<Vcpu>::PAGES)?;
                vm.forget_last_vcpu();
                self.release_run_page(platform, run_page);
            }
            let (root, pages) = (vm.config().root, vm.config().root_pages.saturating_add(Object::<Vm>::PAGES));
            self.ownership.hyp_donate_host(platform, root, pages)?;
            place.forget_object();
        }
        place.finish();
        Ok(())
    }

    /// Lets go of a vCPU's run page.
    fn release_run_page<P: Platform>(&self, platform: &mut P, run_page: Pfn) {
        let unpinned = self.ownership.hyp_unpin(platform, run_page);
        debug_assert!(unpinned.is_ok(), "the vCPU had it pinned: {unpinned:?}");
        self.release_share(platform, run_page);
    }

    /// Gives the host back what it shared for a run page. From the moment that the page is not pinned, the host may
    /// have taken it back itself, on another CPU, and it may even have shared it anew: then there is nothing to do.
    fn release_share<P: Platform>(&self, platform: &mut P, run_page: Pfn) {
        let _ = self.ownership.host_unshare_hyp(platform, run_page, 1);
    }

    /// Takes pages of the host for hyp, wiped.
    fn take_pages<P: Platform>(&self, platform: &mut P, pages: DonatedPages) -> Result<(), Error> {
        self.ownership.host_donate_hyp(platform, pages.first, page_count(pages.count)?)?;
        for index in 0..pages.count {
            if let Some(page) = pages.first.checked_add(index) {
                platform.wipe(page);
            }
        }
        Ok(())
    }
}

/// Pages that the host offers for hyp's objects.
#[derive(Clone, Copy)]
struct DonatedPages {
    first: Pfn,
    count: u64,
}

/// Where vCPU 0 starts, and with what in x0.
#[derive(Clone, Copy)]
struct Start {
    entry: Ipa,
    argument: u64,
}

/// The VMID of the VM in a slot: each its own, and 0 is the host's.
const fn vmid(slot: VmSlot) -> u16 {
    slot.number() as u16 + 1
}

/// The bitmap of host calls that VERSION returns.
fn call_bitmap() -> u64 {
    HostCall::ALL.iter().fold(0, |bitmap, &call| bitmap | 1 << ((call as u32 - BITMAP_BASE) & 63))
}
