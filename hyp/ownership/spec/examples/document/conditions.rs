//! The table of what is checked beside the page itself: each call, legal but for one operand.

use crate::table::{PARTS, part, word};
use abi::{Gfn, Pfn};
use ownership_spec::witness::{
    BYSTANDER, DEVICE_PAGE, DYING, DYING_PLAIN, FRAME, GFN_LIMIT, OTHER, PLAIN, SPARE, VACANT, Witness, cast, machine,
    name_of, run,
};
use ownership_spec::{Call, Machine, Rights, Specification, Substitute, Vm};
use std::cell::Cell;

/// A legal call and the script of the state in which it is legal.
struct Legal {
    title: &'static str,
    script: Vec<Call>,
    call: Call,
}

/// Puts something in the place of operands of one kind; of VMs, in that of the one that is named first.
#[derive(Default)]
struct Instead {
    page: Option<Pfn>,
    count: Option<u64>,
    vm: Cell<Option<Vm>>,
    frame: Option<Gfn>,
}

impl Substitute for Instead {
    fn page(&self, page: Pfn) -> Pfn {
        self.page.unwrap_or(page)
    }

    fn count(&self, count: u64) -> u64 {
        self.count.unwrap_or(count)
    }

    fn vm(&self, vm: Vm) -> Vm {
        self.vm.take().unwrap_or(vm)
    }

    fn frame(&self, gfn: Gfn) -> Gfn {
        self.frame.unwrap_or(gfn)
    }
}

/// What is done to a legal call and its script, if that changes anything.
type Change = fn(&Legal) -> Option<(Vec<Call>, Call)>;

/// The titles of the columns, and what each is about.
const COLUMNS: [(&str, Change); 12] = [
    ("no right to read, or an offer to oneself", |legal| {
        let rights = Rights::NONE;
        let call = match legal.call {
            Call::HostShareGuest { vm, first, gfn, count, restricted, .. } => {
                Call::HostShareGuest { vm, first, gfn, count, rights, restricted }
            }
            Call::GuestOffer { vm, gfn, rights, .. } => Call::GuestOffer { vm, gfn, receiver: name_of(vm), rights },
            Call::GuestAccept { vm, owner, number, gfn, .. } => Call::GuestAccept { vm, owner, number, gfn, rights },
            _ => return None,
        };
        Some((legal.script.clone(), call))
    }),
    ("count 0", |legal| operands(legal, Instead { count: Some(0), ..Instead::default() })),
    ("too long", |legal| {
        operands(legal, Instead { count: Some(abi::host::MAX_PAGES_PER_CALL + 1), ..Instead::default() })
    }),
    ("beyond the last page", |legal| operands(legal, Instead { page: Some(Pfn::new(0x100)), ..Instead::default() })),
    ("RAM for a device, a device for RAM", |legal| {
        let device = legal.title.contains("device");
        operands(legal, Instead { page: Some(if device { SPARE } else { DEVICE_PAGE }), ..Instead::default() })
    }),
    ("beyond the last frame", |legal| {
        operands(legal, Instead { frame: Some(Gfn::new(GFN_LIMIT)), ..Instead::default() })
    }),
    ("no such VM", |legal| operands(legal, Instead { vm: Cell::new(Some(Vm(60))), ..Instead::default() })),
    ("VM dying", |legal| {
        let vm = caller(&legal.call)?;
        let dies = Call::StartTeardown { vm };
        let script = legal.script.iter().cloned().chain([dies.clone()]).collect();
        let new = !legal.script.contains(&dies) && legal.call != dies;
        new.then(|| (script, legal.call.clone()))
    }),
    ("VM living", |legal| {
        let teardown = |call: &Call| matches!(call, Call::StartTeardown { .. });
        let script: Vec<_> = legal.script.iter().filter(|call| !teardown(call)).cloned().collect();
        let needs_dying = !is_done(&script, &legal.call) && !teardown(&legal.call);
        needs_dying.then(|| (script, legal.call.clone()))
    }),
    ("VM of the other kind", |legal| {
        let needs_dying = legal.script.contains(&Call::StartTeardown { vm: caller(&legal.call)? });
        let other = match (caller(&legal.call)? == PLAIN, needs_dying) {
            (true, _) => BYSTANDER,
            (false, true) => DYING_PLAIN,
            (false, false) => PLAIN,
        };
        operands(legal, Instead { vm: Cell::new(Some(other)), ..Instead::default() })
    }),
    ("frame taken", |legal| {
        let vm = match legal.call {
            Call::HostDonateGuest { vm, .. } | Call::HostLendGuest { vm, .. } | Call::HostShareGuest { vm, .. } => vm,
            Call::HostGrantDevice { vm, .. } | Call::GuestAccept { vm, .. } => vm,
            _ => return None,
        };
        let take = Call::HostGrantDevice { vm, first: Pfn::new(0xb), gfn: VACANT, count: 1 };
        Some((legal.script.iter().cloned().chain([take]).collect(), legal.call.clone()))
    }),
    ("count full", |legal| {
        // The machine of this column has room for one.
        let before = match legal.call {
            Call::HypPin { .. } => vec![legal.call.clone()],
            Call::HostShareGuest { .. } => {
                vec![legal.call.substitute(&Instead { frame: Some(FRAME), ..Instead::default() })]
            }
            Call::GuestOffer { vm, rights, .. } => {
                let (gfn, receiver) = (Gfn::new(0x30), name_of(OTHER));
                let second = Call::HostDonateGuest { vm, first: SPARE, gfn, count: 1 };
                vec![second, Call::GuestOffer { vm, gfn, receiver, rights }]
            }
            _ => return None,
        };
        Some((legal.script.iter().cloned().chain(before).collect(), legal.call.clone()))
    }),
];

