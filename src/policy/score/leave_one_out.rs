//! What an attention output loses when one token is left out.

use crate::math::squared_distance;
use crate::merge::{Sampling, attention};
use crate::policy::part::part;
use crate::policy::score::{Score, read_sampling};
use crate::policy::{HeadView, Needs, Part};

/// Weight beyond which a token counts as all there is: of what is left without it, nothing can be said in f32.
const MOST_WEIGHT: f32 = 1.0 - 1e-6;

pub(super) const PART: Part<dyn Score> = Part {
    name: "leave-one-out",
    summary: "squared change of the head's output, over sampled queries (queries=, span=, from=), when the token alone is left out",
    source: "An et al. 2026, ReST-KV (ICLR 2026). Differs: squares, sampled queries, and before the output projection",
    build: |params| part(read_sampling(params)?, |sampling| Box::new(LeaveOneOut { sampling })),
};

#[derive(Debug)]
struct LeaveOneOut {
    sampling: Sampling,
}

impl Score for LeaveOneOut {
    fn needs(&self) -> Needs {
        Needs::queries(self.sampling)
    }

    /// With weight a and value v of a token and the output o, o without the token is o + (o - v) a / (1 - a).
    fn worth(&self, view: &HeadView<'_>, _: usize) -> Vec<f32> {
        let attention = attention(view.queries, view.keys, view.logit_bias);
        let outputs = attention.outputs(view.values);
        let mut worth = vec![0f32; view.n_slots()];
        for (row, output) in attention.rows().zip(outputs.chunks_exact(view.values.width())) {
            for ((worth, weight), value) in worth.iter_mut().zip(row).zip(view.values.iter()) {
                let weight = weight.min(MOST_WEIGHT);
                *worth += (weight / (1.0 - weight)).powi(2) * squared_distance(output, value);
            }
        }
        worth
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::Rows;

    #[test]
    fn one_query_by_hand() {
        // D = 1, weights 1/7, 2/7, 4/7 of values 7, 0, 14: o = 9. Without the tokens it is 56/6, 63/5, 7/3.
        let (keys, values) = ([0.0, 2f32.ln(), 4f32.ln()], [7.0, 0.0, 14.0]);
        let view = HeadView {
            queries: Rows::new(&[1.0], 1),
            values: Rows::new(&values, 1),
            ..HeadView::new(Rows::new(&keys, 1))
        };
        let worth = LeaveOneOut { sampling: Sampling::default() }.worth(&view, 2);
        let without = [56.0 / 6.0, 63.0 / 5.0, 7.0 / 3.0].map(|o: f32| (9.0 - o).powi(2));
        assert!(worth.iter().zip(without).all(|(a, b)| (a - b).abs() < 1e-4 * b), "{worth:?} {without:?}");
    }
}
