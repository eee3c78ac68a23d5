//! Random guests, devices and interrupts against a second, simple model of a GIC that knows at once what happens everywhere:
//! what a vCPU may acknowledge there, it can acknowledge here, and nothing else.

use super::Gic;
use super::simulated_cpu::{SimulatedCpu, TIMER, gic};
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

/// SPIs: more than one bank of them, so that summaries of several are kept.
const SPIS: u32 = 40;
/// INTIDs that there are.
const INTIDS: u32 = 32 + 64;

/// One interrupt of the simple model.
#[derive(Clone, Copy, Debug)]
struct Interrupt {
    enabled: bool,
    group_one: bool,
    edge: bool,
    line: bool,
    latch: bool,
    priority: u8,
    route: Option<usize>,
    active: bool,
}

/// The simple model: each vCPU's SGIs and PPIs, and the SPIs, by INTID.
struct Model {
    private: Vec<Vec<Interrupt>>,
    shared: Vec<Interrupt>,
    groups: u64,
}

impl Model {
    fn new(vcpus: usize) -> Self {
        let interrupt = |intid: u32, route| Interrupt {
            enabled: false,
            group_one: true,
            edge: intid < 16,
            line: false,
            latch: false,
            priority: 0,
            route: Some(route),
            active: false,
        };
        Self {
            private: (0..vcpus).map(|vcpu| (0..32).map(|intid| interrupt(intid, vcpu)).collect()).collect(),
            shared: (32..INTIDS).map(|intid| interrupt(intid, 0)).collect(),
            groups: 3,
        }
    }

    fn interrupt(&mut self, vcpu: usize, intid: u32) -> &mut Interrupt {
        match intid {
            0..32 => &mut self.private[vcpu][intid as usize],
            _ => &mut self.shared[intid as usize - 32],
        }
    }

    /// What `vcpu` may acknowledge if its masks let it: INTID and priority.
    fn deliverable(&self, vcpu: usize) -> Vec<(u32, u8)> {
        let all = (0..).zip(self.private[vcpu].iter().chain(&self.shared));
        all.filter(|(_, interrupt)| {
            let group = self.groups >> u32::from(interrupt.group_one) & 1 != 0;
            let pending = interrupt.latch || (interrupt.line && !interrupt.edge);
            pending && interrupt.enabled && group && interrupt.route == Some(vcpu) && !interrupt.active
        })
        .map(|(intid, interrupt)| (intid, interrupt.priority))
        .collect()
    }
}

/// What happens. Numbers are taken modulo what there is.
#[derive(Clone, Debug)]
enum Event {
    Enable { vcpu: usize, intid: u32, on: bool },
    EnableAll { on: bool },
    Pend { vcpu: usize, intid: u32, on: bool },
    Priority { vcpu: usize, intid: u32, priority: u8 },
    Group { vcpu: usize, intid: u32, one: bool },
    Groups { enables: u64 },
    Trigger { spi: u32, edge: bool },
    Route { spi: u32, to: usize },
    PrivateLine { vcpu: usize, ppi: u32, level: bool },
    SharedLine { spi: u32, level: bool },
    Sgi { from: usize, intid: u32, targets: u64, all_but_self: bool },
    Enter { vcpu: usize },
    Exit { vcpu: usize },
    Acknowledge { vcpu: usize },
    End { vcpu: usize },
    Mask { vcpu: usize, mask: u8 },
}

