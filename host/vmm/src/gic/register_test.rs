//! The registers of both frames as a driver finds them.

use super::simulated_cpu::gic;
use super::{DistributorDevice, Gic, GicAccess, GicConfig, GicError, LinkedInterrupt, RedistributorDevice};
use crate::mmio::MmioDevice;
use alloc::rc::Rc;
use core::cell::{Cell, RefCell};

const CONFIG: GicConfig = GicConfig {
    vcpus: 1,
    spis: 32,
    list_registers: 4,
    priority_bits: 5,
    virtual_timer: LinkedInterrupt { intid: 27, physical: 27 },
};

#[test]
fn a_gic_that_cannot_be_is_refused() {
    let timer = |intid, physical| GicConfig { virtual_timer: LinkedInterrupt { intid, physical }, ..CONFIG };
    for (config, expected) in [
        (CONFIG, None),
        (GicConfig { vcpus: 16, spis: 988, list_registers: 16, priority_bits: 8, ..CONFIG }, None),
        (GicConfig { spis: 0, priority_bits: 4, list_registers: 1, ..CONFIG }, None),
        (GicConfig { vcpus: 0, ..CONFIG }, Some(GicError::Vcpus)),
        (GicConfig { vcpus: 17, ..CONFIG }, Some(GicError::Vcpus)),
        (GicConfig { spis: 989, ..CONFIG }, Some(GicError::Spis)),
        (GicConfig { spis: usize::MAX, ..CONFIG }, Some(GicError::Spis)),
        (GicConfig { list_registers: 0, ..CONFIG }, Some(GicError::ListRegisters)),
        (GicConfig { list_registers: 17, ..CONFIG }, Some(GicError::ListRegisters)),
        (GicConfig { priority_bits: 3, ..CONFIG }, Some(GicError::PriorityBits)),
        (GicConfig { priority_bits: 9, ..CONFIG }, Some(GicError::PriorityBits)),
        (timer(15, 27), Some(GicError::VirtualTimer)),
        (timer(32, 27), Some(GicError::VirtualTimer)),
        (timer(27, 15), Some(GicError::VirtualTimer)),
        (timer(27, 1020), Some(GicError::VirtualTimer)),
    ] {
        assert_eq!(Gic::new(&config).err(), expected, "{config:?}");
    }
}

#[test]
fn the_distributor_says_what_there_is() {
    for (spis, lines) in [(0, 0), (1, 1), (32, 1), (33, 2), (961, 31), (988, 31)] {
        let mut gic = Gic::new(&GicConfig { spis, ..CONFIG }).unwrap();
        assert_eq!(gic.read_distributor(0x4, 4), 0x0048_0000 | lines, "{spis}");
    }
    let mut gic = gic(2, 64, 4);
    assert_eq!(gic.read_distributor(0xffe8, 4), 0x3b);
    let identification = (0..12).map(|index| gic.read_distributor(0xffd0 + 4 * index, 4));
    assert!(identification.eq([0x44, 0, 0, 0, 0x92, 0xb4, 0x3b, 0, 0x0d, 0xf0, 0x05, 0xb1]));
    assert_eq!(gic.read_distributor(0x8, 4) & 0xfff, 0x43b);
}

#[test]
fn the_control_register_keeps_the_group_enables_and_nothing_else() {
    let mut gic = Gic::new(&CONFIG).unwrap();
    assert_eq!(gic.read_distributor(0, 4), 0x50);
    for (written, expected) in [(0xffff_ffff, 0x53), (0, 0x50), (1, 0x51), (0x8000_0012, 0x52)] {
        gic.write_distributor(0, 4, written);
        assert_eq!(gic.read_distributor(0, 4), expected);
    }
}

#[test]
fn bit_registers_set_clear_and_read_back() {
    let mut gic = gic(1, 64, 4);
    for (set, clear) in [(0x104, 0x184), (0x208, 0x288), (0x304, 0x384)] {
        gic.write_distributor(set, 4, 0xf0f0);
        gic.write_distributor(set, 4, 0x0001);
        gic.write_distributor(clear, 4, 0x0030);
        assert_eq!(gic.read_distributor(set, 4), 0xf0c1, "{set:#x}");
        assert_eq!(gic.read_distributor(clear, 4), 0xf0c1, "{clear:#x}");
        assert_eq!(gic.read_redistributor(0x1_0000 + set, 4), 0, "another frame's");
        assert_eq!(gic.read_redistributor(0x1_0000 + set % 0x80, 4), 0, "another frame's");
    }
    gic.write_distributor(0x84, 4, 0x1234_5678);
    assert_eq!(gic.read_distributor(0x84, 4), 0x1234_5678);
    gic.write_redistributor(0x1_0100, 4, 0xffff_0001);
    assert_eq!((gic.read_redistributor(0x1_0180, 4), gic.read_distributor(0x100, 4)), (0xffff_0001, 0));
}

