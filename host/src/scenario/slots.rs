//! A guest's memory slots: what it touches is what its address space says, whatever was there before, and what it writes is
//! noted.

use super::Context;
use crate::frames::Pages;
use crate::hypercall;
use crate::run::{self, Exits, Stop};
use crate::vm::{OnDemand, Vm, VmError};
use crate::{expect, report};
use abi::actor::{ARGUMENT, COMMAND, Command, MAILBOX, MAX_RESULTS, RESULT};
use abi::{Gfn, Ipa, PAGE_SIZE};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use spin::Mutex;
use vmm::address_space::Refusal;
use vmm::guest_space::SpaceError;
use vmm::mmio::MmioDevice;
use vmm::region::{BackingId, Content, RegionId};
use vmm::slots::BLOCK_PAGES;

/// More memory of the guest's, besides the RAM that it starts with, and how much.
const MORE: Ipa = Ipa::new(0x5000_0000);
const MORE_SIZE: u64 = 4 << 20;
const MORE_BACKING: BackingId = BackingId(1);
/// Where that memory is moved to: not a multiple of a block's size from where it was.
const MOVED: Ipa = Ipa::new(0x6000_3000);
/// ROM among memory, and how many pages.
const ROM: Ipa = Ipa::new(0x5100_0000);
const ROM_PAGES: u64 = 2;
const ROM_BACKING: BackingId = BackingId(2);
/// ROM among devices, and next to it ROM whose writes go to a device.
const LOW_ROM: Ipa = Ipa::new(0x0010_0000);
const LOW_ROM_BACKING: BackingId = BackingId(3);
const FLASH: Ipa = Ipa::new(0x0010_1000);
const FLASH_BACKING: BackingId = BackingId(4);
/// What is in the first word of the ROMs' pages.
const CONTENT: u64 = 0x0123_4567_89ab_cdef;
/// What the guest writes.
const WORD: u64 = 0x5107_5107_5107_5107;

/// See the module.
pub fn run(context: &Context) {
    memory_follows_its_region(context);
    rom_is_not_written(context);
    what_the_guest_writes_is_noted(context);
    protected_guests_have_plain_ram_only(context);
}

/// What the guest is told, and what it answered.
#[derive(Default)]
struct Mailbox {
    command: Option<Command>,
    arguments: Vec<u64>,
    results: Vec<u64>,
    /// It has asked for a command when there was none.
    is_idle: bool,
}

/// The mailbox of `abi::actor` as a device.
struct MailboxDevice(Arc<Mutex<Mailbox>>);

impl MmioDevice for MailboxDevice {
    fn read(&mut self, offset: u64, _width: u64) -> u64 {
        let mut mailbox = self.0.lock();
        match offset {
            COMMAND => {
                let command = mailbox.command.take();
                mailbox.is_idle = command.is_none();
                command.unwrap_or(Command::Idle).word()
            }
            ARGUMENT if !mailbox.arguments.is_empty() => mailbox.arguments.remove(0),
            _ => 0,
        }
    }

    fn write(&mut self, offset: u64, _width: u64, value: u64) {
        if offset == RESULT {
            self.0.lock().results.push(value);
        }
    }
}

/// Keeps what is written to it.
struct Written(Arc<Mutex<Vec<(u64, u64)>>>);

impl MmioDevice for Written {
    fn read(&mut self, _offset: u64, _width: u64) -> u64 {
        0
    }

    fn write(&mut self, offset: u64, _width: u64, value: u64) {
        self.0.lock().push((offset, value));
    }
}

/// What came of an access: the word that was read, 0 for a write, or nothing where it aborted.
type Seen = Option<u64>;

/// A guest that makes the accesses that it is told to.
struct Guest {
    vm: Vm,
    mailbox: Arc<Mutex<Mailbox>>,
    exits: Exits,
}

