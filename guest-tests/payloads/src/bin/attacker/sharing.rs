//! Misuse of the calls that share memory with the host.

use abi::{Ipa, PAGE_SIZE, guest};
use core::cell::UnsafeCell;
use payloads::Machine;
use payloads::hypervisor::{KvmCalls, call_status};
use payloads::report::Report;

/// Pages of the guest's own to attack with. Nothing in the payload reads them.
#[repr(C, align(4096))]
struct Pages(UnsafeCell<[[u8; PAGE_SIZE as usize]; 2]>);

// SAFETY: The contents are never accessed, only the address is used.
unsafe impl Sync for Pages {}

static PAGES: Pages = Pages(UnsafeCell::new([[0; PAGE_SIZE as usize]; 2]));

/// Addresses that no guest has: beyond its address space, beyond the architecture's, and at the end of 64 bits.
const NOWHERE: [u64; 6] = [1 << 40, 1 << 47, 1 << 48, 1 << 52, 1 << 63, !(PAGE_SIZE - 1)];

/// Every attack by sharing.
pub fn attack(machine: &Machine, report: &mut Report, calls: &KvmCalls) {
    let page = PAGES.0.get() as u64;
    let own = Ipa::new(page);
    let refused = |report: &mut Report, name: &str, status: i64| {
        report.check_in("sharing", name, status < 0, format_args!("{status}"));
    };

    for offset in [1, 8, 2048, PAGE_SIZE - 1] {
        let unaligned = Ipa::new(page + offset);
        refused(report, "share-unaligned", calls.share(unaligned));
        refused(report, "unshare-unaligned", calls.unshare(unaligned));
        refused(report, "relinquish-unaligned", calls.relinquish(unaligned));
    }
    refused(report, "unshare-unshared", calls.unshare(own));
    refused(report, "share-extra-arguments", call_status(guest::MEM_SHARE, [page, 1, 0]));
    refused(report, "share-more-arguments", call_status(guest::MEM_SHARE, [page, 0, 1 << 63]));

    let status = calls.share(own);
    report.check("sharing.share", status == 0, format_args!("{status}"));
    refused(report, "share-twice", calls.share(own));
    refused(report, "relinquish-shared", calls.relinquish(own));
    let status = calls.unshare(own);
    report.check("sharing.unshare", status == 0, format_args!("{status}"));
    refused(report, "unshare-twice", calls.unshare(own));

    for address in NOWHERE {
        let nowhere = Ipa::new(address);
        refused(report, "share-nowhere", calls.share(nowhere));
        refused(report, "unshare-nowhere", calls.unshare(nowhere));
        refused(report, "relinquish-nowhere", calls.relinquish(nowhere));
    }
    if let Some(uart) = machine.platform.uart {
        refused(report, "unshare-device", calls.unshare(uart));
        refused(report, "relinquish-device", calls.relinquish(uart));
    }
    let status = calls.relinquish(Ipa::new(page + PAGE_SIZE));
    report.check("sharing.relinquish", status == 0, format_args!("{status}"));
}