#[test]
fn priorities_are_written_by_byte_and_word_and_keep_the_implemented_bits() {
    let mut gic = gic(2, 64, 4);
    gic.write_distributor(0x420, 4, 0xffa7_0f08);
    assert_eq!(gic.read_distributor(0x420, 4), 0xf8a0_0808);
    gic.write_distributor(0x422, 1, 0x1_7f);
    assert_eq!(gic.read_distributor(0x422, 1), 0x78);
    assert_eq!(gic.read_distributor(0x420, 4), 0xf878_0808);
    assert_eq!(gic.read_distributor(0x424, 4), 0);
    gic.write_redistributor(0x3_041c, 4, 0xa0a0_a0a0);
    assert_eq!((gic.read_redistributor(0x3_041f, 1), gic.read_redistributor(0x1_041f, 1)), (0xa0, 0));
    assert_eq!(gic.read_distributor(0x41c, 4), 0, "PPIs are the redistributors'");
    assert_eq!(gic.read_redistributor(0x3_0420, 4), 0, "SPIs are the distributor's");
}

#[test]
fn triggers_of_spis_can_be_chosen_and_those_of_sgis_and_ppis_are_fixed() {
    let mut gic = gic(1, 64, 4);
    gic.write_distributor(0xc08, 4, 0x4000_0006);
    gic.write_distributor(0xc0c, 4, 0x8000_0003);
    assert_eq!(gic.read_distributor(0xc08, 4), 0x0000_0002);
    assert_eq!(gic.read_distributor(0xc0c, 4), 0x8000_0002);
    gic.write_distributor(0xc0c, 4, 0);
    assert_eq!((gic.read_distributor(0xc08, 4), gic.read_distributor(0xc0c, 4)), (2, 0));
    gic.write_redistributor(0x1_0c00, 4, 0);
    gic.write_redistributor(0x1_0c04, 4, !0);
    assert_eq!((gic.read_redistributor(0x1_0c00, 4), gic.read_redistributor(0x1_0c04, 4)), (0xaaaa_aaaa, 0));
}

#[test]
fn routes_are_written_whole_and_by_halves() {
    let mut gic = gic(2, 64, 4);
    gic.write_distributor(0x6100, 8, 0xffff_ffff_ffff_ffff);
    assert_eq!(gic.read_distributor(0x6100, 8), 0x80ff_ffff);
    gic.write_distributor(0x6100, 4, 1);
    gic.write_distributor(0x6104, 4, 0xff);
    assert_eq!((gic.read_distributor(0x6100, 4), gic.read_distributor(0x6104, 4)), (1, 0));
    assert_eq!(gic.read_distributor(0x6108, 8), 0);
    gic.write_distributor(0x62f8, 8, 1);
    gic.write_distributor(0x6300, 8, 1);
    assert_eq!((gic.read_distributor(0x62f8, 8), gic.read_distributor(0x6300, 8)), (1, 0), "no SPI beyond INTID 95");
}

#[test]
fn the_last_four_intids_are_no_interrupts() {
    let mut gic = gic(1, 988, 4);
    for register in [0x0fc, 0x17c, 0x27c, 0x37c] {
        gic.write_distributor(register, 4, 0xffff_ffff);
        assert_eq!(gic.read_distributor(register, 4), 0x0fff_ffff, "{register:#x}");
    }
    gic.write_distributor(0x7fc, 4, 0xffff_ffff);
    gic.write_distributor(0x7f8, 4, 0xffff_ffff);
    assert_eq!((gic.read_distributor(0x7f8, 4), gic.read_distributor(0x7fc, 4)), (0xf8f8_f8f8, 0));
    gic.write_distributor(0xcfc, 4, 0xaaaa_aaaa);
    assert_eq!(gic.read_distributor(0xcfc, 4), 0x00aa_aaaa);
    gic.write_distributor(0x7fd8, 8, 5);
    gic.write_distributor(0x7fe0, 8, 5);
    assert_eq!((gic.read_distributor(0x7fd8, 8), gic.read_distributor(0x7fe0, 8)), (5, 0));
}

