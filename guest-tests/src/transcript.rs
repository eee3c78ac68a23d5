//! What a machine said, and what a test may ask of it.

use abi::report::Line;
use std::fmt;
use std::time::Duration;

/// How many lines a failure repeats at its end.
const LAST_LINES: usize = 12;

/// All that a machine said until it ended.
#[derive(Clone, Debug)]
pub struct Transcript {
    console: String,
    errors: String,
    command_line: String,
    exit_code: Option<i32>,
    timed_out: bool,
    duration: Duration,
}

/// Why a test failed, with all that is needed to see it.
#[derive(Clone, Debug)]
pub struct Failure(String);

impl Failure {
    /// A failure without a machine.
    pub fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

impl From<String> for Failure {
    fn from(reason: String) -> Self {
        Self(reason)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Transcript {
    pub(crate) fn new(
        console: String,
        errors: String,
        command_line: String,
        exit_code: Option<i32>,
        timed_out: bool,
    ) -> Self {
        Self { console, errors, command_line, exit_code, timed_out, duration: Duration::ZERO }
    }

    pub(crate) fn lasting(mut self, duration: Duration) -> Self {
        self.duration = duration;
        self
    }

    /// The console's text.
    pub fn text(&self) -> &str {
        &self.console
    }

    /// The console's lines.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.console.lines().map(|line| line.trim_end_matches('\r'))
    }

    /// The protocol's lines.
    pub fn report(&self) -> impl Iterator<Item = Line<'_>> {
        self.console.lines().filter_map(Line::parse)
    }

    /// How long the machine ran, by the clock on the wall.
    pub fn duration(&self) -> Duration {
        self.duration
    }

    /// True where the machine had to be killed because its time was up.
    pub fn timed_out(&self) -> bool {
        self.timed_out
    }

    /// The number that the last `value` line of this name gave.
    pub fn value(&self, name: &str) -> Result<u64, Failure> {
        self.report()
            .filter_map(|line| match line {
                Line::Value(of, number) if of == name => Some(number),
                _ => None,
            })
            .last()
            .ok_or_else(|| self.failure(format!("no value {name:?} was reported")))
    }

    /// Names of the checks that passed, in order.
    pub fn passed(&self) -> Vec<&str> {
        self.report()
            .filter_map(|line| match line {
                Line::Pass(check) => Some(check),
                _ => None,
            })
            .collect()
    }

    /// A failure of this run.
    pub fn failure(&self, reason: impl fmt::Display) -> Failure {
        let mut text = format!("{reason}\n");
        let mut section = |title: &str, body: &str| {
            text.push_str(&format!("---- {title} ----\n{}\n", body.trim_end()));
        };
        section("console", &self.console);
        if !self.errors.trim().is_empty() {
            section("QEMU's own messages", &self.errors);
        }
        let lines: Vec<&str> = self.lines().filter(|line| !line.trim().is_empty()).collect();
        section("last lines", &lines[lines.len().saturating_sub(LAST_LINES)..].join("\n"));
        let ended = match (self.timed_out, self.exit_code) {
            (true, _) => "killed: its time was up".to_owned(),
            (false, Some(code)) => format!("exit status {code}"),
            (false, None) => "stopped by the test".to_owned(),
        };
        section("ended", &format!("{ended}, after {:.1} s", self.duration.as_secs_f64()));
        section("to run it again", &self.command_line);
        text.push_str(&format!("---- reason ----\n{reason}"));
        Failure(text)
    }

    /// Fails with `reason` unless `holds`.
    pub fn require(&self, holds: bool, reason: impl fmt::Display) -> Result<&Self, Failure> {
        if holds { Ok(self) } else { Err(self.failure(reason)) }
    }

    /// The machine ended by itself, and well.
    pub fn ended_well(&self) -> Result<&Self, Failure> {
        self.require(!self.timed_out && self.exit_code == Some(0), "the machine did not end by itself with status 0")
    }

    /// The console shows `text`.
    pub fn says(&self, text: &str) -> Result<&Self, Failure> {
        self.require(self.console.contains(text), format!("the console does not show {text:?}"))
    }

    /// The console does not show `text`.
    pub fn never_says(&self, text: &str) -> Result<&Self, Failure> {
        self.require(!self.console.contains(text), format!("the console shows {text:?}"))
    }

    /// The console shows each of `texts`, one after the other.
    pub fn tells(&self, texts: &[&str]) -> Result<&Self, Failure> {
        let mut rest = self.console.as_str();
        for text in texts {
            let at = rest.find(text).ok_or_else(|| {
                let why = if self.console.contains(text) { "comes too early" } else { "is not there" };
                self.failure(format!("the console should tell, in this order, {texts:?}; {text:?} {why}"))
            })?;
            rest = &rest[at + text.len()..];
        }
        Ok(self)
    }

    /// The check called `name` ran and passed, each time it ran.
    pub fn check(&self, name: &str) -> Result<&Self, Failure> {
        let failed = self.report().any(|line| matches!(line, Line::Fail(check, _) if check == name));
        let passed = self.passed().contains(&name);
        self.require(passed && !failed, format!("the check {name:?} did not pass"))
    }

