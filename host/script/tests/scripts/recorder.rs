//! A machine that does nothing but remember what it was asked, and answers as it is told.

use abi::host::{HostCall, VmHandle};
use abi::{Error, Gfn, Pfn, PhysAddr};
use call_script::{Access, Executor, GuestRequest, Outcome, Places, Request, Status, VmNumber, VmSetup};
use std::collections::VecDeque;

/// First page of the pool.
pub(crate) const POOL: u64 = 0x5_0000;
/// Pages in it.
pub(crate) const POOL_PAGES: u64 = 4;
/// First page of the carve-out.
pub(crate) const HYP: u64 = 0x7_0000;
/// First page of the device.
pub(crate) const DEVICE: u64 = 0xa000;
/// The host's own pages, which no script may touch.
pub(crate) const HOSTS_OWN: u64 = 0x6_0000;

/// The machine.
#[derive(Default)]
pub(crate) struct Recorder {
    /// What was asked, in words.
    pub(crate) log: Vec<String>,
    /// Answers of host calls to come; 0 after the last.
    pub(crate) answers: VecDeque<[u64; 4]>,
    /// What comes of guests' actions; `Ok` after the last.
    pub(crate) outcomes: VecDeque<Outcome>,
    /// Whether steps can be interleaved.
    pub(crate) interleaves: bool,
    /// How many VMs were made.
    pub(crate) handles: u32,
}

impl Executor for Recorder {
    fn create(&mut self, number: VmNumber, setup: &VmSetup) -> Result<VmHandle, Error> {
        if setup.vcpus == 0 {
            return Err(Error::InvalidParameter);
        }
        self.handles += 1;
        self.log.push(format!("create {number} {}", setup.protected));
        Ok(VmHandle(0x100 + self.handles))
    }

    fn places(&self) -> Places {
        Places {
            pool: Pfn::new(POOL),
            pool_pages: POOL_PAGES,
            hyp: Pfn::new(HYP),
            hyp_pages: 2,
            device: Pfn::new(DEVICE),
            device_pages: 1,
            frames: Places::FRAMES,
            ipa_bits: 32,
            vm_pages: 5,
            vm_alignment: 4,
            vcpu_pages: 3,
        }
    }

    fn host_call(&mut self, cpu: usize, function: u64, arguments: [u64; 7]) -> [u64; 4] {
        let call = u32::try_from(function).ok().and_then(HostCall::from_function);
        let used = arguments.iter().rposition(|argument| *argument != 0).map_or(0, |last| last + 1);
        self.log.push(format!(
            "{cpu}: {} {:x?}",
            call.map_or("?".to_owned(), |call| format!("{call:?}")),
            &arguments[..used]
        ));
        self.answers.pop_front().unwrap_or_default()
    }

    fn guest(&mut self, cpu: usize, vm: VmNumber, vcpu: u64, request: &GuestRequest) -> Outcome {
        self.log.push(match request {
            GuestRequest::Call { function, arguments } => {
                format!("{cpu}: {vm}.{vcpu} {function:x} {:x?}", &arguments[..4])
            }
            GuestRequest::Access { access, ipa } => format!("{cpu}: {vm}.{vcpu} {access:x?} {ipa}"),
            GuestRequest::Resume => format!("{cpu}: {vm}.{vcpu} resume"),
        });
        self.outcomes.pop_front().unwrap_or(Outcome::of(Status::Ok))
    }

    fn access(&mut self, cpu: usize, access: Access, address: PhysAddr) -> Outcome {
        self.log.push(format!("{cpu}: {access:x?} {address}"));
        Outcome::of(Status::Ok)
    }

    fn interleave(
        &mut self,
        boundary: u32,
        outer: (usize, &Request),
        inner: (usize, &Request),
    ) -> Option<(Outcome, Outcome)> {
        self.log.push(format!("{} within {} at {boundary}", inner.0, outer.0));
        self.interleaves.then_some((Outcome::of(Status::Ok), Outcome::of(Status::Error(Error::Busy))))
    }

    fn is_in_use(&self, first: Pfn, count: u64) -> bool {
        let end = first.raw().saturating_add(count);
        first.raw() <= HOSTS_OWN && HOSTS_OWN < end
    }

    fn before_finalise(&mut self, number: VmNumber) {
        self.log.push(format!("before {number} goes"));
    }

    fn finalised(&mut self, number: VmNumber) {
        self.log.push(format!("{number} is gone"));
    }
}

/// The guests' first frame.
pub(crate) const FRAME: Gfn = Places::FRAMES;
