//! Machines and kernels that Freehold does not take: each gets a message that says what is wrong.

use crate::{Bench, Suite};
use guest_tests::device_tree::{HeaderField, machine_with_pointer, machine_with_tree, with_bytes, with_header_field};
use guest_tests::{Failure, Gic, Machine};
use std::path::PathBuf;
use std::time::Duration;

/// How every line of the loader's starts.
const LOADER: &str = "loader: ";
/// Its complaint about a machine without a module.
const NO_KERNEL: &str = "no host kernel was given";

pub(crate) fn add(suite: &mut Suite) {
    suite.add("refuses::gicv2", |bench| {
        let machine = with_host(bench)?.gic(Gic::V2);
        machine.run()?.says("the interrupt controller is a GICv2")?.never_says("@freehold")?;
        Ok(())
    });
    suite.add("refuses::no_virtualization", |bench| {
        let machine = with_host(bench)?.virtualization(false);
        machine.run()?.says("Freehold needs EL2")?.says("virtualization=on")?.never_says("@freehold")?;
        Ok(())
    });
    suite.add("refuses::efi_zboot_kernel", |bench| refused_kernel(bench, "zboot", &zboot(), "EFI zboot"));
    suite.add("refuses::gzip_kernel", |bench| refused_kernel(bench, "gzip", &gzip(), "compressed with gzip"));
    suite.add("refuses::garbage_kernel", |bench| refused_kernel(bench, "garbage", &[0xa5; 8192], "is no arm64 Image"));
    suite.add("refuses::truncated_kernel", |bench| {
        let whole = std::fs::read(bench.images.host()?).map_err(|error| Failure::new(error.to_string()))?;
        refused_kernel(bench, "truncated", whole.get(..32).unwrap_or(&[]), "no arm64 Image")
    });
    suite.add("refuses::no_kernel", |bench| {
        let machine = Machine::new(bench.images.freehold()?).timeout(Duration::from_secs(30));
        machine.run()?.says(NO_KERNEL)?.says("guest-loader")?;
        Ok(())
    });
    add_trees(suite);
}

/// A machine with everything that it takes.
fn with_host(bench: &Bench) -> Result<Machine, Failure> {
    Ok(crate::reference::machine(bench, "story")?.timeout(Duration::from_secs(30)))
}

/// A host kernel of these bytes ends the machine with a message that names `word`.
fn refused_kernel(bench: &Bench, name: &str, kernel: &[u8], word: &str) -> Result<(), Failure> {
    let path: PathBuf = bench.scratch.join(format!("{name}.kernel"));
    std::fs::write(&path, kernel).map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
    let machine = Machine::new(bench.images.freehold()?).host(path, "").timeout(Duration::from_secs(30));
    machine.run()?.says(word)?.never_says("hyp[")?;
    Ok(())
}

/// The header of an EFI zboot image around a gzip stream (Linux, `drivers/firmware/efi/libstub/zboot-header.S`).
fn zboot() -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    bytes[..8].copy_from_slice(b"MZ\0\0zimg");
    bytes[8..12].copy_from_slice(&1024u32.to_le_bytes());
    bytes[12..16].copy_from_slice(&3072u32.to_le_bytes());
    bytes[24..29].copy_from_slice(b"gzip\0");
    bytes[1024..1028].copy_from_slice(&[0x1f, 0x8b, 8, 0]);
    bytes
}

/// The start of a gzip stream (RFC 1952).
fn gzip() -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    bytes[..4].copy_from_slice(&[0x1f, 0x8b, 8, 0]);
    bytes
}

/// A way to spoil a tree.
type Spoil = fn(&[u8]) -> Result<Vec<u8>, Failure>;

/// Words of the loader's messages.
const NO_TREE: &str = "does not point at a device tree";
const BAD_SIZE: &str = "the device tree claims to have";
const MALFORMED: &str = "the device tree is malformed";

/// Device trees that are damaged, or that lack what is needed, each with words of the message that it must lead to. The
/// trees are QEMU's own but for the damage, and name no host kernel: that complaint is for a tree that was accepted.
fn add_trees(suite: &mut Suite) {
    let spoils: [(&str, &str, Spoil); 13] = [
        ("garbage", NO_TREE, |_| {
            Ok((0..4096u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect())
        }),
        ("zeroes", NO_TREE, |_| Ok(vec![0; 4096])),
        ("truncated", MALFORMED, |tree| Ok(tree.get(..tree.len().min(200)).unwrap_or(&[]).to_vec())),
        ("huge_total_size", BAD_SIZE, |tree| Ok(with_header_field(tree, HeaderField::TotalSize, u32::MAX))),
        ("small_total_size", BAD_SIZE, |tree| Ok(with_header_field(tree, HeaderField::TotalSize, 8))),
        ("structure_beyond_end", MALFORMED, |tree| {
            Ok(with_header_field(tree, HeaderField::StructureOffset, u32::MAX - 3))
        }),
        ("structure_unaligned", MALFORMED, |tree| Ok(with_header_field(tree, HeaderField::StructureOffset, 57))),
        ("strings_beyond_end", MALFORMED, |tree| Ok(with_header_field(tree, HeaderField::StringsOffset, 0x7fff_ffff))),
        ("cut_total_size", MALFORMED, |tree| Ok(with_header_field(tree, HeaderField::TotalSize, 0x100))),
        ("old_version", MALFORMED, |tree| Ok(with_header_field(tree, HeaderField::Version, 1))),
        ("no_memory", "no memory that can be used", |tree| with_bytes(tree, b"memory", b"mumble")),
        ("no_cpus", "does not list CPU", |tree| with_bytes(tree, b"cpus\0", b"caps\0")),
        ("no_gic", "no GICv3", |tree| with_bytes(tree, b"arm,gic-v3\0", b"arm,gic-v9\0")),
    ];
    for (name, words, spoil) in spoils {
        suite.add(format!("refuses::device_tree::{name}"), move |bench| {
            let tree = board_tree(bench, name)?;
            stops(machine_with_tree(&bench.images.freehold()?, &spoil(&tree)?, 0, bench.scratch, name)?, words)
        });
    }
    suite.add("refuses::device_tree::intact", |bench| {
        let tree = board_tree(bench, "intact")?;
        stops(machine_with_tree(&bench.images.freehold()?, &tree, 0, bench.scratch, "intact")?, NO_KERNEL)
    });
    suite.add("refuses::device_tree::null", |bench| {
        stops(machine_with_pointer(&bench.images.freehold()?, 0, bench.scratch, "null")?, NO_TREE)
    });
}

/// The tree of a board with 1 GiB of RAM.
fn board_tree(bench: &Bench, name: &str) -> Result<Vec<u8>, Failure> {
    Machine::new("").memory(1024).device_tree(&bench.scratch.join(format!("{name}.board.dtb")))
}

/// The loader says `words`, and neither hyp nor a host says anything.
fn stops(machine: Machine, words: &str) -> Result<(), Failure> {
    let run = machine.timeout(Duration::from_secs(20)).run_until(words)?;
    run.says(LOADER)?.never_says("hyp[")?.never_says("panic")?;
    Ok(())
}
