//! The heads of a layer compete, and each is safe to keep a share of its own.

use serde::{Deserialize, Serialize};

use crate::policy::Part;
use crate::policy::allocation::{Allocation, Claim, Scope, pooled};
use crate::policy::part;

pub(super) const PART: Part<dyn Allocation> = Part {
    name: "layer",
    summary: "slots go where worth is largest among the heads of a layer; each head keeps 0.2 of its share (safeguard=)",
    source: "Feng et al. 2024, arXiv 2407.11550",
    build: |params| {
        let layer: Layer = params.read()?;
        pooled::check(layer.safeguard, params)?;
        part(layer, |layer| Box::new(layer))
    },
};

#[derive(Debug, Serialize, Deserialize)]
struct Layer {
    safeguard: f64,
}

impl Default for Layer {
    fn default() -> Self {
        Self { safeguard: 0.2 }
    }
}

impl Allocation for Layer {
    fn scope(&self) -> Scope {
        Scope::Layer
    }

    fn sizes(&self, heads: &[Claim]) -> Vec<usize> {
        heads.chunk_by(|a, b| a.layer == b.layer).flat_map(|layer| pooled::sizes(layer, self.safeguard)).collect()
    }
}
