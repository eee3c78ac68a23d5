//! The rows.

use pgtable::TlbiFeatures;

use crate::flawed::Flaw;
use crate::scene::Scene;

/// CPUs without FEAT_TTL and FEAT_TLBIRANGE.
pub const PLAIN: TlbiFeatures = TlbiFeatures { level_hint: false, range: false };
/// CPUs with FEAT_TTL.
pub const HINTED: TlbiFeatures = TlbiFeatures { level_hint: true, range: false };
/// CPUs with both.
pub const RANGED: TlbiFeatures = TlbiFeatures { level_hint: true, range: true };

/// A flaw, the scenario that it is tried in, and what must be said about it.
pub struct Mutant {
    pub name: &'static str,
    pub features: TlbiFeatures,
    pub scenario: fn(&mut Scene),
    pub flaw: Flaw,
    pub caught: &'static str,
}

/// Rows of `name: FEATURES scenario, flaw => "part of a complaint";`, each a test, and the list of all.
#[macro_export]
macro_rules! mutants {
    ($($name:ident: $features:ident $scenario:path, $flaw:expr => $caught:literal;)*) => {
        /// The flaws of this file.
        pub const MUTANTS: &[&$crate::table::Mutant] = &[$(&$crate::table::Mutant {
            name: concat!(module_path!(), "::", stringify!($name)),
            features: $crate::table::$features,
            scenario: $scenario,
            flaw: $flaw,
            caught: $caught,
        }),*];

        $(
            #[test]
            fn $name() {
                let name = concat!(module_path!(), "::", stringify!($name));
                $crate::check(MUTANTS.iter().find(|mutant| mutant.name == name).unwrap());
            }
        )*
    };
}
