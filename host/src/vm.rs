//! A guest from the host's side: what it is made of, and how it is built and taken apart.

use crate::frames::{Given, Pages};
use crate::guest_console::{GuestConsole, Spoken};
use crate::hypercall::{self, VmSettings};
use abi::host::{RIGHT_EXECUTE, RIGHT_READ, RIGHT_WRITE, VM_PROTECTED, VmHandle};
use abi::run::RunPage;
use abi::{Error, Gfn, Ipa, PAGE_SIZE, Pfn};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use spin::Mutex;
use vmm::device_tree::{GuestTree, TreeError};
use vmm::image::{ImageError, ImageHeader};
use vmm::layout::{DEFAULT_RAM_SIZE, DEVICE_TREE, GuestLayout, LayoutError, UART_BASE, UART_SIZE};
use vmm::memory::PageMap;
use vmm::mmio::Bus;
use vmm::pl011::Pl011;

/// Pages that a vCPU's cache of table pages gets at a time.
const CACHE_PAGES: u64 = 8;

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

/// Why a guest cannot be built, or goes no further.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VmError {
    /// Hyp refused the named call.
    Refused(&'static str, Error),
    /// The kernel is no image.
    Image(ImageError),
    /// The kernel does not fit.
    Layout(LayoutError),
    /// The device tree cannot be written.
    Tree(TreeError),
    /// The host has no pages left.
    OutOfMemory,
    /// Its interrupt controller cannot be made.
    Interrupts,
}

impl fmt::Display for VmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VmError::Refused(call, error) => write!(f, "{call}: {error}"),
            VmError::Image(error) => write!(f, "bad image: {error:?}"),
            VmError::Layout(error) => write!(f, "bad layout: {error:?}"),
            VmError::Tree(error) => write!(f, "bad device tree: {error:?}"),
            VmError::OutOfMemory => f.write_str("the host is out of memory"),
            VmError::Interrupts => f.write_str("the CPU's interrupt controller serves no guests"),
        }
    }
}

/// Names the call that hyp refused.
fn refused(call: &'static str) -> impl Fn(Error) -> VmError {
    move |error| VmError::Refused(call, error)
}

