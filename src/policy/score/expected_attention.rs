//! Attention that a normal distribution of queries would pay.

use serde::{Deserialize, Serialize};

use crate::math::{Rhs, Rows, axpy, dot, exp_shifted_sum, max, product, scale};
use crate::merge::Sampling;
use crate::policy::score::Score;
use crate::policy::{HeadView, Needs, Part, part};

pub(super) const PART: Part<dyn Score> = Part {
    name: "expected-attention",
    summary: "attention expected of a normal distribution of queries at the next 512 positions (span=), plus eps=0 (LU-KV: 0.02), times the length of the value; sinks=4 tokens stay",
    source: "Devoto et al. 2025, arXiv 2510.00636",
    build: |params| {
        let score: ExpectedAttention = params.read()?;
        if !(score.eps >= 0.0 && score.eps.is_finite()) {
            return Err(params.bad(format!("eps is a number of at least 0, not {}", score.eps)));
        }
        if score.span == 0 {
            return Err(params.bad("span is at least 1"));
        }
        part(score, |score| Box::new(score))
    },
};

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct ExpectedAttention {
    /// Positions behind the prompt that a query may stand at.
    span: usize,
    /// First tokens, which stay; neither their queries nor their keys are looked at.
    sinks: usize,
    /// Added to a token's attention before it is multiplied by the length of its value.
    eps: f64,
}

impl Default for ExpectedAttention {
    fn default() -> Self {
        Self { span: 512, sinks: 4, eps: 0.0 }
    }
}

impl Score for ExpectedAttention {
    fn needs(&self) -> Needs {
        Needs::queries(Sampling::average(self.span, self.sinks))
    }

    /// For a query q of mean m and covariance C, the mean of exp(k·q / √D) is exp(k·m / √D + k·C k / 2D).
    fn worth(&self, view: &HeadView<'_>, _: usize) -> Vec<f32> {
        let n = view.n_slots();
        let sinks = self.sinks.min(n);
        let (keys, values) = (view.keys.part(sinks..n), view.values.part(sinks..n));
        let mut worth = vec![0f32; n - sinks];
        for head in 0..view.group {
            let of_head = view.queries.every(view.group, head);
            let mut expected = logits(keys, of_head.flatten().copied().collect());
            let total = {
                let most = max(&expected);
                exp_shifted_sum(&mut expected, most)
            };
            axpy(1.0 / (total * view.group as f32), &expected, &mut worth);
        }
        let rest = worth.iter().zip(values.iter());
        let rest = rest.map(|(worth, value)| (worth + self.eps as f32) * dot(value, value).sqrt());
        std::iter::repeat_n(f32::INFINITY, sinks).chain(rest).collect()
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
        // Behind a sink, logits of the first head: 0, 2 · 2 + 4 / 2 = 6, 2 + 1 / 2 = 2.5; of the second 0.
        let (keys, values) = ([9.0, 0.0, 2.0, 1.0], [9.0, -1.0, 3.0, 2.0]);
        let view = HeadView {
            group: 2,
            queries: Rows::new(&[1.0, 0.0, 3.0, 0.0], 1),
            values: Rows::new(&values, 1),
            ..HeadView::new(Rows::new(&keys, 1))
        };
        let score = ExpectedAttention { eps: 0.5, sinks: 1, ..ExpectedAttention::default() };
        let total = 1.0 + 6f32.exp() + 2.5f32.exp();
        let expected = [(1.0, 1.0), (6f32.exp(), 3.0), (2.5f32.exp(), 2.0)]
            .map(|(weight, length)| (weight / total / 2.0 + 1.0 / 6.0 + 0.5) * length);
        let found = score.worth(&view, 2);
        assert!(found[1..].iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?} {expected:?}");
        assert_eq!(found[0], f32::INFINITY);
    }
}
