//! What each host call should come to, by its registers.

use abi::host::{
    HostCall, MAX_PAGES_PER_CALL, MAX_VCPUS, MAX_VMS, RECLAIM_MOST, REVISION_MAJOR, REVISION_MINOR, RIGHT_EXECUTE,
    RIGHT_READ, RIGHT_RESTRICTED, RIGHT_WRITE, VM_PROTECTED, VmHandle,
};
use abi::register::Register;
use abi::{Error, Gfn, PAGE_SHIFT, PAGE_SIZE, Pfn};
use monitor::object::Object;
use monitor::vcpu::Vcpu;
use monitor::vm::Vm;
use ownership_spec::{Call, Rights};
use pgtable::{Stage2, Stage2Config};
use simulation::{Layout, PA_BITS};

use super::guard::Guard;
use super::guest_calls::DEVICE_LIMIT;
use super::model::{Life, Model, VmModel};

/// Pages of a VM's object, without the root of its stage 2.
pub const VM_OBJECT_PAGES: u64 = Object::<Vm>::PAGES;
/// Pages of a vCPU's object.
pub const VCPU_PAGES: u64 = Object::<Vcpu>::PAGES;

/// What a call that succeeds returns in x1 to x3.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Results {
    /// This.
    These([u64; 3]),
    /// Whatever it is.
    Any,
}

const NONE: Results = Results::These([0; 3]);

/// A VM's handle in a register. A number that does not fit is no VM's: neither is 0.
pub fn handle_of(register: u64) -> VmHandle {
    VmHandle(u32::try_from(register).unwrap_or(0))
}

/// A configuration of a guest's stage 2.
fn stage2_config(ipa_bits: u64) -> Result<Stage2Config, Error> {
    let ipa_bits = u32::try_from(ipa_bits).map_err(|_| Error::InvalidParameter)?;
    let config = Stage2Config { ipa_bits, ..Stage2Config::new(PA_BITS, PA_BITS) };
    config.root_pages().map(|_| config).map_err(|_| Error::InvalidParameter)
}

/// What VM_SIZES and VM_INIT say of a VM: the configuration, the pages of the root, and how many vCPUs.
fn sizes(ipa_bits: u64, vcpus: u64) -> Result<(Stage2Config, u64), Error> {
    let config = stage2_config(ipa_bits)?;
    if !(1..=MAX_VCPUS).contains(&vcpus) {
        return Err(Error::InvalidParameter);
    }
    Ok((config, config.root_pages().map_err(|_| Error::InvalidParameter)?))
}

fn check_count(count: u64) -> Result<u64, Error> {
    if (1..=MAX_PAGES_PER_CALL).contains(&count) { Ok(count) } else { Err(Error::BadRange) }
}

/// The specification's rights, and whether the host restricts itself.
fn rights_of(bits: u64) -> Result<(Rights, bool), Error> {
    let known = RIGHT_READ | RIGHT_WRITE | RIGHT_EXECUTE | RIGHT_RESTRICTED;
    if bits & RIGHT_READ == 0 || bits & !known != 0 {
        return Err(Error::InvalidParameter);
    }
    let rights = Rights { read: true, write: bits & RIGHT_WRITE != 0, execute: bits & RIGHT_EXECUTE != 0 };
    Ok((rights, bits & RIGHT_RESTRICTED != 0))
}

impl Model {
    /// A VM that lives.
    pub fn live(&self, handle: VmHandle) -> Result<&VmModel, Error> {
        let vm = self.vm(handle).ok_or(Error::VmGone)?;
        match vm.life {
            Life::Live => Ok(vm),
            Life::Reserved | Life::Changing => Err(Error::WrongState),
            Life::Dying => Err(Error::VmGone),
        }
    }

    fn dying(&self, handle: VmHandle) -> Result<&VmModel, Error> {
        let vm = self.vm(handle).ok_or(Error::VmGone)?;
        if vm.life == Life::Dying && vm.has_object { Ok(vm) } else { Err(Error::WrongState) }
    }

