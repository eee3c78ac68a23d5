//! A running machine's serial line.

use crate::Transcript;
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How often a machine that says nothing is asked whether it has ended.
const POLL: Duration = Duration::from_millis(20);

/// What a machine has said so far.
#[derive(Default)]
struct Output {
    text: Mutex<Vec<u8>>,
    more: Condvar,
}

impl Output {
    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running machine. It is killed when this is dropped, and when its time is up.
pub struct Console {
    child: Child,
    command_line: String,
    input: Option<ChildStdin>,
    output: Arc<Output>,
    readers: Vec<JoinHandle<()>>,
    errors: Arc<Output>,
    started: Instant,
    timeout: Duration,
    /// Up to here [`Self::wait_for`] has read.
    position: usize,
}

impl Console {
    pub(crate) fn new(mut child: Child, command_line: String, timeout: Duration) -> Self {
        let output = Arc::new(Output::default());
        let errors = Arc::new(Output::default());
        let readers = [
            child.stdout.take().map(|pipe| read_into(pipe, Arc::clone(&output))),
            child.stderr.take().map(|pipe| read_into(pipe, Arc::clone(&errors))),
        ];
        Self {
            input: child.stdin.take(),
            child,
            command_line,
            output,
            readers: readers.into_iter().flatten().collect(),
            errors,
            started: Instant::now(),
            timeout,
            position: 0,
        }
    }

    fn time_left(&self) -> Duration {
        self.timeout.saturating_sub(self.started.elapsed())
    }

    /// Waits for `text` on the console, beyond what earlier calls found. The error says why it will not come: the time
    /// is up, or the machine has ended.
    pub fn wait_for(&mut self, text: &str) -> Result<(), String> {
        self.wait_for_all(&[text])
    }

    /// The same for all of `texts`, in whatever order they come.
    pub fn wait_for_all(&mut self, texts: &[&str]) -> Result<(), String> {
        loop {
            let ended = matches!(self.child.try_wait(), Ok(Some(_)));
            if ended {
                self.join_readers();
            }
            let output = Arc::clone(&self.output);
            let seen = output.lock();
            let beyond = seen.get(self.position..).unwrap_or(&[]);
            let found = texts.iter().map(|text| Some(find(beyond, text.as_bytes())? + text.len()));
            let Some(missing) = found.clone().position(|end| end.is_none()) else {
                self.position += found.flatten().max().unwrap_or(0);
                return Ok(());
            };
            let text = texts.get(missing).copied().unwrap_or_default();
            if ended {
                return Err(format!("the machine ended before it said {text:?}"));
            }
            let left = self.time_left();
            if left.is_zero() {
                return Err(format!("{text:?} did not come within {} s", self.timeout.as_secs()));
            }
            drop(output.more.wait_timeout(seen, left.min(POLL)));
        }
    }

    /// Types `text`.
    pub fn send(&mut self, text: &str) -> Result<(), String> {
        let input = self.input.as_mut().ok_or("the machine has no serial input")?;
        input.write_all(text.as_bytes()).and_then(|()| input.flush()).map_err(|error| format!("typing failed: {error}"))
    }

    /// Waits until the machine has ended by itself or its time is up.
    pub fn finish(mut self) -> Transcript {
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return self.transcript(Some(status), false),
                Ok(None) if !self.time_left().is_zero() => thread::sleep(POLL),
                Ok(None) | Err(_) => {
                    let status = self.kill();
                    return self.transcript(status, true);
                }
            }
        }
    }

    /// Ends the machine now.
    pub fn stop(mut self) -> Transcript {
        let status = self.kill();
        self.transcript(status, false)
    }

    fn kill(&mut self) -> Option<ExitStatus> {
        // A child that has ended already cannot be killed, and need not.
        let _ = self.child.kill();
        self.child.wait().ok()
    }

    fn join_readers(&mut self) {
        for reader in self.readers.drain(..) {
            // A reader does not panic.
            let _ = reader.join();
        }
    }

    fn transcript(mut self, status: Option<ExitStatus>, timed_out: bool) -> Transcript {
        self.join_readers();
        let console = String::from_utf8_lossy(&self.output.lock()).into_owned();
        let errors = String::from_utf8_lossy(&self.errors.lock()).into_owned();
        let exit_code = status.and_then(|status| status.code());
        Transcript::new(console, errors, std::mem::take(&mut self.command_line), exit_code, timed_out)
            .lasting(self.started.elapsed())
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reads `pipe` to its end on a thread of its own.
fn read_into(mut pipe: impl Read + Send + 'static, output: Arc<Output>) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = pipe.read(&mut buffer) {
            output.lock().extend_from_slice(buffer.get(..count).unwrap_or(&[]));
            output.more.notify_all();
        }
    })
}

/// Where `needle` begins in `text`.
fn find(text: &[u8], needle: &[u8]) -> Option<usize> {
    text.windows(needle.len().max(1)).position(|window| window == needle)
}
