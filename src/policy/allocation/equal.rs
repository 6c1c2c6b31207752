//! Every head has what the budget gives it.

use crate::policy::Part;
use crate::policy::allocation::{Allocation, Claim, Scope};

pub(super) const PART: Part<dyn Allocation> = Part {
    name: "equal",
    summary: "every head has the share that is given: the same for all, or a profile's",
    source: "what every method does that does not say otherwise",
    build: |_| Ok((Box::new(Equal), serde_json::json!({}))),
};

#[derive(Debug)]
struct Equal;

impl Allocation for Equal {
    fn scope(&self) -> Scope {
        Scope::Head
    }

    fn sizes(&self, heads: &[Claim]) -> Vec<usize> {
        heads.iter().map(|head| head.given.min(head.worth.len())).collect()
    }
}
