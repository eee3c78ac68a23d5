//! Which call was made in which state, and how it went.

use crate::domain::Domain;
use crate::named::Named;
use crate::rules::offered;
use abi::{Error, Gfn, Pfn};
use ownership_spec::{Call, Frame, Kind, Owner, Specification, Vm};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What a call may be about, as far as a table goes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Subject {
    /// A page that it names by number.
    Page(Kind),
    /// A page that does not exist.
    NoPage,
    /// A guest's frame with its own page.
    Own(Kind),
    /// A guest's frame with a page that it borrows.
    Borrowed(Kind),
    /// A guest's frame with nothing, or a device.
    Other(&'static str),
    /// An offer, by its page.
    Offer(Kind),
    /// No such offer.
    NoOffer,
    /// A VM: it is protected, it is dying.
    Vm(bool, bool),
    /// There is no VM.
    NoVm,
}

const NO_FRAME: &str = "no such frame";
const VACANT: &str = "vacant frame";
const POISONED: &str = "poisoned frame";
const WITH_DEVICE: &str = "frame with a device";

/// Something that calls name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Operand {
    Page(Pfn),
    Frame(Vm, Gfn),
    Offer(Vm, u64),
    Vm(Vm),
}

/// Which of its operands a subject is of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum View {
    Page,
    Frame,
    Offer,
    Vm,
}

impl Operand {
    /// The operands of a call; of a range, the first two.
    fn of(call: &Call) -> BTreeSet<Self> {
        let named = Named::of(call);
        let mut operands = BTreeSet::new();
        if let Some((first, count)) = named.pages {
            operands.extend((0..count.min(2)).filter_map(|index| first.checked_add(index)).map(Operand::Page));
        }
        if let Some((vm, first, count)) = named.frames {
            let frames = (0..count.min(2)).filter_map(|index| first.checked_add(index));
            operands.extend(frames.map(|gfn| Operand::Frame(vm, gfn)));
        }
        operands.extend(named.offer.map(|(owner, number)| Operand::Offer(owner, number)));
        operands.extend(named.vms.into_iter().map(Operand::Vm));
        operands
    }

    const fn view(self) -> View {
        match self {
            Operand::Page(_) => View::Page,
            Operand::Frame(..) => View::Frame,
            Operand::Offer(..) => View::Offer,
            Operand::Vm(_) => View::Vm,
        }
    }

    /// What it is in a state.
    fn subject(self, state: &Specification) -> Subject {
        match self {
            Operand::Page(pfn) => Subject::page(state, pfn),
            Operand::Frame(vm, gfn) => Subject::frame(state, vm, gfn),
            Operand::Offer(owner, number) => Subject::offer(state, owner, number),
            Operand::Vm(vm) => Subject::vm(state, vm),
        }
    }
}

impl Subject {
    const fn view(self) -> View {
        match self {
            Subject::Page(_) | Subject::NoPage => View::Page,
            Subject::Own(_) | Subject::Borrowed(_) | Subject::Other(_) => View::Frame,
            Subject::Offer(_) | Subject::NoOffer => View::Offer,
            Subject::Vm(..) | Subject::NoVm => View::Vm,
        }
    }

    /// Every subject that there can be.
    fn all() -> Vec<Self> {
        let frames = [NO_FRAME, VACANT, POISONED, WITH_DEVICE].map(Subject::Other);
        let vms = [(false, false), (false, true), (true, false), (true, true)];
        let kinds = |subject: fn(Kind) -> Self| Kind::ALL.iter().copied().map(subject);
        let with_kinds = kinds(Subject::Page).chain(kinds(Subject::Own)).chain(kinds(Subject::Borrowed));
        let others = [Subject::NoPage, Subject::NoOffer, Subject::NoVm].into_iter().chain(frames);
        let vms = vms.map(|(protected, dying)| Subject::Vm(protected, dying));
        with_kinds.chain(kinds(Subject::Offer)).chain(others).chain(vms).collect()
    }

    fn page(state: &Specification, pfn: Pfn) -> Self {
        state.kind(pfn).map_or(Subject::NoPage, Subject::Page)
    }

    fn frame(state: &Specification, vm: Vm, gfn: Gfn) -> Self {
        match state.guest(vm) {
            Err(_) => return Subject::NoVm,
            Ok(guest) if gfn.raw() >= guest.gfn_limit => return Subject::Other(NO_FRAME),
            Ok(_) => {}
        }
        match state.frame(vm, gfn) {
            Frame::Vacant => Subject::Other(VACANT),
            Frame::Poisoned => Subject::Other(POISONED),
            Frame::Device(_) => Subject::Other(WITH_DEVICE),
            Frame::Memory(pfn) | Frame::LentOut(pfn) => {
                let own = state.page(pfn).is_some_and(|page| page.owner == Owner::Guest(vm));
                let kind = state.kind(pfn).expect("a page at a frame");
                if own { Subject::Own(kind) } else { Subject::Borrowed(kind) }
            }
        }
    }

