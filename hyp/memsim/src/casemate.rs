//! The machine's events as a trace for *casemate*, the checker of the REMS project that knows the same rules and shares no
//! code with this crate. The format is that of its version 3: one s-expression an event and line.
//!
//! Casemate takes a tree for what it is when its root is first loaded, and its descriptors for those of a tree without
//! concatenated root tables. It knows stage 2 and stage 1 of EL2, not EL1's own regime. Where it has no name for an
//! instruction, the trace leaves the instruction out if it could only clean something, so that casemate errs on the
//! side of complaint, or puts instructions in its place that do together what it does.

use std::collections::HashSet;
use std::fmt::{Arguments, Write};

use abi::{Ipa, PAGE_SIZE, Pfn, PhysAddr, PhysRange, VirtAddr};
use pgtable::geometry::entry_size;
use pgtable::{DsbKind, Geometry, Tlbi};

use crate::checker::State;
use crate::event::Event;
use crate::locks::{Hold, Lock};

/// A trace in the making.
#[derive(Default)]
pub(crate) struct Trace {
    text: String,
    /// The identity of the next line.
    next_id: u64,
    /// Events so far; a line names as its source the event that it came of.
    events: u64,
    /// Frames that casemate was told of.
    known: HashSet<u64>,
    /// Locks that casemate takes for held, with their CPUs.
    held: HashSet<(usize, Lock)>,
}

/// What stands for the address of a lock, which has none in this machine.
fn lock_address(lock: Lock) -> u64 {
    0xffff_0000_0000_0000 + 8 * lock.index() as u64
}

impl Trace {
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    fn line(&mut self, cpu: usize, name: &str, fields: Arguments<'_>) {
        let Self { text, next_id, events, .. } = self;
        writeln!(text, "({name} (id {next_id}) (tid {cpu}) {fields} (src \"memsim:{events}\"))")
            .expect("a string takes all that is written to it");
        *next_id += 1;
    }

    /// Presents the frame of `address` as memory that may hold descriptors and is zero so far; true where it was known.
    fn present(&mut self, cpu: usize, address: PhysAddr) -> bool {
        let pfn = Pfn::containing(address).raw();
        let is_known = !self.known.insert(pfn);
        if !is_known {
            self.line(cpu, "mem-init", format_args!("(address {:#x}) (size {PAGE_SIZE:#x})", pfn * PAGE_SIZE));
        }
        is_known
    }

    /// A frame was zeroed on its way to a new use.
    fn zeroed(&mut self, cpu: usize, frame: PhysAddr) {
        if self.present(cpu, frame) {
            let address = frame.raw();
            self.line(cpu, "mem-set", format_args!("(address {address:#x}) (size {PAGE_SIZE:#x}) (value 0)"));
        }
    }

    /// Frames were taken for a root.
    pub(crate) fn root(&mut self, root: PhysAddr, pages: u64) {
        for page in 0..pages {
            self.zeroed(0, PhysAddr::new(root.raw() + page * PAGE_SIZE));
        }
    }

    fn register(&mut self, cpu: usize, name: &str, value: u64) {
        self.line(cpu, "sysreg-write", format_args!("(sysreg {name}) (value {value:#x})"));
    }

    fn hint(&mut self, cpu: usize, kind: &str, location: PhysAddr, value: u64) {
        self.line(cpu, "hint", format_args!("(kind {kind}) (location {:#x}) (value {value:#x})", location.raw()));
    }

    /// A tree is watched from now on: its root, and the registers that say how it is walked, which are those of all CPUs.
    pub(crate) fn tree(&mut self, cpus: usize, root: PhysRange, registers: &[(&str, u64)]) {
        self.events += 1;
        let mut page = root.start;
        while page < root.end {
            self.present(0, page);
            page = PhysAddr::new(page.raw() + PAGE_SIZE);
        }
        for cpu in 0..cpus {
            for (name, value) in registers {
                self.register(cpu, name, *value);
            }
        }
    }

    /// The tree at `root` is written under `lock` only.
    pub(crate) fn guard(&mut self, root: PhysAddr, lock: Lock) {
        self.events += 1;
        self.hint(0, "set_root_lock", root, lock_address(lock));
    }

    /// The tree at `root` is watched no longer.
    pub(crate) fn release(&mut self, root: PhysAddr) {
        self.events += 1;
        self.hint(0, "release_table", root, 0);
    }