impl Guest {
    /// A guest that waits for its first command.
    fn create(context: &Context, protected: bool) -> Option<Self> {
        let mut vm = context.guest_with("actor", "", |setup| setup.protected = protected)?;
        vm.on_demand = OnDemand::Block;
        let mailbox = Arc::new(Mutex::new(Mailbox::default()));
        let device = Box::new(MailboxDevice(mailbox.clone()));
        let added = vm.add_device("mailbox", MAILBOX, PAGE_SIZE, device);
        report::check("mailbox-added", added.is_ok(), format_args!("{added:?}"));
        let mut guest = Self { vm, mailbox, exits: Exits::default() };
        if expect!("guest-waits-for-commands", guest.run_until_idle(), None) {
            return Some(guest);
        }
        guest.end();
        None
    }

    /// Runs the guest until it asks for a command and there is none; why it did not come so far.
    fn run_until_idle(&mut self) -> Option<Stop> {
        self.mailbox.lock().is_idle = false;
        while !self.mailbox.lock().is_idle {
            let reason = match hypercall::vcpu_run(self.vm.handle(), 0) {
                Ok(reason) => reason,
                Err(error) => return Some(Stop::Failed(VmError::Refused("VCPU_RUN", error))),
            };
            let page = self.vm.vcpus[0].run_page();
            run::refuse(page, false);
            let exit = run::read_exit(&self.vm, 0, reason);
            match run::serve(&mut self.vm, 0, &exit, &mut self.exits) {
                None => {}
                Some(Stop::NoMemoryAt(_)) => run::refuse(page, true),
                Some(stop) => return Some(stop),
            }
        }
        None
    }

    fn command(&mut self, command: Command, arguments: &[u64]) -> [u64; MAX_RESULTS] {
        {
            let mut mailbox = self.mailbox.lock();
            mailbox.command = Some(command);
            mailbox.arguments = arguments.to_vec();
            mailbox.results.clear();
        }
        if let Some(stop) = self.run_until_idle() {
            report::check("guest-goes-on", false, format_args!("{stop:?}"));
        }
        let mut results = [0; MAX_RESULTS];
        results.iter_mut().zip(&self.mailbox.lock().results).for_each(|(result, seen)| *result = *seen);
        results
    }

    /// The guest reads the first word of page `page` from `start` on.
    fn read(&mut self, start: Ipa, page: u64) -> Seen {
        let [syndrome, value, ..] = self.command(Command::Load, &[start.raw() + page * PAGE_SIZE]);
        (syndrome == 0).then_some(value)
    }

    /// The guest writes the first word of a page.
    fn write(&mut self, start: Ipa, page: u64, value: u64) -> Seen {
        let [syndrome, ..] = self.command(Command::Store, &[start.raw() + page * PAGE_SIZE, value]);
        (syndrome == 0).then_some(0)
    }

    /// How many faults were served by giving memory.
    fn faults(&self) -> u64 {
        self.exits.faults
    }

    /// Gives the guest more memory.
    fn add_more(&mut self) -> Option<RegionId> {
        let added = self.vm.add_ram("more", MORE, MORE_SIZE, MORE_BACKING);
        report::check("memory-added", added.is_ok(), format_args!("{added:?}"));
        added.ok()
    }

    /// A page with [`CONTENT`] in its first word, and zeroes.
    fn keep_rom(&mut self, backing: BackingId, pages: u64) -> bool {
        let Some(mut content) = Pages::zeroed(pages) else { return false };
        content.words().chunks_exact_mut((PAGE_SIZE / 8) as usize).for_each(|page| page[0] = CONTENT);
        expect!("rom-kept", self.vm.keep(backing, 0, content), Ok(()))
    }

    /// How many pages of the guest's memory begin with [`WORD`], as the host sees it.
    fn words(&mut self) -> usize {
        let pages = self.vm.lent().flat_map(|pages| pages.words().chunks_exact((PAGE_SIZE / 8) as usize));
        pages.filter(|page| page[0] == WORD).count()
    }

    /// Which pages of the additional memory were written since the last time.
    fn written(&mut self) -> Option<Vec<u64>> {
        Some(self.vm.take_written(Gfn::containing(MORE))?.iter().collect())
    }

    /// Takes it apart.
    fn end(self) {
        super::take_apart(self.vm);
    }
}

