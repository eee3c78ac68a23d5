//! A machine to boot: QEMU's `virt` board and what is loaded into it.

use crate::{Console, Failure, Transcript};
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The interrupt controller that the board has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gic {
    /// GICv2, which Freehold does not run on.
    V2,
    /// GICv3.
    V3,
    /// GICv4, a GICv3 with more: its redistributors are twice as large.
    V4,
}

impl Gic {
    /// Its version, as QEMU takes it.
    const fn version(self) -> u32 {
        match self {
            Gic::V2 => 2,
            Gic::V3 => 3,
            Gic::V4 => 4,
        }
    }
}

/// Where QEMU's generic loader puts the host's kernel.
const HOST_ADDRESS: u64 = 0x4200_0000;

/// A board, described bit by bit and then [started](Self::start) or [run](Self::run).
#[derive(Clone, Debug)]
pub struct Machine {
    cpu: String,
    cpus: u32,
    mebibytes: u32,
    gic: Gic,
    virtualization: bool,
    board_options: String,
    kernel: PathBuf,
    host: Option<(u64, PathBuf, String)>,
    initrd: Option<PathBuf>,
    append: Option<String>,
    icount: Option<&'static str>,
    reboots: bool,
    timeout: Duration,
    extra: Vec<OsString>,
}

impl Machine {
    /// A board that starts `kernel`, an arm64 `Image`, at EL2: one `max` CPU, 1 GiB of RAM, GICv3, a minute to live.
    pub fn new(kernel: impl Into<PathBuf>) -> Self {
        Self {
            cpu: "max".to_owned(),
            cpus: 1,
            mebibytes: 1024,
            gic: Gic::V3,
            virtualization: true,
            board_options: String::new(),
            kernel: kernel.into(),
            host: None,
            initrd: None,
            append: None,
            icount: None,
            reboots: false,
            timeout: Duration::from_secs(60),
            extra: Vec::new(),
        }
    }

    /// The CPU model, by QEMU's name.
    pub fn cpu(mut self, model: &str) -> Self {
        model.clone_into(&mut self.cpu);
        self
    }

    /// How many CPUs.
    pub fn cpus(mut self, count: u32) -> Self {
        self.cpus = count;
        self
    }

    /// RAM in MiB.
    pub fn memory(mut self, mebibytes: u32) -> Self {
        self.mebibytes = mebibytes;
        self
    }

    /// The interrupt controller.
    pub fn gic(mut self, gic: Gic) -> Self {
        self.gic = gic;
        self
    }

    /// Whether the CPUs have EL2.
    pub fn virtualization(mut self, on: bool) -> Self {
        self.virtualization = on;
        self
    }

    /// A further option of the board, such as `mte=on`.
    pub fn board_option(mut self, option: &str) -> Self {
        self.board_options.push(',');
        self.board_options.push_str(option);
        self
    }

    /// The host's kernel and its command line, handed over as a multiboot module.
    pub fn host(self, kernel: impl Into<PathBuf>, bootargs: &str) -> Self {
        self.host_at(HOST_ADDRESS, kernel, bootargs)
    }

    /// The same, with the module at `address`.
    pub fn host_at(mut self, address: u64, kernel: impl Into<PathBuf>, bootargs: &str) -> Self {
        self.host = Some((address, kernel.into(), bootargs.to_owned()));
        self
    }

    /// The initial RAM disk.
    pub fn initrd(mut self, path: impl Into<PathBuf>) -> Self {
        self.initrd = Some(path.into());
        self
    }

    /// `/chosen/bootargs` of the first kernel: Freehold's own arguments.
    pub fn append(mut self, bootargs: &str) -> Self {
        self.append = Some(bootargs.to_owned());
        self
    }

    /// Counts instructions: one nanosecond of the machine's time for each, on one thread.
    pub fn count_instructions(mut self) -> Self {
        self.icount = Some("shift=0");
        self
    }

    /// The same, but that no time passes while all CPUs wait: it goes on at once with whatever happens next. Without
    /// this it follows the clock on the wall meanwhile, and with that whatever else the machine below has to do.
    pub fn count_instructions_and_nothing_else(mut self) -> Self {
        self.icount = Some("shift=0,sleep=off");
        self
    }

    /// Lets a reset restart the machine; otherwise a reset ends it.
    pub fn reboots(mut self) -> Self {
        self.reboots = true;
        self
    }

    /// How long the machine may run before it is killed.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// One more argument for QEMU.
    pub fn argument(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.extra.push(argument.as_ref().to_owned());
        self
    }

