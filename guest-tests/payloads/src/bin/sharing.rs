//! A guest that shares pages with the host, takes them back and gives some away, and looks at what is in them each
//! time. The host looks too: its scenario `sharing` expects the pages in this order.
//!
//! With the boot argument `share=0x…`, `unshare=0x…` or `relinquish=0x…` it makes that call about one address, and
//! nothing else.
#![no_std]
#![no_main]

use abi::payloads::sharing::{self, ROUNDS, guest_word, host_word};
use abi::{Ipa, PAGE_SIZE, guest};
use core::sync::atomic::{AtomicU64, Ordering};
use payloads::hypervisor::{KvmCalls, call_status};
use payloads::report::Report;
use payloads::{Machine, payload, println};

/// Words of a page, and the first that the host writes.
const WORDS: usize = sharing::WORDS as usize;
const HOSTS_FIRST: usize = sharing::HOSTS_FIRST as usize;
/// No guest has anything there: a hole among the devices, beyond RAM, and beyond all addresses.
const NOWHERE: [u64; 6] = [0x0b00_0000, 1 << 40, 1 << 47, 1 << 48, 1 << 63, !(PAGE_SIZE - 1)];

/// A page that the host may write to while it is shared.
#[repr(C, align(4096))]
struct Page([AtomicU64; WORDS]);

static SHARED: Page = Page([const { AtomicU64::new(0) }; WORDS]);
static GIVEN: Page = Page([const { AtomicU64::new(0) }; WORDS]);
static BESIDE: [Page; 2] = [const { Page([const { AtomicU64::new(0) }; WORDS]) }; 2];

impl Page {
    fn address(&self) -> Ipa {
        Ipa::new(self.0.as_ptr() as u64)
    }

    fn fill(&self, round: u64) {
        for (index, place) in self.0.iter().enumerate() {
            place.store(guest_word(round, index as u64), Ordering::Release);
        }
    }

    /// How many words of a half are other than expected: `make` makes them of their indices.
    fn different(&self, words: core::ops::Range<usize>, make: impl Fn(u64) -> u64) -> usize {
        words.filter(|index| self.0[*index].load(Ordering::Acquire) != make(*index as u64)).count()
    }
}

payload!(sharing);

fn sharing(machine: &mut Machine) {
    let calls = [("share", guest::MEM_SHARE), ("unshare", guest::MEM_UNSHARE), ("relinquish", guest::MEM_RELINQUISH)];
    for (name, function) in calls {
        if let Some(address) = machine.platform.hexadecimal_argument(name) {
            println!("sharing: {name} of {address:#x}");
            println!("sharing: {}", call_status(function, [address, 0, 0]));
            return;
        }
    }
    let mut report = Report::begin("sharing");
    match KvmCalls::find() {
        Some(calls) => share(machine, &mut report, &calls),
        None => report.check("sharing.no-host", true, format_args!("")),
    }
    report.end();
}

fn share(machine: &Machine, report: &mut Report, calls: &KvmCalls) {
    let mut expect = |name: &str, holds: bool, seen: i64| {
        report.check_in("sharing", name, holds, format_args!("{seen}"));
    };
    BESIDE.iter().for_each(|page| page.fill(0));
    let page = SHARED.address();
    for round in 0..ROUNDS {
        let (own, hosts) = (|index| guest_word(round, index), |index| host_word(round, index));
        SHARED.fill(round);
        let status = calls.share(page);
        expect("share", status == 0, status);
        // The host has written by now.
        let kept = SHARED.different(0..HOSTS_FIRST, own);
        expect("own-words-in-shared-page", kept == 0, kept as i64);
        let answered = SHARED.different(HOSTS_FIRST..WORDS, hosts);
        expect("hosts-words-in-shared-page", answered == 0, answered as i64);
        expect("share-twice", calls.share(page) < 0, 0);
        expect("relinquish-shared", calls.relinquish(page) < 0, 0);
        let status = calls.unshare(page);
        expect("unshare", status == 0, status);
        // The host has tried to write to it by now.
        let lost = SHARED.different(0..HOSTS_FIRST, own) + SHARED.different(HOSTS_FIRST..WORDS, hosts);
        expect("intact-after-unshare", lost == 0, lost as i64);
        expect("unshare-twice", calls.unshare(page) < 0, 0);
        for place in &GIVEN.0 {
            place.store(u64::MAX, Ordering::Relaxed);
        }
        let status = calls.relinquish(GIVEN.address());
        expect("relinquish", status == 0, status);
        let dirty = GIVEN.different(0..WORDS, |_| 0);
        expect("new-page-is-zero", dirty == 0, dirty as i64);
    }
    let lost: usize = BESIDE.iter().map(|page| page.different(0..WORDS, |index| guest_word(0, index))).sum();
    expect("pages-beside-kept", lost == 0, lost as i64);
    for address in NOWHERE {
        let nowhere = Ipa::new(address);
        for (name, status) in [
            ("share-nowhere", calls.share(nowhere)),
            ("unshare-nowhere", calls.unshare(nowhere)),
            ("relinquish-nowhere", calls.relinquish(nowhere)),
        ] {
            expect(name, status < 0, status);
        }
    }
    if let Some(uart) = machine.platform.uart {
        for (name, status) in [
            ("share-device", calls.share(uart)),
            ("unshare-device", calls.unshare(uart)),
            ("relinquish-device", calls.relinquish(uart)),
        ] {
            expect(name, status < 0, status);
        }
        println!("sharing: the console is where it was");
    }
}
