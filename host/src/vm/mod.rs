//! A guest from the host's side: what it is made of, and how it is built and taken apart.

mod error;
mod memory;
mod stage2;

pub use error::VmError;
pub use stage2::Stage2;

use crate::entropy;
use crate::frames::{Given, Pages};
use crate::guest_console::{GuestConsole, Spoken};
use crate::hypercall::{self, VmSettings};
use crate::paging;
use abi::host::{VM_PROTECTED, VmHandle};
use abi::run::RunPage;
use abi::{Error, Gfn, PAGE_SIZE, Pfn};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use error::refused;
use spin::Mutex;
use vmm::device_tree::GuestTree;
use vmm::guest_space::{GuestSpace, SpaceError};
use vmm::image::ImageHeader;
use vmm::layout::{DEFAULT_RAM_SIZE, DEVICE_TREE, GuestLayout, RAM_BASE, UART_BASE, UART_SIZE};
use vmm::memory::PageMap;
use vmm::pl011::Pl011;
use vmm::region::BackingId;

/// Guests that have been made and not been taken apart.
static ALIVE: AtomicU64 = AtomicU64::new(0);

/// How many guests have been made and not been taken apart: those that were dropped as they were are lost to the host,
/// with all that they have.
pub fn alive_count() -> u64 {
    ALIVE.load(Ordering::Relaxed)
}

/// What stands behind a guest's RAM. Other numbers are free for whoever gives it more memory.
pub const RAM_BACKING: BackingId = BackingId(0);

/// What a guest is to be.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    /// Name, for the console.
    pub name: &'a str,
    /// Kernel, an arm64 `Image`.
    pub image: &'a [u8],
    /// Its initrd, which may be empty: then it has none.
    pub initrd: &'a [u8],
    /// Bytes of RAM.
    pub ram_size: u64,
    /// How many vCPUs.
    pub vcpus: u64,
    /// Whether it is protected: what the host gives to such a guest is the guest's alone.
    pub protected: bool,
    /// Its `/chosen/bootargs`.
    pub bootargs: &'a str,
}

/// One vCPU.
pub struct Vcpu {
    object: Given,
    run_page: Given,
    /// How often it was turned on, less how often it turned itself off: the exits that say so may be served in another
    /// order than they came in, where vCPUs run on several CPUs.
    on: i32,
}

impl Vcpu {
    /// True where it was turned on, and has not turned itself off.
    pub fn is_on(&self) -> bool {
        self.on > 0
    }

    /// Takes note that it was turned on.
    pub fn turned_on(&mut self) {
        self.on += 1;
    }

    /// Takes note that it turned itself off.
    pub fn turned_off(&mut self) {
        self.on -= 1;
    }

    /// The run page. Hyp writes it while the vCPU runs, so it is only ever accessed by volatile reads and writes.
    pub fn run_page(&self) -> *mut RunPage {
        self.run_page.address().raw() as *mut RunPage
    }

    /// The run page's frame number.
    pub fn run_page_pfn(&self) -> Pfn {
        self.run_page.pfn()
    }
}

/// What a guest gets where it touches RAM that it has not been given yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnDemand {
    /// Nothing.
    Nothing,
    /// A page.
    Page,
    /// A block where all of it is RAM that it has not been given, a page else.
    Block,
}

/// A guest.
pub struct Vm {
    name: String,
    handle: VmHandle,
    layout: GuestLayout,
    object: Given,
    /// Its vCPUs, by index.
    pub vcpus: Vec<Vcpu>,
    /// Its memory and its devices.
    space: GuestSpace<Stage2>,
    /// What it gets where it touches RAM that has no page.
    pub on_demand: OnDemand,
    spoken: Arc<Mutex<Spoken>>,
}

/// What came back when a guest was taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Returned {
    /// Pages of guest memory.
    pub memory: u64,
    /// Pages of objects, tables and caches.
    pub objects: u64,
    /// Pages among them that hold anything but zeroes.
    pub dirty: u64,
}

impl Vm {
    /// Builds a guest, ready to run, with a console that it is heard by and no other device.
    ///
    /// # Errors
    /// [`VmError`]; what was built until then is taken apart again.
    pub fn create(setup: &Setup<'_>) -> Result<Self, VmError> {
        let spoken = Arc::new(Mutex::new(Spoken::default()));
        let console = Pl011::new(GuestConsole::new(setup.name, spoken.clone()));
        let vm = Self::create_with(setup, |space| {
            space.add_device("console", UART_BASE, UART_SIZE, Box::new(console)).map(drop)
        })?;
        Ok(Self { spoken, ..vm })
    }

