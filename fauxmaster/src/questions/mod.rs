//! What can be asked. Each module is one question: what it means, and how it is answered.

pub mod check;
pub mod compact;
pub mod compare;
pub mod estimators;
pub mod fail;
pub mod fit;
pub mod price;
pub mod replay;
pub mod show;
pub mod study;
pub mod tune;
pub mod variants;

use borg_scheduler::Weights;

/// What makes a machine the best, under a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// As people and figures call it.
    pub name: &'static str,
    /// As given to the scheduler.
    pub weights: Weights,
}

impl Policy {
    /// What the scheduler does unless told otherwise.
    pub const HYBRID: Self = Self { name: "hybrid", weights: Weights::hybrid() };
    /// The machine on which the least stays free.
    pub const BEST_FIT: Self = Self { name: "best_fit", weights: Weights::best_fit() };
    /// The machine on which the most stays free.
    pub const WORST_FIT: Self = Self { name: "worst_fit", weights: Weights::worst_fit() };
    /// The lowest machine number that will do.
    pub const FIRST_FIT: Self = Self { name: "first_fit", weights: Weights::first_fit() };
    /// Those whose packing is compared.
    pub const ALL: [Self; 3] = [Self::HYBRID, Self::BEST_FIT, Self::WORST_FIT];
}
