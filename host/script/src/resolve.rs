//! From symbols to numbers.

use crate::executor::{Access, GuestRequest, Places, Request};
use crate::guest_step::{GuestAction, GuestStep};
use crate::host_step::HostStep;
use crate::operand::{CountName, FrameName, IpaName, Kind, Operand, PageName, VmName, VmNumber};
use crate::step::{Action, HostAccess};
use abi::host::{HostCall, VmHandle};
use abi::{Ipa, PAGE_SHIFT, Pfn};
use alloc::collections::BTreeMap;
use core::fmt;

/// Which VM has which handle.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Names {
    handles: BTreeMap<VmNumber, VmHandle>,
}

/// What a script names and there is not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unresolved {
    /// This VM.
    Vm(VmNumber),
    /// This page, of the pool, hyp or a device.
    Page(PageName),
    /// It is an instruction for whoever runs the script, and no request.
    NoRequest,
}

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unresolved::Vm(number) => write!(f, "there is no vm{number}"),
            Unresolved::Page(page) => write!(f, "there is no page {page}"),
            Unresolved::NoRequest => f.write_str("this is no step of its own"),
        }
    }
}

impl Names {
    /// Gives a VM its name; another of that name loses it.
    pub fn insert(&mut self, number: VmNumber, handle: VmHandle) {
        self.handles.insert(number, handle);
    }

    /// Forgets the VM of that handle, and says how it was called.
    pub fn remove(&mut self, handle: VmHandle) -> Option<VmNumber> {
        let number = self.name_of(handle)?;
        self.handles.remove(&number);
        Some(number)
    }

    /// A VM's handle.
    pub fn handle(&self, number: VmNumber) -> Option<VmHandle> {
        self.handles.get(&number).copied()
    }

    /// The name of the VM with that handle.
    pub fn name_of(&self, handle: VmHandle) -> Option<VmNumber> {
        self.handles.iter().find(|(_, known)| **known == handle).map(|(number, _)| *number)
    }

    /// The request that an action is.
    ///
    /// # Errors
    /// What there is not.
    pub fn resolve(&self, places: &Places, action: &Action) -> Result<Request, Unresolved> {
        Resolver { places, names: self }.request(action)
    }

    /// All names and handles.
    pub fn iter(&self) -> impl Iterator<Item = (VmNumber, VmHandle)> + '_ {
        self.handles.iter().map(|(number, handle)| (*number, *handle))
    }
}

/// What operands are looked up in.
#[derive(Clone, Copy)]
struct Resolver<'a> {
    places: &'a Places,
    names: &'a Names,
}

