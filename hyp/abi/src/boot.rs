//! What the loader hands to hyp, and the address of which it passes in x0.

use crate::{PhysAddr, PhysRange};
use core::mem::size_of;

/// Most CPUs that a boot describes.
pub const MAX_CPUS: usize = 64;
/// Most banks of memory that a boot describes.
pub const MAX_MEMORY_BANKS: usize = 32;
/// Most redistributor regions that a boot describes.
pub const MAX_REDISTRIBUTOR_REGIONS: usize = 8;
/// Most segments of hyp's image.
pub const MAX_SEGMENTS: usize = 8;

/// Most bytes of a seed for random numbers.
pub const SEED_SIZE: usize = 32;

/// "FREEHOLD" in ASCII, read as a big-endian number.
pub const MAGIC: u64 = 0x4652_4545_484f_4c44;
/// Raised when [`BootInfo`] changes.
pub const VERSION: u32 = 3;

/// Segment flag: readable (ELF PF_R).
pub const SEGMENT_READ: u64 = 1 << 2;
/// Segment flag: writable (ELF PF_W).
pub const SEGMENT_WRITE: u64 = 1 << 1;
/// Segment flag: executable (ELF PF_X).
pub const SEGMENT_EXECUTE: u64 = 1 << 0;

/// One segment of hyp's image as it lies in memory, 4 KiB aligned at both ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Segment {
    /// Where it lies.
    pub range: PhysRange,
    /// [`SEGMENT_READ`], [`SEGMENT_WRITE`], [`SEGMENT_EXECUTE`].
    pub flags: u64,
}

/// How the firmware below hyp takes PSCI calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u32)]
pub enum PsciConduit {
    /// There is no PSCI: one CPU, and no way to power off.
    #[default]
    None = 0,
    /// SMC. (HVC cannot reach firmware from EL2.)
    Smc = 1,
}

macro_rules! self_tests {
    ($($(#[$meta:meta])* $name:ident = $number:literal, $word:literal;)*) => {
        /// A fault that hyp commits on request (`freehold.self-test=…` on the loader's command line) when all else is
        /// set up, to show that it is caught, reported and stopped at.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u32)]
        pub enum SelfTest {
            $($(#[$meta])* $name = $number,)*
        }

        impl SelfTest {
            /// The test that a word of the command line names.
            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($word => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The test of [`BootInfo::self_test`]; `None` for 0, which asks for none, and for numbers without a
            /// meaning.
            pub const fn from_number(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

self_tests! {
    /// Runs off the end of the stack.
    StackOverflow = 1, "stack-overflow";
    /// Writes to hyp's own code.
    WriteCode = 2, "write-code";
    /// Jumps to hyp's own data.
    ExecuteData = 3, "execute-data";
    /// Reads memory of the host, which is not mapped at EL2.
    ReadHost = 4, "read-host";
    /// Overflows an addition.
    ArithmeticOverflow = 5, "arithmetic-overflow";
    /// Notes in the ledger that a page of the host's is hyp's: a fault that only a hyp that compares itself with its
    /// specification finds. The host starts.
    WrongLedger = 6, "wrong-ledger";
}

/// Where the interrupt controller is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct GicInfo {
    /// The distributor's registers.
    pub distributor: PhysRange,
    /// The redistributors' regions; the first `redistributor_count` count.
    pub redistributors: [PhysRange; MAX_REDISTRIBUTOR_REGIONS],
    /// How many redistributor regions there are.
    pub redistributor_count: u64,
}

/// Everything that hyp learns from the loader. It lies in the carve-out's boot page and is valid once; every number in
/// it was checked by the loader.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BootInfo {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`VERSION`].
    pub version: u32,
    /// Log level: 0 off, 1 error, 2 warn, 3 info, 4 debug, 5 trace.
    pub log_level: u32,
    /// The memory that is hyp's from here on, laid out by [`CarveOut::plan`](crate::carve_out::CarveOut::plan).
    pub carve_out: PhysRange,
    /// Hyp's image, from the start of the carve-out.
    pub image: PhysRange,
    /// The image's segments; the first `segment_count` count.
    pub segments: [Segment; MAX_SEGMENTS],
    /// How many segments there are.
    pub segment_count: u64,
    /// RAM, sorted, disjoint, 4 KiB aligned, carve-out included; the first `memory_count` count.
    pub memory: [PhysRange; MAX_MEMORY_BANKS],
    /// How many banks there are.
    pub memory_count: u64,
    /// The CPUs' MPIDR affinities; the first `cpu_count` count, the boot CPU's among them.
    pub cpus: [u64; MAX_CPUS],
    /// How many CPUs there are; at least 1.
    pub cpu_count: u64,
    /// The console's PL011 registers; empty where there is none.
    pub uart: PhysRange,
    /// The GICv3.
    pub gic: GicInfo,
    /// How to reach PSCI.
    pub psci_conduit: PsciConduit,
    /// PSCI_VERSION of the firmware.
    pub psci_version: u32,
    /// Where the host kernel starts at EL1.
    pub host_entry: PhysAddr,
    /// The host's device tree, for its x0.
    pub host_device_tree: PhysAddr,
    /// CNTPCT_EL0 at the loader's first instruction.
    pub counter_at_entry: u64,
    /// The [`SelfTest`] to commit before the host starts, or 0.
    pub self_test: u32,
    /// Of how many calls a hyp that compares itself with its specification compares one; 0 leaves that to hyp.
    pub ghost_one_in: u32,
    /// INTID of the virtual timer's interrupt, which is a private peripheral's (16 to 31); 0 where it is not known.
    pub virtual_timer: u32,
    /// Zero.
    pub reserved: u32,
    /// Random bytes that nobody else has been told; the first `seed_size` count.
    pub seed: [u8; SEED_SIZE],
    /// How many there are, or zero.
    pub seed_size: u64,
}

const _: () = assert!(size_of::<BootInfo>() <= crate::PAGE_SIZE as usize);

impl BootInfo {
    /// The banks of RAM.
    pub fn memory(&self) -> &[PhysRange] {
        let count = usize::try_from(self.memory_count).unwrap_or(0);
        self.memory.get(..count).unwrap_or(&[])
    }

    /// The CPUs' MPIDR affinities.
    pub fn cpus(&self) -> &[u64] {
        let count = usize::try_from(self.cpu_count).unwrap_or(0);
        self.cpus.get(..count).unwrap_or(&[])
    }

    /// The seed for random numbers, where there is one.
    pub fn seed(&self) -> Option<&[u8]> {
        let size = usize::try_from(self.seed_size).unwrap_or(0);
        self.seed.get(..size).filter(|seed| !seed.is_empty())
    }

    /// The image's segments.
    pub fn segments(&self) -> &[Segment] {
        let count = usize::try_from(self.segment_count).unwrap_or(0);
        self.segments.get(..count).unwrap_or(&[])
    }

    /// The redistributor regions.
    pub fn redistributors(&self) -> &[PhysRange] {
        let count = usize::try_from(self.gic.redistributor_count).unwrap_or(0);
        self.gic.redistributors.get(..count).unwrap_or(&[])
    }
}
