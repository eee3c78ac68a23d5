//! Guests side by side on all CPUs, each with its terminal: what `make run GUEST=…` shows.

mod devices;
mod instance;
mod pry;
mod runner;
mod scheduler;
mod terminal;

use crate::guest_console::{GuestConsole, Spoken};
use crate::hypercall::{self, InterruptInfo};
use crate::ramdisk::Ramdisk;
use crate::user_registers::{self, UserRegisters};
use crate::vm::{Setup, VmError};
use crate::{cpu, println, report, smp};
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use instance::{Ending, Instance};
use scheduler::Scheduler;
use spin::Mutex;
use terminal::{Console, Terminal};
use vmm::config::{self, GuestConfig};
use vmm::multiplexer::Input;

/// The ramdisk's list of guests.
const CONFIG: &str = "guests.conf";

/// How many bytes are taken from the user at once: what the UART holds.
const INPUT_AT_ONCE: usize = 16;

/// A guest, whichever life of it.
struct Guest {
    config: GuestConfig<'static>,
    image: &'static [u8],
    initrd: &'static [u8],
    instance: Mutex<Option<Arc<Instance>>>,
    /// How its last life ended.
    ending: Mutex<Option<Ending>>,
    /// What the user has typed and its console has had no room for.
    typed: Mutex<VecDeque<u8>>,
    /// What it said, where that goes into the host's report.
    spoken: Arc<Mutex<Spoken>>,
}

/// All of them.
struct Guests {
    guests: Vec<Guest>,
    scheduler: Arc<Scheduler>,
    terminal: Terminal,
    interrupts: InterruptInfo,
    /// What the guests say goes into the host's report.
    reports: bool,
    /// A guest that resets itself starts again.
    restarts: bool,
    /// One CPU tries to read what the guests were given.
    pries: bool,
    /// A bit for each guest that is to be ended by whoever comes first.
    ended: AtomicU64,
}

impl Guest {
    /// Its present life.
    fn instance(&self) -> Arc<Instance> {
        self.instance.lock().clone().expect("a guest that runs is alive")
    }

    /// Has its clock ring where it is time.
    fn look_at_clock(&self) {
        let instance = self.instance.lock().clone();
        if let Some(instance) = instance {
            instance.look_at_clock();
        }
    }

    /// Gives its console what was typed, as far as that takes it.
    fn deliver(&self) {
        let mut typed = self.typed.lock();
        if typed.is_empty() {
            return;
        }
        let Some(instance) = self.instance.lock().clone() else { return typed.clear() };
        while typed.front().is_some_and(|byte| instance.uart.with(|uart| uart.receive(*byte))) {
            typed.pop_front();
        }
    }
}

/// Runs the guests that the ramdisk lists until the last has ended. With `reports`, what they say goes into the host's
/// report, line by line, and none starts again. With `pries`, one of several CPUs tries to read their memory meanwhile.
/// False where one could not be run, or came to a bad end.
pub fn run(ramdisk: Ramdisk, reports: bool, pries: bool) -> bool {
    let interrupts = match hypercall::interrupt_info() {
        Ok(info) => info,
        Err(error) => return complain(&format!("INTERRUPT_INFO: {error}")),
    };
    let text = ramdisk.file(CONFIG).and_then(|file| core::str::from_utf8(file).ok());
    let Some(text) = text else { return complain(&format!("the ramdisk has no {CONFIG}")) };
    let mut guests = Vec::new();
    for entry in config::parse(text) {
        match entry.map_err(|error| format!("{CONFIG}: {error:?}")).and_then(|config| Guest::new(config, ramdisk)) {
            Ok(guest) => guests.push(guest),
            Err(what) => return complain(&what),
        }
    }
    let counts: Vec<usize> = guests.iter().map(|guest| guest.config.cpus as usize).collect();
    let terminal = Terminal::new(guests.iter().map(|guest| guest.config.name));
    let scheduler = Arc::new(Scheduler::new(&counts));
    let guests = Guests {
        guests,
        scheduler,
        terminal,
        interrupts,
        reports,
        restarts: !reports,
        pries,
        ended: AtomicU64::new(0),
    };
    guests.run_all()
}

fn complain(what: &str) -> bool {
    println!("host: {what}");
    report::check("guests-found", false, format_args!("{what}"));
    false
}

impl Guest {
    fn new(config: GuestConfig<'static>, ramdisk: Ramdisk) -> Result<Self, String> {
        let file = |name: &str| ramdisk.file(name).ok_or_else(|| format!("the ramdisk has no {name}"));
        let (image, initrd) = (file(config.image)?, config.initrd.map_or(Ok(&[][..]), file)?);
        Ok(Self {
            config,
            image,
            initrd,
            instance: Mutex::new(None),
            ending: Mutex::new(None),
            typed: Mutex::default(),
            spoken: Arc::default(),
        })
    }
}