    /// Builds a guest, ready to run, with the devices that `add_devices` gives it.
    ///
    /// # Errors
    /// [`VmError`]; what was built until then is taken apart again.
    pub fn create_with(
        setup: &Setup<'_>,
        add_devices: impl FnOnce(&mut GuestSpace<Stage2>) -> Result<(), SpaceError>,
    ) -> Result<Self, VmError> {
        let header = ImageHeader::parse(setup.image).map_err(VmError::Image)?;
        if !paging::has_pages_of(header.page_size) {
            return Err(VmError::NoPages(header.page_size));
        }
        let layout =
            GuestLayout::new(setup.ram_size, header.text_offset, header.image_size).map_err(VmError::Layout)?;
        let layout = match setup.initrd.len() {
            0 => layout,
            size => layout.with_initrd(size as u64).map_err(VmError::Layout)?,
        };
        let seeds = entropy::seeds();
        let tree = GuestTree {
            ram_size: setup.ram_size,
            vcpus: setup.vcpus as u32,
            bootargs: setup.bootargs,
            initrd: layout.initrd(),
            kaslr_seed: seeds.map(|seeds| seeds.kaslr),
            rng_seed: seeds.as_ref().map_or(&[], |seeds| &seeds.rng),
        };
        let tree = tree.to_blob().map_err(VmError::Tree)?;

        let mut vm = Self::init(setup, layout)?;
        let built = vm.add_vcpus(setup.vcpus).and_then(|()| {
            add_devices(&mut vm.space)?;
            vm.follow_change()?;
            vm.load(DEVICE_TREE, &tree, tree.len() as u64)?;
            vm.load(layout.image(), setup.image, header.image_size)?;
            layout.initrd().map_or(Ok(()), |place| vm.load(place.start, setup.initrd, setup.initrd.len() as u64))
        });
        match built {
            Ok(()) => Ok(vm),
            Err(error) => {
                vm.destroy()?;
                Err(error)
            }
        }
    }

    /// A protected VM that has neither memory nor any of its `vcpus` yet, and never will.
    ///
    /// # Errors
    /// [`VmError`].
    pub fn empty(vcpus: u64) -> Result<Self, VmError> {
        let layout = GuestLayout::new(DEFAULT_RAM_SIZE, 0, PAGE_SIZE).map_err(VmError::Layout)?;
        let setup = Setup {
            name: "empty",
            image: &[],
            initrd: &[],
            ram_size: layout.ram_size(),
            vcpus,
            protected: true,
            bootargs: "",
        };
        Self::init(&setup, layout)
    }