/// One vCPU.
pub struct Vcpu {
    object: Given,
    run_page: Pages,
    cache: Vec<Given>,
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

/// A guest.
pub struct Vm {
    name: String,
    handle: VmHandle,
    layout: GuestLayout,
    object: Given,
    /// Its vCPUs, by index.
    pub vcpus: Vec<Vcpu>,
    protected: bool,
    memory: Vec<Given>,
    /// What a guest that is not protected has of the host's, and from which frame on.
    lent: Vec<(Gfn, Pages)>,
    map: PageMap,
    /// Whether it gets a page where it touches RAM that has none.
    pub on_demand: bool,
    /// Its devices.
    pub bus: Bus,
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
    /// Builds a guest, ready to run.
    ///
    /// # Errors
    /// [`VmError`]; what was built until then is taken apart again.
    pub fn create(setup: &Setup<'_>) -> Result<Self, VmError> {
        let header = ImageHeader::parse(setup.image).map_err(VmError::Image)?;
        let layout =
            GuestLayout::new(setup.ram_size, header.text_offset, header.image_size).map_err(VmError::Layout)?;
        let layout = match setup.initrd.len() {
            0 => layout,
            size => layout.with_initrd(size as u64).map_err(VmError::Layout)?,
        };
        let tree = GuestTree {
            ram_size: setup.ram_size,
            vcpus: setup.vcpus as u32,
            bootargs: setup.bootargs,
            initrd: layout.initrd(),
            kaslr_seed: None,
            rng_seed: &[],
        };
        let tree = tree.to_blob().map_err(VmError::Tree)?;

        let mut vm = Self::init(setup, layout)?;
        let built = vm.add_vcpus(setup.vcpus).and_then(|()| {
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
        if let Err(error) = hypercall::vm_init(handle, &settings, object.pfn(), sizes.vm_pages) {
            hypercall::vm_teardown(handle).map_err(refused("VM_TEARDOWN"))?;
            hypercall::vm_finalise(handle).map_err(refused("VM_FINALISE"))?;
            return Err(VmError::Refused("VM_INIT", error));
        }
        let spoken = Arc::new(Mutex::new(Spoken::default()));
        let mut bus = Bus::new();
        let console = Pl011::new(GuestConsole::new(setup.name, spoken.clone()));
        bus.attach(UART_BASE, UART_SIZE, Box::new(console)).expect("the bus is empty");
        Ok(Self {
            name: String::from(setup.name),
            handle,
            layout,
            object: object.given(),
            vcpus: Vec::new(),
            protected: setup.protected,
            memory: Vec::new(),
            lent: Vec::new(),
            map: PageMap::new(),
            on_demand: true,
            bus,
            spoken,
        })
    }

    fn add_vcpus(&mut self, count: u64) -> Result<(), VmError> {
        let sizes = hypercall::vm_sizes(self.layout.ipa_bits(), count).map_err(refused("VM_SIZES"))?;
        for index in 0..count {
            let object = Pages::allocate(sizes.vcpu_pages).ok_or(VmError::OutOfMemory)?;
            let run_page = Pages::zeroed(1).ok_or(VmError::OutOfMemory)?;
            hypercall::vcpu_init(self.handle, index, object.pfn(), sizes.vcpu_pages, run_page.pfn())
                .map_err(refused("VCPU_INIT"))?;
            self.vcpus.push(Vcpu { object: object.given(), run_page, cache: Vec::new(), on: i32::from(index == 0) });
        }
        self.top_up(0)
    }

    /// Gives vCPU `index` pages for tables.
    pub fn top_up(&mut self, index: usize) -> Result<(), VmError> {
        let pages = Pages::allocate(CACHE_PAGES).ok_or(VmError::OutOfMemory)?;
        hypercall::vcpu_top_up(self.handle, index as u64, pages.pfn(), CACHE_PAGES).map_err(refused("VCPU_TOP_UP"))?;
        self.vcpus[index].cache.push(pages.given());
        Ok(())
    }

    /// Puts `content` at `start`, with zeroes up to `size` bytes: into the host's own pages first, which are then
    /// given.
    fn load(&mut self, start: Ipa, content: &[u8], size: u64) -> Result<(), VmError> {
        let offset = start.page_offset() as usize;
        let mut pages = Pages::zeroed((offset as u64 + size).div_ceil(PAGE_SIZE)).ok_or(VmError::OutOfMemory)?;
        pages.bytes()[offset..offset + content.len()].copy_from_slice(content);
        self.give(pages, Gfn::containing(start))
    }

    /// Gives `pages` to the guest from guest frame `first` on: donates them to a protected one, shares them with another
    /// that may do everything with them.
    ///
    /// # Errors
    /// [`VmError`]; the pages are the host's alone still.
    pub fn give(&mut self, pages: Pages, first: Gfn) -> Result<(), VmError> {
        self.give_through(0, pages, first)
    }

    /// The same, with tables out of the cache of vCPU `index`.
    ///
    /// # Errors
    /// As [`give`](Self::give).
    pub fn give_through(&mut self, index: usize, pages: Pages, first: Gfn) -> Result<(), VmError> {
        if !self.protected {
            return self.share(pages, first, RIGHT_READ | RIGHT_WRITE | RIGHT_EXECUTE);
        }
        let handle = self.handle;
        let donate = || hypercall::vm_donate(handle, index as u64, pages.pfn(), first, pages.count());
        let given = match donate() {
            Err(Error::OutOfMemory) => {
                self.top_up(index)?;
                donate()
            }
            result => result,
        };
        given.map_err(refused("VM_DONATE"))?;
        self.donated(pages, first);
        Ok(())
    }

    /// Shares `pages` with a guest that is not protected, from guest frame `first` on, with `rights` of `abi::host`.
    ///
    /// # Errors
    /// [`VmError`]; the pages are the host's alone still.
    pub fn share(&mut self, pages: Pages, first: Gfn, rights: u64) -> Result<(), VmError> {
        let handle = self.handle;
        self.with_tables(|| hypercall::vm_share(handle, 0, pages.pfn(), first, pages.count(), rights))
            .map_err(refused("VM_SHARE"))?;
        self.enter(&pages, first);
        self.lent.push((first, pages));
        Ok(())
    }

    /// Takes back what was shared from guest frame `first` on.
    ///
    /// # Errors
    /// [`VmError`]; the guest has them still.
    ///
    /// # Panics
    /// Where nothing was shared there.
    pub fn unshare(&mut self, first: Gfn) -> Result<Pages, VmError> {
        let at = self.lent.iter().position(|(frame, _)| *frame == first).expect("nothing was shared there");
        let count = self.lent[at].1.count();
        hypercall::vm_unshare(self.handle, first, count).map_err(refused("VM_UNSHARE"))?;
        let (_, pages) = self.lent.swap_remove(at);
        for index in 0..count {
            self.map.remove_page(Pfn::new(pages.pfn().raw() + index));
        }
        Ok(pages)
    }

    /// Makes a call that draws on vCPU 0's cache of table pages, which is topped up where it is too small.
    ///
    /// # Errors
    /// The call's own.
    pub fn with_tables(&mut self, call: impl Fn() -> Result<(), Error>) -> Result<(), Error> {
        match call() {
            Err(Error::OutOfMemory) => {
                self.top_up(0).map_err(|_| Error::OutOfMemory)?;
                call()
            }
            result => result,
        }
    }

    /// Takes note that `pages` are the guest's, from guest frame `first` on.
    pub fn donated(&mut self, pages: Pages, first: Gfn) {
        self.enter(&pages, first);
        self.memory.push(pages.given());
    }

    fn enter(&mut self, pages: &Pages, first: Gfn) {
        let entered = self.map.insert(first, pages.pfn(), pages.count());
        entered.expect("hyp takes a page, and gives a frame one, only once");
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its handle.
    pub fn handle(&self) -> VmHandle {
        self.handle
    }

    /// How it is laid out.
    pub fn layout(&self) -> &GuestLayout {
        &self.layout
    }

    /// What the host shares with it.
    pub fn lent(&mut self) -> impl Iterator<Item = &mut Pages> {
        self.lent.iter_mut().map(|(_, pages)| pages)
    }

    /// Which pages it has been given.
    pub fn map(&self) -> &PageMap {
        &self.map
    }

    /// True where `count` frames from `first` on are RAM, and the guest has been given none of them.
    pub fn is_free_ram(&self, first: Gfn, count: u64) -> bool {
        let last = Gfn::new(first.raw() + count - 1);
        self.layout.is_ram(first) && self.layout.is_ram(last) && !self.map.has_any(first, count)
    }

    /// What it has said.
    pub fn spoken(&self) -> Arc<Mutex<Spoken>> {
        self.spoken.clone()
    }

    /// Takes note that the guest gave the page at `frame` back: it is the host's again.
    pub fn take_relinquished(&mut self, frame: Gfn) {
        if let Some(page) = self.map.page_of(frame) {
            self.map.remove_page(page);
        }
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
        while let Some((first, _)) = self.lent.last() {
            let first = *first;
            self.unshare(first)?;
        }
        while let Some((first, count)) = self.first_run() {
            let done = hypercall::vm_reclaim(self.handle, first, count).map_err(refused("VM_RECLAIM"))?;
            if done == 0 {
                return Err(VmError::Refused("VM_RECLAIM", Error::WrongState));
            }
            for index in 0..done {
                self.map.remove_page(Pfn::new(first.raw() + index));
            }
        }
        Ok(())
    }

    /// The first pages that it has which lie one after the other.
    fn first_run(&self) -> Option<(Pfn, u64)> {
        self.map.runs().next()
    }

    /// Looks at every page that came back of a guest that is no more, and takes it.
    ///
    /// # Safety
    /// All memory must have been taken back, and `VM_FINALISE` must have succeeded.
    pub unsafe fn finalised(mut self) -> Returned {
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
        for given in self.memory.drain(..) {
            take(given, &mut returned.memory, &mut returned.dirty);
        }
        for vcpu in self.vcpus.drain(..) {
            take(vcpu.object, &mut returned.objects, &mut returned.dirty);
            for given in vcpu.cache {
                take(given, &mut returned.objects, &mut returned.dirty);
            }
        }
        take(self.object, &mut returned.objects, &mut returned.dirty);
        returned
    }
}
