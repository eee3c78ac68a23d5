//! Tables as text, to the letter.

use std::cell::Cell;
use std::fmt::Write;

use abi::{Ipa, PhysAddr, VirtAddr};
use memsim::{Cpu, Machine};
use pgtable::{
    Annotation, El1Attributes, El1Config, El1Stage1, El2Attributes, El2Config, El2Stage1, MapOptions, MemoryType,
    Shareability, Stage2Attributes, Stage2Config, Stage2Execute, Stage2Memory, TableFrames, TlbiFeatures, VirtualHalf,
};

use crate::bench::{Bench, GIB, MIB2, PAGE, pool};

fn text(bench: &Bench) -> String {
    let mut text = String::new();
    bench.table.dump(&bench.cpu, &mut text).unwrap();
    text
}

#[test]
fn a_stage2_table_is_told_run_by_run() {
    let mut bench = Bench::with(Stage2Config { xnx: true, ..Stage2Config::new(48, 48) });
    assert_eq!(text(&bench), "");
    let memory = Stage2Attributes::memory();
    // 2 MiB of pages, then blocks of both sizes, all of them linear.
    bench.lay(GIB - 3 * MIB2, 3 * GIB - 3 * MIB2, MIB2, memory, true);
    bench.lay(GIB - 2 * MIB2, 3 * GIB - 2 * MIB2, 3 * GIB + 2 * MIB2, memory, false);
    // Not linear, other attributes, holes.
    bench.lay(512 * GIB, 0x1000, PAGE, memory.with_software(5), true);
    bench.lay(512 * GIB + PAGE, 0x3000, PAGE, memory.with_software(5), true);
    let el1_only = Stage2Attributes { execute: Stage2Execute::El1Only, access_flag: false, ..memory };
    bench.lay(512 * GIB + 2 * PAGE, 0x4000, PAGE, el1_only, true);
    let write_only = Stage2Attributes {
        memory: Stage2Memory::NormalNonCacheable,
        shareability: Shareability::Outer,
        read: false,
        execute: Stage2Execute::El0Only,
        ..memory
    };
    bench.lay(512 * GIB + 4 * PAGE, 0x5000, 2 * PAGE, write_only, true);
    let nothing = Stage2Attributes { read: false, write: false, ..memory };
    bench.lay(513 * GIB, 0x6000, PAGE, nothing, true);
    let device = Stage2Attributes { write: false, ..Stage2Attributes::device() };
    bench.lay((1 << 48) - PAGE, (1 << 48) - PAGE, PAGE, device, true);
    for (ipa, size, value) in [
        (513 * GIB + PAGE, PAGE, 7),
        (513 * GIB + 2 * PAGE, PAGE, 7),
        (513 * GIB + 3 * PAGE, PAGE, 8),
        (514 * GIB, 2 * GIB, Annotation::MAX),
    ] {
        bench.table.annotate(&mut bench.cpu, Ipa::new(ipa), size, Annotation::new(value)).unwrap();
    }
    let expected = "\
0x000000003fa00000-0x000000003fbfffff     2M page level 3 -> 0x0000bfa00000 MemAttr=Normal SH=Inner S2AP=RW XN=none AF=1
0x000000003fc00000-0x000000003fffffff     4M block level 2 -> 0x0000bfc00000 MemAttr=Normal SH=Inner S2AP=RW XN=none AF=1
0x0000000040000000-0x00000000ffffffff     3G block level 1 -> 0x0000c0000000 MemAttr=Normal SH=Inner S2AP=RW XN=none AF=1
0x0000008000000000-0x0000008000000fff     4K page level 3 -> 0x000000001000 MemAttr=Normal SH=Inner S2AP=RW XN=none AF=1 software=5
0x0000008000001000-0x0000008000001fff     4K page level 3 -> 0x000000003000 MemAttr=Normal SH=Inner S2AP=RW XN=none AF=1 software=5
0x0000008000002000-0x0000008000002fff     4K page level 3 -> 0x000000004000 MemAttr=Normal SH=Inner S2AP=RW XN=EL0 AF=0
0x0000008000004000-0x0000008000005fff     8K page level 3 -> 0x000000005000 MemAttr=NormalNonCacheable SH=Outer S2AP=WO XN=EL1 AF=1
0x0000008040000000-0x0000008040000fff     4K page level 3 -> 0x000000006000 MemAttr=Normal SH=Inner S2AP=none XN=none AF=1
0x0000008040001000-0x0000008040002fff     8K annotation level 3: 0x7
0x0000008040003000-0x0000008040003fff     4K annotation level 3: 0x8
0x0000008080000000-0x00000080ffffffff     2G annotation level 1: 0x3fffffffffffffff
0x0000fffffffff000-0x0000ffffffffffff     4K page level 3 -> 0xfffffffff000 MemAttr=DeviceNgnre SH=NonShareable S2AP=RO XN=all AF=1
";
    assert_eq!(text(&bench), expected);
    bench.finish();
}