impl Guests {
    fn run_all(&self) -> bool {
        for index in 0..self.guests.len() {
            if let Err(error) = self.create(index) {
                let name = self.guests[index].config.name;
                return complain(&format!("guest {name}: {error}"));
            }
        }
        let cpus: Vec<_> = smp::online().collect();
        let changed = AtomicU64::new(0);
        smp::run_on(&cpus, || {
            if self.is_prying() {
                return self.pry();
            }
            // The host uses no FP, SIMD or SVE: what is put there now must be there when the guests are gone.
            user_registers::enable();
            let before = UserRegisters::from_seed(cpu::current().mpidr()).load();
            self.scheduler.work(|id| self.run(id), || self.between());
            changed.fetch_add(UserRegisters::of_this_cpu().differences(&before) as u64, Ordering::Relaxed);
        });
        if self.reports {
            let changed = changed.load(Ordering::Relaxed);
            report::check("host-registers-kept", changed == 0, format_args!("{changed} changed"));
        }
        self.guests.iter().all(|guest| matches!(*guest.ending.lock(), Some(Ending::Off | Ending::Quit | Ending::Reset)))
    }

    /// Begins a life of a guest.
    fn create(&self, index: usize) -> Result<(), VmError> {
        let guest = &self.guests[index];
        let config = &guest.config;
        let console = if self.reports {
            Console::Report(GuestConsole::new(config.name, guest.spoken.clone()))
        } else {
            Console::Terminal(self.terminal.clone(), index)
        };
        let setup = Setup {
            name: config.name,
            image: guest.image,
            initrd: guest.initrd,
            ram_size: config.memory,
            vcpus: config.cpus,
            protected: config.protected,
            bootargs: config.append,
        };
        let instance = Instance::new(&setup, &self.scheduler, index, &self.interrupts, console)?;
        *guest.instance.lock() = Some(Arc::new(instance));
        Ok(())
    }

    /// A guest's life has ended, and the caller is the last that has to do with it.
    fn finish(&self, index: usize) {
        let guest = &self.guests[index];
        let name = guest.config.name;
        let Some(mut shared) = guest.instance.lock().take() else { return };
        // Others who had it are about to let go of it.
        let instance = loop {
            match Arc::try_unwrap(shared) {
                Ok(instance) => break instance,
                Err(again) => shared = again,
            }
            core::hint::spin_loop();
        };
        let ending = instance.ending();
        let exits = instance.exits();
        let outcome = instance.take_apart();
        if let Some((passed, _)) = guest.spoken.lock().end {
            report::value(&format!("{name}.checks"), passed.into());
        }
        let what = match outcome {
            Ok(returned) => {
                if self.reports {
                    report::check(
                        &format!("{name}.pages-wiped"),
                        returned.dirty == 0,
                        format_args!("{}", returned.dirty),
                    );
                }
                format!("{ending} after {exits} exits; {} pages came back", returned.memory)
            }
            Err(error) => format!("{ending}; it could not be taken apart: {error}"),
        };
        self.terminal.host_line(&format!("host: guest {name}: {what}"));
        *guest.ending.lock() = Some(ending);
        if ending == Ending::Reset && self.restarts && outcome.is_ok() {
            match self.create(index) {
                Ok(()) => return self.scheduler.restart(index),
                Err(error) => {
                    self.terminal.host_line(&format!("host: guest {name}: {error}"));
                    *guest.ending.lock() = Some(Ending::Failed(error));
                }
            }
        }
        self.scheduler.remove();
    }

    /// Ends the guests that are to end.
    fn end_guests(&self) {
        let mut ended = self.ended.swap(0, Ordering::AcqRel);
        while ended != 0 {
            let index = ended.trailing_zeros() as usize;
            if self.scheduler.end(index) {
                self.finish(index);
            }
            ended &= ended - 1;
        }
    }

    /// What is to be done now and then: ends guests that are to end, passes on what the user has typed, and has their
    /// clocks ring.
    fn between(&self) {
        self.end_guests();
        if !core::ptr::eq(cpu::current(), &cpu::all()[0]) {
            return;
        }
        for _ in 0..INPUT_AT_ONCE {
            match self.terminal.input() {
                Input::Nothing => break,
                Input::Byte(index, byte) => {
                    let Some(guest) = self.guests.get(index) else { continue };
                    guest.typed.lock().push_back(byte);
                }
                Input::Quit => {
                    for (index, guest) in self.guests.iter().enumerate() {
                        if let Some(instance) = &*guest.instance.lock() {
                            instance.end(Ending::Quit);
                            self.ended.fetch_or(1 << (index % 64), Ordering::Release);
                        }
                    }
                }
            }
        }
        for guest in &self.guests {
            guest.look_at_clock();
            guest.deliver();
        }
    }
}
