//! A guest that writes anything anywhere, and list registers that come back with anything: nothing panics, and what is
//! loaded is always what hyp takes.

use super::simulated_cpu::{SimulatedCpu, gic};
use crate::layout::GIC_REDISTRIBUTOR_SIZE;
use proptest::test_runner::{RngAlgorithm, TestRng};

/// Accesses for each GIC that is tried.
const ACCESSES: usize = 100_000;

#[test]
fn random_accesses_never_panic() {
    let mut random = TestRng::from_seed(RngAlgorithm::XorShift, &[7; 16]);
    let mut next = move || proptest::prelude::RngCore::next_u64(&mut random);
    for (vcpus, spis, list_registers) in [(1, 0, 1), (4, 33, 4), (16, 988, 16)] {
        let mut gic = gic(vcpus, spis, list_registers);
        let mut cpus: alloc::vec::Vec<_> = (0..vcpus).map(|vcpu| SimulatedCpu::new(&gic, vcpu)).collect();
        for _ in 0..ACCESSES {
            let width = 1 << (next() % 4);
            let size = GIC_REDISTRIBUTOR_SIZE * (vcpus as u64 + 1);
            // Mostly aligned, and mostly where registers are; sometimes anything.
            let offset = match next() % 8 {
                0 => next(),
                1 => next() % size,
                2 => next() % size / width * width,
                3 => 0x6000 + next() % 0x2000 / width * width,
                _ => {
                    next() % vcpus as u64 * GIC_REDISTRIBUTOR_SIZE
                        + next() % 2 * 0x1_0000
                        + next() % 0xd80 / width * width
                }
            };
            let value = match next() % 4 {
                0 => u64::MAX,
                1 => next() & next() & next(),
                _ => next(),
            };
            match next() % 8 {
                0 => drop(gic.read_distributor(offset, width)),
                1 | 2 => gic.write_distributor(offset, width, value),
                3 => drop(gic.read_redistributor(offset, width)),
                4 | 5 => gic.write_redistributor(offset, width, value),
                6 => match value % 3 {
                    0 => gic.set_private_line(next() as usize % 32, next() as u32 % 64, next() % 2 == 0),
                    1 => gic.set_shared_line(next() as u32 % 1100, next() % 2 == 0),
                    _ => gic.send_sgi(next() as usize % 32, value),
                },
                _ => {
                    let cpu = &mut cpus[next() as usize % vcpus];
                    if cpu.running {
                        for register in &mut cpu.registers {
                            *register = if next() % 2 == 0 { *register } else { next() };
                        }
                        cpu.exit(&mut gic);
                    } else {
                        cpu.registers = [0; 16];
                        cpu.enter(&mut gic);
                    }
                }
            }
        }
    }
}

#[test]
fn accesses_of_every_width_at_every_offset_never_panic() {
    let mut gic = gic(2, 988, 4);
    for offset in (0..0x1_0000).chain(u64::MAX - 16..=u64::MAX) {
        for width in 0..10 {
            for (value, base) in [(u64::MAX, 0), (0, 0x1_0000), (u64::MAX, 0x3_0000)] {
                gic.write_distributor(offset, width, value);
                gic.read_distributor(offset, width);
                gic.write_redistributor(offset.wrapping_add(base), width, value);
                gic.read_redistributor(offset.wrapping_add(base), width);
            }
        }
    }
}
