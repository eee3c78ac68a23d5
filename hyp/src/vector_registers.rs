//! FP/SIMD and SVE registers of host and guests. The host's go to a per-CPU area while a guest that uses FP is in.

use crate::machine::Machine;
use crate::system_register::{mrs, msr};
use crate::{cpu_data, layout};
use abi::PAGE_SIZE;
use abi::carve_out::CPU_DATA_PAGES;
use monitor::features::CpuFeatures;
use monitor::registers::FpRegisters;
use monitor::switch_features::SwitchFeatures;

unsafe extern "C" {
    fn save_v_registers(area: *mut u8);
    fn load_v_registers(area: *const u8);
    fn save_sve_registers(area: *mut u8, with_ffr: u64);
    fn load_sve_registers(area: *const u8, with_ffr: u64);
}

/// Where FPCR, FPSR and FPMR lie in a CPU's area, behind the largest register file.
const CONTROL_OFFSET: usize = 9 * 1024;
/// Bytes of z0-z31, p0-p15 and FFR at the architecture's longest vector.
const SVE_SIZE: usize = 32 * 256 + 17 * 32;

const _: () = assert!(SVE_SIZE <= CONTROL_OFFSET);
const _: () = assert!(layout::VECTOR_REGISTERS as usize + CONTROL_OFFSET + 24 <= (CPU_DATA_PAGES * PAGE_SIZE) as usize);

/// This CPU's area.
fn area() -> *mut u8 {
    (cpu_data::private_base().wrapping_add(layout::CPU_DATA).wrapping_add(layout::VECTOR_REGISTERS)) as *mut u8
}

/// What of the host's vector state was put away.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum HostVectors {
    /// Nothing: the guest does not use FP, and the registers in the CPU are the host's.
    InPlace,
    /// v0 to v31.
    Simd,
    /// z0 to z31, p0 to p15, FFR.
    Sve,
    /// The same of streaming mode (SVCR.SM, FEAT_SME), which the guest is not to run in.
    Streaming,
}

/// SVCR.SM: streaming mode.
const SVCR_SM: u64 = 1 << 0;

/// Puts the host's registers away as far as the guest needs it, and loads those of a guest that uses FP. CPTR_EL2 must be
/// the host's, which traps none of this.
#[inline(always)]
pub fn swap_in(machine: &Machine, guest: Option<&FpRegisters>) -> HostVectors {
    let svcr = if machine.switch_features.has(SwitchFeatures::SME) { mrs!("S3_3_C4_C2_2") } else { 0 };
    if svcr & SVCR_SM == 0 && guest.is_none() {
        return HostVectors::InPlace;
    }
    put_away(&machine.features, svcr, guest)
}

/// [`swap_in`] where there is something to do.
#[inline(never)]
fn put_away(features: &CpuFeatures, svcr: u64, guest: Option<&FpRegisters>) -> HostVectors {
    let kind = match (svcr & SVCR_SM != 0, features.sve) {
        (true, _) => HostVectors::Streaming,
        (false, true) => HostVectors::Sve,
        (false, false) => HostVectors::Simd,
    };
    let area = area();
    // SAFETY: the area is this CPU's, large enough by the assertions above, and interrupts are masked. The CPU has what
    // is used: FP always, SVE and SME where the features say so, FFR in streaming mode only with FEAT_SME_FA64.
    unsafe {
        match kind {
            HostVectors::Streaming => save_sve_registers(area, features.sme_fa64.into()),
            HostVectors::Sve => save_sve_registers(area, 1),
            HostVectors::Simd | HostVectors::InPlace => save_v_registers(area),
        }
        let fpmr = if features.fpmr { mrs!("S3_3_C4_C4_2") } else { 0 };
        area.add(CONTROL_OFFSET).cast::<[u64; 3]>().write([mrs!("S3_3_C4_C4_0"), mrs!("S3_3_C4_C4_1"), fpmr]);
        if kind == HostVectors::Streaming {
            msr!("S3_3_C4_C2_2", svcr & !SVCR_SM);
        }
    }
    if let Some(guest) = guest {
        load_guest(guest);
    }
    kind
}

/// The same for a guest that is in and begins to use FP: `before` is what [`swap_in`] said when it came in without.
pub fn swap_in_late(machine: &Machine, before: HostVectors, guest: &FpRegisters) -> HostVectors {
    if before == HostVectors::InPlace {
        return swap_in(machine, Some(guest));
    }
    load_guest(guest);
    before
}

/// Loads a guest's registers.
fn load_guest(guest: &FpRegisters) {
    // SAFETY: the host's are put away. `FpRegisters::v` has the layout that `load_v_registers` reads.
    unsafe {
        load_v_registers(guest.v.as_ptr().cast());
        msr!("S3_3_C4_C4_0", guest.fpcr);
        msr!("S3_3_C4_C4_1", guest.fpsr);
    }
}

/// Takes out the registers of a guest that uses FP, and loads the host's again where they were put away. CPTR_EL2 must be
/// the host's.
pub fn swap_out(features: &CpuFeatures, host: HostVectors, guest: Option<&mut FpRegisters>) {
    let area = area();
    // SAFETY: as in `swap_in`, which filled the area in the way that `host` says.
    unsafe {
        if let Some(guest) = guest {
            save_v_registers(guest.v.as_mut_ptr().cast());
            guest.fpcr = mrs!("S3_3_C4_C4_0");
            guest.fpsr = mrs!("S3_3_C4_C4_1");
        }
        match host {
            HostVectors::Streaming => {
                msr!("S3_3_C4_C2_2", mrs!("S3_3_C4_C2_2") | SVCR_SM);
                load_sve_registers(area, features.sme_fa64.into());
            }
            HostVectors::Sve => load_sve_registers(area, 1),
            HostVectors::Simd | HostVectors::InPlace => load_v_registers(area),
        }
        let [fpcr, fpsr, fpmr] = area.add(CONTROL_OFFSET).cast::<[u64; 3]>().read();
        msr!("S3_3_C4_C4_0", fpcr);
        msr!("S3_3_C4_C4_1", fpsr);
        if features.fpmr {
            msr!("S3_3_C4_C4_2", fpmr);
        }
    }
}
