//! Bits of a descriptor, each named once (Arm ARM D8.3, "Translation table descriptor formats", 4 KiB granule, 48 bits).

/// Descriptor is valid.
pub(crate) const VALID: u64 = 1 << 0;
/// In a valid descriptor: a table at levels 0 to 2, a page at level 3; clear in a block.
pub(crate) const TABLE_OR_PAGE: u64 = 1 << 1;
/// Output address, or address of the next table, bits 47:12.
pub(crate) const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
/// All that is neither address nor descriptor type.
pub(crate) const ATTRIBUTES: u64 = !(ADDRESS | VALID | TABLE_OR_PAGE);

/// Stage 1: AttrIndx, index into MAIR_ELx, bits 4:2.
pub(crate) const ATTR_INDX_SHIFT: u32 = 2;
/// Width of AttrIndx.
pub(crate) const ATTR_INDX_MASK: u64 = 0x7;
/// Stage 2: MemAttr, bits 5:2.
pub(crate) const MEM_ATTR_SHIFT: u32 = 2;
/// Width of MemAttr.
pub(crate) const MEM_ATTR_MASK: u64 = 0xf;
/// Stage 1: AP\[1\], access from EL0; RES1 in a regime of one exception level.
pub(crate) const AP_1: u64 = 1 << 6;
/// Stage 1: AP\[2\], read-only.
pub(crate) const AP_2: u64 = 1 << 7;
/// Stage 2: S2AP\[0\], readable.
pub(crate) const S2AP_READ: u64 = 1 << 6;
/// Stage 2: S2AP\[1\], writable.
pub(crate) const S2AP_WRITE: u64 = 1 << 7;
/// SH, bits 9:8.
pub(crate) const SH_SHIFT: u32 = 8;
/// Width of SH.
pub(crate) const SH_MASK: u64 = 0x3;
/// AF, access flag.
pub(crate) const AF: u64 = 1 << 10;
/// Stage 1: nG, not global.
pub(crate) const NG: u64 = 1 << 11;
/// DBM, dirty bit modifier.
pub(crate) const DBM: u64 = 1 << 51;
/// EL1 stage 1: PXN, privileged execute-never.
pub(crate) const PXN: u64 = 1 << 53;
/// EL1 stage 1: UXN, unprivileged execute-never; EL2 stage 1: XN.
pub(crate) const UXN: u64 = 1 << 54;
/// Stage 2: XN\[1:0\], bits 54:53; only bit 54 without FEAT_XNX.
pub(crate) const S2_XN_SHIFT: u32 = 53;
/// Width of XN\[1:0\].
pub(crate) const S2_XN_MASK: u64 = 0x3;
/// Bits 58:55, reserved for software's use.
pub(crate) const SOFTWARE_SHIFT: u32 = 55;
/// Width of the software bits.
pub(crate) const SOFTWARE_MASK: u64 = 0xf;
