//! The bugs that `make fuzz-demo` plants: each patch must still fit the source.

use std::fs::{read_dir, read_to_string};
use std::path::Path;

/// The parts of files that a patch in unified format changes, as they are before it: each file's path and text.
fn before(patch: &str) -> Vec<(String, String)> {
    let mut parts: Vec<(String, String)> = Vec::new();
    let mut path = String::new();
    for line in patch.lines() {
        if let Some(name) = line.strip_prefix("--- a/") {
            name.clone_into(&mut path);
        } else if line.starts_with("@@") {
            parts.push((path.clone(), String::new()));
        } else if let (Some((_, text)), Some(kept)) = (parts.last_mut(), line.strip_prefix([' ', '-'])) {
            *text += kept;
            text.push('\n');
        }
    }
    parts
}

#[test]
fn planted_bugs_fit_the_source() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let entries =
        read_dir(folder.join("demo")).expect("a folder of patches").map(|entry| entry.expect("a file").path());
    let patches: Vec<_> = entries.filter(|path| path.extension().is_some_and(|name| name == "patch")).collect();
    assert!(!patches.is_empty());
    for patch in patches {
        let text = read_to_string(&patch).expect("a readable patch");
        let parts = before(&text);
        assert!(!parts.is_empty(), "{} changes nothing", patch.display());
        for (path, part) in parts {
            let source = read_to_string(folder.join("..").join(&path)).expect("a file of the source");
            assert!(source.contains(&part), "{} does not fit {path}:\n{part}", patch.display());
        }
    }
}
