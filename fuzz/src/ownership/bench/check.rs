//! Comparing everything with what it should be.

use std::fmt::Write as _;

use abi::Pfn;
use monitor::vm_table;
use ownership::{Component, VmSlot};
use ownership_spec::{Guest, Owner, Specification, Vm};
use simulation::RAM;

use super::super::host_calls::handle_of;
use super::super::model::{Life, Model};
use super::{Bench, Shared, lock};

impl Bench {
    /// Compares all that ledger and tables say with what they should.
    ///
    /// # Panics
    /// Where they say something else.
    pub fn check(&self) {
        let Shared { monitor, machine, model, .. } = &*self.shared;
        let model = lock(model);
        let vms: Vec<_> =
            model.vms.keys().filter_map(|handle| monitor.vms().initialised(handle_of(*handle)).ok()).collect();
        let guests = vms.iter().map(|vm| vm.memory());
        let seen = ownership_ghost::abstraction(&machine.freeze(), monitor.ownership(), guests);
        let seen = seen.unwrap_or_else(|wrong| panic!("{wrong}"));
        if let Some(difference) = comparable(&seen).difference(&comparable(&model.spec)) {
            panic!("{difference}");
        }
        for (handle, known) in &model.vms {
            let Ok(vm) = monitor.vms().initialised(handle_of(*handle)) else { continue };
            if let Some(wrong) = known.guard_difference(&machine.freeze(), &vm.memory().lock()) {
                panic!("VM {handle}: {wrong}");
            }
        }
        self.check_owners(&model);
        self.check_lives(&model);
        machine.assert_clean();
    }

    /// Compares what hyp and people are told of each page with what they should be.
    pub(super) fn check_owners(&self, model: &Model) {
        let Shared { monitor, layout, places, .. } = &*self.shared;
        let ownership = monitor.ownership();
        let mut told = String::new();
        for pfn in (0..layout.ram_pages).map(|index| Pfn::new(RAM + index)) {
            let state = ownership.state(pfn).unwrap_or_else(|| panic!("page {pfn} is RAM"));
            let owner = model.spec.page(pfn).expect("RAM").owner;
            let expected = match owner {
                Owner::Host => Component::Host,
                Owner::Hyp => Component::Hyp,
                Owner::Guest(vm) => component(vm),
            };
            assert_eq!(state.owner(), expected, "page {pfn}: {state}");
            assert_eq!(ownership.is_host_memory(pfn, 1), expected == Component::Host, "page {pfn}: {state}");
            told.clear();
            let _ = write!(told, "{state}");
            let is_told = match owner {
                Owner::Host => told.starts_with("host"),
                Owner::Hyp => told == "hyp",
                Owner::Guest(vm) => told.split(' ').nth(1).and_then(|slot| slot.parse().ok()) == Some(vm.0),
            };
            assert!(is_told, "page {pfn} is said to be \"{told}\", where it is of: {owner:?}");
        }
        assert_eq!(ownership.state(places.device), None, "a device is no RAM");
        assert!(!ownership.is_host_memory(places.device, 1), "a device is no memory of the host's");
    }

    /// Compares how far each VM is, of those that there are and were, with how far it should be.
    pub(super) fn check_lives(&self, model: &Model) {
        for handle in 0..=u64::from(model.last_handle) + 1 {
            let expected = model.vms.get(&handle).map(|vm| match vm.life {
                Life::Reserved => vm_table::Life::Reserved,
                Life::Changing => vm_table::Life::Changing,
                Life::Live => vm_table::Life::Live,
                Life::Dying => vm_table::Life::Dying,
            });
            assert_eq!(self.shared.monitor.vms().life(handle_of(handle)), expected, "VM {handle}");
        }
    }
}

/// The VM as hyp knows it.
fn component(vm: Vm) -> Component {
    Component::Guest(VmSlot::new(vm.0.into()).expect("a slot that there is"))
}

/// A state without what is not in any table: the offers and poisoned frames of VMs that are dying.
fn comparable(state: &Specification) -> Specification {
    let mut comparable = state.clone();
    for (vm, guest) in state.guests().filter(|(_, guest)| guest.dying && !guest.poisoned.is_empty()) {
        comparable.set_guest(vm, Guest { poisoned: Default::default(), ..guest.clone() });
    }
    comparable
}
