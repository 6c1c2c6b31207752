//! Attention of a chunk's queries over ragged heads, on the CPU.
//!
//! Prefill works on blocks of query rows against the visible prefix, so no T x T matrix is ever held; decode splits each
//! head's slots into pieces and joins them by their running maximum. Sums are joined in a fixed order: the result does
//! not depend on the number of threads.

mod backward;
mod block;
mod decode;
mod prefill;

pub(in crate::model) use backward::{StateGradients, attend_backward};

use crate::model::attention::decode::decode;
use crate::model::attention::prefill::prefill;
use crate::model::config::Config;
use crate::model::slots::{AttnMass, HeadSlots};
use crate::model::store::StoreNeeds;

/// Head counts and reach of a layer's attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    pub n_q_heads: usize,
    pub n_kv_heads: usize,
    /// Numbers in a key.
    pub head_dim: usize,
    /// A query at position p sees positions above p - window; `None` for all.
    pub sliding_window: Option<usize>,
}

impl Geometry {
    /// Of a layer of a model.
    pub(in crate::model) fn of(config: &Config, layer: usize) -> Self {
        let Config { n_q_heads, n_kv_heads, head_dim, ref windows, .. } = *config;
        Self { n_q_heads, n_kv_heads, head_dim, sliding_window: windows[layer] }
    }

    pub(in crate::model) fn group(&self) -> usize {
        self.n_q_heads / self.n_kv_heads
    }

    /// Index of the first slot that a query at `position` sees.
    pub(in crate::model) fn first_visible(&self, positions: &[u32], position: usize) -> usize {
        self.sliding_window.map_or(0, |window| positions.partition_point(|p| *p as usize + window <= position))
    }
}

