//! What a search is bounded by, and every call that can be made within the bounds.

use abi::host::VmHandle;
use abi::{Gfn, Pfn};
use ownership_spec::{Call, Machine, Rights, Specification, Vm};

/// The slots that VMs come to be in.
pub const SLOTS: [Vm; 2] = [Vm(0), Vm(1)];
/// A slot in which there never is a VM.
pub const NO_SLOT: Vm = Vm(2);
/// The name that the next VM gets.
pub const NEXT: VmHandle = VmHandle(0x110);
/// A name that no VM has any more, or ever.
pub const NOBODY: VmHandle = VmHandle(0x111);
/// The most frames of a guest that a search can have.
pub const MOST_FRAMES: usize = 3;

/// What may be borrowed to whom: to load, to store too, to execute too.
pub const ALL_RIGHTS: &[Rights] = &[Rights::READ, Rights::DATA, Rights::FULL];

/// True where the whole size is asked for, which takes long: `make exhaustive`.
pub fn is_whole() -> bool {
    std::env::var_os("EXHAUSTIVE").is_some_and(|size| size == "whole")
}

/// A VM that is to come, and one that is gone or never comes.
pub const STRANGERS: &[VmHandle] = &[NEXT, NOBODY];

/// The name of the VM in a slot.
pub const fn name(vm: Vm) -> VmHandle {
    VmHandle(0x100 + vm.0 as u32)
}

/// The bounds of a search: a few pages, frames and VMs. All that can happen to these, and nothing else, is searched.
#[derive(Clone, Debug)]
pub struct Domain {
    /// The machine.
    pub machine: Machine,
    /// The first of the pages.
    pub first_page: Pfn,
    /// How many pages follow each other from there; behind them is what the boot placed.
    pub pages: usize,
    /// The page of a device.
    pub device: Pfn,
    /// The device changes hands. If not, it stays the host's.
    pub grants: bool,
    /// How many frames a guest uses: the last that there are.
    pub frames: usize,
    /// Frames below this one exist.
    pub gfn_limit: u64,
    /// Which of the VMs are protected.
    pub protected: [bool; 2],
    /// What borrowers may be given.
    pub rights: &'static [Rights],
    /// For whom offers may be beside the VMs that there are.
    pub strangers: &'static [VmHandle],
    /// The most pins of a page.
    pub pins: u64,
    /// VMs come and go. If not, both live from the start.
    pub life: bool,
}

/// A call with small or with hostile operands.
struct Numbers {
    pages: Vec<u64>,
    no_pages: Vec<u64>,
    frames: Vec<u64>,
    no_frames: Vec<u64>,
}

impl Domain {
    /// The first frame that a guest uses.
    pub fn first_frame(&self) -> Gfn {
        Gfn::new(self.gfn_limit - self.frames as u64)
    }

    /// The page of that number.
    pub fn page(&self, number: usize) -> Pfn {
        Pfn::new(self.first_page.raw() + number as u64)
    }

    /// The frame of that number.
    pub fn frame(&self, number: usize) -> Gfn {
        Gfn::new(self.first_frame().raw() + number as u64)
    }

    /// The number of a frame.
    pub fn number_of(&self, gfn: Gfn) -> Option<usize> {
        let number = gfn.raw().checked_sub(self.first_frame().raw())?;
        usize::try_from(number).ok().filter(|number| *number < self.frames)
    }

    /// The call by which the VM of a slot comes to be.
    pub fn create(&self, vm: Vm, name: VmHandle) -> Call {
        Call::Create { vm, name, protected: self.protected[usize::from(vm.0)], gfn_limit: self.gfn_limit }
    }

    /// The state in which the search starts.
    pub fn start(&self) -> Specification {
        let start = Specification::new(self.machine.clone());
        let vms = if self.life { &[][..] } else { &SLOTS };
        vms.iter().fold(start, |state, vm| state.apply(&self.create(*vm, name(*vm))).expect("a VM").0)
    }

    fn numbers(&self) -> Numbers {
        let first = self.first_page.raw();
        let behind = first + self.pages as u64;
        let frame = self.first_frame().raw();
        Numbers {
            pages: (first..behind).collect(),
            no_pages: vec![self.device.raw(), behind, self.machine.pfn_limit, u64::MAX],
            frames: (frame..self.gfn_limit).collect(),
            no_frames: vec![self.gfn_limit, u64::MAX],
        }
    }

    /// Ranges of pages, and whether they are such as a call may name: single pages, hostile ones, and two and more of both
    /// kinds.
    fn page_ranges(&self) -> Vec<(Pfn, u64, bool)> {
        let Numbers { pages, no_pages, .. } = self.numbers();
        let first = self.first_page.raw();
        let single = pages.iter().map(|page| (*page, 1, true));
        let hostile = no_pages.into_iter().map(|page| (page, 1, false));
        // The last reaches into what was placed, and the device's into RAM.
        let pairs = pages.iter().map(|page| (*page, 2, true)).chain([(self.device.raw(), 2, false)]);
        let empty_or_long = [(first, 0, false), (first, self.machine.longest + 1, false)];
        let all = single.chain(hostile).chain(pairs).chain(empty_or_long);
        all.map(|(page, count, usual)| (Pfn::new(page), count, usual)).collect()
    }

    /// Frames, and whether they exist.
    fn gfns(&self) -> Vec<(Gfn, bool)> {
        let Numbers { frames, no_frames, .. } = self.numbers();
        let usual = frames.into_iter().map(|frame| (Gfn::new(frame), true));
        usual.chain(no_frames.into_iter().map(|frame| (Gfn::new(frame), false))).collect()
    }