/// Memory that is taken out of the address space is out of the guest's reach, and shows what it held where it comes back.
fn memory_follows_its_region(context: &Context) {
    let Some(mut guest) = Guest::create(context, false) else { return };
    expect!("nothing-there-yet", guest.read(MORE, 0), None);
    let Some(more) = guest.add_more() else { return guest.end() };
    let faults = guest.faults();
    expect!("written", guest.write(MORE, 1, WORD), Some(0));
    expect!("block-given", (guest.read(MORE, BLOCK_PAGES - 1), guest.faults() - faults), (Some(0), 1));
    expect!("other-block-not-given", (guest.read(MORE, BLOCK_PAGES), guest.faults() - faults), (Some(0), 2));

    let gone = guest.vm.change(|tree, _| tree.detach(more));
    expect!("slot-deleted", gone, Ok(()));
    expect!("deleted-slot-out-of-reach", (guest.read(MORE, 1), guest.write(MORE, 2, 0)), (None, None));
    expect!("rest-of-memory-there", guest.read(vmm::layout::RAM_BASE, 0).is_some(), true);

    let back = guest.vm.change(|tree, root| tree.add(root, more, MOVED.raw(), 0));
    expect!("slot-moved", back, Ok(()));
    expect!("moved-slot-shows-what-it-held", guest.read(MOVED, 1), Some(WORD));
    expect!("moved-slot-written", guest.write(MOVED, 2, WORD), Some(0));
    expect!("nothing-where-it-was", guest.read(MORE, 1), None);

    // Something else hides a page in its middle, and then does not.
    let cover = guest.vm.change(|tree, root| {
        let cover = tree.create("cover", PAGE_SIZE, Content::Ram(ROM_BACKING))?;
        tree.add(root, cover, MOVED.raw() + PAGE_SIZE, 1).map(|()| cover)
    });
    expect!("covered", (guest.read(MOVED, 1), guest.read(MOVED, 2)), (Some(0), Some(WORD)));
    let bare = cover.and_then(|cover| guest.vm.change(|tree, _| tree.set_enabled(cover, false)));
    expect!("cover-gone", bare, Ok(()));
    expect!("uncovered", (guest.read(MOVED, 1), guest.read(MOVED, 2)), (Some(WORD), Some(WORD)));
    expect!("host-sees-it", guest.words(), 2);
    guest.end();
}

fn rom_is_not_written(context: &Context) {
    let Some(mut guest) = Guest::create(context, false) else { return };
    if !guest.keep_rom(ROM_BACKING, ROM_PAGES)
        || !guest.keep_rom(LOW_ROM_BACKING, 1)
        || !guest.keep_rom(FLASH_BACKING, 1)
    {
        return guest.end();
    }
    let log = Arc::new(Mutex::new(Vec::new()));
    let device = guest.vm.new_device(Box::new(Written(log.clone())));
    let added = guest.vm.change(|tree, root| {
        let rom = tree.create("rom", ROM_PAGES * PAGE_SIZE, Content::Rom(ROM_BACKING))?;
        tree.add(root, rom, ROM.raw(), 0)?;
        let low = tree.create("low ROM", PAGE_SIZE, Content::Rom(LOW_ROM_BACKING))?;
        tree.add(root, low, LOW_ROM.raw(), 0)?;
        let content = Content::RomDevice { backing: FLASH_BACKING, device, reads_memory: true };
        let flash = tree.create("flash", PAGE_SIZE, content)?;
        tree.add(root, flash, FLASH.raw(), 0)
    });
    expect!("rom-added", added, Ok(()));
    for (name, start) in [("rom", ROM), ("low-rom", LOW_ROM), ("flash", FLASH)] {
        let seen = guest.read(start, 0);
        report::check(&alloc::format!("{name}-read"), seen == Some(CONTENT), format_args!("{seen:x?}"));
    }
    expect!("rom-write-aborts", guest.write(ROM, 0, WORD), None);
    expect!("untouched-rom-write-aborts", guest.write(ROM, 1, WORD), None);
    expect!("low-rom-write-is-lost", guest.write(LOW_ROM, 0, WORD), Some(0));
    expect!("flash-write-done", guest.write(FLASH, 0, WORD), Some(0));
    expect!("flash-write-reaches-the-device", log.lock().clone(), [(0, WORD)]);
    expect!("rom-kept-its-content", (guest.words(), guest.read(ROM, 1)), (0, Some(CONTENT)));
    let low = guest.vm.add_ram("low RAM", Ipa::new(0x0020_0000), PAGE_SIZE, MORE_BACKING);
    expect!("no-ram-among-devices", low, refused(Ipa::new(0x0020_0000)));
    guest.end();
}

