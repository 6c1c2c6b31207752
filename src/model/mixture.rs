//! Mixtures of experts: each token passes the few feed-forward maps that its router finds most probable.
//!
//! Source: Shazeer et al. 2017 (arXiv 1701.06538), as Jiang et al. 2024 (Mixtral, arXiv 2401.04088) and Qwen3 have it.

use std::sync::Arc;

use crate::math::{axpy, dot, exp_shifted_sum, scale};
use crate::model::ModelError;
use crate::model::config;
use crate::model::config::Config;
use crate::model::layers::{Linear, Mlp};
use crate::model::matrix::Scratch;
use crate::model::weights::{Expert, Part, Weights};

/// Names of the router's matrix: Qwen's and transformers 5's, and Mixtral's.
const ROUTERS: [&str; 2] = ["mlp.gate", "block_sparse_moe.gate"];

/// The feed-forward layer of one decoder layer.
#[derive(Debug)]
pub(crate) struct Mixture {
    /// `[n_experts, hidden]`, multiplied in f32.
    pub(crate) router: Linear,
    pub(crate) experts: Vec<Mlp>,
    pub(crate) routing: Routing,
}

/// By which rule tokens go to experts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Routing {
    n_experts: usize,
    /// Experts that a token passes.
    n_used: usize,
    /// Whether their weights are divided by their sum.
    renormalises: bool,
}

/// A token on its way through one expert.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Route {
    pub(crate) token: usize,
    /// By what the expert's output is multiplied.
    pub(crate) weight: f32,
}

impl Routing {
    /// Experts that a token does not pass.
    pub(crate) fn n_idle(self) -> u64 {
        (self.n_experts - self.n_used) as u64
    }

    /// Softmax of the router's logits, in their place.
    ///
    /// - Shape: logits `[T, n_experts]`
    fn probabilities(self, logits: &mut [f32]) {
        for row in logits.chunks_exact_mut(self.n_experts) {
            let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum = exp_shifted_sum(row, largest);
            scale(row, 1.0 / sum);
        }
    }

    /// Of each expert the tokens that pass it, rising: those by which it is among the `n_used` most probable ones. Of equally
    /// probable experts the first come first; transformers leaves that open.
    ///
    /// - Shape: probabilities `[T, n_experts]`
    fn of_probabilities(self, probabilities: &[f32]) -> Vec<Vec<Route>> {
        let mut routes = vec![Vec::new(); self.n_experts];
        let mut order: Vec<usize> = Vec::with_capacity(self.n_experts);
        for (token, row) in probabilities.chunks_exact(self.n_experts).enumerate() {
            order.clear();
            order.extend(0..self.n_experts);
            order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
            let chosen = &order[..self.n_used];
            let sum = if self.renormalises { chosen.iter().map(|expert| row[*expert]).sum() } else { 1.0 };
            chosen.iter().for_each(|expert| routes[*expert].push(Route { token, weight: row[*expert] / sum }));
        }
        routes
    }

    /// As [`Routing::of_probabilities`], from the router's logits.
    pub(crate) fn of_logits(self, mut logits: Vec<f32>) -> Vec<Vec<Route>> {
        self.probabilities(&mut logits);
        self.of_probabilities(&logits)
    }
}

impl Mixture {
    pub(crate) fn load(
        weights: &Weights,
        config: &Config,
        stated: &config::Mixture,
        layer: usize,
    ) -> Result<Self, ModelError> {
        let config::Mixture { n_experts, n_used, expert_size, renormalises, .. } = *stated;
        let hidden_size = config.hidden_size;
        let [usual, older] = ROUTERS.map(|name| format!("model.layers.{layer}.{name}.weight"));
        let router = if weights.has(&older) { older } else { usual };
        let router = weights.matrix(&router, [n_experts, hidden_size], config, None)?;
        let expert = |index: usize| {
            let expert = Expert { layer, index, of: n_experts };
            let linear =
                |part, shape| Ok::<_, ModelError>(Linear::new(Arc::new(weights.expert(expert, part, shape)?), None));
            Ok(Mlp {
                gate: linear(Part::Gate, [expert_size, hidden_size])?,
                up: linear(Part::Up, [expert_size, hidden_size])?,
                down: linear(Part::Down, [hidden_size, expert_size])?.times(config.multipliers.residual as f32),
                activation: config.architecture.style.activation,
            })
        };
        Ok(Self {
            router: Linear::new(Arc::new(router), None),
            experts: (0..n_experts).map(expert).collect::<Result<_, ModelError>>()?,
            routing: Routing { n_experts, n_used, renormalises },
        })
    }