impl Resolver<'_> {
    /// The request that an action is.
    fn request(&self, action: &Action) -> Result<Request, Unresolved> {
        Ok(match action {
            Action::Host(step) => self.host_call(step)?,
            Action::RawCall(function, arguments) => {
                Request::Call { function: *function, arguments: *arguments, names: None }
            }
            Action::Access(HostAccess { access, page }) => {
                let address = self.page(*page)?.checked_address().ok_or(Unresolved::Page(*page))?;
                Request::Access { access: *access, address }
            }
            Action::Guest(step) => self.guest(step)?,
            Action::Frames(count) => Request::Frames(*count),
            Action::Interleave(_) => return Err(Unresolved::NoRequest),
        })
    }

    fn host_call(&self, step: &HostStep) -> Result<Request, Unresolved> {
        let (mut arguments, mut names) = ([0; 7], None);
        let mut places = arguments.iter_mut();
        for operand in step.operands() {
            match (operand, self.operand(operand)?) {
                (Operand::NewVm(number), _) => names = Some(*number),
                (_, value) => {
                    if let Some(place) = places.next() {
                        *place = value;
                    }
                }
            }
        }
        Ok(Request::Call { function: step.call() as u64, arguments, names })
    }

    fn guest(&self, step: &GuestStep) -> Result<Request, Unresolved> {
        let request = match &step.action {
            GuestAction::Call(function, operands) => {
                let mut arguments = [0; 7];
                for (place, operand) in arguments.iter_mut().zip(operands) {
                    *place = self.operand(operand)?;
                }
                GuestRequest::Call { function: function.number().into(), arguments }
            }
            GuestAction::RawCall(function, arguments) => {
                GuestRequest::Call { function: *function, arguments: *arguments }
            }
            GuestAction::Read(ipa) => GuestRequest::Access { access: Access::Read, ipa: self.ipa(*ipa) },
            GuestAction::Write(ipa, value) => {
                GuestRequest::Access { access: Access::Write(*value), ipa: self.ipa(*ipa) }
            }
            GuestAction::Execute(ipa) => GuestRequest::Access { access: Access::Execute, ipa: self.ipa(*ipa) },
            GuestAction::Resume => GuestRequest::Resume,
        };
        self.names.handle(step.vm).ok_or(Unresolved::Vm(step.vm))?;
        Ok(Request::Guest { vm: step.vm, vcpu: step.vcpu, request })
    }

    fn operand(&self, operand: &Operand) -> Result<u64, Unresolved> {
        Ok(match *operand {
            Operand::NewVm(_) => 0,
            Operand::Vm(VmName::Named(number)) => self.names.handle(number).ok_or(Unresolved::Vm(number))?.0.into(),
            Operand::Vm(VmName::Raw(handle)) => handle,
            Operand::Page(page) | Operand::RunPage(page) => self.page(page)?.raw(),
            Operand::Frame(FrameName::Test(frame)) => self.places.frames.raw().wrapping_add(frame.into()),
            Operand::Frame(FrameName::Raw(frame)) => frame,
            Operand::Count(CountName::Number(count)) => count,
            Operand::Count(CountName::VmObject) => self.places.vm_pages,
            Operand::Count(CountName::VcpuObject) => self.places.vcpu_pages,
            Operand::Ipa(ipa) => self.ipa(ipa).raw(),
            Operand::Vcpu(value)
            | Operand::Rights(value)
            | Operand::Flags(value)
            | Operand::Shape(value)
            | Operand::Number(value) => value,
        })
    }

    fn page(&self, page: PageName) -> Result<Pfn, Unresolved> {
        let Places { pool, pool_pages, hyp, hyp_pages, device, device_pages, .. } = *self.places;
        let (first, count, number) = match page {
            PageName::Pool(number) => (pool, pool_pages, number),
            PageName::Hyp(number) => (hyp, hyp_pages, number),
            PageName::Device(number) => (device, device_pages, number),
            PageName::Raw(number) => return Ok(Pfn::new(number)),
        };
        let found = first.checked_add(number.into()).filter(|_| u64::from(number) < count);
        found.ok_or(Unresolved::Page(page))
    }

    fn ipa(&self, ipa: IpaName) -> Ipa {
        match ipa {
            IpaName::Frame(frame) => Ipa::new(self.places.frames.raw().wrapping_add(frame.into()) << PAGE_SHIFT),
            IpaName::Raw(ipa) => Ipa::new(ipa),
        }
    }
}

/// The ranges of pages that a call names, by its registers: the first page and the count of each.
pub(crate) fn pages_of_call(function: u64, arguments: &[u64; 7]) -> impl Iterator<Item = (Pfn, u64)> {
    let call = u32::try_from(function).ok().and_then(HostCall::from_function);
    let kinds = call.map_or(&[][..], HostStep::kinds);
    // The name that a call gives is no argument; it is the only operand of the call that has one.
    let registers = move |wanted: Kind| kinds.iter().zip(*arguments).filter(move |(kind, _)| **kind == wanted);
    let count = registers(Kind::Count).next().map_or(1, |(_, count)| count);
    let pages = registers(Kind::Page).map(move |(_, page)| (Pfn::new(page), count));
    pages.chain(registers(Kind::RunPage).map(|(_, page)| (Pfn::new(page), 1)))
}