fn event() -> impl Strategy<Value = Event> {
    use Event::*;
    let vcpu = || 0..4_usize;
    let intid = || prop_oneof![0..16_u32, Just(TIMER), Just(30), 32..36_u32, 60..68_u32];
    let spi = || prop_oneof![32..36_u32, 60..68_u32];
    // Few levels, so that equal priorities and nesting both happen.
    let priority = || prop_oneof![Just(0_u8), Just(0x40), Just(0x85), Just(0xa0), Just(0xf0)];
    prop_oneof![
        2 => (vcpu(), intid(), any::<bool>()).prop_map(|(vcpu, intid, on)| Enable { vcpu, intid, on }),
        1 => prop::bool::weighted(0.9).prop_map(|on| EnableAll { on }),
        2 => (vcpu(), intid(), any::<bool>()).prop_map(|(vcpu, intid, on)| Pend { vcpu, intid, on }),
        2 => (vcpu(), intid(), priority()).prop_map(|(vcpu, intid, priority)| Priority { vcpu, intid, priority }),
        1 => (vcpu(), intid(), any::<bool>()).prop_map(|(vcpu, intid, one)| Group { vcpu, intid, one }),
        1 => prop_oneof![5 => Just(3_u64), 1 => 0..4_u64].prop_map(|enables| Groups { enables }),
        1 => (spi(), any::<bool>()).prop_map(|(spi, edge)| Trigger { spi, edge }),
        2 => (spi(), 0..5_usize).prop_map(|(spi, to)| Route { spi, to }),
        3 => (vcpu(), prop_oneof![Just(TIMER), Just(30)], any::<bool>())
            .prop_map(|(vcpu, ppi, level)| PrivateLine { vcpu, ppi, level }),
        4 => (spi(), any::<bool>()).prop_map(|(spi, level)| SharedLine { spi, level }),
        4 => (vcpu(), 0..16_u32, 0..16_u64, prop::bool::weighted(0.2))
            .prop_map(|(from, intid, targets, all_but_self)| Sgi { from, intid, targets, all_but_self }),
        3 => vcpu().prop_map(|vcpu| Enter { vcpu }),
        2 => vcpu().prop_map(|vcpu| Exit { vcpu }),
        8 => vcpu().prop_map(|vcpu| Acknowledge { vcpu }),
        7 => vcpu().prop_map(|vcpu| End { vcpu }),
        1 => (vcpu(), prop_oneof![4 => Just(0xff), 1 => any::<u8>()]).prop_map(|(vcpu, mask)| Mask { vcpu, mask }),
    ]
}

/// The two models side by side, and the CPUs.
struct Bench {
    gic: Gic,
    model: Model,
    cpus: Vec<SimulatedCpu>,
    list_registers: usize,
}

impl Bench {
    fn new(vcpus: usize, list_registers: usize) -> Self {
        let gic = gic(vcpus, SPIS as usize, list_registers);
        let cpus = (0..vcpus).map(|vcpu| SimulatedCpu::new(&gic, vcpu)).collect();
        Self { gic, model: Model::new(vcpus), cpus, list_registers }
    }

    /// Writes the registers' word or byte that describes `intid`, in whichever frame it is.
    fn write(&mut self, vcpu: usize, intid: u32, register: u64, width: u64, value: u64) {
        if intid < 32 {
            self.gic.write_redistributor(vcpu as u64 * 0x2_0000 + 0x1_0000 + register, width, value);
        } else {
            self.gic.write_distributor(register, width, value);
        }
    }

    fn read(&mut self, vcpu: usize, intid: u32, register: u64, width: u64) -> u64 {
        if intid < 32 {
            self.gic.read_redistributor(vcpu as u64 * 0x2_0000 + 0x1_0000 + register, width)
        } else {
            self.gic.read_distributor(register, width)
        }
    }

    /// Writes the bit of `intid`, alone, to the bit register at `register`.
    fn write_bit(&mut self, vcpu: usize, intid: u32, register: u64) {
        self.write(vcpu, intid, register + u64::from(intid / 32 * 4), 4, 1 << (intid % 32));
    }

    fn set_line(&mut self, vcpu: usize, intid: u32, level: bool) {
        let interrupt = self.model.interrupt(vcpu, intid);
        interrupt.latch |= interrupt.edge && level && !interrupt.line;
        interrupt.line = level;
        match intid {
            0..32 => self.gic.set_private_line(vcpu, intid, level),
            _ => self.gic.set_shared_line(intid, level),
        }
    }

