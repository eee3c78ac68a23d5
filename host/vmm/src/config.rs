//! The list of guests that the host is to run, as text: a line for each, of words `key=value`.
//!
//! ```text
//! name=linux image=linux.image initrd=linux.initrd memory=268435456 cpus=2 protected=1 append=console=ttyAMA0 quiet
//! ```
//! `append=` is the last word and takes the rest of the line. `image` and `initrd` name files of the ramdisk. Empty
//! lines, and lines that begin with `#`, say nothing.

/// One guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuestConfig<'a> {
    /// Its name, which no other has.
    pub name: &'a str,
    /// The file of its kernel.
    pub image: &'a str,
    /// The file of its initrd.
    pub initrd: Option<&'a str>,
    /// Bytes of RAM.
    pub memory: u64,
    /// How many vCPUs.
    pub cpus: u64,
    /// Whether it is protected.
    pub protected: bool,
    /// Its kernel's command line.
    pub append: &'a str,
}

/// What is wrong with a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConfigError<'a> {
    /// A word without `=`.
    NoValue(&'a str),
    /// A key that there is not.
    UnknownKey(&'a str),
    /// A value that is no number, or out of range.
    BadNumber(&'a str),
    /// This key is missing.
    Missing(&'static str),
    /// Another line has the same name.
    DoubleName(&'a str),
}

/// The guests of a text, each as it comes or with what is wrong with its line.
pub fn parse(text: &str) -> impl Iterator<Item = Result<GuestConfig<'_>, ConfigError<'_>>> {
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines().enumerate().map(move |(index, line)| {
        let guest = parse_line(line)?;
        let is_double =
            lines().take(index).filter_map(|line| parse_line(line).ok()).any(|other| other.name == guest.name);
        if is_double { Err(ConfigError::DoubleName(guest.name)) } else { Ok(guest) }
    })
}

fn parse_line(line: &str) -> Result<GuestConfig<'_>, ConfigError<'_>> {
    let (mut name, mut image, mut initrd, mut memory, mut cpus, mut protected) = (None, None, None, None, None, None);
    let mut append = "";
    let mut rest = line;
    while !rest.is_empty() {
        let (word, behind) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let (key, value) = word.split_once('=').ok_or(ConfigError::NoValue(word))?;
        match key {
            "name" => name = Some(value),
            "image" => image = Some(value),
            "initrd" => initrd = Some(value),
            "memory" => memory = Some(number(value)?),
            "cpus" => cpus = Some(number(value)?),
            "protected" => protected = Some(number(value)?),
            "append" => {
                append = rest.split_once('=').map_or("", |(_, text)| text);
                break;
            }
            _ => return Err(ConfigError::UnknownKey(key)),
        }
        rest = behind.trim_start();
    }
    Ok(GuestConfig {
        name: given(name, "name")?,
        image: given(image, "image")?,
        initrd,
        memory: memory.ok_or(ConfigError::Missing("memory"))?,
        cpus: cpus.ok_or(ConfigError::Missing("cpus"))?,
        protected: protected.ok_or(ConfigError::Missing("protected"))? != 0,
        append,
    })
}

/// The value of `key`, which must be there and not empty.
fn given<'a>(value: Option<&'a str>, key: &'static str) -> Result<&'a str, ConfigError<'a>> {
    value.filter(|value| !value.is_empty()).ok_or(ConfigError::Missing(key))
}

fn number(text: &str) -> Result<u64, ConfigError<'_>> {
    text.parse().map_err(|_| ConfigError::BadNumber(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn guests_are_read_line_by_line() {
        let text = "# two\nname=linux image=linux.image initrd=i memory=268435456 cpus=2 protected=1 append=console=ttyAMA0  a=b\n\n\
                    name=hello image=hello memory=16777216 cpus=1 protected=0\n";
        let guests: Vec<_> = parse(text).collect();
        let linux = GuestConfig {
            name: "linux",
            image: "linux.image",
            initrd: Some("i"),
            memory: 256 << 20,
            cpus: 2,
            protected: true,
            append: "console=ttyAMA0  a=b",
        };
        let hello = GuestConfig {
            name: "hello",
            image: "hello",
            initrd: None,
            memory: 16 << 20,
            cpus: 1,
            protected: false,
            append: "",
        };
        assert_eq!(guests, [Ok(linux), Ok(hello)]);
    }

    #[test]
    fn what_is_wrong_with_a_line_is_named() {
        let whole = "name=a image=b memory=1 cpus=1 protected=1";
        for (line, error) in [
            ("name", ConfigError::NoValue("name")),
            ("nam=a", ConfigError::UnknownKey("nam")),
            ("name=a cpus=x", ConfigError::BadNumber("x")),
            ("name=a cpus=-1", ConfigError::BadNumber("-1")),
            ("memory=99999999999999999999", ConfigError::BadNumber("99999999999999999999")),
            ("image=b memory=1 cpus=1 protected=1", ConfigError::Missing("name")),
            ("name= image=b memory=1 cpus=1 protected=1", ConfigError::Missing("name")),
            ("name=a memory=1 cpus=1 protected=1", ConfigError::Missing("image")),
            ("name=a image=b cpus=1 protected=1", ConfigError::Missing("memory")),
            ("name=a image=b memory=1 protected=1", ConfigError::Missing("cpus")),
            ("name=a image=b memory=1 cpus=1", ConfigError::Missing("protected")),
        ] {
            assert_eq!(parse(line).next(), Some(Err(error)), "{line}");
        }
        let twice = alloc::format!("{whole}\n{whole}");
        assert_eq!(parse(&twice).nth(1), Some(Err(ConfigError::DoubleName("a"))));
    }
}
