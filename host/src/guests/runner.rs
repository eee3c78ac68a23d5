//! One vCPU on the calling CPU: in, out, and what each exit asks for.

use super::Guests;
use super::instance::{Ending, Instance};
use super::scheduler::VcpuId;
use crate::{cpu, hypercall, interrupt, run};
use abi::run::{ExitReason, MAX_LIST_REGISTERS, NO_DEADLINE, PHYSICAL_TIMER_LINE, RunPage, VIRTUAL_TIMER_LINE};
use abi::{Error, Ipa};
use core::sync::atomic::Ordering;
use vmm::gic::GicAccess;
use vmm::layout::{PHYSICAL_TIMER_INTERRUPT, VIRTUAL_TIMER_INTERRUPT};

/// A vCPU's run page. It is the host's; hyp writes to it while the vCPU runs, hence the volatile accesses.
#[derive(Clone, Copy)]
pub struct Page(*mut RunPage);

// SAFETY: the page is accessed by the CPU that runs the vCPU alone, by reads and writes of whole words.
unsafe impl Send for Page {}
// SAFETY: as for `Send`.
unsafe impl Sync for Page {}

macro_rules! field {
    ($page:expr, $($field:tt)+) => {
        // SAFETY: only an address is computed, within a page that is mapped.
        unsafe { &raw mut (*$page.0).$($field)+ }
    };
}

impl Page {
    /// A run page at its address, which must be mapped and the host's for as long as the value is used.
    pub const fn new(page: *mut RunPage) -> Self {
        Self(page)
    }

    fn read(field: *mut u64) -> u64 {
        // SAFETY: a word of a run page.
        unsafe { field.read_volatile() }
    }

    fn write(field: *mut u64, value: u64) {
        // SAFETY: as for `read`.
        unsafe { field.write_volatile(value) };
    }

    fn ipa(self) -> Ipa {
        Ipa::new(Self::read(field!(self, ipa)))
    }

    fn is_write(self) -> bool {
        Self::read(field!(self, write)) != 0
    }

    fn data(self) -> u64 {
        Self::read(field!(self, data))
    }

    fn load(self, registers: &[u64], control: u64) {
        for (index, register) in registers.iter().enumerate().take(MAX_LIST_REGISTERS) {
            Self::write(field!(self, list_registers[index]), *register);
        }
        Self::write(field!(self, interrupt_control), control);
    }

    fn save(self, registers: &mut [u64]) {
        for (index, register) in registers.iter_mut().enumerate().take(MAX_LIST_REGISTERS) {
            *register = Self::read(field!(self, list_registers[index]));
        }
    }

    /// Has the guest take an abort for its last access, or not.
    fn respond(self, response: u64) {
        Self::write(field!(self, response), response);
    }
}

/// How long a vCPU waits at most that masks what is pending.
const MASKED_WAIT_MICROSECONDS: u64 = 1000;

/// How long another CPU may take to serve the exit by which a guest has ended: long on a machine whose CPUs share one.
const PATIENCE_MICROSECONDS: u64 = 30_000_000;

/// What becomes of a vCPU after an exit was served.
enum Then {
    /// It goes on.
    Again,
    /// It goes on, with an external abort for the access that it came out for.
    Abort,
    /// It has given its CPU up.
    Away,
}

