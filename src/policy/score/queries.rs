//! Attention from queries that stand for those to come.

use serde::{Deserialize, Serialize};

use crate::math::axpy;
use crate::merge::{Attention, Sampling};
use crate::policy::part::joined;
use crate::policy::score::{Score, read_sampling};
use crate::policy::{HeadView, Needs, Part};

pub(super) const PART: Part<dyn Score> = Part {
    name: "queries",
    summary: "attention from queries=768 of the prompt turned to span=512 later positions, or of a replay (from=replay): over=rms, mean or max of them",
    source: "Zweiger et al. 2026, arXiv 2602.16284 (rms); Kim et al. 2025, arXiv 2505.23416 (max, from=replay)",
    build: |params| {
        let (sampling, over) = (read_sampling(params)?, params.read::<Over>()?);
        Ok((Box::new(Queries { sampling, over: over.over }), joined(sampling, over)))
    },
};

/// What is taken over all queries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Summary {
    /// The root of the mean square.
    #[default]
    Rms,
    /// The mean.
    Mean,
    /// The largest.
    Max,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Over {
    over: Summary,
}

#[derive(Debug)]
struct Queries {
    sampling: Sampling,
    over: Summary,
}

impl Score for Queries {
    fn needs(&self) -> Needs {
        Needs::queries(self.sampling)
    }

    /// Squares, sums or maxima: the order is that of the means and roots.
    fn worth(&self, view: &HeadView<'_>, _: usize) -> Vec<f32> {
        let join = |worth: &mut Vec<f32>, other: &[f32]| match self.over {
            Summary::Rms | Summary::Mean => axpy(1.0, other, worth),
            Summary::Max => worth.iter_mut().zip(other).for_each(|(most, other)| *most = most.max(*other)),
        };
        let of_block = |attention: &Attention| {
            let mut worth = vec![0f32; view.n_slots()];
            for row in attention.rows() {
                match self.over {
                    Summary::Rms => worth.iter_mut().zip(row).for_each(|(sum, a)| *sum += a * a),
                    Summary::Mean | Summary::Max => join(&mut worth, row),
                }
            }
            worth
        };
        let mut worth = vec![0f32; view.n_slots()];
        view.attending().weights(of_block).iter().for_each(|other| join(&mut worth, other));
        worth
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::Rows;

    #[test]
    fn two_queries_by_hand() {
        // D = 1, keys 0, ln 2, ln 4. Query 1 weighs 1/7, 2/7, 4/7; query 0 a third each.
        let keys = [0.0, 2f32.ln(), 4f32.ln()];
        let view = HeadView { queries: Rows::new(&[1.0, 0.0], 1), ..HeadView::new(Rows::new(&keys, 1)) };
        let worth = |over| Queries { sampling: Sampling::default(), over }.worth(&view, 2);
        let close = |found: Vec<f32>, wanted: [f32; 3]| {
            assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?} {wanted:?}");
        };
        let third = 1.0 / 3.0f32;
        close(worth(Summary::Mean), [1.0, 2.0, 4.0].map(|x| x / 7.0 + third));
        close(worth(Summary::Rms), [1.0, 4.0, 16.0].map(|x| x / 49.0 + third * third));
        close(worth(Summary::Max), [third, third, 4.0 / 7.0]);
    }
}
