//! Attention of a chunk's queries over ragged heads, on the CPU.
//!
//! Prefill works on blocks of query rows against the visible prefix, so no T x T matrix is ever held; decode splits each
//! head's slots into pieces and joins them by their running maximum. Sums are joined in a fixed order: the result does
//! not depend on the number of threads.

use std::borrow::Cow;

use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use crate::math::Rhs;
use crate::math::add_weighted_rows;
use crate::math::axpy;
use crate::math::dot_rows;
use crate::math::exp_shifted_sum;
use crate::math::max;
use crate::math::product;
use crate::math::scale;
use crate::model::store::AttnMass;
use crate::model::store::HeadSlots;
use crate::model::store::SlotVectors;
use crate::model::store::StoreNeeds;

/// Query tokens of one block in prefill. With a group of 3 this makes 192 rows, enough for a full-speed product.
const BLOCK_TOKENS: usize = 64;
/// Slots of one piece in decode.
const PIECE_SLOTS: usize = 512;

/// Head counts and reach of a layer's attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Query heads.
    pub n_q_heads: usize,
    /// Key/value heads.
    pub n_kv_heads: usize,
    /// Numbers in a key.
    pub head_dim: usize,
    /// A query at position p sees positions above p - window; `None` for all.
    pub sliding_window: Option<usize>,
}

impl Geometry {
    fn group(&self) -> usize {
        self.n_q_heads / self.n_kv_heads
    }

