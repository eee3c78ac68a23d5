//! The scripts that are kept, on the simulated machine. The tests that boot QEMU run the same on the images.

use std::fs::{read_dir, read_to_string};
use std::path::{Path, PathBuf};

use call_script::{Script, Status};
use freehold_fuzz::ownership::run::replay;

/// The scripts in a folder of the repository, by their paths.
fn scripts(folder: &str) -> Vec<(PathBuf, Script)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
    let paths = read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = paths.map(|entry| entry.expect("a file").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "script"));
    paths.sort();
    let read = |path: PathBuf| {
        let text = read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let script = Script::parse(&text).unwrap_or_else(|wrong| panic!("{}: {wrong}", path.display()));
        (path, script)
    };
    paths.into_iter().map(read).collect()
}

#[test]
fn kept_scripts_do_as_they_say() {
    let scripts = scripts("fuzz/scripts");
    assert!(scripts.len() >= 5, "only {} scripts", scripts.len());
    for (path, script) in scripts {
        let mut judged = 0;
        let failed = replay(&script, |performed| {
            let done = &performed.done.outcome;
            let is_done = done.as_ref().is_ok_and(|outcome| !matches!(outcome.status, Status::Skipped(_)));
            judged += usize::from(is_done && performed.step.expected.is_some());
            if !performed.is_as_expected() {
                eprintln!("{}: {performed}", path.display());
            }
        });
        assert_eq!(failed, 0, "{}", path.display());
        assert!(judged > 0, "{} says nothing of what must come of its steps", path.display());
    }
}