#[test]
fn the_stage1_tables_are_told_in_their_own_words() {
    let machine = Machine::new(1, pool());
    let mut cpu = machine.cpu(0);
    let (options, tlbi) = (MapOptions::default(), TlbiFeatures::default());
    let root = machine.take_root(1);
    let config = El2Config { va_bits: 40, pa_bits: 48, hardware_access_flag: false, tlbi };
    let mut el2 = El2Stage1::new(root, config).unwrap();
    let mut map = |address: u64, size, attributes| {
        el2.map(&mut cpu, VirtAddr::new(address), PhysAddr::new(address), size, attributes, options).unwrap();
    };
    map(GIB, 3 * PAGE, El2Attributes::code());
    map(GIB + 3 * PAGE, PAGE, El2Attributes { access_flag: false, ..El2Attributes::read_only().with_software(15) });
    map(GIB + 4 * PAGE, PAGE, El2Attributes::data());
    map(2 * GIB, 3 * MIB2, El2Attributes::device());
    let mut text = String::new();
    el2.dump(&cpu, &mut text).unwrap();
    let expected = "\
0x0000000040000000-0x0000000040002fff    12K page level 3 -> 0x000040000000 AttrIndx=Normal SH=Inner AP=RO XN=0 AF=1
0x0000000040003000-0x0000000040003fff     4K page level 3 -> 0x000040003000 AttrIndx=Normal SH=Inner AP=RO XN=1 AF=0 software=15
0x0000000040004000-0x0000000040004fff     4K page level 3 -> 0x000040004000 AttrIndx=Normal SH=Inner AP=RW XN=1 AF=1
0x0000000080000000-0x00000000805fffff     6M block level 2 -> 0x000080000000 AttrIndx=DeviceNgnre SH=NonShareable AP=RW XN=1 AF=1
";
    assert_eq!(text, expected);

    let root = machine.take_root(1);
    let half = VirtualHalf::Upper;
    let config = El1Config { va_bits: 48, pa_bits: 48, half, asid: 0, hardware_access_flag: false, tlbi };
    let mut el1 = El1Stage1::new(root, config).unwrap();
    let mut map = |address: u64, output, size, attributes| {
        el1.map(&mut cpu, VirtAddr::new(address), PhysAddr::new(output), size, attributes, options).unwrap();
    };
    let user = El1Attributes { user: true, user_execute: true, global: false, ..El1Attributes::data() };
    let constants = El1Attributes { write: false, user_execute: false, access_flag: false, software: 2, ..user };
    map(!0 << 48, 0, PAGE, El1Attributes::code());
    map((!0 << 48) + PAGE, PAGE, PAGE, El1Attributes { memory: MemoryType::DeviceNgnrne, ..El1Attributes::data() });
    map(!0 - 2 * PAGE + 1, GIB, PAGE, user);
    map(!0 - PAGE + 1, GIB, PAGE, constants);
    let mut text = String::new();
    el1.dump(&cpu, &mut text).unwrap();
    let expected = "\
0xffff000000000000-0xffff000000000fff     4K page level 3 -> 0x000000000000 AttrIndx=Normal SH=Inner AP=RO PXN=0 UXN=1 nG=0 AF=1
0xffff000000001000-0xffff000000001fff     4K page level 3 -> 0x000000001000 AttrIndx=DeviceNgnrne SH=Inner AP=RW PXN=1 UXN=1 nG=0 AF=1
0xffffffffffffe000-0xffffffffffffefff     4K page level 3 -> 0x000040000000 AttrIndx=Normal SH=Inner AP=RW,EL0 PXN=1 UXN=0 nG=1 AF=1
0xfffffffffffff000-0xffffffffffffffff     4K page level 3 -> 0x000040000000 AttrIndx=Normal SH=Inner AP=RO,EL0 PXN=1 UXN=1 nG=1 AF=0 software=2
";
    assert_eq!(text, expected);
}