    fn offer(state: &Specification, owner: Vm, number: u64) -> Self {
        offered(state, owner, number).and_then(|pfn| state.kind(pfn)).map_or(Subject::NoOffer, Subject::Offer)
    }

    fn vm(state: &Specification, vm: Vm) -> Self {
        state.guest(vm).map_or(Subject::NoVm, |guest| Subject::Vm(guest.protected, guest.dying))
    }
}

/// The kinds of pages that a guest has at a frame as its own: those that a guest owns.
const OWN: &[Kind] = &[
    Kind::GuestsAlone,
    Kind::Offered,
    Kind::SharedWithHost,
    Kind::LentToHost,
    Kind::SharedWithGuest,
    Kind::SharedWithDyingGuest,
    Kind::DyingAlone,
    Kind::DyingOffered,
    Kind::DyingSharedWithHost,
    Kind::DyingLentToHost,
    Kind::DyingSharedWithGuest,
];

/// Those that it has at a frame and borrows: those that the host or another guest lets a guest use.
const BORROWED: &[Kind] = &[
    Kind::Mapped,
    Kind::MappedRestricted,
    Kind::LentToGuest,
    Kind::LentToDyingGuest,
    Kind::SharedWithGuest,
    Kind::SharedWithDyingGuest,
    Kind::DyingSharedWithGuest,
];

/// Those that an offer can be of: it waits, or a guest borrows the page by it.
const OFFERED: &[Kind] =
    &[Kind::Offered, Kind::SharedWithGuest, Kind::SharedWithDyingGuest, Kind::DyingOffered, Kind::DyingSharedWithGuest];

