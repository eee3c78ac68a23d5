//! Links every payload as an arm64 `Image`.

use std::env;

fn main() {
    let script = format!("{}/../../linker/image.ld", env::var("CARGO_MANIFEST_DIR").unwrap_or_default());
    println!("cargo::rerun-if-changed={script}");
    println!("cargo::rustc-link-arg-bins=-T{script}");
}
