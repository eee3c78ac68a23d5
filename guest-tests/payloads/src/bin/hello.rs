//! The first guest: says what it sees, passes a message to the host and back through one shared page, and leaves secrets
//! behind in its private memory for the host to look for.
#![no_std]
#![no_main]

use aarch64_cpu::registers::{CurrentEL, MIDR_EL1, MPIDR_EL1, Readable};
use abi::report::Line;
use abi::{Ipa, PAGE_SIZE};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use payloads::hypervisor::KvmCalls;
use payloads::{Machine, payload, println};

/// Pages that hold secrets.
const SECRET_PAGES: usize = 16;
/// Where in the shared page the host answers.
const ANSWER_OFFSET: usize = 2048;
/// What the guest says to the host.
const MESSAGE: &[u8] = b"hello, host: this page is all you get\0";
/// What every secret word is made of.
const SECRET: u64 = 0x5ec2_e75e_c2e7_5ec2;

/// Private memory with secrets in it.
#[repr(C, align(4096))]
struct Secrets([AtomicU64; SECRET_PAGES * PAGE_SIZE as usize / 8]);

static SECRETS: Secrets = Secrets([const { AtomicU64::new(0) }; SECRET_PAGES * PAGE_SIZE as usize / 8]);

/// The page that is shared. The host writes to it while it is; every access is to a single byte, atomically.
#[repr(C, align(4096))]
struct SharedPage(UnsafeCell<[AtomicU8; PAGE_SIZE as usize]>);

// SAFETY: Its bytes are atomic, and reached only through shared references.
unsafe impl Sync for SharedPage {}

static SHARED: SharedPage = SharedPage(UnsafeCell::new([const { AtomicU8::new(0) }; PAGE_SIZE as usize]));

impl SharedPage {
    fn bytes(&self) -> &[AtomicU8; PAGE_SIZE as usize] {
        // SAFETY: No exclusive reference to the bytes is ever made.
        unsafe { &*self.0.get() }
    }

    /// The page's address; it is mapped at its own.
    fn address(&self) -> Ipa {
        Ipa::new(self.0.get() as u64)
    }
}

payload!(hello);

fn hello(machine: &mut Machine) {
    let platform = &machine.platform;
    let mebibytes = (platform.memory.end - platform.memory.start) >> 20;
    println!(
        "hello: alive at EL{}, {mebibytes} MiB of memory at {:#x}, {} CPU(s), MMU on",
        CurrentEL.read(CurrentEL::EL),
        platform.memory.start,
        platform.cpus
    );
    println!("hello: CPU MIDR_EL1={:#x} MPIDR_EL1={:#x}", MIDR_EL1.get(), MPIDR_EL1.get());
    for (index, word) in SECRETS.0.iter().enumerate() {
        word.store(SECRET ^ index as u64, Ordering::Relaxed);
    }
    match KvmCalls::find() {
        Some(calls) => talk(&calls),
        None => println!("hello: no pKVM here, so nobody to share with"),
    }
    let kept = SECRETS.0.iter().enumerate().all(|(index, word)| word.load(Ordering::Relaxed) == SECRET ^ index as u64);
    judge("hello.secrets-kept", kept);
    println!("hello: {} KiB of secrets left behind, powering off", SECRET_PAGES as u64 * PAGE_SIZE / 1024);
}

/// Shares the page, with a message for the host in it, and reads the answer.
fn talk(calls: &KvmCalls) {
    println!(
        "hello: pKVM's calls are here (features {:#x}), memory is shared by {} bytes",
        calls.features, calls.granule
    );
    let bytes = SHARED.bytes();
    for (place, byte) in bytes.iter().zip(MESSAGE) {
        place.store(*byte, Ordering::Relaxed);
    }
    let shared = calls.share(SHARED.address());
    judge("hello.share", shared == 0);
    if shared != 0 {
        println!("hello: the page could not be shared: {shared}");
        return;
    }
    let mut answer = [0; 128];
    let mut length = 0;
    for (place, byte) in answer.iter_mut().zip(&bytes[ANSWER_OFFSET..]) {
        match byte.load(Ordering::Acquire) {
            0 => break,
            byte => *place = byte,
        }
        length += 1;
    }
    match core::str::from_utf8(&answer[..length]) {
        Ok("") => println!("hello: the host left no answer"),
        Ok(text) => println!("hello: the host answers: \"{text}\""),
        Err(_) => println!("hello: the host's answer is no text"),
    }
    judge("hello.answer", length != 0);
    let unshared = calls.unshare(SHARED.address());
    judge("hello.unshare", unshared == 0);
    println!("hello: the page is private again");
    for byte in bytes {
        byte.store(0xa5, Ordering::Relaxed);
    }
}

/// Reports a check in the midst of the prose; the host's scenario counts it.
fn judge(check: &str, holds: bool) {
    if holds {
        println!("{}", Line::Pass(check));
    } else {
        println!("{}", Line::Fail(check, "see above"));
    }
}