    /// `x` `[T, hidden]` → `[T, hidden]`.
    ///
    /// - Cost: each expert that a token passes reads its weights once, for all of its tokens; the others are not touched
    /// - Memory: of several tokens, which may pass every expert, the weights of one expert at a time; those of a single token's
    ///   experts stay, for the next one
    pub(crate) fn forward(&self, x: &[f32], scratch: &mut Scratch) -> Vec<f32> {
        let routes = self.routing.of_logits(self.router.forward(x, scratch));
        let mut y = vec![0f32; x.len()];
        for (expert, routes) in self.experts.iter().zip(&routes).filter(|(_, routes)| !routes.is_empty()) {
            let given = expert.forward(&self.gather(x, routes), scratch);
            self.scatter(&given, routes, &mut y, |route| route.weight);
            if x.len() > self.router.weight().n_in() {
                expert.release();
            }
        }
        y
    }

    /// Of gradients `y` by the outputs, adds those by the inputs `x`; all `[T, hidden]`. Which experts a token passes is taken
    /// for constant.
    ///
    /// With weights w of the experts that pass, products a of the gradient with what these give, and m = Σ w a: the gradient by
    /// a logit is w a - w m where weights are renormalised, and else w a - p m, p the probabilities of all experts.
    pub(crate) fn add_backward(&self, x: &[f32], y: &[f32], into: &mut [f32], scratch: &mut Scratch) {
        let Routing { n_experts, renormalises, .. } = self.routing;
        let width = self.router.weight().n_in();
        let mut probabilities = self.router.forward(x, scratch);
        self.routing.probabilities(&mut probabilities);
        let routes = self.routing.of_probabilities(&probabilities);
        let mut by_logits = vec![0f32; probabilities.len()];
        if renormalises {
            probabilities.fill(0.0);
        }
        for (index, (expert, routes)) in self.experts.iter().zip(&routes).enumerate() {
            if routes.is_empty() {
                continue;
            }
            let (rows, mut gradients) = (self.gather(x, routes), self.gather(y, routes));
            let inner = expert.inner(&rows, scratch);
            let given = expert.given(&inner, scratch);
            let each = gradients.chunks_exact_mut(width).zip(given.chunks_exact(width)).zip(routes);
            for ((gradient, given), Route { token, weight }) in each {
                by_logits[token * n_experts + index] = weight * dot(gradient, given);
                if renormalises {
                    probabilities[token * n_experts + index] = *weight;
                }
                scale(gradient, *weight);
            }
            let mut by_rows = vec![0f32; rows.len()];
            expert.add_backward(inner, &gradients, &mut by_rows, scratch);
            self.scatter(&by_rows, routes, into, |_| 1.0);
            expert.release();
        }
        for (by_logits, shares) in by_logits.chunks_exact_mut(n_experts).zip(probabilities.chunks_exact(n_experts)) {
            let mean: f32 = by_logits.iter().sum();
            axpy(-mean, shares, by_logits);
        }
        self.router.add_backward(&by_logits, into, scratch);
    }

    /// The rows of the tokens that pass an expert.
    fn gather(&self, x: &[f32], routes: &[Route]) -> Vec<f32> {
        let width = self.router.weight().n_in();
        routes.iter().flat_map(|route| &x[route.token * width..][..width]).copied().collect()
    }

    /// Adds rows to those of their tokens, each times a factor.
    fn scatter(&self, rows: &[f32], routes: &[Route], into: &mut [f32], factor: impl Fn(&Route) -> f32) {
        let width = self.router.weight().n_in();
        for (route, row) in routes.iter().zip(rows.chunks_exact(width)) {
            axpy(factor(route), row, &mut into[route.token * width..][..width]);
        }
    }

    /// The matrices by their names.
    pub(crate) fn maps(&self) -> Vec<(String, &Linear)> {
        let mut maps = vec![(ROUTERS[0].to_string(), &self.router)];
        for (index, expert) in self.experts.iter().enumerate() {
            maps.extend(expert.maps().map(|(part, map)| (format!("mlp.experts.{index}.{part}"), map)));
        }
        maps
    }