    /// The lines of one event.
    pub(crate) fn event(&mut self, cpu: usize, event: &Event) {
        self.events += 1;
        match *event {
            Event::Write { address, new, .. } | Event::SetAccessFlag { address, new, .. } => {
                self.present(cpu, address);
                let address = address.raw();
                // Stores and compare-exchanges of descriptors have release semantics, all of them.
                self.line(
                    cpu,
                    "mem-write",
                    format_args!("(mem-order release) (address {address:#x}) (value {new:#x})"),
                );
            }
            Event::Allocate(Some(frame)) => self.zeroed(cpu, frame),
            Event::Dsb(kind) => {
                let kind = match kind {
                    // No kind is stronger in casemate, and nothing in the rules asks for more.
                    DsbKind::Ish | DsbKind::Sy => "ish",
                    DsbKind::Ishst => "ishst",
                    DsbKind::Nsh => "nsh",
                    // Has no name there.
                    DsbKind::Nshst => return,
                };
                self.line(cpu, "barrier", format_args!("dsb (kind {kind})"));
            }
            Event::Isb => self.line(cpu, "barrier", format_args!("isb")),
            Event::Tlbi(operation) => self.tlbi(cpu, operation),
            Event::LoadVttbr(value) => {
                // Every value of the register is a root, that of no table as well.
                self.present(cpu, PhysAddr::new(value & crate::rules::ADDRESS));
                self.register(cpu, "vttbr_el2", value);
            }
            // A lock that is held by several is none to casemate.
            Event::Acquire { hold: Hold::Shared, .. } => {}
            Event::Acquire { lock, hold: Hold::Exclusive } => {
                self.held.insert((cpu, lock));
                self.line(cpu, "lock", format_args!("(address {:#x})", lock_address(lock)));
            }
            Event::Release(lock) => {
                if self.held.remove(&(cpu, lock)) {
                    self.line(cpu, "unlock", format_args!("(address {:#x})", lock_address(lock)));
                }
            }
            // Casemate knows tables only: not where frames come from and go to, nor data and its caches.
            Event::Allocate(None)
            | Event::Free(_)
            | Event::PageWrite(_)
            | Event::CleanInvalidate(_)
            | Event::CleanToPou(_)
            | Event::InvalidateInstructionCache(_) => {}
            // It would take a line for a CPU's, and has no other way to be told.
            Event::Corrupt { .. } => {}
        }
    }

    fn tlbi(&mut self, cpu: usize, operation: Tlbi) {
        let name = match operation {
            Tlbi::Ipas2e1Is { .. } => "ipas2e1is",
            Tlbi::Vae2Is { .. } => "vae2is",
            Tlbi::Vale2Is { .. } => "vale2is",
            Tlbi::Vmalle1Is => "vmalle1is",
            Tlbi::Vmalle1 => "vmalle1",
            Tlbi::Vmalls12e1Is => "vmalls12e1is",
            Tlbi::Vmalls12e1 => "vmalls12e1",
            Tlbi::Alle1Is => "alle1is",
            Tlbi::Alle1 => "alle1",
            Tlbi::Alle2Is => "alle2is",
            Tlbi::Alle2 => "alle2",
            Tlbi::Ripas2e1Is { ipa, pages, level } => {
                return self.one_by_one(cpu, pages.pages(), level, |offset| Tlbi::Ipas2e1Is {
                    ipa: Ipa::new(ipa.raw().wrapping_add(offset)),
                    level,
                });
            }
            Tlbi::Rvae2Is { address, pages, level } => {
                return self.one_by_one(cpu, pages.pages(), level, |offset| Tlbi::Vae2Is {
                    address: VirtAddr::new(address.raw().wrapping_add(offset)),
                    level,
                });
            }
            // Stage 2 by IPA for one CPU has no name there.
            Tlbi::Ipas2e1 { .. } => return,
            // Nor has EL1's own regime.
            Tlbi::Vae1Is { .. } | Tlbi::Vale1Is { .. } | Tlbi::Rvae1Is { .. } => return,
        };
        match operation.operand() {
            Some(operand) => self.line(cpu, "tlbi", format_args!("{name} (value {operand:#x})")),
            None => self.line(cpu, "tlbi", format_args!("{name}")),
        }
    }

    /// An invalidation of a range, by one instruction for each leaf that the level hint allows for.
    fn one_by_one(&mut self, cpu: usize, pages: u64, level: Option<u8>, operation: impl Fn(u64) -> Tlbi) {
        let step = entry_size(level.unwrap_or(3));
        let mut offset = 0;
        while offset < pages * PAGE_SIZE {
            self.tlbi(cpu, operation(offset));
            offset += step;
        }
    }
}

impl State {
    /// Presents a tree that is watched from now on in the trace, where one is made.
    pub(crate) fn trace_tree(&mut self, root: PhysAddr, geometry: &Geometry, registers: &[(&str, u64)]) {
        let cpus = self.cpus();
        if let Some(trace) = &mut self.trace {
            let end = PhysAddr::new(root.raw() + u64::from(geometry.root_tables()) * PAGE_SIZE);
            trace.tree(cpus, PhysRange { start: root, end }, registers);
        }
    }
}