impl Guests {
    /// Runs a vCPU until it gives the CPU up.
    pub(super) fn run(&self, id: VcpuId) {
        let instance = self.guests[id.guest].instance();
        let page = instance.run_page(id.vcpu);
        let cpu = cpu::current();
        let ticks = cpu.ticks();
        let mut last_look = ticks;
        let mut registers = [0; MAX_LIST_REGISTERS];
        let mut physical_deadline = self.physical_deadline(id, &instance, page);
        let mut is_active = None;
        let mut lines = None;
        // How many list registers the guest has something in, and how many the run page may. Most exits have to do with no
        // interrupt: then both are 0, and the interrupt controller is left alone.
        let mut in_use = 0;
        let mut in_page = self.interrupts.list_registers;
        let mut is_news = true;
        loop {
            // From here to the exit no interrupt is taken: a kick stays pending, and brings the guest out at once.
            arm_gic::irq_disable();
            if self.scheduler.take_kick(id) || is_news {
                is_news = false;
                let (control, with_timer) = instance.gic.with(|gic| {
                    let control = gic.fill(id.vcpu, &mut registers);
                    in_use = gic.loaded_count(id.vcpu);
                    (control, gic.virtual_timer_in_use(id.vcpu))
                });
                page.load(&registers[..in_use.max(in_page)], control);
                in_page = in_use;
                if with_timer || is_active != Some(false) {
                    interrupt::set_guest_timer_active(with_timer);
                    is_active = Some(with_timer);
                }
            }
            interrupt::set_event(self.scheduler.earliest().min(physical_deadline));
            let result = hypercall::vcpu_run(instance.handle, id.vcpu as u64);
            arm_gic::irq_enable();
            let reason = match result {
                Ok(reason) => reason,
                // Another vCPU has ended the guest. Hyp knows that before the host does: the exit that says how may be
                // on its way.
                Err(Error::WrongState) if self.ends_soon(id.guest) => break,
                Err(error) => {
                    instance.end(Ending::Refused("VCPU_RUN", error));
                    break;
                }
            };
            let lines_now = Page::read(field!(page, timer_lines));
            if in_use != 0 || lines != Some(lines_now) {
                page.save(&mut registers[..in_use]);
                instance.gic.with(|gic| {
                    gic.fold(id.vcpu, &registers);
                    gic.set_private_line(id.vcpu, VIRTUAL_TIMER_INTERRUPT, lines_now & VIRTUAL_TIMER_LINE != 0);
                    gic.set_private_line(id.vcpu, PHYSICAL_TIMER_INTERRUPT, lines_now & PHYSICAL_TIMER_LINE != 0);
                });
                lines = Some(lines_now);
                is_news = true;
            }
            // One that has come is the interrupt controller's business by now; set again, it would bring the guest out
            // for ever.
            physical_deadline = match lines_now & PHYSICAL_TIMER_LINE {
                0 => Page::read(field!(page, physical_deadline)),
                _ => NO_DEADLINE,
            };
            page.respond(0);
            // An interrupt that was loaded and does not end a WFI is one that the guest masks.
            let masks = registers[..in_use].iter().any(|register| register >> 62 & 1 != 0);
            let then = match reason {
                ExitReason::Wait => self.wait(id, &instance, page, masks),
                _ => self.serve(id, &instance, page, reason, ticks),
            };
            match then {
                Then::Again if self.scheduler.has_ended(id.guest) => break,
                Then::Again => {}
                Then::Abort => page.respond(abi::run::RESPONSE_ABORT),
                Then::Away => return,
            }
            // The user's typing, and guests that are to end, are looked after at each tick.
            if reason == ExitReason::Interrupt || cpu.ticks() != last_look {
                last_look = cpu.ticks();
                self.between();
            } else if self.ended.load(Ordering::Relaxed) != 0 {
                self.end_guests();
            }
        }
        drop(instance);
        self.scheduler.end(id.guest);
        if self.scheduler.leave(id) {
            self.finish(id.guest);
        }
    }