    /// A VM that was initialised.
    pub fn initialised(&self, handle: VmHandle) -> Result<&VmModel, Error> {
        let vm = self.vm(handle).ok_or(Error::VmGone)?;
        let is_whole = matches!(vm.life, Life::Live | Life::Dying) && vm.has_object;
        if is_whole { Ok(vm) } else { Err(Error::WrongState) }
    }

    /// A living VM in which there is that vCPU.
    pub fn with_vcpu(&self, handle: u64, index: u64) -> Result<&VmModel, Error> {
        let vm = self.live(handle_of(handle))?;
        if index < vm.run_pages.len() as u64 { Ok(vm) } else { Err(Error::VmGone) }
    }

    /// What a host call should come to where there are frames enough. Of VCPU_RUN it is only said whether the vCPU may be
    /// run.
    pub fn host_call(&self, layout: &Layout, call: HostCall, arguments: &[u64; 7]) -> Result<Results, Error> {
        let [a1, a2, a3, a4, a5, a6, _] = *arguments;
        let page = Pfn::new;
        let transition = |call: Call| self.would(&call).map(|()| NONE);
        match call {
            HostCall::Version => {
                let bitmap = HostCall::ALL.iter().map(|call| 1_u64 << (*call as u32 & 0x3f)).sum();
                Ok(Results::These([REVISION_MAJOR << 16 | REVISION_MINOR, bitmap, 0]))
            }
            HostCall::MemoryInfo => {
                let carve_out = layout.carve_out();
                Ok(Results::These([carve_out.start.raw(), carve_out.size(), simulation::FREE_FRAMES]))
            }
            HostCall::InterruptInfo => Ok(Results::These([4, 5, simulation::VIRTUAL_TIMER.into()])),
            HostCall::HypShare | HostCall::HypShareRestricted => {
                let restricted = call == HostCall::HypShareRestricted;
                transition(Call::HostShareHyp { first: page(a1), count: check_count(a2)?, restricted })
            }
            HostCall::HypUnshare => transition(Call::HostUnshareHyp { first: page(a1), count: check_count(a2)? }),
            HostCall::VmSizes => {
                let (_, root_pages) = sizes(a1, a2)?;
                Ok(Results::These([root_pages + VM_OBJECT_PAGES, root_pages, VCPU_PAGES]))
            }
            HostCall::VmReserve => {
                if self.vms.len() >= MAX_VMS {
                    return Err(Error::Limit);
                }
                // The next number that names the first free slot.
                let slot = (0..).find(|slot| self.vms.values().all(|vm| vm.slot != *slot)).unwrap_or(u8::MAX);
                let next = u64::from(self.last_handle) + 1;
                let steps = (u64::from(slot) + 1).wrapping_sub(next) % MAX_VMS as u64;
                Ok(Results::These([next + steps, 0, 0]))
            }
            HostCall::VmInit => self.vm_init(arguments),
            HostCall::VcpuInit => self.vcpu_init(arguments),
            HostCall::VcpuTopUp => {
                let vm = self.initialised(handle_of(a1))?;
                if a2 >= vm.run_pages.len() as u64 {
                    return Err(Error::VmGone);
                }
                transition(Call::HostDonateHyp { first: page(a3), count: check_count(a4)? })
            }
            HostCall::VmDonate => {
                let vm = self.with_vcpu(a1, a2)?.vm();
                transition(Call::HostDonateGuest { vm, first: page(a3), gfn: Gfn::new(a4), count: check_count(a5)? })
            }
            HostCall::VmLend => {
                let vm = self.with_vcpu(a1, a2)?.vm();
                transition(Call::HostLendGuest { vm, first: page(a3), gfn: Gfn::new(a4), count: check_count(a5)? })
            }
            HostCall::VmShare => {
                let vm = self.with_vcpu(a1, a2)?.vm();
                let count = check_count(a5)?;
                let (rights, restricted) = rights_of(a6)?;
                let (first, gfn) = (page(a3), Gfn::new(a4));
                transition(Call::HostShareGuest { vm, first, gfn, count, rights, restricted })
            }
            HostCall::VmGrantDevice => {
                let vm = self.with_vcpu(a1, a2)?;
                let (vm, protected, count) = (vm.vm(), vm.protected, check_count(a5)?);
                if protected && a4.checked_add(count).is_none_or(|end| end > DEVICE_LIMIT >> PAGE_SHIFT) {
                    return Err(Error::BadRange);
                }
                transition(Call::HostGrantDevice { vm, first: page(a3), gfn: Gfn::new(a4), count })
            }
            HostCall::VmUnshare => {
                let vm = self.initialised(handle_of(a1))?.vm();
                transition(Call::HostUnshareGuest { vm, gfn: Gfn::new(a2), count: check_count(a3)? })
            }
            HostCall::VmReturn => {
                let vm = self.live(handle_of(a1))?.vm();
                transition(Call::HostReturnGuest { vm, first: page(a2), count: check_count(a3)? })
            }
            HostCall::VmForceReclaim => {
                let vm = self.live(handle_of(a1))?.vm();
                transition(Call::ForceReclaim { vm, first: page(a2), count: check_count(a3)? })
            }
            HostCall::VmReclaim => {
                let vm = self.dying(handle_of(a1))?.vm();
                let count = check_count(a3)?.min(RECLAIM_MOST);
                self.would(&Call::Reclaim { vm, first: page(a2), count })?;
                Ok(Results::These([count, 0, 0]))
            }
            HostCall::VmReclaimDevice => {
                let vm = self.dying(handle_of(a1))?.vm();
                transition(Call::ReclaimDevice { vm, first: page(a2), count: check_count(a3)? })
            }
            HostCall::VmEndShare => {
                let owner = self.initialised(handle_of(a1))?.vm();
                let borrower = self.initialised(handle_of(a2))?.vm();
                transition(Call::HostEndShare { owner, borrower, number: a3 })
            }
            HostCall::VcpuRun => self.with_vcpu(a1, a2).map(|_| Results::Any),
            HostCall::VcpuGetRegister | HostCall::VcpuSetRegister => {
                if self.with_vcpu(a1, a2)?.protected {
                    return Err(Error::NotYours);
                }
                Register::from_number(a3).map(|_| Results::Any).ok_or(Error::InvalidParameter)
            }
            HostCall::VmTeardown => {
                let vm = self.vm(handle_of(a1)).ok_or(Error::VmGone)?;
                match vm.life {
                    Life::Reserved => Ok(NONE),
                    Life::Live if vm.users == 0 => Ok(NONE),
                    Life::Live | Life::Changing => Err(Error::Busy),
                    Life::Dying => Err(Error::WrongState),
                }
            }
            HostCall::VmFinalise => {
                let vm = self.vm(handle_of(a1)).ok_or(Error::VmGone)?;
                match vm.life {
                    Life::Dying if vm.users != 0 => Err(Error::Busy),
                    Life::Dying if vm.has_object && self.spec.holds_something(vm.vm()) => Err(Error::Busy),
                    Life::Dying => Ok(NONE),
                    Life::Changing => Err(Error::Busy),
                    Life::Reserved | Life::Live => Err(Error::WrongState),
                }
            }
        }
    }