    /// QEMU's arguments.
    fn arguments(&self) -> Vec<OsString> {
        let on_off = |on| if on { "on" } else { "off" };
        let gic = self.gic.version();
        let board =
            format!("virt,virtualization={},gic-version={gic}{}", on_off(self.virtualization), self.board_options);
        let mut arguments: Vec<OsString> = Vec::new();
        let mut option = |name: &str, value: &OsStr| {
            arguments.push(name.into());
            arguments.push(value.to_owned());
        };
        option("-M", board.as_ref());
        option("-cpu", self.cpu.as_ref());
        option("-smp", self.cpus.to_string().as_ref());
        option("-m", format!("{}M", self.mebibytes).as_ref());
        option("-display", "none".as_ref());
        option("-monitor", "none".as_ref());
        option("-serial", "stdio".as_ref());
        option("-nic", "none".as_ref());
        option("-kernel", self.kernel.as_ref());
        if let Some((address, kernel, bootargs)) = &self.host {
            let mut device = OsString::from(format!("guest-loader,addr={address:#x},kernel="));
            device.push(doubled_commas(kernel.as_os_str()));
            if !bootargs.is_empty() {
                device.push(",bootargs=");
                device.push(doubled_commas(bootargs.as_ref()));
            }
            option("-device", &device);
        }
        if let Some(initrd) = &self.initrd {
            option("-initrd", initrd.as_ref());
        }
        if let Some(append) = &self.append {
            option("-append", append.as_ref());
        }
        if let Some(icount) = self.icount {
            option("-icount", icount.as_ref());
        }
        if !self.reboots {
            arguments.push("-no-reboot".into());
        }
        arguments.extend(self.extra.iter().cloned());
        arguments
    }

    /// The command line, quoted for a shell.
    pub fn command_line(&self) -> String {
        let mut line = quoted(&qemu());
        for argument in self.arguments() {
            let _ = write!(line, " {}", quoted(&argument));
        }
        line
    }

    /// Starts QEMU.
    pub fn start(&self) -> Result<Console, Failure> {
        let command_line = self.command_line();
        let child = Command::new(qemu())
            .args(self.arguments())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| Failure::new(format!("QEMU does not start: {error}\n{command_line}")))?;
        Ok(Console::new(child, command_line, self.timeout))
    }

    /// Starts QEMU and waits until it has ended by itself; that it must be killed in the end is a failure.
    pub fn run(&self) -> Result<Transcript, Failure> {
        let transcript = self.start()?.finish();
        if transcript.timed_out() {
            return Err(transcript.failure(format!("still running after {} s", self.timeout.as_secs())));
        }
        Ok(transcript)
    }

    /// Starts QEMU and stops it as soon as the console shows `text`, which it must, or when the machine has ended.
    pub fn run_until(&self, text: &str) -> Result<Transcript, Failure> {
        let mut console = self.start()?;
        let seen = console.wait_for(text);
        let transcript = console.stop();
        match seen {
            Ok(()) => Ok(transcript),
            Err(reason) => Err(transcript.failure(reason)),
        }
    }

    /// The device tree that QEMU makes for this board, as it is before a kernel is loaded.
    pub fn device_tree(&self, scratch: &Path) -> Result<Vec<u8>, Failure> {
        let gic = self.gic.version();
        let mut board = OsString::from(format!(
            "virt,virtualization={},gic-version={gic},dumpdtb=",
            if self.virtualization { "on" } else { "off" }
        ));
        board.push(doubled_commas(scratch.as_os_str()));
        let output = Command::new(qemu())
            .arg("-M")
            .arg(board)
            .args(["-cpu", &self.cpu, "-smp", &self.cpus.to_string(), "-m", &format!("{}M", self.mebibytes)])
            .args(["-display", "none", "-nic", "none"])
            .output()
            .map_err(|error| Failure::new(format!("QEMU does not start: {error}")))?;
        std::fs::read(scratch).map_err(|error| {
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            Failure::new(format!("QEMU wrote no device tree to {}: {error}\n{stderr}", scratch.display()))
        })
    }
}

/// The program: `$QEMU`, or the one on the path.
fn qemu() -> OsString {
    std::env::var_os("QEMU").unwrap_or_else(|| "qemu-system-aarch64".into())
}

/// QEMU's option syntax takes a comma in a value as two.
fn doubled_commas(value: &OsStr) -> OsString {
    value.to_string_lossy().replace(',', ",,").into()
}

/// An argument as a POSIX shell reads it.
fn quoted(argument: &OsStr) -> String {
    let text = argument.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:+@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_in_the_hosts_arguments_reach_the_host() {
        let machine = Machine::new("k.img").host("h.img", "console=ttyAMA0,115200 it's");
        let line = machine.command_line();
        assert!(line.contains("'guest-loader,addr=0x42000000,kernel=h.img,bootargs=console=ttyAMA0,,115200 it'\\''s'"));
    }

    #[test]
    fn the_command_line_says_what_the_board_is() {
        let line = Machine::new("k.img").cpu("cortex-a53").cpus(4).memory(256).gic(Gic::V2).command_line();
        assert!(line.contains("-M virt,virtualization=on,gic-version=2 -cpu cortex-a53 -smp 4 -m 256M"), "{line}");
        assert!(line.ends_with("-no-reboot"), "{line}");
    }
}