    fn serve(&self, id: VcpuId, instance: &Instance, page: Page, reason: ExitReason, ticks: u64) -> Then {
        instance.count_exit();
        let away = |away: bool| if away { Then::Away } else { Then::Again };
        match reason {
            ExitReason::Interrupt => {
                self.scheduler.wake_those_due();
                away(cpu::current().ticks() != ticks && self.scheduler.give_way(id))
            }
            ExitReason::Yield => away(self.scheduler.give_way(id)),
            ExitReason::Mmio => {
                let (ipa, size) = (page.ipa(), Page::read(field!(page, size)));
                let is_write = page.is_write();
                let mut vm = instance.vm.lock();
                let answer = match is_write {
                    true => vm.write_device(ipa, size, page.data()).map(|()| 0),
                    false => vm.read_device(ipa, size),
                };
                match answer {
                    Ok(data) => {
                        Page::write(field!(page, data), data);
                        Then::Again
                    }
                    Err(_) => Then::Abort,
                }
            }
            ExitReason::MemoryFault => match instance.vm.lock().serve_fault(page.ipa(), page.is_write(), id.vcpu) {
                Ok(true) => Then::Again,
                Ok(false) => Then::Abort,
                Err(error) => {
                    instance.end(Ending::Failed(error));
                    self.scheduler.end(id.guest);
                    Then::Again
                }
            },
            ExitReason::Sgi => {
                instance.gic.with(|gic| gic.send_sgi(id.vcpu, page.data()));
                Then::Again
            }
            ExitReason::CpuOn => {
                self.scheduler.turn_on(VcpuId { vcpu: page.data() as usize, ..id });
                Then::Again
            }
            ExitReason::CpuOff => {
                let is_away = self.scheduler.turn_off(id);
                if is_away && self.scheduler.is_off(id.guest) {
                    instance.end(Ending::Off);
                    self.ended.fetch_or(1 << (id.guest % 64), Ordering::Release);
                }
                away(is_away)
            }
            ExitReason::Lent | ExitReason::Relinquished | ExitReason::Returned => {
                instance.pages_back(reason, page.ipa());
                Then::Again
            }
            ExitReason::TopUp => {
                if let Err(error) = instance.vm.lock().top_up(id.vcpu) {
                    instance.end(Ending::Failed(error));
                    self.scheduler.end(id.guest);
                }
                Then::Again
            }
            ExitReason::SystemOff | ExitReason::SystemReset | ExitReason::Error | ExitReason::Poisoned => {
                instance.end(match reason {
                    ExitReason::SystemOff => Ending::Off,
                    ExitReason::SystemReset => Ending::Reset,
                    ExitReason::Poisoned => Ending::Poisoned,
                    _ => Ending::Error,
                });
                self.scheduler.end(id.guest);
                Then::Again
            }
            ExitReason::Shared => {
                run::exchange_messages(&instance.vm.lock(), page.ipa(), &mut |text| self.terminal.host_line(text));
                Then::Again
            }
            ExitReason::Wait
            | ExitReason::Timer
            | ExitReason::Unshared
            | ExitReason::Offered
            | ExitReason::Accepted
            | ExitReason::Ended => Then::Again,
        }
    }

    /// When the physical timer of a vCPU that is to run again asserts its interrupt, if it has not by now: then it
    /// does, which the vCPU's last exit could not tell.
    fn physical_deadline(&self, id: VcpuId, instance: &Instance, page: Page) -> u64 {
        let deadline = Page::read(field!(page, physical_deadline));
        let is_told = Page::read(field!(page, timer_lines)) & PHYSICAL_TIMER_LINE != 0;
        // A page that hyp has not written to yet is zero.
        if deadline == 0 || is_told {
            return NO_DEADLINE;
        }
        if deadline > interrupt::counter() {
            return deadline;
        }
        instance.gic.with(|gic| gic.set_private_line(id.vcpu, PHYSICAL_TIMER_INTERRUPT, true));
        NO_DEADLINE
    }

    /// True where the guest has ended, or does so within [`PATIENCE_MICROSECONDS`].
    fn ends_soon(&self, guest: usize) -> bool {
        let start = interrupt::microseconds();
        while !self.scheduler.has_ended(guest) {
            if interrupt::microseconds() - start > PATIENCE_MICROSECONDS {
                return false;
            }
            core::hint::spin_loop();
        }
        true
    }

    /// The guest waits for an interrupt. Where it `masks` one that is pending, whether another would end the wait
    /// cannot be known here: it is asked again soon.
    fn wait(&self, id: VcpuId, instance: &Instance, page: Page, masks: bool) -> Then {
        // A timer that asserts its interrupt and could wake the guest by it has made it pending.
        let lines = Page::read(field!(page, timer_lines));
        let of = |line, deadline| if lines & line != 0 { NO_DEADLINE } else { Page::read(deadline) };
        let virtual_deadline = of(VIRTUAL_TIMER_LINE, field!(page, virtual_deadline));
        let mut deadline = virtual_deadline.min(of(PHYSICAL_TIMER_LINE, field!(page, physical_deadline)));
        if instance.gic.with(|gic| gic.has_pending(id.vcpu)) {
            if !masks {
                return Then::Again;
            }
            deadline = deadline.min(interrupt::counter() + interrupt::ticks_in(MASKED_WAIT_MICROSECONDS));
        }
        let is_away = deadline > interrupt::counter() && self.scheduler.wait(id, deadline);
        if is_away { Then::Away } else { Then::Again }
    }
}
