//! The bits of EL2's control registers, each named once.

/// HCR_EL2 (Arm ARM, HCR_EL2).
pub(crate) mod hcr {
    /// VM: stage 2 on.
    pub const VM: u64 = 1 << 0;
    /// SWIO: data-cache invalidation by set and way cleans too.
    pub const SWIO: u64 = 1 << 1;
    /// PTW: a walk of stage 1's tables in device memory faults.
    pub const PTW: u64 = 1 << 2;
    /// FMO, IMO, AMO: FIQ, IRQ and SError come to EL2, and their virtual forms to EL1.
    pub const FMO_IMO_AMO: u64 = 0b111 << 3;
    /// FB: TLB and instruction-cache maintenance is broadcast.
    pub const FB: u64 = 1 << 9;
    /// BSU: barriers reach the inner shareable domain.
    pub const BSU_INNER: u64 = 0b01 << 10;
    /// TWI, TWE: WFI and WFE trap.
    pub const TWI_TWE: u64 = 0b11 << 13;
    /// TID1: REVIDR_EL1, AIDR_EL1 and SMIDR_EL1 trap.
    pub const TID1: u64 = 1 << 16;
    /// TID2: CTR_EL0 and the cache ID registers trap.
    pub const TID2: u64 = 1 << 17;
    /// TID3: the feature ID registers trap.
    pub const TID3: u64 = 1 << 18;
    /// TSC: SMC traps.
    pub const TSC: u64 = 1 << 19;
    /// TIDCP: implementation-defined system registers trap.
    pub const TIDCP: u64 = 1 << 20;
    /// TACR: ACTLR_EL1 traps.
    pub const TACR: u64 = 1 << 21;
    /// TSW: data-cache maintenance by set and way traps.
    pub const TSW: u64 = 1 << 22;
    /// RW: EL1 is AArch64.
    pub const RW: u64 = 1 << 31;
    /// TLOR: the LORegion registers trap.
    pub const TLOR: u64 = 1 << 35;
    /// TERR: the RAS error record registers trap.
    pub const TERR: u64 = 1 << 36;
    /// TEA: synchronous external aborts come to EL2.
    pub const TEA: u64 = 1 << 37;
    /// APK, API: pointer-authentication keys and instructions do not trap. Without them, at EL1 and EL0, every access
    /// to a key does and every instruction that would use one.
    pub const APK_API: u64 = 0b11 << 40;
    /// FWB: stage 2's memory types override stage 1's.
    pub const FWB: u64 = 1 << 46;
    /// FIEN: the RAS fault injection registers do not trap.
    pub const FIEN: u64 = 1 << 47;
    /// TID4: the cache geometry registers trap.
    pub const TID4: u64 = 1 << 49;
    /// ENSCXT: SCXTNUM_EL1 and SCXTNUM_EL0 do not trap.
    pub const ENSCXT: u64 = 1 << 53;
    /// ATA: EL1 and EL0 may use tags in memory.
    pub const ATA: u64 = 1 << 56;
    /// TID5: GMID_EL1 traps.
    pub const TID5: u64 = 1 << 58;
}

/// HCRX_EL2 (FEAT_HCX).
pub(crate) mod hcrx {
    /// EnAS0: ST64BV0 does not trap.
    pub const ENAS0: u64 = 1 << 0;
    /// EnALS: LD64B and ST64B do not trap.
    pub const ENALS: u64 = 1 << 1;
    /// EnASR: ST64BV does not trap.
    pub const ENASR: u64 = 1 << 2;
    /// MSCEn: the memory copy and set instructions do not trap.
    pub const MSCEN: u64 = 1 << 11;
    /// TCR2En: TCR2_EL1 does not trap, and has an effect.
    pub const TCR2EN: u64 = 1 << 14;
    /// SCTLR2En: SCTLR2_EL1 does not trap, and has an effect.
    pub const SCTLR2EN: u64 = 1 << 15;
    /// D128En: 128-bit system registers do not trap.
    pub const D128EN: u64 = 1 << 17;
    /// EnIDCP128: 128-bit implementation-defined system registers do not trap.
    pub const ENIDCP128: u64 = 1 << 21;
    /// GCSEn: guarded control stacks work.
    pub const GCSEN: u64 = 1 << 22;
    /// EnFPM: FPMR does not trap.
    pub const ENFPM: u64 = 1 << 23;
    /// PACMEn: the PAuth_LR modifier works.
    pub const PACMEN: u64 = 1 << 24;
}