    /// The run of `scenario` began, reported its end, no check failed, at least `least` passed, and the counts in the
    /// `end` line are those of the lines before it. Where several programs share the console, their lines are told
    /// apart by what stands before the protocol's prefix; and no check of any of them may have failed.
    pub fn completed(&self, scenario: &str, least: u32) -> Result<&Self, Failure> {
        self.nothing_failed()?;
        let mut speaker = None;
        let mut passed = 0;
        let mut ended = None;
        for (source, line) in self.attributed_report() {
            match (line, speaker) {
                (Line::Begin(name), None) if name == scenario => speaker = Some(source),
                (_, Some(speaker)) if speaker != source => {}
                (Line::Value(..), _) | (_, None) => {}
                (_, Some(_)) if ended.is_some() => return Err(self.failure(format!("{line:?} comes after the end"))),
                (Line::Begin(name), Some(_)) => {
                    return Err(self.failure(format!("scenario {name:?} began inside {scenario:?}")));
                }
                (Line::Pass(_), Some(_)) => passed += 1,
                (Line::Fail(..), Some(_)) => {}
                (Line::End(passed, failed), Some(_)) => ended = Some((passed, failed)),
            }
        }
        self.require(speaker.is_some(), format!("scenario {scenario:?} never began"))?;
        let Some(ended) = ended else { return Err(self.failure(format!("scenario {scenario:?} never ended"))) };
        self.require(
            ended == (passed, 0),
            format!("{passed} checks of {scenario:?} were seen, its end says {ended:?}"),
        )?;
        self.require(passed >= least, format!("{passed} checks of {scenario:?} passed, at least {least} should have"))
    }

    /// No check failed, whoever made it.
    pub fn nothing_failed(&self) -> Result<&Self, Failure> {
        let failed: Vec<String> = self
            .report()
            .filter_map(|line| match line {
                Line::Fail(check, seen) => Some(format!("{check}: {seen}")),
                _ => None,
            })
            .collect();
        self.require(failed.is_empty(), format!("failed checks:\n  {}", failed.join("\n  ")))
    }

    /// The protocol's lines, each with what stands before the prefix.
    fn attributed_report(&self) -> impl Iterator<Item = (&str, Line<'_>)> {
        self.console.lines().filter_map(|line| {
            let source = line.split(abi::report::PREFIX).next().unwrap_or("").trim();
            Some((source, Line::parse(line)?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transcript(console: &str) -> Transcript {
        Transcript::new(console.to_owned(), String::new(), "qemu -x".to_owned(), Some(0), false)
    }

    #[test]
    fn a_complete_scenario_is_accepted() {
        let run =
            transcript("hyp: hi\n@freehold begin story\r\n@freehold pass a\n@freehold value n 7\n@freehold end 1 0\n");
        assert!(run.completed("story", 1).is_ok());
        assert!(run.check("a").is_ok());
        assert_eq!(run.value("n").unwrap(), 7);
        assert!(run.value("m").is_err());
    }

    #[test]
    fn a_scenario_without_an_end_a_beginning_or_enough_checks_is_refused() {
        for console in [
            "@freehold begin story\n@freehold pass a\n",
            "@freehold pass a\n@freehold end 1 0\n",
            "@freehold begin story\n@freehold end 0 0\n",
            "@freehold begin story\n@freehold pass a\n@freehold end 2 0\n",
            "@freehold begin story\n@freehold pass a\n@freehold fail b: x\n@freehold end 1 1\n",
            "@freehold begin story\n@freehold pass a\n@freehold fail b: x\n@freehold end 2 0\n",
            "@freehold begin story\n@freehold pass a\n@freehold end 1 0\n@freehold pass b\n",
            "@freehold begin other\n@freehold pass a\n@freehold end 1 0\n",
        ] {
            assert!(transcript(console).completed("story", 1).is_err(), "{console}");
        }
    }

    #[test]
    fn lines_of_several_programs_are_told_apart() {
        let run = transcript(
            "@freehold begin many\n[1] @freehold begin hello\n[1] @freehold pass x\n@freehold pass a\n\
             [1] @freehold end 1 0\n@freehold end 1 0\n",
        );
        assert!(run.completed("many", 1).is_ok());
        assert!(run.completed("hello", 1).is_ok());
        let run = transcript("@freehold begin many\n[1] @freehold fail x: y\n@freehold pass a\n@freehold end 1 0\n");
        assert!(run.completed("many", 1).is_err());
    }

    #[test]
    fn a_check_that_failed_once_has_not_passed() {
        let run = transcript("@freehold pass a\n@freehold fail a: late\n");
        assert!(run.check("a").is_err());
        assert!(run.check("b").is_err());
    }

    #[test]
    fn a_tale_has_an_order() {
        let run = transcript("one\ntwo\nthree\n");
        assert!(run.tells(&["one", "three"]).is_ok());
        assert!(run.tells(&["three", "one"]).unwrap_err().to_string().contains("comes too early"));
        assert!(run.tells(&["one", "four"]).unwrap_err().to_string().contains("is not there"));
    }

    #[test]
    fn a_failure_shows_the_console_and_how_to_run_it_again() {
        let text = transcript("some console\n").failure("because").to_string();
        for part in ["some console", "qemu -x", "because", "exit status 0"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
