//! Barriers (Arm ARM B2.3.12, C6.2) as functions. None has an operand, so each is safe.

macro_rules! instruction {
    ($(#[$meta:meta])* $name:ident, $text:literal) => {
        $(#[$meta])*
        #[inline(always)]
        pub fn $name() {
            // SAFETY: the instruction orders or completes earlier ones; it reads and writes nothing itself.
            unsafe { core::arch::asm!($text, options(nostack, preserves_flags)) };
        }
    };
}

instruction! {
    /// DSB ISH: earlier accesses, cache and TLB maintenance are complete for the inner shareable domain.
    dsb_ish, "dsb ish"
}
instruction! {
    /// DSB ISHST: earlier stores are complete for the inner shareable domain.
    dsb_ishst, "dsb ishst"
}
instruction! {
    /// DSB NSH: as DSB ISH, for this CPU alone.
    dsb_nsh, "dsb nsh"
}
instruction! {
    /// DSB SY: as DSB ISH, for the full system.
    dsb_sy, "dsb sy"
}
instruction! {
    /// ISB: what follows is fetched anew and sees earlier system register writes.
    isb, "isb"
}
instruction! {
    /// WFE: waits for an event.
    wait_for_event, "wfe"
}
