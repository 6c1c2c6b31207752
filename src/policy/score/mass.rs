//! Attention that a token has received.

use serde::{Deserialize, Serialize};

use crate::policy::score::Score;
use crate::policy::{HeadView, Needs, Part, part};

pub(super) const PART: Part<dyn Score> = Part {
    name: "mass",
    summary: "attention received from all queries so far",
    source: "Zhang et al. 2023, arXiv 2306.14048",
    build: |params| part(params.read::<Mass>()?, |mass| Box::new(mass)),
};

#[derive(Debug, Default, Serialize, Deserialize)]
struct Mass {}

impl Score for Mass {
    fn needs(&self) -> Needs {
        Needs::MASS
    }

    fn worth(&self, view: &HeadView<'_>, _: usize) -> Vec<f32> {
        view.mass.to_vec()
    }
}