#[test]
fn accesses_that_mean_nothing_read_zero_and_write_nothing() {
    let mut gic = gic(1, 64, 4);
    let before = alloc::format!("{gic:?}");
    let distributor = [
        (0x40, 4),
        (0x84, 1),
        (0x84, 2),
        (0x84, 8),
        (0x86, 4),
        (0x108, 8),
        (0x420, 2),
        (0x420, 8),
        (0x421, 4),
        (0x820, 1),
        (0xd04, 4),
        (0xe08, 4),
        (0xf00, 4),
        (0xf10, 4),
        (0xf20, 4),
        (0x0, 8),
        (0x0, 1),
        (0x10, 4),
        (0x6104, 8),
        (0x6102, 4),
        (0x6100, 1),
        (0x6000, 8),
        (0xc, 4),
        (0xffe9, 4),
        (0xffe8, 1),
        (0x1_0000, 4),
        (0x84, 0),
        (0x84, 3),
        (u64::MAX, 4),
        (u64::MAX, 1),
        (0x10c, 4),
    ];
    for (offset, width) in distributor {
        gic.write_distributor(offset, width, u64::MAX);
        assert_eq!(gic.read_distributor(offset, width), 0, "{offset:#x} {width}");
    }
    let redistributor = [
        (0x0, 4),
        (0x10, 4),
        (0x70, 8),
        (0x78, 8),
        (0x14, 1),
        (0x14, 8),
        (0xa, 4),
        (0x1_0084, 4),
        (0x1_0080, 8),
        (0x1_0d00, 4),
        (0x1_0e00, 4),
        (0x1_0c08, 4),
        (0x2_0008, 8),
        (0x2_0014, 4),
        (0x3_0100, 4),
        (u64::MAX, 4),
    ];
    for (offset, width) in redistributor {
        gic.write_redistributor(offset, width, u64::MAX);
        assert_eq!(gic.read_redistributor(offset, width), 0, "{offset:#x} {width}");
    }
    assert_eq!(alloc::format!("{gic:?}"), before);
}

#[test]
fn each_redistributor_names_its_vcpu_and_the_last_says_so() {
    let mut gic = gic(3, 64, 4);
    for (vcpu, last) in [(0, 0), (1, 0), (2, 0x10)] {
        let base = vcpu * 0x2_0000;
        assert_eq!(gic.read_redistributor(base + 8, 8), vcpu << 32 | vcpu << 8 | last);
        assert_eq!(gic.read_redistributor(base + 8, 4), vcpu << 8 | last);
        assert_eq!(gic.read_redistributor(base + 12, 4), vcpu);
        assert_eq!(gic.read_redistributor(base + 0xffe8, 4), 0x3b);
        assert_eq!(gic.read_redistributor(base + 0xffe0, 4), 0x93);
    }
}

#[test]
fn a_redistributor_wakes_and_sleeps() {
    let mut gic = gic(2, 64, 4);
    assert_eq!(gic.read_redistributor(0x2_0014, 4), 6);
    gic.write_redistributor(0x2_0014, 4, 0xffff_fffd);
    assert_eq!((gic.read_redistributor(0x2_0014, 4), gic.read_redistributor(0x14, 4)), (0, 6));
    gic.write_redistributor(0x2_0014, 4, 2);
    assert_eq!(gic.read_redistributor(0x2_0014, 4), 6);
}

/// A GIC that counts how often somebody had access.
#[derive(Clone)]
struct Counted(Rc<(RefCell<Gic>, Cell<usize>)>);

impl GicAccess for Counted {
    fn with<R>(&self, access: impl FnOnce(&mut Gic) -> R) -> R {
        let (gic, count) = &*self.0;
        count.set(count.get() + 1);
        access(&mut gic.borrow_mut())
    }
}

#[test]
fn both_devices_reach_the_same_gic() {
    let shared = Counted(Rc::new((RefCell::new(gic(1, 64, 4)), Cell::new(0))));
    let (mut distributor, mut redistributor) = (DistributorDevice(shared.clone()), RedistributorDevice(shared.clone()));
    distributor.write(0, 4, 2);
    redistributor.write(0x1_0100, 4, 1);
    redistributor.write(0x1_0200, 4, 1);
    assert_eq!((distributor.read(0, 4), redistributor.read(0x1_0100, 4)), (0x52, 1));
    assert!(shared.with(|gic| gic.has_pending(0)));
    assert_eq!(shared.0.1.get(), 6);
}
