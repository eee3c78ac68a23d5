//! Reads a trace by casemate's grammar (doc/asciidoc/sections/trace-format.adoc of its repository, and its parser),
//! without any of the freedom that it leaves: fields are named, in order, and none is left out.

/// One line of a trace, without identity, thread and source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    Init { address: u64, size: u64 },
    Set { address: u64, size: u64, value: u64 },
    Write { address: u64, value: u64 },
    Dsb(String),
    Isb,
    Tlbi { name: String, value: Option<u64> },
    Register { name: String, value: u64 },
    Hint { kind: String, location: u64, value: u64 },
    Lock { address: u64 },
    Unlock { address: u64 },
}

/// What is wrong with a trace, and in which line.
pub type Problem = String;

struct Line<'a> {
    words: std::vec::IntoIter<&'a str>,
    text: &'a str,
}

impl<'a> Line<'a> {
    fn new(text: &'a str) -> Self {
        let mut words = Vec::new();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let length = match first {
                '(' | ')' => 1,
                ' ' => {
                    rest = &rest[1..];
                    continue;
                }
                '"' => rest[1..].find('"').map_or(rest.len(), |end| end + 2),
                _ => rest.find(['(', ')', ' ', '"']).unwrap_or(rest.len()),
            };
            let (word, after) = rest.split_at(length);
            words.push(word);
            rest = after;
        }
        Self { words: words.into_iter(), text }
    }

    fn problem<T>(&self, what: &str) -> Result<T, Problem> {
        Err(format!("{what} in {}", self.text))
    }

    fn word(&mut self) -> Result<&'a str, Problem> {
        match self.words.next() {
            Some(word) => Ok(word),
            None => self.problem("something is missing"),
        }
    }

    fn expect(&mut self, expected: &str) -> Result<(), Problem> {
        let word = self.word()?;
        if word == expected { Ok(()) } else { self.problem(&format!("{word} stands where {expected} should")) }
    }

    /// `(key value)`.
    fn field(&mut self, key: &str) -> Result<&'a str, Problem> {
        self.expect("(")?;
        self.expect(key)?;
        let value = self.word()?;
        self.expect(")")?;
        Ok(value)
    }

    fn one_of(&mut self, key: &str, names: &[&str]) -> Result<String, Problem> {
        let value = self.field(key)?;
        if names.contains(&value) { Ok(value.into()) } else { self.problem(&format!("{value} is no {key}")) }
    }

    fn hexadecimal(&mut self, key: &str) -> Result<u64, Problem> {
        let value = self.field(key)?;
        match value.strip_prefix("0x").map(|digits| u64::from_str_radix(digits, 16)) {
            Some(Ok(number)) => Ok(number),
            _ => self.problem(&format!("{value} is no hexadecimal number")),
        }
    }

    fn decimal(&mut self, key: &str) -> Result<u64, Problem> {
        let value = self.field(key)?;
        value.parse().or_else(|_| self.problem(&format!("{value} is no decimal number")))
    }

    fn step(&mut self, name: &str) -> Result<Step, Problem> {
        Ok(match name {
            "mem-init" => Step::Init { address: self.hexadecimal("address")?, size: self.hexadecimal("size")? },
            "mem-set" => {
                let (address, size) = (self.hexadecimal("address")?, self.hexadecimal("size")?);
                let value = self.decimal("value")?;
                if value > 255 || (address | size) & 0xfff != 0 {
                    return self.problem("only a byte in whole pages can be set");
                }
                Step::Set { address, size, value }
            }
            "mem-write" => {
                self.one_of("mem-order", &["plain", "release"])?;
                Step::Write { address: self.hexadecimal("address")?, value: self.hexadecimal("value")? }
            }
            "barrier" => match self.word()? {
                "isb" => Step::Isb,
                "dsb" => Step::Dsb(self.one_of("kind", &["ish", "ishst", "nsh"])?),
                _ => return self.problem("no such barrier"),
            },
            "tlbi" => {
                let name = self.word()?.to_owned();
                let value = match name.as_str() {
                    "vmalls12e1" | "vmalls12e1is" | "vmalle1is" | "vmalle1" | "alle1" | "alle1is" | "alle2"
                    | "alle2is" => None,
                    "ipas2e1is" | "vale2is" | "vae2is" => Some(self.hexadecimal("value")?),
                    _ => return self.problem("no such instruction"),
                };
                Step::Tlbi { name, value }
            }
            "sysreg-write" => {
                let names = ["vttbr_el2", "ttbr0_el2", "vtcr_el2", "hcr_el2", "tcr_el2", "sctlr_el2", "mair_el2"];
                Step::Register { name: self.one_of("sysreg", &names)?, value: self.hexadecimal("value")? }
            }
            "hint" => {
                let kinds = ["set_root_lock", "set_owner_root", "release_table", "set_pte_thread_owner"];
                Step::Hint {
                    kind: self.one_of("kind", &kinds)?,
                    location: self.hexadecimal("location")?,
                    value: self.hexadecimal("value")?,
                }
            }
            "lock" => Step::Lock { address: self.hexadecimal("address")? },
            "unlock" => Step::Unlock { address: self.hexadecimal("address")? },
            _ => return self.problem("no such event"),
        })
    }

    fn read(mut self, id: u64) -> Result<Step, Problem> {
        self.expect("(")?;
        let name = self.word()?;
        if self.decimal("id")? != id {
            return self.problem("identities do not count up");
        }
        self.decimal("tid")?;
        let step = self.step(name)?;
        let source = self.field("src")?;
        let place = source.strip_prefix('"').and_then(|source| source.strip_suffix('"'));
        if place.and_then(|place| place.split_once(':')).is_none_or(|(_, line)| line.parse::<u64>().is_err()) {
            return self.problem("the source is no \"file:line\"");
        }
        self.expect(")")?;
        match self.words.next() {
            None => Ok(step),
            Some(_) => self.problem("something follows"),
        }
    }
}

/// The steps of a trace, one a line, whose identities count up from 0.
pub fn read(trace: &str) -> Result<Vec<Step>, Problem> {
    (0..).zip(trace.lines()).map(|(id, line)| Line::new(line).read(id)).collect()
}