    /// Sets the model's `intid`s of every vCPU.
    fn set_all(&mut self, on: bool) {
        let register = if on { 0x100 } else { 0x180 };
        for vcpu in 0..self.cpus.len() {
            self.write(vcpu, 0, register, 4, !0);
        }
        for word in [4, 8] {
            self.gic.write_distributor(register + word, 4, !0);
        }
        let all = self.model.private.iter_mut().flatten().chain(&mut self.model.shared);
        all.for_each(|interrupt| interrupt.enabled = on);
    }

    fn apply(&mut self, event: Event) {
        let vcpus = self.cpus.len();
        match event {
            Event::Enable { vcpu, intid, on } => {
                self.model.interrupt(vcpu % vcpus, intid).enabled = on;
                self.write_bit(vcpu % vcpus, intid, if on { 0x100 } else { 0x180 });
            }
            Event::EnableAll { on } => self.set_all(on),
            Event::Pend { vcpu, intid, on } => {
                self.model.interrupt(vcpu % vcpus, intid).latch = on;
                self.write_bit(vcpu % vcpus, intid, if on { 0x200 } else { 0x280 });
            }
            Event::Priority { vcpu, intid, priority } => {
                self.model.interrupt(vcpu % vcpus, intid).priority = priority & 0xf8;
                self.write(vcpu % vcpus, intid, 0x400 + u64::from(intid), 1, priority.into());
            }
            Event::Group { vcpu, intid, one } => {
                let vcpu = vcpu % vcpus;
                self.model.interrupt(vcpu, intid).group_one = one;
                let register = 0x80 + u64::from(intid / 32 * 4);
                let others = self.read(vcpu, intid, register, 4) & !(1 << (intid % 32));
                self.write(vcpu, intid, register, 4, others | u64::from(one) << (intid % 32));
            }
            Event::Groups { enables } => {
                self.model.groups = enables;
                self.gic.write_distributor(0, 4, enables);
            }
            Event::Trigger { spi, edge } => {
                self.model.interrupt(0, spi).edge = edge;
                let (register, bit) = (0xc00 + u64::from(spi / 16 * 4), 2 << (spi % 16 * 2));
                let others = self.gic.read_distributor(register, 4) & !bit;
                self.gic.write_distributor(register, 4, if edge { others | bit } else { others });
            }
            Event::Route { spi, to } => {
                self.model.interrupt(0, spi).route = (to < vcpus).then_some(to);
                self.gic.write_distributor(0x6000 + 8 * u64::from(spi), 8, to as u64);
            }
            Event::PrivateLine { vcpu, ppi, level } => self.set_line(vcpu % vcpus, ppi, level),
            Event::SharedLine { spi, level } => self.set_line(0, spi, level),
            Event::Sgi { from, intid, targets, all_but_self } => {
                for target in 0..vcpus {
                    if if all_but_self { target != from % vcpus } else { targets >> target & 1 != 0 } {
                        self.model.interrupt(target, intid).latch = true;
                    }
                }
                let value = targets | u64::from(intid) << 24 | u64::from(all_but_self) << 40;
                self.gic.send_sgi(from % vcpus, value);
            }
            Event::Enter { vcpu } if !self.cpus[vcpu % vcpus].running => self.cpus[vcpu % vcpus].enter(&mut self.gic),
            Event::Exit { vcpu } if self.cpus[vcpu % vcpus].running => self.cpus[vcpu % vcpus].exit(&mut self.gic),
            Event::Acknowledge { vcpu } if self.cpus[vcpu % vcpus].running => self.acknowledge(vcpu % vcpus),
            Event::End { vcpu } if self.cpus[vcpu % vcpus].running => self.end(vcpu % vcpus),
            Event::Mask { vcpu, mask } => self.cpus[vcpu % vcpus].mask = mask,
            Event::Enter { .. } | Event::Exit { .. } | Event::Acknowledge { .. } | Event::End { .. } => {}
        }
    }

    fn acknowledge(&mut self, vcpu: usize) {
        let Some(intid) = self.cpus[vcpu].acknowledge() else { return };
        let deliverable = self.model.deliverable(vcpu);
        assert!(deliverable.iter().any(|(other, _)| *other == intid), "{intid} is not for vCPU {vcpu} now");
        let interrupt = self.model.interrupt(vcpu, intid);
        interrupt.active = true;
        interrupt.latch = false;
    }