    fn vm_init(&self, arguments: &[u64; 7]) -> Result<Results, Error> {
        let [handle, flags, shape, first, count, entry, _] = *arguments;
        let (config, root_pages) = sizes(shape & 0xffff_ffff, shape >> 32)?;
        let handle = u32::try_from(handle).map(VmHandle).map_err(|_| Error::VmGone)?;
        if flags & !VM_PROTECTED != 0 || entry % 4 != 0 || entry >> config.ipa_bits != 0 {
            return Err(Error::InvalidParameter);
        }
        let root = Pfn::new(first).checked_address().ok_or(Error::BadRange)?;
        if count != root_pages + VM_OBJECT_PAGES {
            return Err(Error::InvalidParameter);
        }
        if Pfn::new(first).checked_add(root_pages).is_none() {
            return Err(Error::BadRange);
        }
        let vm = self.vm(handle).ok_or(Error::VmGone)?;
        match vm.life {
            Life::Reserved => {}
            Life::Dying => return Err(Error::VmGone),
            Life::Changing | Life::Live => return Err(Error::WrongState),
        }
        Stage2::new(root, config, 1).map_err(|_| Error::InvalidParameter)?;
        self.would(&Call::HostDonateHyp { first: Pfn::new(first), count }).map(|()| NONE)
    }

