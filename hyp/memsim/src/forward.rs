//! For environments of tests that are a CPU but for something.

/// Implements [`Maintenance`](pgtable::Maintenance) for a type by that of the [`Cpu`](crate::Cpu) in one of its fields.
#[macro_export]
macro_rules! forward_maintenance {
    ([$($parameters:tt)*] $name:ty, $cpu:tt) => {
        impl $($parameters)* ::pgtable::Maintenance for $name {
            fn dsb(&self, kind: ::pgtable::DsbKind) {
                self.$cpu.dsb(kind);
            }

            fn isb(&self) {
                self.$cpu.isb();
            }

            fn tlbi(&self, operation: ::pgtable::Tlbi) {
                self.$cpu.tlbi(operation);
            }

            fn load_vttbr(&self, vttbr: u64) -> u64 {
                self.$cpu.load_vttbr(vttbr)
            }

            fn clean_invalidate_to_poc(&self, range: ::abi::PhysRange) {
                self.$cpu.clean_invalidate_to_poc(range);
            }

            fn clean_to_pou(&self, range: ::abi::PhysRange) {
                self.$cpu.clean_to_pou(range);
            }

            fn invalidate_instruction_cache(&self, range: ::abi::PhysRange) {
                self.$cpu.invalidate_instruction_cache(range);
            }
        }
    };
}
