//! What an attention output loses when one token is left out.

use crate::math::{Rhs, axpy, dot, product};
use crate::merge::{Attention, Sampling};
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

    /// With weight a and value v of a token and the output o, o without the token is o + (o - v) a / (1 - a). Distances come
    /// from a matrix product, as |o|² - 2 o·v + |v|².
    fn worth(&self, view: &HeadView<'_>, _: usize) -> Vec<f32> {
        let (n, d) = (view.n_slots(), view.values.width());
        let squares: Vec<f32> = view.values.iter().map(|value| dot(value, value)).collect();
        let of_block = |attention: &Attention, outputs: &[f32]| {
            let n_rows = attention.rows().len();
            let mut products = vec![0f32; n_rows * n];
            product(outputs, view.values.flat(), &mut products, [n_rows, n, d], Rhs::Transposed);
            let mut worth = vec![0f32; n];
            let rows = attention.rows().zip(outputs.chunks_exact(d)).zip(products.chunks_exact(n));
            for ((weights, output), products) in rows {
                let of_output = dot(output, output);
                for (((worth, weight), product), of_value) in worth.iter_mut().zip(weights).zip(products).zip(&squares)
                {
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
