//! Attention that a normal distribution of queries would pay.

use serde::{Deserialize, Serialize};

use crate::math::{Rhs, Rows, axpy, dot, exp_shifted_sum, max, product, scale};
use crate::merge::Sampling;
use crate::policy::part::joined;
use crate::policy::score::{Score, read_sampling};
use crate::policy::{HeadView, Needs, Part};

pub(super) const PART: Part<dyn Score> = Part {
    name: "expected-attention",
    summary: "attention that queries of the sample's mean and covariance would pay on average, plus eps=, times the length of the value",
    source: "Devoto et al. 2025, arXiv 2510.00636. Differs: the queries are a sample, each turned to one later position",
    build: |params| {
        let (sampling, own) = (read_sampling(params)?, params.read::<Own>()?);
        if !(own.eps >= 0.0 && own.eps.is_finite()) {
            return Err(params.bad(format!("eps is a number of at least 0, not {}", own.eps)));
        }
        Ok((Box::new(ExpectedAttention { sampling, own }), joined(sampling, own)))
    },
};

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Own {
    /// Added to a token's attention before it is multiplied by the length of its value.
    eps: f32,
}

#[derive(Debug)]
struct ExpectedAttention {
    sampling: Sampling,
    own: Own,
}

impl Score for ExpectedAttention {
    fn needs(&self) -> Needs {
        Needs::queries(self.sampling)
    }

    /// For a query q of mean m and covariance C, the mean of exp(k·q / √D) is exp(k·m / √D + k·C k / 2D).
    fn worth(&self, view: &HeadView<'_>, _: usize) -> Vec<f32> {
        let n = view.n_slots();
        let mut worth = vec![0f32; n];
        for head in 0..view.group {
            let of_head = view.queries.every(view.group, head);
            let mut expected = logits(view.keys, of_head.flatten().copied().collect());
            let total = {
                let most = max(&expected);
                exp_shifted_sum(&mut expected, most)
            };
            axpy(1.0 / (total * view.group as f32), &expected, &mut worth);
        }
        let lengths = view.values.iter().map(|value| dot(value, value).sqrt());
        worth.iter().zip(lengths).map(|(worth, length)| (worth + self.own.eps) * length).collect()
    }
}

/// Logarithms of the mean of exp(k·q / √D) for every key.
///
/// - Shape: keys `[T, D]`, queries `[n, D]` → `[T]`
fn logits(keys: Rows<'_>, mut queries: Vec<f32>) -> Vec<f32> {
    let d = keys.width();
    let n = queries.len() / d;
    let mut mean = vec![0f32; d];
    queries.chunks_exact(d).for_each(|query| axpy(1.0 / n as f32, query, &mut mean));
    queries.chunks_exact_mut(d).for_each(|query| axpy(-1.0, &mean, query));
    let columns: Vec<f32> = (0..d).flat_map(|c| queries[c..].iter().step_by(d)).copied().collect();
    let mut covariance = vec![0f32; d * d];
    product(&columns, &columns, &mut covariance, [d, d, n], Rhs::Transposed);
    scale(&mut covariance, 1.0 / (n as f32 * 2.0 * d as f32));
    let mut turned = vec![0f32; keys.flat().len()];
    product(keys.flat(), &covariance, &mut turned, [keys.len(), d, d], Rhs::Transposed);
    scale(&mut mean, 1.0 / (d as f32).sqrt());
    keys.iter().zip(turned.chunks_exact(d)).map(|(key, turned)| dot(key, &mean) + dot(key, turned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_query_heads_by_hand() {
        // D = 1. Queries 1 and 3 of the first head: mean 2, variance 1; the second's are 0. Keys 0, 2, 1, values -1, 3, 2.
        // Logits of the first head: 0, 2 · 2 + 4 / 2 = 6, 2 + 1 / 2 = 2.5; of the second 0.
        let (keys, values) = ([0.0, 2.0, 1.0], [-1.0, 3.0, 2.0]);
        let view = HeadView {
            group: 2,
            queries: Rows::new(&[1.0, 0.0, 3.0, 0.0], 1),
            values: Rows::new(&values, 1),
            ..HeadView::new(Rows::new(&keys, 1))
        };
        let score = ExpectedAttention { sampling: Sampling::default(), own: Own { eps: 0.5 } };
        let total = 1.0 + 6f32.exp() + 2.5f32.exp();
        let expected = [(1.0, 1.0), (6f32.exp(), 3.0), (2.5f32.exp(), 2.0)]
            .map(|(weight, length)| (weight / total / 2.0 + 1.0 / 6.0 + 0.5) * length);
        let found = score.worth(&view, 2);
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?} {expected:?}");
    }
}