/// softmax(q Kᵀ / √D + bias) V for the last T slots' own queries, causally.
///
/// Query t of the chunk sees all slots but the last T - 1 - t, and of those the ones within the sliding window.
///
/// - Shape: q `[T, n_q_heads, D]`, heads `[n_kv_heads]` of n slots each → `[T, n_q_heads, D]` and the mass asked for
/// - Cost:  O(T·n·D) time per query head; n · 64 · group scores at a time per thread
/// - Source: Vaswani et al. 2017 (arXiv 1706.03762), GQA of Ainslie et al. 2023 (arXiv 2305.13245)
pub fn attend(
    q: &[f32],
    heads: &[HeadSlots<'_>],
    geometry: Geometry,
    first_position: usize,
    needs: StoreNeeds,
) -> (Vec<f32>, AttnMass) {
    let n_tokens = q.len() / (geometry.n_q_heads * geometry.head_dim);
    let wants_mass = needs.mass || needs.mass_from_position.is_some();
    if n_tokens == 1 && !wants_mass {
        return (decode(q, heads, geometry, first_position), AttnMass::default());
    }
    prefill(q, heads, geometry, first_position, needs, n_tokens)
}

#[cfg(test)]
mod tests {
    use half::f16;
    use half::slice::HalfFloatSliceExt;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::model::slots::SlotVectors;

    struct Head {
        keys: Vec<f32>,
        values: Vec<f32>,
        bias: Vec<f32>,
        positions: Vec<u32>,
    }

    fn random(n: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
        (0..n).map(|_| rng.random_range(-1.5f32..1.5)).collect()
    }

    /// Heads with different numbers of old slots at uneven positions, then `n_tokens` new ones.
    fn ragged(geometry: Geometry, n_old: &[usize], first_position: usize, n_tokens: usize) -> (Vec<f32>, Vec<Head>) {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let heads = n_old
            .iter()
            .map(|old| {
                let n = old + n_tokens;
                let stride = first_position.checked_div(*old).unwrap_or(1).max(1);
                let positions = (0..*old).map(|i| i * stride).chain(first_position..first_position + n_tokens);
                Head {
                    keys: random(n * geometry.head_dim, &mut rng),
                    values: random(n * geometry.head_dim, &mut rng),
                    bias: random(n, &mut rng),
                    positions: positions.map(|p| p as u32).collect(),
                }
            })
            .collect();
        (random(n_tokens * geometry.n_q_heads * geometry.head_dim, &mut rng), heads)
    }

    fn slots(heads: &[Head]) -> Vec<HeadSlots<'_>> {
        heads
            .iter()
            .map(|h| HeadSlots {
                keys: SlotVectors::F32(&h.keys),
                values: SlotVectors::F32(&h.values),
                logit_bias: Some(&h.bias),
                positions: &h.positions,
            })
            .collect()
    }

    /// Plain loops in f64.
    fn reference(q: &[f32], heads: &[Head], g: Geometry, first_position: usize) -> (Vec<f64>, Vec<Vec<f64>>) {
        let n_tokens = q.len() / (g.n_q_heads * g.head_dim);
        let mut output = vec![0f64; q.len()];
        let mut mass: Vec<Vec<f64>> = heads.iter().map(|h| vec![0f64; h.positions.len()]).collect();
        for t in 0..n_tokens {
            for qh in 0..g.n_q_heads {
                let head = &heads[qh / g.group()];
                let at = (t * g.n_q_heads + qh) * g.head_dim;
                let mut weights = vec![0f64; head.positions.len()];
                for (j, weight) in weights.iter_mut().enumerate().take(head.positions.len() - n_tokens + t + 1) {
                    if g.sliding_window.is_some_and(|w| head.positions[j] as usize + w <= first_position + t) {
                        continue;
                    }
                    let logit: f64 = (0..g.head_dim)
                        .map(|d| f64::from(q[at + d]) * f64::from(head.keys[j * g.head_dim + d]))
                        .sum::<f64>()
                        / (g.head_dim as f64).sqrt();
                    *weight = (logit + f64::from(head.bias[j])).exp();
                }
                let total: f64 = weights.iter().sum();
                for (j, weight) in weights.iter().enumerate() {
                    mass[qh / g.group()][j] += weight / total;
                    for d in 0..g.head_dim {
                        output[at + d] += weight / total * f64::from(head.values[j * g.head_dim + d]);
                    }
                }
            }
        }
        (output, mass)
    }

    fn assert_close(a: &[f32], b: &[f64], what: &str) {
        assert_eq!(a.len(), b.len());
        for (i, (x, y)) in a.iter().zip(b).enumerate() {
            assert!((f64::from(*x) - y).abs() < 2e-5 * (1.0 + y.abs()), "{what} {i}: {x} is not {y}");
        }
    }

    #[test]
    fn prefill_and_decode_agree_with_plain_loops() {
        let needs = StoreNeeds { mass: true, ..StoreNeeds::default() };
        for (n_q_heads, n_kv_heads, head_dim) in [(4, 2, 8), (3, 3, 6), (6, 2, 64)] {
            for sliding_window in [None, Some(5), Some(90)] {
                for (n_old, first_position) in
                    [(vec![0; n_kv_heads], 0), ((0..n_kv_heads).map(|h| 7 + 600 * h).collect(), 1300)]
                {
                    for n_tokens in [1, 2, 65, 130] {
                        let geometry = Geometry { n_q_heads, n_kv_heads, head_dim, sliding_window };
                        let (q, heads) = ragged(geometry, &n_old, first_position, n_tokens);
                        let (expected, mass) = reference(&q, &heads, geometry, first_position);
                        let (output, got) = attend(&q, &slots(&heads), geometry, first_position, needs);
                        assert_close(&output, &expected, "output");
                        for (got, mass) in got.all.iter().zip(&mass) {
                            assert_close(got, mass, "mass");
                        }
                        let (output, _) = attend(&q, &slots(&heads), geometry, first_position, StoreNeeds::default());
                        assert_close(&output, &expected, "output without mass");
                    }
                }
            }
        }
    }

    #[test]
    fn window_mass_counts_the_last_queries_only() {
        let geometry = Geometry { n_q_heads: 2, n_kv_heads: 1, head_dim: 4, sliding_window: None };
        let (q, heads) = ragged(geometry, &[0], 0, 70);
        let needs = StoreNeeds { mass: true, mass_from_position: Some(67), ..StoreNeeds::default() };
        let (_, mass) = attend(&q, &slots(&heads), geometry, 0, needs);
        // Each query hands out a mass of 1 per query head.
        assert!((mass.all[0].iter().sum::<f32>() - 140.0).abs() < 1e-3);
        assert!((mass.window[0].iter().sum::<f32>() - 6.0).abs() < 1e-4);
    }

    #[test]
    fn half_precision_slots_are_read_as_they_are() {
        let geometry = Geometry { n_q_heads: 2, n_kv_heads: 1, head_dim: 4, sliding_window: None };
        let (q, mut heads) = ragged(geometry, &[40], 40, 1);
        let halves = |x: &[f32]| x.iter().map(|x| f16::from_f32(*x)).collect::<Vec<_>>();
        let (keys, values) = (halves(&heads[0].keys), halves(&heads[0].values));
        heads[0].keys = keys.to_f32_vec();
        heads[0].values = values.to_f32_vec();
        let stored = HeadSlots {
            keys: SlotVectors::F16(&keys),
            values: SlotVectors::F16(&values),
            logit_bias: Some(&heads[0].bias),
            positions: &heads[0].positions,
        };
        let (half, _) = attend(&q, &[stored], geometry, 40, StoreNeeds::default());
        let (full, _) = attend(&q, &slots(&heads), geometry, 40, StoreNeeds::default());
        assert_eq!(half, full);
    }
}