    /// The VM without vCPUs and memory.
    fn init(setup: &Setup<'_>, layout: GuestLayout) -> Result<Self, VmError> {
        let sizes = hypercall::vm_sizes(layout.ipa_bits(), setup.vcpus).map_err(refused("VM_SIZES"))?;
        let object = Pages::allocate(sizes.vm_pages.max(sizes.vm_alignment)).ok_or(VmError::OutOfMemory)?;
        let handle = hypercall::vm_reserve().map_err(refused("VM_RESERVE"))?;
        let settings = VmSettings {
            flags: if setup.protected { VM_PROTECTED } else { 0 },
            ipa_bits: layout.ipa_bits(),
            vcpus: setup.vcpus,
            entry: layout.image(),
            argument: DEVICE_TREE.raw(),
        };
        let space = Self::space_of(&layout, Stage2::new(handle, setup.protected)).map_err(VmError::Space);
        let made = space.and_then(|space| {
            let made = hypercall::vm_init(handle, &settings, object.pfn(), sizes.vm_pages);
            made.map(|()| space).map_err(refused("VM_INIT"))
        });
        let space = match made {
            Ok(space) => space,
            Err(error) => {
                hypercall::vm_teardown(handle).map_err(refused("VM_TEARDOWN"))?;
                hypercall::vm_finalise(handle).map_err(refused("VM_FINALISE"))?;
                return Err(error);
            }
        };
        ALIVE.fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            name: String::from(setup.name),
            handle,
            layout,
            object: object.given(),
            vcpus: Vec::new(),
            space,
            on_demand: OnDemand::Page,
            spoken: Arc::default(),
        })
    }

    /// An address space with the RAM that `layout` says, and nothing else.
    fn space_of(layout: &GuestLayout, memory: Stage2) -> Result<GuestSpace<Stage2>, SpaceError> {
        let mut space = GuestSpace::new(layout.ipa_bits() as u32, memory)?;
        space.add_ram("ram", RAM_BASE, layout.ram_size(), RAM_BACKING)?;
        Ok(space)
    }

    fn add_vcpus(&mut self, count: u64) -> Result<(), VmError> {
        let sizes = hypercall::vm_sizes(self.layout.ipa_bits(), count).map_err(refused("VM_SIZES"))?;
        for index in 0..count {
            let object = Pages::allocate(sizes.vcpu_pages).ok_or(VmError::OutOfMemory)?;
            let run_page = Pages::zeroed(1).ok_or(VmError::OutOfMemory)?;
            hypercall::vcpu_init(self.handle, index, object.pfn(), sizes.vcpu_pages, run_page.pfn())
                .map_err(refused("VCPU_INIT"))?;
            self.vcpus.push(Vcpu { object: object.given(), run_page: run_page.given(), on: i32::from(index == 0) });
        }
        self.top_up(0)
    }

    /// Gives vCPU `index` pages for tables.
    ///
    /// # Errors
    /// [`VmError`].
    pub fn top_up(&mut self, index: usize) -> Result<(), VmError> {
        self.memory().top_up(index)
    }

    /// What hyp does to its memory.
    pub(super) fn memory(&mut self) -> &mut Stage2 {
        self.space.slots_mut().driver_mut()
    }

    /// Makes a call that draws on vCPU 0's cache of table pages, which is topped up where it is too small.
    ///
    /// # Errors
    /// The call's own.
    pub fn with_tables(&mut self, call: impl Fn() -> Result<(), Error>) -> Result<(), Error> {
        self.memory().with_tables(0, call)
    }

    /// Takes note that `pages` are the guest's, from guest frame `first` on.
    pub fn donated(&mut self, pages: Pages, first: Gfn) {
        self.memory().donated(pages, first);
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is protected.
    pub fn is_protected(&self) -> bool {
        self.space.slots().driver().is_protected()
    }

    /// Its handle.
    pub fn handle(&self) -> VmHandle {
        self.handle
    }

    /// How it is laid out.
    pub fn layout(&self) -> &GuestLayout {
        &self.layout
    }

    /// The memory of a guest that is not protected.
    pub fn lent(&mut self) -> impl Iterator<Item = &mut Pages> {
        self.memory().kept()
    }

    /// Which pages it has been given, where it is protected.
    pub fn map(&self) -> &PageMap {
        self.space.slots().driver().map()
    }

    /// What hyp was given for it: its object, its vCPUs', and what went into the vCPUs' caches for tables.
    pub fn objects(&self) -> impl Iterator<Item = (Pfn, u64)> {
        let vcpus = self.vcpus.iter().map(|vcpu| &vcpu.object);
        let all = [&self.object].into_iter().chain(vcpus).chain(self.space.slots().driver().caches());
        all.map(|given| (given.pfn(), given.count()))
    }

    /// The page that it has at `frame`.
    pub fn page_of(&self, frame: Gfn) -> Option<Pfn> {
        self.space.slots().driver().page_of(frame)
    }

    /// What it has said.
    pub fn spoken(&self) -> Arc<Mutex<Spoken>> {
        self.spoken.clone()
    }

    /// Takes note that the guest gave the page at `frame` back: it is the host's again.
    pub fn take_relinquished(&mut self, frame: Gfn) {
        self.memory().take_relinquished(frame);
    }

    /// Takes the guest apart: teardown, reclaim of every page, finalise. Every page that comes back is looked at.
    ///
    /// # Errors
    /// The call that hyp refused; what has not come back by then is lost to the host.
    pub fn destroy(self) -> Result<Returned, VmError> {
        hypercall::vm_teardown(self.handle).map_err(refused("VM_TEARDOWN"))?;
        self.reclaim()
    }

    /// The second half of [`destroy`](Self::destroy), for a guest that is dying already.
    ///
    /// # Errors
    /// As [`destroy`](Self::destroy).
    pub fn reclaim(mut self) -> Result<Returned, VmError> {
        self.take_memory_back()?;
        hypercall::vm_finalise(self.handle).map_err(refused("VM_FINALISE"))?;
        // SAFETY: the guest is finalised, as was just seen.
        Ok(unsafe { self.finalised() })
    }

    /// Takes back all memory that the host gave to the guest, which is dying.
    ///
    /// # Errors
    /// The call that hyp refused; it may be made again.
    pub fn take_memory_back(&mut self) -> Result<(), VmError> {
        self.memory().take_all_back()
    }

    /// Looks at every page that came back of a guest that is no more, and takes it.
    ///
    /// # Safety
    /// All memory must have been taken back, and `VM_FINALISE` must have succeeded.
    pub unsafe fn finalised(mut self) -> Returned {
        ALIVE.fetch_sub(1, Ordering::Relaxed);
        let mut returned = Returned::default();
        let take = |given: Given, total: &mut u64, dirty: &mut u64| {
            // SAFETY: the VM is finalised: hyp and the guest hold no page of it any more.
            let mut pages = unsafe { given.returned() };
            *total += pages.count();
            *dirty += pages
                .words()
                .chunks_exact((PAGE_SIZE / 8) as usize)
                .filter(|page| page.iter().any(|word| *word != 0))
                .count() as u64;
        };
        let (memory, caches) = self.memory().take_given();
        for given in memory {
            take(given, &mut returned.memory, &mut returned.dirty);
        }
        for given in caches {
            take(given, &mut returned.objects, &mut returned.dirty);
        }
        for Vcpu { object, run_page, .. } in self.vcpus.drain(..) {
            take(object, &mut returned.objects, &mut returned.dirty);
            // SAFETY: as above: hyp has unpinned it. What its exits wrote to it is no secret.
            drop(unsafe { run_page.returned() });
        }
        take(self.object, &mut returned.objects, &mut returned.dirty);
        returned
    }
}