    /// Slots, and whether there may be a VM.
    fn vms() -> [(Vm, bool); 3] {
        [(SLOTS[0], true), (SLOTS[1], true), (NO_SLOT, false)]
    }

    /// The rights that calls name, and whether they are such as a borrower can have.
    fn named_rights(&self) -> Vec<(Rights, bool)> {
        self.rights.iter().map(|rights| (*rights, true)).chain([(Rights::NONE, false)]).collect()
    }

    /// The numbers that offers have, and some that none has. Live offers are numbered from 1.
    fn offer_numbers(&self) -> Vec<u64> {
        let most = self.frames.min(self.machine.most_offers).min(self.pages) as u64;
        (0..=most + 1).collect()
    }

    /// Every call with every operand. Of the operands that are refused whatever the state, one comes at a time, beside one
    /// value of those that then make no difference.
    pub fn calls(&self) -> Vec<Call> {
        let mut calls = Vec::new();
        self.add_life(&mut calls);
        self.add_page_calls(&mut calls);
        self.add_page_and_frame_calls(&mut calls);
        self.add_frame_calls(&mut calls);
        self.add_offer_calls(&mut calls);
        calls
    }

    fn add_life(&self, calls: &mut Vec<Call>) {
        for vm in SLOTS {
            let taken = SLOTS.into_iter().map(name);
            calls.extend(taken.chain([NEXT]).map(|name| self.create(vm, name)));
        }
        for (vm, _) in Self::vms() {
            calls.extend([Call::StartTeardown { vm }, Call::Finalise { vm }]);
        }
    }

    fn add_page_calls(&self, calls: &mut Vec<Call>) {
        for (first, count, _) in self.page_ranges() {
            calls.extend([false, true].map(|restricted| Call::HostShareHyp { first, count, restricted }));
            calls.push(Call::HostUnshareHyp { first, count });
            calls.push(Call::HostDonateHyp { first, count });
            calls.push(Call::HypDonateHost { first, count });
            calls.push(Call::HostDonateDeviceHyp { first, count });
            calls.push(Call::HypDonateDeviceHost { first, count });
            if count == 1 {
                calls.extend([Call::HypPin { page: first }, Call::HypUnpin { page: first }]);
            }
            for (vm, _) in Self::vms() {
                calls.push(Call::HostReturnGuest { vm, first, count });
                calls.push(Call::Reclaim { vm, first, count });
                calls.push(Call::ForceReclaim { vm, first, count });
                calls.push(Call::ReclaimDevice { vm, first, count });
            }
        }
    }

    fn add_page_and_frame_calls(&self, calls: &mut Vec<Call>) {
        for (first, count, usual_pages) in self.page_ranges() {
            for (gfn, usual_frame) in self.gfns() {
                for (vm, usual_vm) in Self::vms() {
                    let oddities = [usual_pages, usual_frame, usual_vm].into_iter().filter(|usual| !usual).count();
                    let is_device = first == self.device;
                    if oddities > 1 && !(is_device && oddities == 2) {
                        continue;
                    }
                    calls.push(Call::HostGrantDevice { vm, first, gfn, count });
                    calls.push(Call::HostDonateGuest { vm, first, gfn, count });
                    calls.push(Call::HostLendGuest { vm, first, gfn, count });
                    for (rights, usual_rights) in self.named_rights() {
                        for restricted in [false, true] {
                            let first_of_many = rights == self.rights[0] && !restricted;
                            if (oddities == 0 && (usual_rights || !restricted)) || first_of_many {
                                calls.push(Call::HostShareGuest { vm, first, gfn, count, rights, restricted });
                            }
                        }
                    }
                }
            }
        }
    }

    fn add_frame_calls(&self, calls: &mut Vec<Call>) {
        for (vm, usual_vm) in Self::vms() {
            for (gfn, usual_frame) in self.gfns() {
                for count in [1, 2] {
                    calls.push(Call::HostUnshareGuest { vm, gfn, count });
                }
                calls.push(Call::GuestShareHost { vm, gfn });
                calls.push(Call::GuestUnshareHost { vm, gfn });
                calls.push(Call::GuestLendHost { vm, gfn });
                calls.push(Call::GuestReturn { vm, gfn });
                calls.push(Call::GuestRelinquish { vm, gfn });
                let receivers = SLOTS.map(name).into_iter().chain(self.strangers.iter().copied());
                for (number, receiver) in receivers.enumerate() {
                    for (rights, usual_rights) in self.named_rights() {
                        if usual_vm && usual_frame && usual_rights || number == 0 {
                            calls.push(Call::GuestOffer { vm, gfn, receiver, rights });
                        }
                    }
                }
            }
            for count in [0, self.machine.longest + 1] {
                calls.push(Call::HostUnshareGuest { vm, gfn: self.first_frame(), count });
            }
        }
    }

    fn add_offer_calls(&self, calls: &mut Vec<Call>) {
        for number in self.offer_numbers() {
            for (vm, usual_vm) in Self::vms() {
                calls.push(Call::GuestWithdraw { vm, number });
                for (owner, usual_owner) in Self::vms() {
                    calls.push(Call::GuestDrop { vm, owner, number });
                    calls.push(Call::HostEndShare { owner, borrower: vm, number });
                    for (gfn, usual_frame) in self.gfns() {
                        for (rights, usual_rights) in self.named_rights() {
                            let usual = [usual_vm && usual_owner, usual_frame, usual_rights];
                            if usual.into_iter().filter(|usual| !usual).count() <= 1 {
                                calls.push(Call::GuestAccept { vm, owner, number, gfn, rights });
                            }
                        }
                    }
                }
            }
        }
    }
}