    fn vcpu_init(&self, arguments: &[u64; 7]) -> Result<Results, Error> {
        let [handle, index, first, count, run_page, ..] = *arguments;
        let named = u32::try_from(handle).map(VmHandle).map_err(|_| Error::VmGone)?;
        if count != VCPU_PAGES {
            return Err(Error::InvalidParameter);
        }
        let vm = self.live(named)?;
        if index >= vm.vcpu_limit {
            return Err(Error::Limit);
        }
        if index != vm.run_pages.len() as u64 {
            return Err(Error::InvalidParameter);
        }
        let run_page = Pfn::new(run_page);
        let shared = Call::HostShareHyp { first: run_page, count: 1, restricted: false };
        let (next, _) = self.spec.apply(&shared)?;
        let (next, _) = next.apply(&Call::HypPin { page: run_page })?;
        next.apply(&Call::HostDonateHyp { first: Pfn::new(first), count })?;
        Ok(NONE)
    }

    /// Takes note of what a call has changed beside memory.
    pub fn note_host_call(&mut self, call: HostCall, arguments: &[u64; 7], results: [u64; 3]) {
        let [a1, a2, a3, _, a5, ..] = *arguments;
        match call {
            HostCall::VmReserve => {
                let slot = (0..).find(|slot| self.vms.values().all(|vm| vm.slot != *slot)).unwrap_or(u8::MAX);
                let vm = VmModel {
                    slot,
                    life: Life::Reserved,
                    has_object: false,
                    protected: false,
                    ipa_bits: 0,
                    vcpu_limit: 0,
                    run_pages: Vec::new(),
                    users: 0,
                    guard: Guard::default(),
                };
                self.vms.insert(results[0], vm);
                self.last_handle = results[0] as u32;
            }
            HostCall::VmInit => {
                let Some(vm) = self.vms.get_mut(&a1) else { return };
                let ipa_bits = (a3 & 0xffff_ffff) as u32;
                let (vcpu_limit, protected) = (a3 >> 32, a2 & VM_PROTECTED != 0);
                *vm = VmModel { life: Life::Live, has_object: true, protected, ipa_bits, vcpu_limit, ..vm.clone() };
                let (vm, gfn_limit) = (vm.vm(), (1 << ipa_bits) / PAGE_SIZE);
                self.change(&Call::Create { vm, name: handle_of(a1), protected, gfn_limit });
            }
            HostCall::VcpuInit => {
                if let Some(vm) = self.vms.get_mut(&a1) {
                    vm.run_pages.push(Pfn::new(a5));
                }
            }
            HostCall::VmTeardown => {
                let Some(vm) = self.vms.get_mut(&a1) else { return };
                vm.life = Life::Dying;
                if vm.has_object {
                    let vm = vm.vm();
                    self.change(&Call::StartTeardown { vm });
                }
            }
            HostCall::VmFinalise => {
                if let Some(vm) = self.vms.remove(&a1)
                    && vm.has_object
                {
                    self.change(&Call::Finalise { vm: vm.vm() });
                }
            }
            _ => {}
        }
    }
}
