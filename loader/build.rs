//! Names the linker script, and the ELF file of hyp that the loader carries.
use std::path::Path;

/// Environment variable that names hyp's stripped ELF file.
const HYP_ELF: &str = "FREEHOLD_HYP_ELF";

fn main() {
    let manifest = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let script = format!("{manifest}/../linker/loader.ld");
    println!("cargo::rerun-if-changed={script}");
    println!("cargo::rustc-link-arg-bins=-T{script}");

    println!("cargo::rerun-if-env-changed={HYP_ELF}");
    let hyp = std::env::var(HYP_ELF).unwrap_or_default();
    match Path::new(&hyp).canonicalize() {
        Ok(path) if path.is_file() => {
            println!("cargo::rerun-if-changed={}", path.display());
            println!("cargo::rustc-env={HYP_ELF}={}", path.display());
        }
        _ => println!("cargo::error={HYP_ELF} must name hyp's ELF file (`make` sets it); it is {hyp:?}"),
    }
}
