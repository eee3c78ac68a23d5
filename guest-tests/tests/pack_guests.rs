//! `scripts/pack-guests`, by which `make run GUEST=…` makes the reference host's ramdisk.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A build directory with files that have an arm64 `Image`'s header and nothing else.
struct Build(PathBuf);

impl Build {
    fn new(test: &str) -> Self {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pack-guests").join(test);
        let _ = fs::remove_dir_all(&directory);
        let build = Self(directory);
        for (file, image_size) in
            [("linux/Image", 32 << 20), ("linux/Image-6.1", 32 << 20), ("guests/hello.img", 1 << 20), ("own.Image", 0)]
        {
            build.write(file, &image(image_size));
        }
        build.write("linux/busybox", b"x");
        build.write("linux/guest-initrd.cpio", b"initrd");
        build
    }

    fn write(&self, file: &str, content: &[u8]) {
        let path = self.0.join(file);
        fs::create_dir_all(path.parent().expect("a file in a directory")).expect("the directory is made");
        fs::write(path, content).expect("the file is written");
    }

    fn run(&self, goal: &str, guests: &[&str], environment: &[(&str, &str)]) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/pack-guests");
        let mut command = Command::new(script);
        for name in ["GUEST_CPUS", "GUEST_MEM", "GUEST_INITRD", "GUEST_APPEND", "PROTECTED"] {
            command.env_remove(name);
        }
        command.arg(goal).arg(&self.0).args(guests).current_dir(&self.0).env("PAYLOADS", "hello spin");
        command.envs(environment.iter().copied()).output().expect("the script is there")
    }

    /// Packs the guests and returns `guests.conf`, line by line.
    fn pack(&self, guests: &[&str], environment: &[(&str, &str)]) -> Vec<String> {
        let output = self.run("pack", guests, environment);
        assert!(output.status.success(), "{output:?}");
        self.read("run/pack/guests.conf").lines().map(str::to_owned).collect()
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.0.join(file)).expect("the file is there and is text")
    }
}

/// Guests, the environment, and how the message begins.
type Refusal = (&'static [&'static str], &'static [(&'static str, &'static str)], &'static str);

fn image(image_size: u64) -> Vec<u8> {
    let mut image = vec![0; 64];
    image[16..24].copy_from_slice(&image_size.to_le_bytes());
    image[56..60].copy_from_slice(b"ARM\x64");
    image
}

#[test]
fn guests_have_the_defaults_of_their_kind() {
    assert_eq!(
        Build::new("defaults").pack(&["linux", "hello"], &[]),
        [
            "name=linux image=linux.image initrd=linux.initrd memory=268435456 cpus=2 protected=1 append=console=ttyAMA0",
            "name=hello image=hello.image memory=16777216 cpus=1 protected=1 append=",
        ]
    );
}

