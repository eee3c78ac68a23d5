//! The properties of a node that a boot looks at.

/// Values of properties of one node, each `None` where the node has no such property.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Properties<'a> {
    pub(crate) address_cells: Option<&'a [u8]>,
    pub(crate) size_cells: Option<&'a [u8]>,
    pub(crate) ranges: Option<&'a [u8]>,
    pub(crate) reg: Option<&'a [u8]>,
    pub(crate) status: Option<&'a [u8]>,
    pub(crate) compatible: Option<&'a [u8]>,
    pub(crate) device_type: Option<&'a [u8]>,
    pub(crate) enable_method: Option<&'a [u8]>,
    pub(crate) method: Option<&'a [u8]>,
    pub(crate) interrupts: Option<&'a [u8]>,
    pub(crate) interrupts_extended: Option<&'a [u8]>,
    pub(crate) interrupt_names: Option<&'a [u8]>,
    pub(crate) interrupt_cells: Option<&'a [u8]>,
    pub(crate) redistributor_regions: Option<&'a [u8]>,
    pub(crate) bootargs: Option<&'a [u8]>,
    pub(crate) stdout_path: Option<&'a [u8]>,
    pub(crate) initrd_start: Option<&'a [u8]>,
    pub(crate) initrd_end: Option<&'a [u8]>,
}

impl<'a> Properties<'a> {
    /// Notes the property, if it is one that matters.
    pub(crate) fn note(&mut self, name: &[u8], value: &'a [u8]) {
        let slot = match name {
            b"#address-cells" => &mut self.address_cells,
            b"#size-cells" => &mut self.size_cells,
            b"ranges" => &mut self.ranges,
            b"reg" => &mut self.reg,
            b"status" => &mut self.status,
            b"compatible" => &mut self.compatible,
            b"device_type" => &mut self.device_type,
            b"enable-method" => &mut self.enable_method,
            b"method" => &mut self.method,
            b"interrupts" => &mut self.interrupts,
            b"interrupts-extended" => &mut self.interrupts_extended,
            b"interrupt-names" => &mut self.interrupt_names,
            b"#interrupt-cells" => &mut self.interrupt_cells,
            b"#redistributor-regions" => &mut self.redistributor_regions,
            b"bootargs" => &mut self.bootargs,
            b"stdout-path" => &mut self.stdout_path,
            b"linux,initrd-start" => &mut self.initrd_start,
            b"linux,initrd-end" => &mut self.initrd_end,
            _ => return,
        };
        *slot = Some(value);
    }

    /// `status` is absent or says that the device is in use (Devicetree Specification, section 2.3.4).
    pub(crate) fn is_enabled(&self) -> bool {
        self.status.is_none() || matches!(text(self.status), "okay" | "ok")
    }

    /// True where one of the strings of `compatible` is among `names`.
    pub(crate) fn is_compatible(&self, names: &[&str]) -> bool {
        strings(self.compatible).any(|string| names.contains(&string))
    }
}

/// A number of cells, or `default` where the property is absent. A malformed one is larger than any that is handled.
pub(crate) fn cell_count(value: Option<&[u8]>, default: u32) -> u32 {
    match value {
        None => default,
        Some(value) => value.try_into().map_or(u32::MAX, u32::from_be_bytes),
    }
}

/// The big-endian number in a property of one or two cells.
pub(crate) fn number(value: Option<&[u8]>) -> Option<u64> {
    let value = value?;
    match value.len() {
        4 => Some(u64::from(u32::from_be_bytes(value.try_into().ok()?))),
        8 => Some(u64::from_be_bytes(value.try_into().ok()?)),
        _ => None,
    }
}

/// The string in a property, up to its terminator; empty where the property is absent or no UTF-8.
pub(crate) fn text(value: Option<&[u8]>) -> &str {
    strings(value).next().unwrap_or("")
}

/// The strings of a string list; those that are no UTF-8 are empty.
pub(crate) fn strings(value: Option<&[u8]>) -> impl Iterator<Item = &str> {
    let value = value.unwrap_or(&[]);
    let value = value.strip_suffix(b"\0").unwrap_or(value);
    value.split(|&byte| byte == 0).map(|string| core::str::from_utf8(string).unwrap_or(""))
}