    fn end(&mut self, vcpu: usize) {
        let Some((intid, linked)) = self.cpus[vcpu].end() else { return };
        let interrupt = self.model.interrupt(vcpu, intid);
        interrupt.active = false;
        // A timer that is still asserted interrupts physically once its interrupt has ended. With a single list register the
        // exit that others wait for is made here.
        let exits = interrupt.line || interrupt.latch || self.list_registers == 1;
        if linked && exits {
            self.cpus[vcpu].exit(&mut self.gic);
            self.cpus[vcpu].enter(&mut self.gic);
        }
    }

    /// What hosts do: running vCPUs that are kicked, or report something, exit and are entered again.
    fn serve(&mut self) {
        for _ in 0..4 {
            let kicks = self.gic.take_kicks();
            let mut quiet = true;
            for cpu in self.cpus.iter_mut().filter(|cpu| cpu.running) {
                if kicks >> cpu.vcpu & 1 != 0 || cpu.maintenance() {
                    cpu.exit(&mut self.gic);
                    cpu.enter(&mut self.gic);
                    quiet = false;
                }
            }
            if quiet {
                return;
            }
        }
        panic!("vCPUs kick each other without end");
    }

    /// Each vCPU is offered what the simple model has for it.
    fn compare(&self) {
        for cpu in &self.cpus {
            let deliverable = self.model.deliverable(cpu.vcpu);
            if !cpu.running {
                assert_eq!(self.gic.has_pending(cpu.vcpu), !deliverable.is_empty(), "vCPU {}", cpu.vcpu);
                continue;
            }
            let limit = cpu.active.iter().map(|(_, priority)| *priority).min().unwrap_or(0xff).min(cpu.mask);
            let best = deliverable.iter().map(|(_, priority)| *priority).filter(|priority| *priority < limit).min();
            let offered = cpu.offered();
            if cpu.active.len() < self.list_registers {
                assert_eq!(offered.map(|(_, _, priority)| priority), best, "{cpu:x?} {deliverable:?}");
            }
            if let Some((_, intid, priority)) = offered {
                assert!(deliverable.contains(&(intid, priority)), "{intid} in {cpu:x?} {deliverable:?}");
            }
        }
    }