    /// Index of the first slot that a query at `position` sees.
    fn first_visible(&self, positions: &[u32], position: usize) -> usize {
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

/// What one block of one head gives back.
struct Block {
    /// `[rows, group, D]`.
    output: Vec<f32>,
    first_slot: usize,
    mass: Vec<f32>,
    mass_window: Vec<f32>,
}

fn prefill(
    q: &[f32],
    heads: &[HeadSlots<'_>],
    geometry: Geometry,
    first_position: usize,
    needs: StoreNeeds,
    n_tokens: usize,
) -> (Vec<f32>, AttnMass) {
    let (group, head_dim) = (geometry.group(), geometry.head_dim);
    let width = geometry.n_q_heads * head_dim;
    let keys: Vec<Cow<'_, [f32]>> = heads.iter().map(|h| widen(h.keys)).collect();
    let values: Vec<Cow<'_, [f32]>> = heads.iter().map(|h| widen(h.values)).collect();
    let n_blocks = n_tokens.div_ceil(BLOCK_TOKENS);
    let blocks: Vec<Block> = (0..heads.len() * n_blocks)
        .into_par_iter()
        .map_init(Vec::new, |scores, task| {
            let (head, block) = (task / n_blocks, task % n_blocks);
            let rows = block * BLOCK_TOKENS..((block + 1) * BLOCK_TOKENS).min(n_tokens);
            let task = BlockTask {
                q,
                keys: &keys[head],
                values: &values[head],
                bias: heads[head].logit_bias,
                positions: heads[head].positions,
                head,
                rows,
                n_tokens,
                first_position,
                geometry,
                needs,
            };
            task.run(scores)
        })
        .collect();
    let mut output = vec![0f32; n_tokens * width];
    output.par_chunks_mut(BLOCK_TOKENS * width).enumerate().for_each(|(block, rows)| {
        for head in 0..heads.len() {
            let part = &blocks[head * n_blocks + block].output;
            for (row, from) in rows.chunks_exact_mut(width).zip(part.chunks_exact(group * head_dim)) {
                row[head * group * head_dim..][..group * head_dim].copy_from_slice(from);
            }
        }
    });
    let gather = |wanted: bool, part: fn(&Block) -> &[f32]| -> Vec<Vec<f32>> {
        if !wanted {
            return Vec::new();
        }
        (0..heads.len())
            .into_par_iter()
            .map(|head| {
                let mut sum = vec![0f32; heads[head].positions.len()];
                for block in &blocks[head * n_blocks..(head + 1) * n_blocks] {
                    axpy(1.0, part(block), &mut sum[block.first_slot..]);
                }
                sum
            })
            .collect()
    };
    let mass = AttnMass {
        all: gather(needs.mass, |block| &block.mass),
        window: gather(needs.mass_from_position.is_some(), |block| &block.mass_window),
    };
    (output, mass)
}

/// One block of query rows of one KV head.
struct BlockTask<'a> {
    q: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    bias: Option<&'a [f32]>,
    positions: &'a [u32],
    head: usize,
    rows: std::ops::Range<usize>,
    n_tokens: usize,
    first_position: usize,
    geometry: Geometry,
    needs: StoreNeeds,
}

impl BlockTask<'_> {
    fn run(&self, scores: &mut Vec<f32>) -> Block {
        let (group, head_dim) = (self.geometry.group(), self.geometry.head_dim);
        let n_before = self.positions.len() - self.n_tokens;
        let first_slot = self.geometry.first_visible(self.positions, self.first_position + self.rows.start);
        let end = n_before + self.rows.end;
        let n_visible = end - first_slot;
        let n_rows = self.rows.len() * group;
        let factor = 1.0 / (head_dim as f32).sqrt();
        let mut queries = Vec::with_capacity(n_rows * head_dim);
        for token in self.rows.clone() {
            let start = (token * self.geometry.n_q_heads + self.head * group) * head_dim;
            queries.extend(self.q[start..start + group * head_dim].iter().map(|x| x * factor));
        }
        scores.resize(n_rows * n_visible, 0.0);
        let keys = &self.keys[first_slot * head_dim..end * head_dim];
        product(&queries, keys, scores, [n_rows, n_visible, head_dim], Rhs::Transposed);
        let mut block = Block { output: vec![0f32; n_rows * head_dim], first_slot, mass: vec![], mass_window: vec![] };
        if self.needs.mass {
            block.mass = vec![0f32; n_visible];
        }
        if self.needs.mass_from_position.is_some() {
            block.mass_window = vec![0f32; n_visible];
        }
        let mut inverse_sums = Vec::with_capacity(n_rows);
        for (i, row) in scores.chunks_exact_mut(n_visible).enumerate() {
            let token = self.rows.start + i / group;
            let position = self.first_position + token;
            let from = self.geometry.first_visible(self.positions, position) - first_slot;
            let to = n_before + token + 1 - first_slot;
            row[..from].fill(0.0);
            row[to..].fill(0.0);
            let seen = &mut row[from..to];
            if let Some(bias) = self.bias {
                axpy(1.0, &bias[first_slot + from..first_slot + to], seen);
            }
            let inverse = 1.0 / exp_shifted_sum(seen, max(seen));
            inverse_sums.push(inverse);
            if self.needs.mass {
                axpy(inverse, seen, &mut block.mass[from..]);
            }
            if self.needs.mass_from_position.is_some_and(|start| position >= start) {
                axpy(inverse, seen, &mut block.mass_window[from..]);
            }
        }
        let values = &self.values[first_slot * head_dim..end * head_dim];
        product(scores, values, &mut block.output, [n_rows, head_dim, n_visible], Rhs::Plain);
        for (row, inverse) in block.output.chunks_exact_mut(head_dim).zip(inverse_sums) {
            scale(row, inverse);
        }
        block
    }
}

/// A piece's contribution to one query head: softmax numerator, denominator and the maximum they are relative to.
struct Partial {
    max: f32,
    sum: f32,
    output: Vec<f32>,
}

fn decode(q: &[f32], heads: &[HeadSlots<'_>], geometry: Geometry, position: usize) -> Vec<f32> {
    let (group, head_dim) = (geometry.group(), geometry.head_dim);
    let factor = 1.0 / (head_dim as f32).sqrt();
    let tasks: Vec<(usize, usize, usize)> = heads
        .iter()
        .enumerate()
        .flat_map(|(head, slots)| {
            let (first, n) = (geometry.first_visible(slots.positions, position), slots.positions.len());
            (first..n).step_by(PIECE_SLOTS).map(move |start| (head, start, (start + PIECE_SLOTS).min(n)))
        })
        .collect();
    let partials: Vec<Vec<Partial>> = tasks
        .par_iter()
        .map(|(head, start, end)| {
            let slots = &heads[*head];
            let keys = widen(part(slots.keys, head_dim, *start, *end));
            let values = widen(part(slots.values, head_dim, *start, *end));
            (0..group)
                .map(|g| {
                    let mut query = q[(head * group + g) * head_dim..][..head_dim].to_vec();
                    scale(&mut query, factor);
                    let mut scores = vec![0f32; end - start];
                    dot_rows(&keys, &query, &mut scores);
                    if let Some(bias) = slots.logit_bias {
                        axpy(1.0, &bias[*start..*end], &mut scores);
                    }
                    let max = max(&scores);
                    let sum = exp_shifted_sum(&mut scores, max);
                    let mut output = vec![0f32; head_dim];
                    add_weighted_rows(&values, &scores, &mut output);
                    Partial { max, sum, output }
                })
                .collect()
        })
        .collect();
    let mut output = vec![0f32; q.len()];
    for (row, out) in output.chunks_exact_mut(head_dim).enumerate() {
        let (head, g) = (row / group, row % group);
        let pieces = || tasks.iter().zip(&partials).filter(|(task, _)| task.0 == head).map(|(_, parts)| &parts[g]);
        let highest = pieces().map(|p| p.max).fold(f32::NEG_INFINITY, f32::max);
        let mut total = 0f32;
        for piece in pieces() {
            let weight = (piece.max - highest).exp();
            total += weight * piece.sum;
            axpy(weight, &piece.output, out);
        }
        scale(out, 1.0 / total);
    }
    output
}

fn part<'a>(vectors: SlotVectors<'a>, head_dim: usize, start: usize, end: usize) -> SlotVectors<'a> {
    let range = start * head_dim..end * head_dim;
    match vectors {
        SlotVectors::F32(x) => SlotVectors::F32(&x[range]),
        SlotVectors::F16(x) => SlotVectors::F16(&x[range]),
        SlotVectors::Bf16(x) => SlotVectors::Bf16(&x[range]),
    }
}

fn widen(vectors: SlotVectors<'_>) -> Cow<'_, [f32]> {
    match vectors {
        SlotVectors::F32(x) => Cow::Borrowed(x),
        SlotVectors::F16(x) => Cow::Owned(x.to_f32_vec()),
        SlotVectors::Bf16(x) => Cow::Owned(x.to_f32_vec()),
    }
}

#[cfg(test)]
mod tests {
    use half::f16;
    use rand::RngExt;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

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