/// A way to meet a page, and the kinds of pages that are met so.
type Place = (fn(Kind) -> Subject, &'static [Kind]);

/// Where a page may be met, and the kinds of pages that are. No other pair of call and kind can be reached.
const PLACES: [Place; 4] =
    [(Subject::Page, Kind::ALL), (Subject::Own, OWN), (Subject::Borrowed, BORROWED), (Subject::Offer, OFFERED)];

/// A column: a call, and one of its operands.
type Column = (&'static str, View);
/// How a call went, and how often.
type Results = BTreeMap<Option<Error>, u64>;

/// Which calls were made in which states.
#[derive(Default)]
pub struct Coverage {
    made: BTreeMap<(Column, Subject), Results>,
    /// What there was to make calls of, whether or not one was made.
    there: BTreeSet<Subject>,
}

/// Counts the calls of a domain, fast.
pub struct Counter {
    subjects: Vec<Subject>,
    columns: Vec<Column>,
    operands: Vec<Operand>,
    /// For each call, its operands and their columns, by number.
    calls: Vec<Vec<(usize, usize)>>,
    /// What each operand is in the state that is visited.
    here: Vec<usize>,
    /// What operands were in some state.
    there: BTreeSet<Subject>,
    /// By column, subject and result.
    counts: Vec<u64>,
}

/// How a call may go: done, or one of the errors.
const RESULTS: usize = 1 + Error::ALL.len();

impl Counter {
    /// For these calls.
    pub fn new(domain: &Domain, calls: &[Call]) -> Self {
        let subjects = Subject::all();
        let mut operands: BTreeSet<Operand> = calls.iter().flat_map(Operand::of).collect();
        operands.extend((0..=domain.pages).map(|number| Operand::Page(domain.page(number))));
        let operands: Vec<_> = operands.into_iter().collect();
        let columns =
            calls.iter().flat_map(|call| Operand::of(call).into_iter().map(|operand| (call.name(), operand.view())));
        let columns: Vec<_> = columns.collect::<BTreeSet<_>>().into_iter().collect();
        let number_of = |call: &Call, operand: Operand| {
            let column = columns.binary_search(&(call.name(), operand.view())).expect("a column");
            (operands.binary_search(&operand).expect("an operand"), column)
        };
        let calls =
            calls.iter().map(|call| Operand::of(call).into_iter().map(|operand| number_of(call, operand)).collect());
        let calls = calls.collect();
        let counts = vec![0; columns.len() * subjects.len() * RESULTS];
        Self { subjects, columns, operands, calls, here: Vec::new(), there: BTreeSet::new(), counts }
    }

    /// The next calls are made in this state.
    pub fn visit(&mut self, state: &Specification) {
        let Self { subjects, operands, here, there, .. } = self;
        here.clear();
        for operand in operands {
            let subject = operand.subject(state);
            if subject.view() == operand.view() {
                there.insert(subject);
            }
            here.push(subjects.iter().position(|known| *known == subject).expect("a subject"));
        }
    }

    /// The call of that number was made, and went so.
    pub fn count(&mut self, call: usize, result: Option<Error>) {
        let result =
            result.map_or(0, |error| 1 + Error::ALL.iter().position(|known| *known == error).expect("an error"));
        for (operand, column) in &self.calls[call] {
            let pair = column * self.subjects.len() + self.here[*operand];
            self.counts[pair * RESULTS + result] += 1;
        }
    }

    /// All that was counted.
    pub fn coverage(self) -> Coverage {
        let mut made: BTreeMap<_, Results> = BTreeMap::new();
        for (number, count) in self.counts.iter().enumerate().filter(|(_, count)| **count != 0) {
            let (pair, result) = (number / RESULTS, number % RESULTS);
            let (column, subject) = (pair / self.subjects.len(), pair % self.subjects.len());
            let result = result.checked_sub(1).map(|number| Error::ALL[number]);
            made.entry((self.columns[column], self.subjects[subject])).or_default().insert(result, *count);
        }
        Coverage { made, there: self.there }
    }
}

impl Coverage {
    /// Adds what another search found.
    pub fn add(&mut self, other: Self) {
        for (pair, results) in other.made {
            let here = self.made.entry(pair).or_default();
            for (result, count) in results {
                *here.entry(result).or_default() += count;
            }
        }
        self.there.extend(other.there);
    }

    /// The pairs of call and subject that there could have been, and were not.
    pub fn missing(&self) -> Vec<(&'static str, Subject)> {
        let columns: BTreeSet<Column> = self.made.keys().map(|(column, _)| *column).collect();
        let pairs = columns.into_iter().flat_map(|(name, view)| {
            let suits = move |subject: &&Subject| subject.view() == view;
            self.there.iter().filter(suits).map(move |subject| ((name, view), *subject))
        });
        pairs.filter(|pair| !self.made.contains_key(pair)).map(|((name, _), subject)| (name, subject)).collect()
    }

    /// Passes where every kind of page was seen wherever it can be.
    ///
    /// # Panics
    /// Where one was not, or was where it cannot be.
    pub fn assert_all_kinds_seen(&self) {
        for (subject, expected) in PLACES {
            let seen = |kind: &Kind| self.there.contains(&subject(*kind));
            let seen: Vec<_> = Kind::ALL.iter().copied().filter(seen).collect();
            assert_eq!(seen, expected, "seen as {}", subject(Kind::GuestsAlone));
        }
    }

    /// The calls that were never done.
    pub fn never_done(&self) -> Vec<&'static str> {
        let done = |name: &&str| {
            self.made.iter().any(|(((called, _), _), results)| called == name && results.contains_key(&None))
        };
        Call::NAMES.iter().copied().filter(|name| !done(name)).collect()
    }

    /// How many pairs there are.
    pub fn pairs(&self) -> usize {
        self.made.len()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = None;
        for ((column, subject), results) in &self.made {
            if last != Some(*column) {
                writeln!(f, "{} ({})", column.0, format!("{:?}", column.1).to_lowercase())?;
                last = Some(*column);
            }
            write!(f, "    {:<44}", subject.to_string())?;
            for (number, (result, count)) in results.iter().enumerate() {
                let comma = if number == 0 { "" } else { ", " };
                match result {
                    None => write!(f, "{comma}done {count}")?,
                    Some(error) => write!(f, "{comma}{error} {count}")?,
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Page(kind) => kind.fmt(f),
            Subject::NoPage => f.write_str("no such page"),
            Subject::Own(kind) => write!(f, "own page, {kind}"),
            Subject::Borrowed(kind) => write!(f, "borrowed page, {kind}"),
            Subject::Other(words) => f.write_str(words),
            Subject::Offer(kind) => write!(f, "offer, {kind}"),
            Subject::NoOffer => f.write_str("no such offer"),
            Subject::Vm(protected, dying) => {
                f.write_str(if *dying { "dying" } else { "living" })?;
                f.write_str(if *protected { ", protected" } else { ", not protected" })
            }
            Subject::NoVm => f.write_str("no such VM"),
        }
    }
}
