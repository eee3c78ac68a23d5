//! Says which functions the instructions went to that the plugin `exception_levels` counted between its markers.
//!
//! Usage: `profile COUNTS CONSOLE BUILD [FUNCTIONS]`: what the plugin wrote; what the console said, which has the line
//! that tells where hyp is; where `hyp.elf` and `host.elf` are; and how many functions of each section are shown, 25 by
//! default. `make profile` does it all.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitCode};

/// Where the host's kernel runs.
const HOST_ADDRESS: u64 = 0x4200_0000;
/// What the payload `latency` calls its sections, from 1 on.
const SECTIONS: [&str; 13] = [
    "empty",
    "hvc-psci-version",
    "hvc-unknown",
    "id-register",
    "distributor-read",
    "device-read",
    "first-touch",
    "first-touch-of-block",
    "sgi-to-itself",
    "timer",
    "exit-and-entry",
    "ipi-to-running",
    "ipi-to-waiting",
];

/// Functions of an image, by address, where it runs.
struct Symbols(BTreeMap<u64, String>);

impl Symbols {
    /// Those of the image `elf`, which is linked at 0 and runs at `base`.
    fn read(elf: &Path, base: u64) -> Result<Self, String> {
        let output = Command::new("aarch64-linux-gnu-nm")
            .args(["--demangle", "--defined-only"])
            .arg(elf)
            .output()
            .map_err(|error| format!("aarch64-linux-gnu-nm does not start: {error}"))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(Self(text.lines().filter_map(|line| symbol(line, base)).collect()))
    }

    fn name(&self, address: u64) -> &str {
        self.0.range(..=address).next_back().map_or("?", |(_, name)| name)
    }
}

/// A line of nm's: address, kind and name. `None` where it is no function.
fn symbol(line: &str, base: u64) -> Option<(u64, String)> {
    let mut words = line.splitn(3, ' ');
    let (address, kind, name) = (words.next()?, words.next()?, words.next()?);
    let is_code = matches!(kind, "t" | "T" | "w" | "W");
    Some((u64::from_str_radix(address, 16).ok()? + base, name.to_owned())).filter(|_| is_code)
}

/// What ran within one section.
#[derive(Default)]
struct Section {
    beginnings: u64,
    /// By exception level and function.
    functions: BTreeMap<(String, String), u64>,
}

impl Section {
    /// Instructions for each time that the section began.
    fn each(&self, instructions: u64) -> f64 {
        instructions as f64 / self.beginnings.max(1) as f64
    }

    fn show(&self, number: usize, most: usize) {
        let name = number.checked_sub(1).and_then(|index| SECTIONS.get(index)).unwrap_or(&"");
        let all: u64 = self.functions.values().sum();
        println!("section {number} {name}: {} times, {:.1} instructions each", self.beginnings, self.each(all));
        let mut levels: BTreeMap<&str, u64> = BTreeMap::new();
        for ((level, _), instructions) in &self.functions {
            *levels.entry(level).or_default() += instructions;
        }
        for (level, instructions) in levels {
            println!("  {:10.1} {level}, of which", self.each(instructions));
            let mut functions: Vec<_> = self.functions.iter().filter(|((of, _), _)| of == level).collect();
            functions.sort_by_key(|(_, instructions)| std::cmp::Reverse(**instructions));
            for ((_, function), instructions) in functions.into_iter().take(most) {
                println!("  {:10.1}   {function}", self.each(*instructions));
            }
        }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.as_slice() {
        [counts, console, build] => profile(counts, console, Path::new(build), 25),
        [counts, console, build, most] => {
            most.parse().map_or_else(|_| Err(usage()), |most| profile(counts, console, Path::new(build), most))
        }
        _ => Err(usage()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("profile: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> String {
    "usage: profile COUNTS CONSOLE BUILD [FUNCTIONS]".to_owned()
}

fn profile(counts: &str, console: &str, build: &Path, most: usize) -> Result<(), String> {
    let read = |path: &str| std::fs::read(path).map_err(|error| format!("{path}: {error}"));
    let console = String::from_utf8_lossy(&read(console)?).into_owned();
    let hyp = console.lines().find_map(hyp_address).ok_or("the console does not say where hyp is")?;
    let (hyp, host) =
        (Symbols::read(&build.join("hyp.elf"), hyp)?, Symbols::read(&build.join("host.elf"), HOST_ADDRESS)?);
    let mut sections: BTreeMap<usize, Section> = BTreeMap::new();
    for line in String::from_utf8_lossy(&read(counts)?).lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["total", level, instructions] => println!("{instructions:>14} {level}"),
            ["section", section, beginnings] => {
                sections.entry(number(section)?).or_default().beginnings = number(beginnings)?;
            }
            ["count", section, level, address, instructions] => {
                let address = u64::from_str_radix(address, 16).map_err(|_| format!("not a count: {line}"))?;
                let function = match *level {
                    "EL2" => hyp.name(address),
                    "host-EL1" => host.name(address),
                    _ => "(all)",
                };
                let functions = &mut sections.entry(number(section)?).or_default().functions;
                *functions.entry(((*level).to_owned(), function.to_owned())).or_default() +=
                    number::<u64>(instructions)?;
            }
            _ => return Err(format!("not a line of the plugin's: {line}")),
        }
    }
    sections.iter().for_each(|(number, section)| section.show(*number, most));
    Ok(())
}

fn number<N: std::str::FromStr>(word: &str) -> Result<N, String> {
    word.parse().map_err(|_| format!("not a number: {word}"))
}

/// The address in the line `loader: hyp takes 0x…..0x…`.
fn hyp_address(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once("hyp takes 0x")?;
    u64::from_str_radix(rest.split_once("..")?.0, 16).ok()
}
