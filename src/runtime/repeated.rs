//! Attention that a repetition of a prompt pays to the prompt's slots, kept until they are chosen.

use std::ops::Range;

use crate::math::{HeadProjection, Rows};
use crate::merge::{Repetition, largest_weights};
use crate::runtime::slots::Head;

/// The largest attention to every slot so far.
#[derive(Clone, Debug)]
pub(super) struct Repeated {
    wanted: Repetition,
    /// `[heads][T]`.
    largest: Vec<Vec<f32>>,
}

/// A chunk of a prompt and its repetition, as one KV head sees them.
#[derive(Clone, Copy, Debug)]
pub(super) struct RepeatedChunk<'a> {
    /// Prompt tokens behind the chunk.
    pub n_behind: usize,
    /// Tokens of the repetition and what asks for it, n: the head's last slots.
    pub n_tokens: usize,
    /// Queries of those, `[n · group, D]`.
    pub queries: Rows<'a>,
    /// By what the attention of each of those counts, `[n]`; empty where all count by 1.
    pub factors: &'a [f32],
    /// What the output projection makes of the head's values.
    pub projection: Option<HeadProjection<'a>>,
}

impl Repeated {
    /// Nothing yet.
    pub fn new(wanted: Repetition, n_heads: usize) -> Self {
        Self { wanted, largest: vec![Vec::new(); n_heads] }
    }

    /// What was asked for.
    pub fn wanted(&self) -> Repetition {
        self.wanted
    }

    /// Of each slot of a head.
    pub fn of(&self, head: usize) -> &[f32] {
        &self.largest[head]
    }

    /// Frees what is known of some heads.
    pub fn forget(&mut self, heads: Range<usize>) {
        self.largest[heads].fill(Vec::new());
    }

    /// Adds the next chunk of the prompt. Slots from before the prompt count as a part of its first chunk; without a projection
    /// that is asked for, nothing is known of them.
    pub fn take(&mut self, index: usize, head: &Head, chunk: RepeatedChunk<'_>, group: usize) {
        let (keys, values) = (head.keys(), head.values());
        let (keys, values) = (keys.rows(), values.rows());
        let n_whole = keys.len() - chunk.n_tokens;
        let start = self.largest[index].len();
        let places = start..n_whole - chunk.n_behind;
        let sinks = 0..self.wanted.sinks.min(start);
        let parts = [sinks, places.clone(), n_whole..keys.len()].map(|part| keys.part(part));
        let mut largest = largest_weights(chunk.queries, group, parts, chunk.factors);
        if self.wanted.projects() {
            let Some(projection) = chunk.projection else { return };
            for (query_head, largest) in largest.chunks_exact_mut(places.len()).enumerate() {
                let squares = projection.squared_norms(values.part(places.clone()), query_head);
                largest.iter_mut().zip(squares).for_each(|(largest, square)| *largest *= square.sqrt());
            }
        }
        let of_query_heads = |place: usize| largest.iter().skip(place).step_by(places.len());
        let all = (0..places.len()).map(|place| of_query_heads(place).copied().fold(0.0, f32::max));
        self.largest[index].extend(all);
    }
}