    /// With no vCPU running, the registers say what the simple model knows.
    fn compare_registers(&mut self) {
        for vcpu in 0..self.cpus.len() {
            for intid in 0..INTIDS {
                let interrupt = *self.model.interrupt(vcpu, intid);
                let word = u64::from(intid / 32 * 4);
                let pending = interrupt.latch || (interrupt.line && !interrupt.edge);
                let bits = [
                    (0x80, interrupt.group_one),
                    (0x100, interrupt.enabled),
                    (0x280, pending),
                    (0x300, interrupt.active),
                ];
                for (register, expected) in bits {
                    let value = self.read(vcpu, intid, register + word, 4);
                    assert_eq!(value >> (intid % 32) & 1 != 0, expected, "{register:#x} {intid} {interrupt:?}");
                }
                assert_eq!(self.read(vcpu, intid, 0x400 + u64::from(intid), 1), interrupt.priority.into());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Hosts serve kicks at once: then every vCPU is offered exactly what there is for it, at any moment.
    #[test]
    fn each_vcpu_is_offered_what_is_there_for_it(
        vcpus in 1..=4_usize,
        list_registers in 1..=4_usize,
        events in prop::collection::vec(event(), 1..200),
    ) {
        let mut bench = Bench::new(vcpus, list_registers);
        bench.set_all(true);
        for event in events {
            bench.apply(event);
            bench.serve();
            bench.compare();
        }
        for cpu in bench.cpus.iter_mut().filter(|cpu| cpu.running) {
            cpu.exit(&mut bench.gic);
        }
        bench.compare_registers();
    }

    /// Hosts serve kicks late, in any order: every edge and SGI is acknowledged after it was sent, none more often than
    /// sent, and no interrupt is active on two vCPUs at once.
    #[test]
    fn no_edge_is_lost_and_none_taken_twice(
        vcpus in 1..=4_usize,
        list_registers in 1..=4_usize,
        events in prop::collection::vec(event(), 1..200),
    ) {
        let mut bench = Bench::new(vcpus, list_registers);
        bench.set_all(true);
        bench.gic.write_distributor(0xc08, 4, 0xaaaa_aaaa);
        bench.gic.write_distributor(0xc0c, 4, 0xaaaa_aaaa);
        bench.gic.write_distributor(0xc10, 4, 0xaaaa_aaaa);
        let mut edges = Edges { sent: vec![[0; INTIDS as usize]; vcpus], owed: vec![[false; INTIDS as usize]; vcpus] };
        for event in events {
            match event {
                Event::Sgi { from, intid, targets, .. } => {
                    bench.gic.send_sgi(from % vcpus, targets | u64::from(intid) << 24);
                    (0..vcpus).filter(|target| targets >> target & 1 != 0).for_each(|target| edges.sent(target, intid));
                }
                Event::SharedLine { spi, .. } => {
                    bench.gic.set_shared_line(spi, true);
                    bench.gic.set_shared_line(spi, false);
                    edges.sent(0, spi);
                }
                Event::Enter { .. } | Event::Exit { .. } | Event::Priority { .. } => bench.apply(event),
                Event::Route { spi, to } => bench.apply(Event::Route { spi, to: to % vcpus }),
                Event::Acknowledge { vcpu } if bench.cpus[vcpu % vcpus].running => {
                    edges.acknowledge(&mut bench, vcpu % vcpus);
                }
                Event::End { vcpu } if bench.cpus[vcpu % vcpus].running => drop(bench.cpus[vcpu % vcpus].end()),
                _ => {}
            }
            // What list registers report is not the host's to delay.
            for cpu in bench.cpus.iter_mut().filter(|cpu| cpu.running && cpu.maintenance()) {
                cpu.exit(&mut bench.gic);
                cpu.enter(&mut bench.gic);
            }
        }
        // What one vCPU brings back may be another's to take.
        for _ in 0..2 * INTIDS {
            let mut taken = false;
            for vcpu in 0..vcpus {
                if bench.cpus[vcpu].running {
                    bench.cpus[vcpu].exit(&mut bench.gic);
                }
                bench.cpus[vcpu].enter(&mut bench.gic);
                while bench.cpus[vcpu].end().is_some() {
                    taken = true;
                }
                while edges.acknowledge(&mut bench, vcpu) {
                    taken = true;
                    bench.cpus[vcpu].end();
                }
                bench.cpus[vcpu].exit(&mut bench.gic);
            }
            if !taken {
                break;
            }
        }
        prop_assert!(!edges.owed.iter().flatten().any(|owed| *owed), "{:?}", edges.owed);
    }
}

/// What was sent and has not been acknowledged: SPIs under vCPU 0.
struct Edges {
    sent: Vec<[u32; INTIDS as usize]>,
    owed: Vec<[bool; INTIDS as usize]>,
}

impl Edges {
    fn sent(&mut self, vcpu: usize, intid: u32) {
        self.sent[vcpu][intid as usize] += 1;
        self.owed[vcpu][intid as usize] = true;
    }

    /// `vcpu` acknowledges; false where there is nothing.
    fn acknowledge(&mut self, bench: &mut Bench, vcpu: usize) -> bool {
        let Some(intid) = bench.cpus[vcpu].acknowledge() else { return false };
        let holds = |cpu: &&SimulatedCpu| cpu.active.iter().any(|(active, _)| *active == intid);
        let everywhere = bench.cpus.iter().filter(holds).count();
        assert!(intid < 32 || everywhere == 1, "{intid} is active twice");
        let owner = if intid < 32 { vcpu } else { 0 };
        let sent = &mut self.sent[owner][intid as usize];
        *sent = sent.checked_sub(1).expect("taken more often than sent");
        self.owed[owner][intid as usize] = false;
        true
    }
}