/// One row for each call.
pub fn table() -> String {
    let titles: Vec<_> = COLUMNS.iter().map(|(title, _)| title.to_string()).collect();
    let rows = PARTS.iter().flat_map(|(_, calls)| calls.iter()).map(|title| {
        let legal = legal(title);
        let cells = COLUMNS.iter().map(|(column, change)| match change(&legal) {
            None => "·".to_string(),
            Some((script, call)) => result(machine_of(column), &script, &call),
        });
        (format!("`{title}`"), cells.collect())
    });
    let mut text = String::new();
    part(&mut text, "What is wrong beside the page", "call", &titles, rows);
    text
}

/// The machine that a column is about.
fn machine_of(column: &str) -> Machine {
    if column == "count full" { Machine { most: 1, most_offers: 1, ..machine() } } else { machine() }
}

fn result(machine: Machine, script: &[Call], call: &Call) -> String {
    let state = run(Specification::new(machine), script).expect("the state is reached");
    match state.apply(call) {
        Ok(_) => "done".to_string(),
        Err(error) => word(error),
    }
}

/// The first witness of a page in which the call is legal.
fn legal(title: &'static str) -> Legal {
    let found = Witness::all().into_iter().find_map(|witness| {
        let call = witness.calls().into_iter().find(|(name, _)| *name == title)?.1;
        is_done(&witness.script, &call).then_some(Legal { title, script: witness.script, call })
    });
    // No page bears witness to the end of a VM that has none.
    found.unwrap_or_else(|| Legal { title, script: cast(), call: Call::Finalise { vm: DYING } })
}

fn is_done(script: &[Call], call: &Call) -> bool {
    run(Specification::new(machine()), script).is_ok_and(|state| state.apply(call).is_ok())
}

/// The call with other operands, if it has any of them.
fn operands(legal: &Legal, instead: Instead) -> Option<(Vec<Call>, Call)> {
    let call = legal.call.substitute(&instead);
    (call != legal.call).then(|| (legal.script.clone(), call))
}

/// The VM that a call names first.
fn caller(call: &Call) -> Option<Vm> {
    /// Keeps the first VM that it sees.
    #[derive(Default)]
    struct First(Cell<Option<Vm>>);
    impl Substitute for First {
        fn vm(&self, vm: Vm) -> Vm {
            self.0.set(self.0.get().or(Some(vm)));
            vm
        }
    }
    let first = First::default();
    let _ = call.substitute(&first);
    first.0.get()
}