#[test]
fn what_cannot_be_decoded_is_shown_and_does_not_end_the_dump() {
    let mut bench = Bench::with(Stage2Config::new(48, 48));
    bench.lay(0, 0, PAGE, Stage2Attributes::memory(), true);
    bench.lay(PAGE, PAGE, PAGE, Stage2Attributes::memory(), true);
    let next = |table: u64| bench.cpu.read(PhysAddr::new(table)) & 0xffff_ffff_f000;
    let root = bench.table.root().raw();
    let last = next(next(next(root)));
    // The table is no longer watched: what is written to it is none of the judge's business.
    let plain = Machine::new(1, pool()).cpu(0);
    for (table, index, raw) in [
        (root, 0, bench.cpu.read(PhysAddr::new(root))),
        (root, 1, 0x401),
        (root, 2, 0x401),
        (root, 3, 0x1000_0002),
        (root, 4, 0b110),
        (next(root), 0, bench.cpu.read(PhysAddr::new(next(root)))),
        (next(next(root)), 0, bench.cpu.read(PhysAddr::new(next(next(root))))),
        (last, 0, bench.cpu.read(PhysAddr::new(last))),
        (last, 1, bench.cpu.read(PhysAddr::new(last + 8))),
        // Reserved at level 3; a reserved shareability; linear with what comes before but for software's bits.
        (last, 2, 0x2001),
        (last, 3, 0x3000 | 0x5ff),
        (last, 4, 0x4000 | 0x7ff | 1 << 58),
    ] {
        plain.write(PhysAddr::new(table + index * 8), raw);
    }
    let expected = "\
0x0000000000000000-0x0000000000001fff     8K page level 3 -> 0x000000000000 MemAttr=Normal SH=Inner S2AP=RW XN=none AF=1
0x0000000000002000-0x0000000000002fff     4K undecodable level 3: 0x0000000000002001
0x0000000000003000-0x0000000000003fff     4K undecodable level 3: 0x00000000000035ff
0x0000000000004000-0x0000000000004fff     4K page level 3 -> 0x000000004000 MemAttr=Normal SH=Inner S2AP=RW XN=none AF=1 software=8
0x0000008000000000-0x0000017fffffffff     1T undecodable level 0: 0x0000000000000401
0x0000018000000000-0x000001ffffffffff   512G undecodable level 0: 0x0000000010000002
0x0000020000000000-0x0000027fffffffff   512G locked level 0
";
    let mut text = String::new();
    bench.table.dump(&plain, &mut text).unwrap();
    assert_eq!(text, expected);
    bench.finish();
}

/// Takes so many bytes.
struct Short(usize);

impl Write for Short {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0 = self.0.checked_sub(text.len()).ok_or(std::fmt::Error)?;
        Ok(())
    }
}

/// Fails the first time.
struct Once(bool);

impl Write for Once {
    fn write_str(&mut self, _text: &str) -> std::fmt::Result {
        if std::mem::replace(&mut self.0, true) { Ok(()) } else { Err(std::fmt::Error) }
    }
}

/// Counts what is read.
struct Counting {
    cpu: Cpu,
    reads: Cell<u64>,
}

impl TableFrames for Counting {
    fn allocate(&mut self) -> Option<PhysAddr> {
        None
    }

    fn free(&mut self, frame: PhysAddr) {
        panic!("{frame} is freed by a dump");
    }

    fn read(&self, descriptor: PhysAddr) -> u64 {
        self.reads.set(self.reads.get() + 1);
        self.cpu.read(descriptor)
    }

    fn write(&self, descriptor: PhysAddr, _value: u64) {
        panic!("{descriptor} is written by a dump");
    }

    fn compare_exchange(&self, descriptor: PhysAddr, _current: u64, _new: u64) -> Result<u64, u64> {
        panic!("{descriptor} is written by a dump");
    }
}

#[test]
fn a_dump_ends_where_its_text_does() {
    let mut bench = Bench::new();
    for page in 0..3 {
        bench.lay(GIB + 2 * page * PAGE, 0, PAGE, Stage2Attributes::memory(), true);
    }
    bench.lay(GIB + PAGE, 0, PAGE, Stage2Attributes::memory(), true);
    bench.lay(512 * GIB, 0, PAGE, Stage2Attributes::memory(), true);
    let whole = text(&bench).len();
    assert_eq!(text(&bench).lines().count(), 5);
    assert!(bench.table.dump(&bench.cpu, &mut Short(whole)).is_ok());
    for bytes in 0..whole {
        assert!(bench.table.dump(&bench.cpu, &mut Short(bytes)).is_err(), "{bytes} of {whole} bytes");
    }
    assert!(bench.table.dump(&bench.cpu, &mut Once(false)).is_err(), "what comes after an error does not undo it");
    // The first line is written when the page after it has been read. Each table on the way costs a few reads more.
    let counting = Counting { cpu: bench.cpu.clone(), reads: Cell::new(0) };
    assert!(bench.table.dump(&counting, &mut Short(0)).is_err());
    assert!((3..24).contains(&counting.reads.get()), "{} reads", counting.reads.get());
    bench.finish();
}
