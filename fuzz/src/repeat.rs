//! Inputs from files, without a fuzzer.

use std::env::args_os;
use std::fmt::Debug;
use std::fs::read;
use std::process::ExitCode;

use arbitrary::{Arbitrary, Unstructured};

/// What `bytes` stand for, as the fuzzer's macro takes them; `None` where they are too few.
pub fn decode<T: for<'a> Arbitrary<'a>>(bytes: &[u8]) -> Option<T> {
    T::arbitrary_take_rest(Unstructured::new(bytes)).ok()
}

/// Prints what each file that is named on the command line stands for, and runs it.
pub fn main<T: for<'a> Arbitrary<'a> + Debug>(run: impl Fn(T)) -> ExitCode {
    let mut status = ExitCode::SUCCESS;
    for file in args_os().skip(1) {
        match read(&file) {
            Ok(bytes) => {
                if let Some(case) = decode::<T>(&bytes) {
                    println!("{}: {case:x?}", file.display());
                    run(case);
                }
            }
            Err(error) => {
                eprintln!("{}: {error}", file.display());
                status = ExitCode::FAILURE;
            }
        }
    }
    status
}
