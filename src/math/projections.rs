//! What linear maps do to lengths: enough to tell |W x| without W.

use crate::math::{Rhs, Rows, dot, product};

/// Gram matrices W' W of linear maps, one for each query head of each layer: what a layer's output projection makes of the
/// outputs of that head.
#[derive(Clone, Debug, PartialEq)]
pub struct Projections {
    /// `[n_layers · n_q_heads][D, D]`.
    grams: Vec<f32>,
    head_dim: usize,
}

impl Projections {
    /// From Gram matrices, layer by layer and head by head.
    ///
    /// - Shape: `[n_layers, n_q_heads, D, D]`
    ///
    /// # Panics
    ///
    /// When the numbers do not fill the last matrix.
    pub fn new(grams: Vec<f32>, head_dim: usize) -> Self {
        assert!(head_dim > 0 && grams.len().is_multiple_of(head_dim * head_dim), "{} numbers", grams.len());
        Self { grams, head_dim }
    }

    /// Query heads of all layers, and numbers in an output of each.
    pub fn shape(&self) -> (usize, usize) {
        (self.grams.len() / self.head_dim.pow(2), self.head_dim)
    }

    /// Those of the `group` query heads that read a KV head; KV heads count over all layers.
    pub fn of_kv_head(&self, kv_head: usize, group: usize) -> HeadProjection<'_> {
        let width = group * self.head_dim.pow(2);
        HeadProjection { grams: &self.grams[kv_head * width..][..width], head_dim: self.head_dim }
    }
}

/// Gram matrices of the query heads that read a KV head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadProjection<'a> {
    /// `[group][D, D]`.
    grams: &'a [f32],
    head_dim: usize,
}

impl HeadProjection<'_> {
    /// Query heads of the group.
    pub fn group(self) -> usize {
        self.grams.len() / self.head_dim.pow(2)
    }

    /// Each row times the Gram matrix of a query head of the group: with another vector, the product of both after the map.
    ///
    /// - Shape: `[n, D]` → `[n, D]`
    pub fn times_gram(self, rows: Rows<'_>, query_head: usize) -> Vec<f32> {
        let (n, d) = (rows.len(), self.head_dim);
        let mut out = vec![0f32; n * d];
        product(rows.flat(), &self.grams[query_head * d * d..][..d * d], &mut out, [n, d, d], Rhs::Plain);
        out
    }

    /// As [`HeadProjection::times_gram`], each row with its own query head: rows are those of all of the group in turn, and the
    /// first is of the `first`th, counted on and on.
    ///
    /// - Shape: `[n, D]` → `[n, D]`
    pub fn times_grams_in_turn(self, rows: Rows<'_>, first: usize) -> Vec<f32> {
        let (d, group) = (self.head_dim, self.group());
        let mut out = vec![0f32; rows.flat().len()];
        for start in 0..group.min(rows.len()) {
            let of_head: Vec<f32> = rows.every(group, start).flatten().copied().collect();
            let mapped = self.times_gram(Rows::new(&of_head, d), (first + start) % group);
            let places = out.chunks_exact_mut(d).skip(start).step_by(group);
            places.zip(mapped.chunks_exact(d)).for_each(|(out, mapped)| out.copy_from_slice(mapped));
        }
        out
    }

    /// |W x|² of each row x, with the W of a query head of the group.
    ///
    /// - Shape: `[n, D]` → `[n]`
    pub fn squared_norms(self, rows: Rows<'_>, query_head: usize) -> Vec<f32> {
        let mapped = self.times_gram(rows, query_head);
        // Rounding can leave a map of nearly nothing below zero.
        rows.iter().zip(mapped.chunks_exact(self.head_dim)).map(|(x, mapped)| dot(x, mapped).max(0.0)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_an_uneven_case_by_hand() {
        // Two KV heads of two query heads, D = 2. W = (1 2; 0 3; 1 0) has W'W = (2 2; 2 13): (1, -1) becomes (-1, -3, 1).
        let mut grams = vec![0.0; 4 * 4];
        grams[8..12].copy_from_slice(&[2.0, 2.0, 2.0, 13.0]);
        grams[12..].copy_from_slice(&[1.0, 0.0, 0.0, 1.0]);
        let projections = Projections::new(grams, 2);
        assert_eq!(projections.shape(), (4, 2));
        let rows = Rows::new(&[1.0, -1.0, 0.0, 2.0, 3.0, 1.0], 2);
        let second = projections.of_kv_head(1, 2);
        assert_eq!(second.squared_norms(rows, 0), [11.0, 52.0, 43.0]);
        assert_eq!(second.squared_norms(rows, 1), [2.0, 4.0, 10.0]);
        assert_eq!(second.times_gram(rows, 0), [0.0, -11.0, 4.0, 26.0, 8.0, 19.0]);
        // The third query is of the first query head again.
        assert_eq!(second.times_grams_in_turn(rows, 3), [1.0, -1.0, 4.0, 26.0, 3.0, 1.0]);
        assert_eq!(second.times_grams_in_turn(rows.part(0..1), 2), [0.0, -11.0]);
        assert_eq!(projections.of_kv_head(0, 2).squared_norms(rows, 1), [0.0; 3]);
    }
}