    /// Bytes of the experts that a token does not pass; all are of one size.
    pub(crate) fn idle_bytes(&self) -> u64 {
        self.experts.first().map_or(0, Mlp::bytes) * self.routing.n_idle()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::StorageType;
    use crate::model::config::Activation;
    use crate::model::matrix::Matrix;

    fn linear(shape: [usize; 2], weights: &[f32]) -> Linear {
        let bytes = weights.iter().flat_map(|x| x.to_le_bytes()).collect();
        Linear::new(Arc::new(Matrix::new(StorageType::F32, bytes, shape, None).unwrap()), None)
    }

    /// Three experts, of which two are passed: expert e has a gate of 1000 x₀, which silu leaves as it is, an up of x₁ and a
    /// down of (e + 1, -1).
    fn mixture(renormalises: bool) -> Mixture {
        let expert = |e: usize| Mlp {
            gate: linear([1, 2], &[1000.0, 0.0]),
            up: linear([1, 2], &[0.0, 1.0]),
            down: linear([2, 1], &[(e + 1) as f32, -1.0]),
            activation: Activation::Silu,
        };
        Mixture {
            // Probabilities of the token (1, 3): 1/2, 1/8, 3/8.
            router: linear([3, 2], &[2f32.ln(), 0.0, -(2f32.ln()), 0.0, 0.0, (1.5f32).ln() / 3.0]),
            experts: (0..3).map(expert).collect(),
            routing: Routing { n_experts: 3, n_used: 2, renormalises },
        }
    }

    #[test]
    fn an_uneven_case_by_hand() {
        // Logits ln 2, -ln 2, ln 3/2: in proportion 4 to 1 to 3. The first and third expert pass, with 4/7 and 3/7 of each.
        let routing = mixture(true).routing;
        let logits = vec![2f32.ln(), -(2f32.ln()), 1.5f32.ln(), -(2f32.ln()), 2f32.ln(), 1.5f32.ln()];
        let close = |found: &[Vec<Route>], expected: [&[(usize, f32)]; 3]| {
            for (found, expected) in found.iter().zip(expected) {
                assert_eq!(found.len(), expected.len(), "{found:?}");
                for (found, (token, weight)) in found.iter().zip(expected) {
                    assert!(found.token == *token && (found.weight - weight).abs() < 1e-6, "{found:?}");
                }
            }
        };
        let (four, three) = (4.0 / 7.0, 3.0 / 7.0);
        close(&routing.of_logits(logits.clone()), [&[(0, four)], &[(1, four)], &[(0, three), (1, three)]]);
        let plain = Routing { renormalises: false, ..routing };
        close(&plain.of_logits(logits), [&[(0, 0.5)], &[(1, 0.5)], &[(0, 0.375), (1, 0.375)]]);
        // Of equal ones the first.
        close(&plain.of_logits(vec![0.0; 3]), [&[(0, 1.0 / 3.0)], &[(0, 1.0 / 3.0)], &[]]);
        // The token (1, 3): gate 1000, up 3; the experts give 3000 times (1, -1) and (3, -1).
        let x = [1.0, 3.0];
        let y = mixture(true).forward(&x, &mut Scratch::default());
        let wanted = [3000.0 * (four + 3.0 * three), -3000.0];
        assert!(y.iter().zip(wanted).all(|(y, wanted)| (y - wanted).abs() < 3e-3), "{y:?}");
        let y = mixture(false).forward(&x, &mut Scratch::default());
        let wanted = [3000.0 * (0.5 + 3.0 * 0.375), -3000.0 * 0.875];
        assert!(y.iter().zip(wanted).all(|(y, wanted)| (y - wanted).abs() < 3e-3), "{y:?}");
    }

    #[test]
    fn its_gradient_by_hand() {
        // By the outputs (1, 0), of the token (1, 3): the experts' products are 3000 and 9000, their mean 3000 · 13 / 7. By the
        // logits: 4/7 · 3000 (1 - 13/7) and its opposite. By x: the experts' own, (13/7) (3000, 1000), and the router's.
        let mut into = [0.0; 2];
        mixture(true).add_backward(&[1.0, 3.0], &[1.0, 0.0], &mut into, &mut Scratch::default());
        let first = -4.0 / 7.0 * 3000.0 * 6.0 / 7.0;
        let wanted = [13.0 / 7.0 * 3000.0 + first * 2f32.ln(), 13.0 / 7.0 * 1000.0 - first * 1.5f32.ln() / 3.0];
        assert!(into.iter().zip(wanted).all(|(x, wanted)| (x - wanted).abs() < 1e-2), "{into:?} is not {wanted:?}");
        // Not renormalised, the second expert's logit counts: products 1500 and 3375, their sum m = 4875; by the logits
        // 1500 - m / 2, -m / 8 and 3375 - 3 m / 8.
        let mut into = [0.0; 2];
        mixture(false).add_backward(&[1.0, 3.0], &[1.0, 0.0], &mut into, &mut Scratch::default());
        let m = 4875.0;
        let by = [1500.0 - m / 2.0, -m / 8.0, 3375.0 - 3.0 * m / 8.0];
        let wanted = [1.625 * 3000.0 + (by[0] - by[1]) * 2f32.ln(), 1.625 * 1000.0 + by[2] * 1.5f32.ln() / 3.0];
        assert!(into.iter().zip(wanted).all(|(x, wanted)| (x - wanted).abs() < 1e-2), "{into:?} is not {wanted:?}");
    }
}
