//! Runs a script of calls: the ramdisk's file `script`, or the one that the boot argument `script=` names.
//!
//! Each step is done by the CPU that it names, with real calls, and actors for the guests. What comes of it is compared with
//! what the script expects and with the specification. The transcript is a script again.

use super::actor::Actor;
use super::{Context, machine};
use crate::cpu::Cpu;
use crate::frames::Pages;
use crate::{call, println, report, smp};
use abi::host::VmHandle;
use abi::{Error, Pfn, PhysAddr};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use call_script::{Access, Driver, Executor, GuestRequest, Outcome, Places, Script, Status, VmNumber, VmSetup};
use ownership_spec::Machine;
use spin::Mutex;

/// The ramdisk's file, where the boot arguments name none.
const DEFAULT_FILE: &str = "script";
/// Pages below this one are RAM or devices that the host may need.
const LOW_PAGES: u64 = 1 << 20;

/// See the module.
pub fn run(context: &Context) {
    let name = context.machine.argument("script").unwrap_or(DEFAULT_FILE);
    let Some(file) = context.ramdisk.file(name) else {
        report::check("script-there", false, format_args!("there is no {name} in the ramdisk"));
        return;
    };
    let text = core::str::from_utf8(file).unwrap_or("\u{fffd}");
    let script = match Script::parse(text) {
        Ok(script) => script,
        Err(error) => {
            report::check("script-reads", false, format_args!("{error}"));
            return;
        }
    };
    report::check("script-reads", true, format_args!(""));
    let Some(mut board) = Board::new(context, &script) else { return };
    play(&script, &mut board);
}

fn play(script: &Script, board: &mut Board<'_>) {
    let mut driver = match Driver::new(board, script) {
        Ok(driver) => driver,
        Err(reason) => {
            report::check("script-begins", false, format_args!("{reason}"));
            return;
        }
    };
    println!("replay: {} pages, {} steps", script.setup.pages, script.steps.len());
    let mut first_wrong = None;
    let summary = driver.run(script, |performed| {
        println!("{performed}");
        if first_wrong.is_none() && !performed.is_as_expected() {
            first_wrong = Some(alloc::format!("step {}: {performed}", performed.index + 1));
        }
    });
    report::value("steps", summary.done as u64);
    report::value("steps-with-expectation", summary.judged as u64);
    report::value("steps-left-out", summary.left_out as u64);
    let told = first_wrong.unwrap_or_default();
    report::check("steps-as-expected", summary.failed == 0, format_args!("{} are not; first {told}", summary.failed));
    let wrong = driver.finish();
    let first = wrong.first().map_or("", |wrong| wrong);
    report::check("everything-back", wrong.is_empty(), format_args!("{} things are not; first {first}", wrong.len()));
}

/// The machine that the script runs on.
struct Board<'a> {
    context: &'a Context,
    cpus: Vec<&'static Cpu>,
    places: Places,
    /// The pool. It is never given back to the allocator: the script may have lost it.
    _pool: core::mem::ManuallyDrop<Pages>,
    actors: BTreeMap<VmNumber, Actor>,
}

impl<'a> Board<'a> {
    fn new(context: &'a Context, script: &Script) -> Option<Self> {
        let cpus: Vec<&'static Cpu> = smp::online().collect();
        let needed = script.cpus();
        if !report::check("cpus-enough", needed <= cpus.len(), format_args!("{needed} are needed")) {
            return None;
        }
        let Some(pool) = machine::pool(script.setup.pages) else {
            report::check("pool", false, format_args!("too large for this machine"));
            return None;
        };
        match machine::places(context, pool.pfn(), script.setup.pages) {
            Ok(places) => {
                let pool = core::mem::ManuallyDrop::new(pool);
                Some(Self { context, cpus, places, _pool: pool, actors: BTreeMap::new() })
            }
            Err(error) => {
                report::check("places", false, format_args!("{error}"));
                None
            }
        }
    }

    /// Does `work` on a CPU.
    fn on<T: Send>(&self, cpu: usize, work: impl Fn() -> T + Sync) -> Option<T> {
        let result = Mutex::new(None);
        smp::run_on(&[self.cpus.get(cpu)?], || *result.lock() = Some(work()));
        result.into_inner()
    }
}

impl Executor for Board<'_> {
    fn create(&mut self, number: VmNumber, setup: &VmSetup) -> Result<VmHandle, Error> {
        let actor = Actor::create(self.context, setup.protected, setup.vcpus)?;
        let handle = actor.handle();
        self.actors.insert(number, actor);
        Ok(handle)
    }

    fn places(&self) -> Places {
        self.places
    }

    fn machine(&self) -> Option<Machine> {
        Some(machine::specified(self.context, &self.places))
    }

    fn host_call(&mut self, cpu: usize, function: u64, arguments: [u64; 7]) -> [u64; 4] {
        // SAFETY: the driver has asked `is_in_use` about every page that the call names.
        let made = self.on(cpu, || unsafe { call::raw_with_all(function, arguments) });
        made.unwrap_or([Error::NotSupported.to_register(), 0, 0, 0])
    }

    fn guest(&mut self, cpu: usize, vm: VmNumber, vcpu: u64, request: &GuestRequest) -> Outcome {
        let Some(mut actor) = self.actors.remove(&vm) else {
            return Outcome::of(Status::Skipped("there is no guest in this VM"));
        };
        let actor_there = Mutex::new(&mut actor);
        let outcome = self.on(cpu, || actor_there.lock().act(vcpu, request));
        self.actors.insert(vm, actor);
        outcome.unwrap_or(Outcome::of(Status::Skipped("there is no such CPU")))
    }

    fn access(&mut self, cpu: usize, access: Access, address: PhysAddr) -> Outcome {
        let places = self.places;
        // SAFETY: the driver has asked `is_in_use` about the page; what scripts and actors write is no code.
        let outcome = self.on(cpu, || unsafe { machine::touch(&places, access, address) });
        outcome.unwrap_or(Outcome::of(Status::Skipped("there is no such CPU")))
    }

    fn is_in_use(&self, first: Pfn, count: u64) -> bool {
        let Places { pool, pool_pages, hyp, hyp_pages, device, device_pages, .. } = self.places;
        let of = |start: Pfn, count: u64, page: u64| (start.raw()..start.raw() + count).contains(&page);
        let spared = |page| of(pool, pool_pages, page) || of(hyp, hyp_pages, page) || of(device, device_pages, page);
        let is_ram = |page| {
            let banks = self.context.machine.memory.iter();
            banks
                .map(|bank| Pfn::containing(bank.start)..Pfn::containing(bank.end))
                .any(|bank| bank.contains(&Pfn::new(page)))
        };
        // A call that names more pages than that, or pages beyond all numbers, is refused.
        let end = first.raw().saturating_add(count.min(abi::host::MAX_PAGES_PER_CALL));
        (first.raw()..end).any(|page| !spared(page) && (page < LOW_PAGES || is_ram(page)))
    }

    fn before_finalise(&mut self, number: VmNumber) {
        let Some(actor) = self.actors.get_mut(&number) else { return };
        if let Err(error) = actor.take_memory_back() {
            println!("replay: vm{number} keeps memory: {error}");
        }
    }

    fn finalised(&mut self, number: VmNumber) {
        if let Some(actor) = self.actors.remove(&number) {
            // SAFETY: the driver says so where VM_FINALISE succeeded, which it does only where the VM holds nothing.
            let returned = unsafe { actor.into_vm().finalised() };
            crate::expect!("pages-wiped", returned.dirty, 0);
        }
    }
}