fn what_the_guest_writes_is_noted(context: &Context) {
    let Some(mut guest) = Guest::create(context, false) else { return };
    let Some(more) = guest.add_more() else { return guest.end() };
    // These two blocks the guest has, to be written, when noting begins.
    expect!("written-before", (guest.write(MORE, 3, 1), guest.write(MORE, BLOCK_PAGES, 1)), (Some(0), Some(0)));
    expect!("nothing-noted", guest.written(), None);
    expect!("noting", guest.vm.change(|tree, _| tree.set_dirty_logging(more, true)), Ok(()));

    let last = MORE_SIZE / PAGE_SIZE - 1;
    for page in [3, 4, 7, BLOCK_PAGES] {
        report::check("noted-page-read", guest.read(MORE, page).is_some(), format_args!("{page}"));
    }
    expect!("read-is-not-written", guest.written(), Some(Vec::new()));
    for page in [7, 3, last] {
        expect!("noted-page-written", guest.write(MORE, page, WORD), Some(0));
    }
    let faults = guest.faults();
    expect!("written-twice", (guest.write(MORE, 7, WORD), guest.faults() - faults), (Some(0), 0));
    expect!("written-pages-noted", guest.written(), Some(alloc::vec![3, 7, last]));
    expect!("noted-once", guest.written(), Some(Vec::new()));
    expect!("read-again", (guest.read(MORE, 3), guest.write(MORE, 7, 0)), (Some(WORD), Some(0)));
    expect!("noted-anew", guest.written(), Some(alloc::vec![7]));

    expect!("no-noting", guest.vm.change(|tree, _| tree.set_dirty_logging(more, false)), Ok(()));
    expect!("written-after", (guest.write(MORE, 3, WORD), guest.write(MORE, 5, WORD)), (Some(0), Some(0)));
    expect!("nothing-noted-after", guest.written(), None);
    expect!("content-kept", (guest.read(MORE, 3), guest.read(MORE, 7), guest.words()), (Some(WORD), Some(0), 3));
    guest.end();
}

/// What comes of a change that puts memory at `place` which this guest cannot have there.
fn refused<T>(place: Ipa) -> Result<T, VmError> {
    Err(VmError::Space(SpaceError::Refused(Refusal::Unsupported(place))))
}

/// What was given to a protected guest stays with it until its end.
fn protected_guests_have_plain_ram_only(context: &Context) {
    let Some(mut guest) = Guest::create(context, true) else { return };
    expect!("no-rom", guest.vm.add_rom("rom", ROM, PAGE_SIZE, ROM_BACKING), refused(ROM));
    let Some(more) = guest.add_more() else { return guest.end() };
    let noting = guest.vm.change(|tree, _| tree.set_dirty_logging(more, true));
    expect!("no-noting", noting, refused(MORE));
    expect!("written", guest.write(MORE, 1, WORD), Some(0));
    let given = guest.vm.map().len();
    expect!("slot-deleted", guest.vm.change(|tree, _| tree.detach(more)), Ok(()));
    expect!("given-page-kept", guest.read(MORE, 1), Some(WORD));
    expect!("no-more-memory", guest.read(MORE, BLOCK_PAGES), None);
    let Some(returned) = super::take_apart(guest.vm) else { return };
    report::check("all-of-it-returned", returned.memory >= given, format_args!("{returned:?}, {given} given"));
}
