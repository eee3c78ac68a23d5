//! A PL031 real time clock (Arm DDI 0224, chapter 3).

use crate::mmio::MmioDevice;
use crate::primecell::identification;

/// RTCDR: the time in seconds.
const DR: u64 = 0x000;
/// RTCMR: the time at which the interrupt is raised.
const MR: u64 = 0x004;
/// RTCLR: sets the time.
const LR: u64 = 0x008;
/// RTCCR: control.
const CR: u64 = 0x00c;
/// RTCIMSC: interrupt mask; a set bit lets the interrupt through.
const IMSC: u64 = 0x010;
/// RTCRIS: raw interrupt status.
const RIS: u64 = 0x014;
/// RTCMIS: masked interrupt status.
const MIS: u64 = 0x018;
/// RTCICR: interrupt clear.
const ICR: u64 = 0x01c;
/// The identification registers' values: part 0x031, designer Arm, revision 0.
const ID: [u8; 8] = [0x31, 0x10, 0x04, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

/// RTCCR.EN: the clock runs. It always does.
const CR_EN: u64 = 1;
/// The interrupt's bit in RTCIMSC, RTCRIS, RTCMIS and RTCICR.
const INTERRUPT: u64 = 1;

/// What time it is.
pub trait WallClock {
    /// Seconds since 1970-01-01 00:00 UTC.
    fn now(&self) -> u64;
}

/// The device. It counts 32 bits of seconds, from the host's time when the guest starts.
pub struct Pl031<C> {
    clock: C,
    /// What the guest's time is ahead of the host's, modulo 2^32 seconds.
    offset: u32,
    matched: u32,
    load: u32,
    /// The host's time at which the guest's reaches RTCMR.
    alarm: Option<u64>,
    interrupt_mask: u64,
    interrupt_status: u64,
}

impl<C: WallClock> Pl031<C> {
    /// The device after reset, with `clock`'s time.
    pub const fn new(clock: C) -> Self {
        Self { clock, offset: 0, matched: 0, load: 0, alarm: None, interrupt_mask: 0, interrupt_status: 0 }
    }

    /// True while the interrupt is raised and the guest lets it through. Time raises it, too: ask now and then.
    pub fn interrupt_line(&mut self) -> bool {
        self.raw_status(self.clock.now()) & self.interrupt_mask != 0
    }

    /// The guest's time when the host's is `now`.
    const fn time(&self, now: u64) -> u32 {
        (now as u32).wrapping_add(self.offset)
    }

    /// The host's time at which the guest's is next equal to RTCMR, `from` or later; the counter wraps. `None` where
    /// that is beyond the end of time.
    fn next_match(&self, from: u64) -> Option<u64> {
        from.checked_add(self.matched.wrapping_sub(self.time(from)).into())
    }

    /// RTCRIS at `now`. An alarm that rang rings again when the counter has gone round.
    fn raw_status(&mut self, now: u64) -> u64 {
        if self.alarm.is_some_and(|alarm| alarm <= now) {
            self.interrupt_status = INTERRUPT;
            self.alarm = now.checked_add(1).and_then(|next| self.next_match(next));
        }
        self.interrupt_status
    }
}

impl<C: WallClock> MmioDevice for Pl031<C> {
    fn read(&mut self, offset: u64, _width: u64) -> u64 {
        let now = self.clock.now();
        match offset {
            DR => self.time(now).into(),
            MR => self.matched.into(),
            LR => self.load.into(),
            CR => CR_EN,
            IMSC => self.interrupt_mask,
            RIS => self.raw_status(now),
            MIS => self.raw_status(now) & self.interrupt_mask,
            _ => identification(&ID, offset),
        }
    }

    fn write(&mut self, offset: u64, _width: u64, value: u64) {
        let now = self.clock.now();
        // What was due before the write is not undone by it.
        let status = self.raw_status(now);
        match offset {
            MR => {
                self.matched = value as u32;
                self.alarm = self.next_match(now);
            }
            LR => {
                self.load = value as u32;
                self.offset = self.load.wrapping_sub(now as u32);
                self.alarm = self.alarm.and_then(|_| self.next_match(now));
            }
            IMSC => self.interrupt_mask = value & INTERRUPT,
            ICR => self.interrupt_status = status & !value,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::Cell;

    /// A time that the test sets.
    #[derive(Default)]
    struct Settable(Cell<u64>);

    impl WallClock for &Settable {
        fn now(&self) -> u64 {
            self.0.get()
        }
    }

    impl Settable {
        fn at(seconds: u64) -> Self {
            Self(Cell::new(seconds))
        }

        fn pass(&self, seconds: u64) {
            self.0.set(self.0.get() + seconds);
        }
    }

    #[test]
    fn the_time_is_the_hosts_until_the_guest_sets_it_and_then_goes_on_from_there() {
        let clock = Settable::at(0x1_6000_0000);
        let mut rtc = Pl031::new(&clock);
        assert_eq!(rtc.read(DR, 4), 0x6000_0000);
        clock.pass(5);
        assert_eq!(rtc.read(DR, 4), 0x6000_0005);
        rtc.write(LR, 4, 0xffff_fffe);
        assert_eq!((rtc.read(DR, 4), rtc.read(LR, 4)), (0xffff_fffe, 0xffff_fffe));
        clock.pass(3);
        assert_eq!(rtc.read(DR, 4), 1);
        rtc.write(DR, 4, 77);
        assert_eq!(rtc.read(DR, 4), 1, "RTCDR is read-only");
    }

    #[test]
    fn the_alarm_rings_when_the_time_is_reached_and_can_be_masked_and_cleared() {
        let clock = Settable::at(100);
        let mut rtc = Pl031::new(&clock);
        assert_eq!(rtc.alarm, None);
        rtc.write(MR, 4, 110);
        assert_eq!((rtc.read(MR, 4), rtc.alarm), (110, Some(110)));
        clock.pass(9);
        assert_eq!(rtc.read(RIS, 4), 0);
        clock.pass(2);
        assert_eq!((rtc.read(RIS, 4), rtc.read(MIS, 4)), (1, 0));
        assert!(!rtc.interrupt_line());
        rtc.write(IMSC, 4, u64::MAX);
        assert!(rtc.interrupt_line());
        assert_eq!((rtc.read(IMSC, 4), rtc.read(MIS, 4)), (1, 1));
        rtc.write(ICR, 4, 0);
        assert!(rtc.interrupt_line());
        rtc.write(ICR, 4, 1);
        assert!(!rtc.interrupt_line());
        assert_eq!(rtc.alarm, Some(110 + (1 << 32)));
    }

    #[test]
    fn the_line_rises_by_time_alone_and_stays_until_it_is_cleared() {
        let clock = Settable::at(100);
        let mut rtc = Pl031::new(&clock);
        rtc.write(IMSC, 4, 1);
        rtc.write(MR, 4, 103);
        let lines = [(); 6].map(|()| {
            let line = rtc.interrupt_line();
            clock.pass(1);
            line
        });
        assert_eq!(lines, [false, false, false, true, true, true]);
        rtc.write(ICR, 4, 1);
        assert!(!rtc.interrupt_line());
    }

    #[test]
    fn an_alarm_for_now_rings_at_once_and_one_for_the_past_when_the_counter_wraps() {
        let clock = Settable::at(100);
        let mut rtc = Pl031::new(&clock);
        rtc.write(IMSC, 4, 1);
        rtc.write(MR, 4, 100);
        assert!(rtc.interrupt_line());
        rtc.write(ICR, 4, 1);
        rtc.write(MR, 4, 99);
        clock.pass(0xffff_fffe);
        assert!(!rtc.interrupt_line());
        clock.pass(1);
        assert!(rtc.interrupt_line());
    }

    #[test]
    fn an_alarm_follows_the_time_that_the_guest_sets() {
        let clock = Settable::at(1000);
        let mut rtc = Pl031::new(&clock);
        rtc.write(IMSC, 4, 1);
        rtc.write(MR, 4, 2000);
        rtc.write(LR, 4, 1990);
        assert_eq!(rtc.alarm, Some(1010));
        clock.pass(10);
        assert!(rtc.interrupt_line());
    }

    #[test]
    fn an_alarm_that_was_due_is_not_lost_when_another_is_set() {
        let clock = Settable::at(100);
        let mut rtc = Pl031::new(&clock);
        rtc.write(IMSC, 4, 1);
        rtc.write(MR, 4, 105);
        clock.pass(6);
        rtc.write(MR, 4, 200);
        assert!(rtc.interrupt_line());
        assert_eq!(rtc.alarm, Some(200));
    }

    #[test]
    fn it_says_what_it_is_and_always_runs() {
        let clock = Settable::default();
        let mut rtc = Pl031::new(&clock);
        for (offset, value) in [(0xfe0, 0x31), (0xfe4, 0x10), (0xfe8, 0x04), (0xff0, 0x0d), (0xffc, 0xb1), (0x20, 0)] {
            assert_eq!(rtc.read(offset, 4), value, "{offset:#x}");
        }
        rtc.write(CR, 4, 0);
        assert_eq!(rtc.read(CR, 4), 1);
    }

    #[test]
    fn the_end_of_time_does_no_harm() {
        let clock = Settable::at(u64::MAX);
        let mut rtc = Pl031::new(&clock);
        rtc.write(MR, 4, u64::MAX);
        assert_eq!(rtc.read(RIS, 4), 1);
        rtc.write(MR, 4, 5);
        assert_eq!((rtc.alarm, rtc.read(DR, 4)), (None, 0xffff_ffff));
    }
}
