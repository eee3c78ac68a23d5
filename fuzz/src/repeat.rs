//! Inputs from files, without a fuzzer.

use std::env::args_os;
use std::fmt::Debug;
use std::fs::read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use arbitrary::{Arbitrary, Unstructured};

/// What `bytes` stand for, as the fuzzer's macro takes them; `None` where they are too few.
pub fn decode<T: for<'a> Arbitrary<'a>>(bytes: &[u8]) -> Option<T> {
    T::arbitrary_take_rest(Unstructured::new(bytes)).ok()
}

/// Prints what each file that is named on the command line stands for, and runs it.
pub fn main<T: for<'a> Arbitrary<'a> + Debug>(run: impl Fn(T)) -> ExitCode {
    each(|path, case: T| {
        println!("{}: {case:x?}", path.display());
        run(case);
        Ok(())
    })
}

/// Acts on what each file that is named on the command line stands for. Fails where a file cannot be read, or an action
/// fails.
pub fn each<T: for<'a> Arbitrary<'a>>(act: impl Fn(&Path, T) -> Result<(), String>) -> ExitCode {
    let mut status = ExitCode::SUCCESS;
    for file in args_os().skip(1).map(PathBuf::from) {
        let done = read(&file).map_err(|error| error.to_string());
        let done = done.and_then(|bytes| decode::<T>(&bytes).map_or(Ok(()), |case| act(&file, case)));
        if let Err(error) = done {
            eprintln!("{}: {error}", file.display());
            status = ExitCode::FAILURE;
        }
    }
    status
}
