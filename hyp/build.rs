//! Names the linker script of hyp's image.
fn main() {
    let manifest = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    println!("cargo::rerun-if-changed={manifest}/../linker/hyp.ld");
    println!("cargo::rustc-link-arg-bins=-T{manifest}/../linker/hyp.ld");
}
