//! One input of the fuzzer.

use arbitrary::{Arbitrary, Result, Unstructured};
use call_script::{Setup, VmSetup};

/// Most steps of an input.
pub const MAX_STEPS: usize = 64;
/// Bytes of a step.
pub const STEP_BYTES: usize = 8;

/// What a step is made of, by the state that there is.
pub type Seed = [u8; STEP_BYTES];

/// One input.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Case {
    /// Which of the setups there is.
    pub setup: u8,
    /// The steps.
    pub steps: Vec<Seed>,
}

impl<'a> Arbitrary<'a> for Case {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let setup = u.arbitrary()?;
        let mut steps = Vec::new();
        while steps.len() < MAX_STEPS && u.len() >= STEP_BYTES {
            steps.push(u.arbitrary()?);
        }
        Ok(Self { setup, steps })
    }
}

const PROTECTED: VmSetup = VmSetup { protected: true, vcpus: 1 };
const PLAIN: VmSetup = VmSetup { protected: false, vcpus: 1 };
const TWO_VCPUS: VmSetup = VmSetup { protected: true, vcpus: 2 };

/// Pages and VMs: few, since it is they that take time.
const SETUPS: [(u64, &[VmSetup]); 15] = [
    (32, &[PROTECTED, PROTECTED, PLAIN]),
    (24, &[PROTECTED, PLAIN]),
    (32, &[PROTECTED, TWO_VCPUS]),
    (24, &[PLAIN, PLAIN]),
    (32, &[PROTECTED, PROTECTED, PROTECTED]),
    (40, &[]),
    (24, &[PROTECTED]),
    (24, &[PROTECTED, PROTECTED]),
    (32, &[PROTECTED, PROTECTED, PLAIN]),
    (16, &[PROTECTED, PLAIN]),
    (16, &[PROTECTED, TWO_VCPUS]),
    (24, &[TWO_VCPUS]),
    (24, &[PROTECTED, PLAIN, PLAIN]),
    (40, &[PLAIN]),
    (16, &[PROTECTED, PROTECTED]),
];
/// The same with two blocks of 2 MiB.
const LARGE_SETUP: (u64, &[VmSetup]) = (1024, &[PROTECTED, PLAIN, PROTECTED]);
/// From this number on it is the large one.
const FIRST_LARGE: u8 = 0xf8;

impl Case {
    /// What is there before the first step.
    pub fn setup(&self) -> Setup {
        let small = SETUPS[usize::from(self.setup) % SETUPS.len()];
        let (pages, vms) = if self.setup < FIRST_LARGE { small } else { LARGE_SETUP };
        Setup { pages, vms: (0..).zip(vms.iter().copied()).collect() }
    }
}
