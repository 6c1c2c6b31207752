//! All heads of the model compete.

use serde::{Deserialize, Serialize};

use crate::policy::Part;
use crate::policy::allocation::{Allocation, Claim, Scope, pooled};
use crate::policy::part;

pub(super) const PART: Part<dyn Allocation> = Part {
    name: "model",
    summary: "slots go where worth is largest among all heads; each head keeps none of its share but one slot (safeguard=)",
    source: "Kim et al. 2025, arXiv 2505.23416",
    build: |params| {
        let model: Model = params.read()?;
        pooled::check(model.safeguard, params)?;
        part(model, |model| Box::new(model))
    },
};

#[derive(Debug, Default, Serialize, Deserialize)]
struct Model {
    safeguard: f64,
}

impl Allocation for Model {
    fn scope(&self) -> Scope {
        Scope::Model
    }

    fn sizes(&self, heads: &[Claim]) -> Vec<usize> {
        pooled::sizes(heads, self.safeguard)
    }
}
