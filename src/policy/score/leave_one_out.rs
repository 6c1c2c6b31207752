//! What an attention output loses when one token is left out.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::math::{HeadProjection, Rhs, Rows, axpy, dot, product};
use crate::merge::{Attention, Sampling};
use crate::policy::part::joined;
use crate::policy::score::{Score, read_sampling};
use crate::policy::{HeadView, Needs, Part};

/// Weight beyond which a token counts as all there is: of what is left without it, nothing can be said in f32.
const MOST_WEIGHT: f32 = 1.0 - 1e-6;

pub(super) const PART: Part<dyn Score> = Part {
    name: "leave-one-out",
    summary: "squared change of the head's output, over sampled queries (queries=, span=, from=), when the token alone is left out; after=true: of what the output projection makes of it",
    source: "An et al. 2026, ReST-KV (ICLR 2026). Differs: squares, sampled queries, and before the output projection unless after=true",
    build: |params| {
        let (sampling, place) = (read_sampling(params)?, params.read::<Place>()?);
        Ok((Box::new(LeaveOneOut { sampling, after: place.after }), joined(sampling, place)))
    },
};

/// Where the change is measured.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Place {
    /// Behind the output projection.
    after: bool,
}

#[derive(Debug)]
struct LeaveOneOut {
    sampling: Sampling,
    after: bool,
}

impl Score for LeaveOneOut {
    fn needs(&self) -> Needs {
        Needs { projection: self.after, ..Needs::queries(self.sampling) }
    }

    /// With weight a and value v of a token and the output o, o without the token is o + (o - v) a / (1 - a). Distances come
    /// from a matrix product, as |o|² - 2 o·v + |v|²; behind the projection all three products are with its Gram matrix between.
    fn worth(&self, view: &HeadView<'_>, _: usize) -> Vec<f32> {
        let (n, d) = (view.n_slots(), view.values.width());
        let projection = view.projection.filter(|_| self.after);
        let squares = squares(view.values, projection);
        let of_block = |attention: &Attention, outputs: &[f32]| {
            let n_rows = attention.rows().len();
            let mapped = match projection {
                Some(projection) => projection.times_grams_in_turn(Rows::new(outputs, d), attention.first).into(),
                None => Cow::Borrowed(outputs),
            };
            let mut products = vec![0f32; n_rows * n];
            product(&mapped, view.values.flat(), &mut products, [n_rows, n, d], Rhs::Transposed);
            let mut worth = vec![0f32; n];
            let outputs = outputs.chunks_exact(d).zip(mapped.chunks_exact(d));
            let rows = attention.rows().zip(outputs).zip(products.chunks_exact(n));
            for (i, ((weights, (output, mapped)), products)) in rows.enumerate() {
                let of_output = dot(output, mapped);
                let squares = &squares[(attention.first + i) % squares.len()];
                for (((worth, weight), product), of_value) in worth.iter_mut().zip(weights).zip(products).zip(squares) {
                    let weight = weight.min(MOST_WEIGHT);
                    let odds = weight / (1.0 - weight);
                    *worth += odds * odds * (of_output - 2.0 * product + of_value).max(0.0);
                }
            }
            worth
        };
        let mut worth = vec![0f32; n];
        view.attending().weights_and_outputs(of_block).iter().for_each(|of_block| axpy(1.0, of_block, &mut worth));
        worth
    }
}

/// |v|² of all values, once; or behind the projection, for each query head of the group.
fn squares(values: Rows<'_>, projection: Option<HeadProjection<'_>>) -> Vec<Vec<f32>> {
    match projection {
        Some(projection) => (0..projection.group()).map(|head| projection.squared_norms(values, head)).collect(),
        None => vec![values.iter().map(|value| dot(value, value)).collect()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::Projections;

    fn is_close(found: &[f32], wanted: &[f32]) {
        assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-4 * b), "{found:?} {wanted:?}");
    }

    #[test]
    fn one_query_by_hand() {
        // D = 1, weights 1/7, 2/7, 4/7 of values 7, 0, 14: o = 9. Without the tokens it is 56/6, 63/5, 7/3.
        let (keys, values) = ([0.0, 2f32.ln(), 4f32.ln()], [7.0, 0.0, 14.0]);
        let view = HeadView {
            queries: Rows::new(&[1.0], 1),
            values: Rows::new(&values, 1),
            ..HeadView::new(Rows::new(&keys, 1))
        };
        let worth = LeaveOneOut { sampling: Sampling::default(), after: false }.worth(&view, 2);
        let without = [56.0 / 6.0, 63.0 / 5.0, 7.0 / 3.0].map(|o: f32| (9.0 - o).powi(2));
        is_close(&worth, &without);
    }

    #[test]
    fn the_projection_weighs_each_query_heads_outputs_by_hand() {
        // As above, with D = 2 and a second dimension of values 0, 0, 7: o = (9, 4), without the tokens (56/6, 14/3),
        // (63/5, 28/5), (7/3, 0). Of three query heads in turn, W is (2 0), (0 1), (1 1); 300 tokens ask, in two blocks.
        let keys = [0.0, 0.0, 2f32.ln(), 0.0, 4f32.ln(), 0.0];
        let values = [7.0, 0.0, 0.0, 0.0, 14.0, 7.0];
        let queries: Vec<f32> = [2f32.sqrt(), 0.0].repeat(900);
        let grams = vec![4.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0];
        let projections = Projections::new(grams, 2);
        let view = HeadView {
            group: 3,
            queries: Rows::new(&queries, 2),
            values: Rows::new(&values, 2),
            projection: Some(projections.of_kv_head(0, 3)),
            ..HeadView::new(Rows::new(&keys, 2))
        };
        let score = |after| LeaveOneOut { sampling: Sampling::default(), after };
        let changes = [[1.0 / 3.0, 2.0 / 3.0], [3.6, 1.6], [-20.0 / 3.0, -4.0f32]];
        let after = changes.map(|[x, y]| 300.0 * (4.0 * x * x + y * y + (x + y) * (x + y)));
        is_close(&score(true).worth(&view, 2), &after);
        is_close(&score(false).worth(&view, 2), &changes.map(|[x, y]| 900.0 * (x * x + y * y)));
        assert!(score(true).needs().projection && !score(false).needs().projection);
    }
}
