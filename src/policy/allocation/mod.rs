//! How a budget is spread over heads. Adding an allocation is a file and a line in [`ALLOCATIONS`].

mod equal;
mod layer;
mod model;
mod pooled;
mod pyramid;

use std::fmt::Debug;

use crate::policy::Part;

/// How many heads share a budget among themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// None: each head has what the budget gives it.
    Head,
    /// Those of a layer.
    Layer,
    /// All of the model, which is whole until the last of them has been scored.
    Model,
}

/// A head whose size is asked for.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Layer.
    pub layer: usize,
    /// What the budget gives it when nothing is shared; at least 1.
    pub given: usize,
    /// Worth of its slots, `[T]`.
    pub worth: Vec<f32>,
}

/// Shares out a budget among heads.
pub trait Allocation: Debug + Send + Sync {
    /// Heads that share.
    fn scope(&self) -> Scope;

    /// Size of every head, at least 1 and at most its slots. The sum is that of what is given, as far as the slots go.
    fn sizes(&self, heads: &[Claim]) -> Vec<usize>;
}

/// Every allocation, by name. A profile's sizes are given, head by head, to `equal`.
pub const ALLOCATIONS: &[Part<dyn Allocation>] = &[equal::PART, layer::PART, model::PART, pyramid::PART];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Params;

    #[test]
    fn every_allocation_keeps_to_the_sum_and_the_bounds() {
        let worth = |n: usize, factor: f32| (0..n).map(|i| factor * ((i * 7 + 3) % 11) as f32).collect::<Vec<f32>>();
        for part in ALLOCATIONS {
            let allocation = (part.build)(&mut Params::parse("test", "").unwrap()).unwrap().0;
            for given in [1, 3, 8, 12] {
                let heads: Vec<Claim> = (0..6)
                    .map(|i| Claim { layer: i / 2, given: given + i % 2, worth: worth(13, (i + 1) as f32) })
                    .collect();
                let sizes = allocation.sizes(&heads);
                let wanted: usize = heads.iter().map(|head| head.given).sum();
                assert_eq!(sizes.iter().sum::<usize>(), wanted, "{} of {given}", part.name);
                assert!(sizes.iter().all(|size| (1..=13).contains(size)), "{}: {sizes:?}", part.name);
            }
        }
    }
}