#[test]
fn equal_guests_have_names_of_their_own_and_one_file() {
    let build = Build::new("equal");
    let lines = build.pack(&["hello", "hello", "hello", "linux-6.1", "linux-6.1"], &[]);
    let names: Vec<_> =
        lines.iter().map(|line| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(
        names,
        [
            "name=hello image=hello.image",
            "name=hello2 image=hello.image",
            "name=hello3 image=hello.image",
            "name=linux-6.1 image=linux-6.1.image",
            "name=linux-6.1-2 image=linux-6.1.image",
        ]
    );
    let mut files: Vec<_> = fs::read_dir(build.0.join("run/pack"))
        .expect("the directory is there")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a plain name"))
        .collect();
    files.sort();
    assert_eq!(files, ["guests.conf", "hello.image", "linux-6.1.image", "linux-6.1.initrd"]);
}

#[test]
fn what_the_user_says_goes_before_the_defaults_and_a_guests_own_settings_before_both() {
    let build = Build::new("settings");
    let environment = [
        ("GUEST_MEM", "1G"),
        ("GUEST_CPUS", "4"),
        ("PROTECTED", "0"),
        ("GUEST_APPEND", "one  two=three"),
        ("GUEST_INITRD", "own.Image"),
    ];
    assert_eq!(
        build.pack(&["./own.Image", "linux,cpus=16,memory=64,protected=1"], &environment),
        // The initrd is the very file that is the image.
        [
            "name=own image=own.image initrd=own.image memory=1073741824 cpus=4 protected=0 \
             append=console=ttyAMA0 one  two=three",
            "name=linux image=linux.image initrd=own.image memory=67108864 cpus=16 protected=1 \
             append=console=ttyAMA0 one  two=three",
        ]
    );
}

#[test]
fn the_machine_gets_the_memory_that_its_guests_need() {
    let build = Build::new("memory");
    for (guests, memory) in [(&["hello"][..], "1G"), (&["linux", "hello"], "2G"), (&["linux,memory=4G", "linux"], "6G")]
    {
        build.pack(guests, &[]);
        assert_eq!(build.read("run/memory").trim(), memory, "{guests:?}");
    }
}

#[test]
fn the_archive_has_each_file_whole() {
    let build = Build::new("archive");
    build.pack(&["linux"], &[]);
    let archive = fs::read(build.0.join("run/guests.cpio")).expect("the archive is there");
    for content in [&image(32 << 20)[..], b"initrd", build.read("run/pack/guests.conf").as_bytes()] {
        assert!(archive.windows(content.len()).any(|window| window == content), "{content:?} is not in the archive");
    }
}

#[test]
fn what_cannot_be_is_refused_in_one_line() {
    let build = Build::new("refused");
    build.write("text", b"no image, but long enough that there are bytes where an image has its magic number");
    build.write("nothing", b"");
    let cases: &[Refusal] = &[
        (&[], &[], "no guest is named"),
        (&["goodbye"], &[], "goodbye is neither a file nor one of: linux linux-6.1 hello spin"),
        (&["no/Image"], &[], "no/Image: there is no file no/Image"),
        (&["text"], &[], "text: text is not an arm64 Image (a compressed kernel must be unpacked first)"),
        (&["./nothing"], &[], "./nothing: the file ./nothing is empty"),
        (&["linux"], &[("GUEST_INITRD", "no")], "GUEST_INITRD: there is no file no"),
        (&["linux"], &[("GUEST_MEM", "much")], "GUEST_MEM=much is not an amount of memory such as 256M or 1G"),
        (&["linux"], &[("GUEST_MEM", "-1M")], "GUEST_MEM=-1M is not an amount of memory such as 256M or 1G"),
        (&["linux"], &[("GUEST_MEM", "99999999999999999999")], "GUEST_MEM=99999999999999999999 is not an amount"),
        (&["linux"], &[("GUEST_MEM", "0G")], "GUEST_MEM=0G is no memory at all"),
        (&["linux"], &[("GUEST_MEM", "32M")], "GUEST_MEM=32M: linux needs more than 32 MiB"),
        (&["linux"], &[("GUEST_CPUS", "0")], "GUEST_CPUS=0 is not a number of CPUs from 1 to 16"),
        (&["linux"], &[("GUEST_CPUS", "17")], "GUEST_CPUS=17 is not a number of CPUs from 1 to 16"),
        (&["linux"], &[("GUEST_CPUS", "two")], "GUEST_CPUS=two is not a number of CPUs from 1 to 16"),
        (&["linux"], &[("PROTECTED", "yes")], "PROTECTED=yes is neither 0 nor 1"),
        (&["linux"], &[("GUEST_APPEND", "a\nname=b")], "GUEST_APPEND has several lines"),
        (&["linux,color=red"], &[], "linux,color=red: color=red is none of memory=, cpus=, protected="),
        (&["hello", "hello,cpus=x"], &[], "hello,cpus=x is not a number of CPUs from 1 to 16"),
    ];
    for goal in ["check", "pack"] {
        for (guests, environment, message) in cases {
            let output = build.run(goal, guests, environment);
            let errors = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{goal} {guests:?} {environment:?}: {output:?}");
            assert!(errors.starts_with(&format!("run: {message}")), "{goal} {guests:?} {environment:?}: {errors}");
            assert_eq!(errors.lines().count(), 1, "{errors}");
        }
    }
}

#[test]
fn a_kernel_that_setup_did_not_find_is_named() {
    let build = Build::new("not_found");
    fs::remove_file(build.0.join("linux/Image-6.1")).expect("the file is removed");
    let output = build.run("check", &["linux-6.1"], &[]);
    assert_eq!(output.status.code(), Some(2));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("linux-6.1: there is no") && errors.contains("make setup"), "{errors}");
}

#[test]
fn a_payload_need_not_be_built_to_be_checked() {
    let build = Build::new("unbuilt");
    assert!(build.run("check", &["spin"], &[]).status.success());
    assert_eq!(build.run("pack", &["spin"], &[]).status.code(), Some(2));
}