/// CPTR_EL2 with HCR_EL2.E2H = 0.
pub(crate) mod cptr {
    /// Bits 13, 9 and 7:0, which are one.
    pub const RES1: u64 = 0x22ff;
    /// TZ: SVE traps; one where there is no SVE.
    pub const TZ: u64 = 1 << 8;
    /// TFP: FP and SIMD trap.
    pub const TFP: u64 = 1 << 10;
    /// TSM: SME traps; one where there is no SME.
    pub const TSM: u64 = 1 << 12;
    /// TTA: the trace registers trap.
    pub const TTA: u64 = 1 << 20;
    /// TAM: the activity monitors trap.
    pub const TAM: u64 = 1 << 30;
}

/// MDCR_EL2.
pub(crate) mod mdcr {
    /// TPMCR: PMCR_EL0 traps.
    pub const TPMCR: u64 = 1 << 5;
    /// TPM: the performance monitors trap.
    pub const TPM: u64 = 1 << 6;
    /// TDA: the debug registers trap.
    pub const TDA: u64 = 1 << 9;
    /// TDOSA: the OS lock and power-down registers trap.
    pub const TDOSA: u64 = 1 << 10;
    /// TDRA: the debug ROM registers trap.
    pub const TDRA: u64 = 1 << 11;
    /// E2PB: EL1 owns the profiling buffer, by its own translation.
    pub const E2PB_EL1: u64 = 0b11 << 12;
    /// TPMS: statistical profiling traps.
    pub const TPMS: u64 = 1 << 14;
    /// TTRF: TRFCR_EL1 traps.
    pub const TTRF: u64 = 1 << 19;
    /// E2TB: EL1 owns the trace buffer, by its own translation.
    pub const E2TB_EL1: u64 = 0b11 << 24;
    /// TDCC: the debug communication channel traps.
    pub const TDCC: u64 = 1 << 27;
    /// EBWE: breakpoints and watchpoints above the first 16 may be selected (FEAT_Debugv8p9).
    pub const EBWE: u64 = 1 << 43;
}

/// CNTHCTL_EL2 with HCR_EL2.E2H = 0.
pub(crate) mod cnthctl {
    /// EL1PCTEN: the physical counter does not trap.
    pub const EL1PCTEN: u64 = 1 << 0;
    /// EL1PCEN: the physical timer does not trap.
    pub const EL1PCEN: u64 = 1 << 1;
}

/// ICH_HCR_EL2 (Arm IHI 0069, section 12.4.4).
pub(crate) mod ich_hcr {
    /// En: the virtual CPU interface works.
    pub const EN: u64 = 1 << 0;
    /// UIE: a maintenance interrupt while at most one list register is in use.
    pub const UIE: u64 = 1 << 1;
    /// NPIE: a maintenance interrupt while no list register is pending.
    pub const NPIE: u64 = 1 << 3;
}

/// Fine-grained traps whose sense is negative: a one means "does not trap" (FEAT_FGT and FEAT_FGT2). All the other
/// bits of these registers trap where they are one.
pub(crate) mod fine_grained {
    /// HFGRTR_EL2 and HFGWTR_EL2: nAMAIR2_EL1 to nACCDATA_EL1, without bit 51, which is zero.
    pub const REGISTERS: u64 = 0xfff4 << 48;
    /// HFGITR_EL2: nGCSEPP, nGCSSTR_EL1, nGCSPUSHM_EL1, nBRBIALL, nBRBINJ.
    pub const INSTRUCTIONS: u64 = 0b1_1111 << 55;
    /// HDFGRTR_EL2: nPMSNEVFR_EL1, nBRBDATA, nBRBCTL, nBRBIDR.
    pub const DEBUG_READ: u64 = 0b1111 << 59;
    /// HDFGWTR_EL2: nPMSNEVFR_EL1, nBRBDATA, nBRBCTL.
    pub const DEBUG_WRITE: u64 = 1 << 62 | 0b11 << 60;
    /// HFGRTR2_EL2 and HFGWTR2_EL2: nTCR2ALIAS_EL1 down to nPFAR_EL1.
    pub const REGISTERS2: u64 = 0x7fff;
    /// HFGITR2_EL2: nDCCIVAPS.
    pub const INSTRUCTIONS2: u64 = 1 << 1;
    /// HDFGRTR2_EL2: nPMBMAR_EL1 down to nPMECR_EL1, without bit 21, which is zero.
    pub const DEBUG_READ2: u64 = 0x1df_ffff;
    /// HDFGWTR2_EL2: nPMBMAR_EL1 down to nPMECR_EL1, without bits 18, 17 and 6, which are zero.
    pub const DEBUG_WRITE2: u64 = 0x1f9_ffbf;
}
