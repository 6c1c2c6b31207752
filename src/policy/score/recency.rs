//! The newer the better, after the first few tokens, which act as attention sinks.

use serde::{Deserialize, Serialize};

use crate::policy::score::Score;
use crate::policy::{HeadView, Part, part};

pub(super) const PART: Part<dyn Score> = Part {
    name: "recency",
    summary: "the first tokens (sinks=), then the newer the better",
    source: "Xiao et al. 2023, arXiv 2309.17453",
    build: |params| part(params.read::<Recency>()?, |recency| Box::new(recency)),
};

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Recency {
    sinks: usize,
}

impl Default for Recency {
    fn default() -> Self {
        Self { sinks: 4 }
    }
}

impl Score for Recency {
    fn depends_on_budget(&self) -> bool {
        true
    }

    fn worth(&self, view: &HeadView<'_>, budget_tokens: usize) -> Vec<f32> {
        let n = view.n_slots();
        // A budget smaller than the sinks still keeps the newest token, which the next query needs.
        let sinks = self.sinks.min(budget_tokens.saturating_sub(1));
        (0..n).map(|i| if i < sinks { f32::INFINITY } else { i as f32 }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::Rows;

    #[test]
    fn sinks_come_before_the_newest() {
        let view = HeadView::new(Rows::new(&[0.0; 5], 1));
        let sink = f32::INFINITY;
        assert_eq!(Recency { sinks: 2 }.worth(&view, 3), [sink, sink, 2.0, 3.0, 4.0]);
        // One slot is the newest token's.
        assert_eq!(Recency { sinks: 2 }.worth(&view, 1), [0.0, 1.0, 2.0, 3.0, 4.0]);
    }
}
