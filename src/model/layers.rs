//! The decoder's building blocks on the CPU: linear maps, RMS norm, gated activation.

use std::borrow::Cow;
use std::sync::Arc;

use rayon::prelude::*;

use crate::math::{GELU_CUBIC, GELU_SLOPE, axpy, dot, gelu_product, scale, scale_each, silu_product};
use crate::model::config::Activation;
use crate::model::matrix::{Matrix, Scratch, add_transposed, multiply};

/// y = f (W x + b).
#[derive(Debug)]
pub(crate) struct Linear {
    /// `[out, in]`.
    weight: Arc<Matrix>,
    /// `[out]`.
    bias: Option<Vec<f32>>,
    factor: f32,
}

impl Linear {
    pub(crate) fn new(weight: Arc<Matrix>, bias: Option<Vec<f32>>) -> Self {
        Self { weight, bias, factor: 1.0 }
    }

    /// The same, times a factor more.
    pub(crate) fn times(self, factor: f32) -> Self {
        Self { factor: self.factor * factor, ..self }
    }

    /// By what the sum is multiplied.
    pub(crate) fn factor(&self) -> f32 {
        self.factor
    }

    /// Bytes in memory.
    pub(crate) fn bytes(&self) -> u64 {
        self.weight.bytes() + 4 * self.bias.as_ref().map_or(0, Vec::len) as u64
    }

    /// Rows of f W from `first` on, `[rows, in]`, as many as `out` holds.
    pub(crate) fn widen_rows(&self, first: usize, out: &mut [f32]) {
        self.weight.widen_rows_in_parallel(first, out);
        if self.factor != 1.0 {
            scale(out, self.factor);
        }
    }

    /// The weight `[out, in]`.
    pub(crate) fn weight(&self) -> &Matrix {
        &self.weight
    }

    /// What is added to the product.
    pub(crate) fn bias(&self) -> Option<&[f32]> {
        self.bias.as_deref()
    }

    /// `x` `[T, in]` → `[T, out]`.
    pub(crate) fn forward(&self, x: &[f32], scratch: &mut Scratch) -> Vec<f32> {
        let [y] = Self::forward_all([self], x, scratch);
        y
    }

    /// Several maps of the same `x`; with one row in one parallel region.
    pub(crate) fn forward_all<const N: usize>(maps: [&Self; N], x: &[f32], scratch: &mut Scratch) -> [Vec<f32>; N] {
        let n_rows = x.len() / maps[0].weight.n_in();
        let mut y = maps.map(|map| vec![0f32; n_rows * map.weight.n_out()]);
        let mut out = y.iter_mut();
        let products = maps.map(|map| (&*map.weight, out.next().map_or(&mut [][..], |y| y)));
        multiply(x, products, scratch);
        for (map, y) in maps.iter().zip(&mut y) {
            if let Some(bias) = &map.bias {
                y.chunks_exact_mut(bias.len()).for_each(|row| row.iter_mut().zip(bias).for_each(|(y, b)| *y += b));
            }
            if map.factor != 1.0 {
                scale(y, map.factor);
            }
        }
        y
    }

    /// Of gradients by the outputs, adds those by the inputs: `x += f y W`.
    ///
    /// - Shape: y `[T, out]`, x `[T, in]`
    pub(crate) fn add_backward(&self, y: &[f32], x: &mut [f32], scratch: &mut Scratch) {
        if self.factor == 1.0 {
            return add_transposed(&self.weight, y, x, scratch);
        }
        let mut y = y.to_vec();
        scale(&mut y, self.factor);
        add_transposed(&self.weight, &y, x, scratch);
    }
}

/// W_down (activation(W_gate x) · W_up x): a feed-forward layer, or one expert of a mixture.
#[derive(Debug)]
pub(crate) struct Mlp {
    pub(crate) gate: Linear,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
    pub(crate) activation: Activation,
}

impl Mlp {
    /// `x` `[T, hidden]` → `[T, hidden]`.
    pub(crate) fn forward(&self, x: &[f32], scratch: &mut Scratch) -> Vec<f32> {
        let [gate, up] = self.inner(x, scratch);
        self.gated(gate, &up, scratch)
    }

    /// What the gate and the up map give, `[T, inner]` each, from which [`Mlp::given`] and [`Mlp::add_backward`] go on.
    pub(crate) fn inner(&self, x: &[f32], scratch: &mut Scratch) -> [Vec<f32>; 2] {
        Linear::forward_all([&self.gate, &self.up], x, scratch)
    }

    /// As [`Mlp::forward`] of the same inputs.
    pub(crate) fn given(&self, [gate, up]: &[Vec<f32>; 2], scratch: &mut Scratch) -> Vec<f32> {
        self.gated(gate.clone(), up, scratch)
    }

    fn gated(&self, mut gate: Vec<f32>, up: &[f32], scratch: &mut Scratch) -> Vec<f32> {
        gate_with(&mut gate, up, self.activation);
        self.down.forward(&gate, scratch)
    }

    /// Of gradients `y` by the outputs, adds those by the inputs; both `[T, hidden]`.
    pub(crate) fn add_backward(
        &self,
        [mut gate, mut up]: [Vec<f32>; 2],
        y: &[f32],
        into: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let mut by_inner = vec![0f32; gate.len()];
        self.down.add_backward(y, &mut by_inner, scratch);
        gate_backward(&mut gate, &mut up, &by_inner, self.activation);
        self.gate.add_backward(&gate, into, scratch);
        self.up.add_backward(&up, into, scratch);
    }

    /// The matrices by their names.
    pub(crate) fn maps(&self) -> [(&'static str, &Linear); 3] {
        [("gate_proj", &self.gate), ("up_proj", &self.up), ("down_proj", &self.down)]
    }

    /// Bytes in memory, once all was multiplied.
    pub(crate) fn bytes(&self) -> u64 {
        self.maps().iter().map(|(_, map)| map.bytes()).sum()
    }

    /// Lets go of the pages of weights that lie in a mapped file.
    pub(crate) fn release(&self) {
        self.maps().iter().for_each(|(_, map)| map.weight.release());
    }
}

/// x / √(mean(x²) + eps) · weight, over the last dimension of `weight.len()`.
///
/// Source: Zhang and Sennrich 2019 (arXiv 1910.07467).
pub(crate) fn rms_norm(x: &mut [f32], weight: &[f32], eps: f64) {
    x.par_chunks_mut(weight.len()).with_min_len(16).for_each(|row| {
        let mean_square = f64::from(dot(row, row)) / weight.len() as f64;
        // Squares beyond f32 would give a row of zeros, which nothing could tell from a result.
        let factor = if mean_square.is_finite() { (1.0 / (mean_square + eps).sqrt()) as f32 } else { f32::NAN };
        scale_each(row, weight, factor);
    });
}

/// A copy that [`rms_norm`] has passed, or `x` itself where there is no norm.
pub(crate) fn normed<'a>(x: &'a [f32], weight: Option<&Vec<f32>>, eps: f64) -> Cow<'a, [f32]> {
    let Some(weight) = weight else { return x.into() };
    let mut h = x.to_vec();
    rms_norm(&mut h, weight, eps);
    h.into()
}

/// Of gradients `y` by what [`normed`] makes of `x`, adds those by `x`.
pub(crate) fn add_normed_backward(x: &[f32], weight: Option<&Vec<f32>>, eps: f64, y: &[f32], into: &mut [f32]) {
    match weight {
        Some(weight) => add_rms_norm_backward(x, weight, eps, y, into),
        None => add(into, y),
    }
}

/// Of gradients `y` by what [`rms_norm`] makes of `x`, adds those by `x`: with r = 1 / √(mean(x²) + eps), those are
/// r (w y - x r² mean(x w y)).
pub(crate) fn add_rms_norm_backward(x: &[f32], weight: &[f32], eps: f64, y: &[f32], into: &mut [f32]) {
    let n = weight.len();
    let rows = into.par_chunks_mut(n).zip(x.par_chunks(n)).zip(y.par_chunks(n)).with_min_len(16);
    rows.for_each(|((into, x), y)| {
        let mut weighed = y.to_vec();
        scale_each(&mut weighed, weight, 1.0);
        let inverse_square = 1.0 / (f64::from(dot(x, x)) / n as f64 + eps);
        let factor = inverse_square.sqrt();
        axpy(factor as f32, &weighed, into);
        axpy((-factor * inverse_square * f64::from(dot(x, &weighed)) / n as f64) as f32, x, into);
    });
}

/// `gate = activation(gate) · up`, elementwise.
pub(crate) fn gate_with(gate: &mut [f32], up: &[f32], activation: Activation) {
    let product = match activation {
        Activation::Silu => silu_product,
        Activation::GeluTanh => gelu_product,
    };
    gate.par_chunks_mut(4096).zip(up.par_chunks(4096)).for_each(|(gate, up)| product(gate, up));
}

/// Of gradients by what [`gate_with`] makes of `gate` and `up`, makes those by these, in their places.
pub(crate) fn gate_backward(gate: &mut [f32], up: &mut [f32], gradients: &[f32], activation: Activation) {
    // Both activations are x times a sigmoid: of x itself, or of twice GELU's argument.
    let inner = |x: f32| match activation {
        Activation::Silu => (x, 1.0),
        Activation::GeluTanh => {
            let (argument, slope) = (x + GELU_CUBIC * x * x * x, 1.0 + 3.0 * GELU_CUBIC * x * x);
            (2.0 * GELU_SLOPE * argument, 2.0 * GELU_SLOPE * slope)
        }
    };
    let chunks = gate.par_chunks_mut(4096).zip(up.par_chunks_mut(4096)).zip(gradients.par_chunks(4096));
    chunks.for_each(|((gate, up), gradients)| {
        for ((gate, up), gradient) in gate.iter_mut().zip(up).zip(gradients) {
            let (argument, slope) = inner(*gate);
            let sigmoid = 1.0 / (1.0 + (-argument).exp());
            let active = *gate * sigmoid;
            (*gate, *up) = (gradient * *up * (sigmoid + active * (1.0 - sigmoid) * slope), gradient * active);
        }
    });
}

/// `x += y`.
pub(crate) fn add(x: &mut [f32], y: &[f32]) {
    x.par_chunks_mut(4096).zip(y.par_chunks(4096)).for_each(|(x, y)| axpy(1.0, y, x));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norm_and_gate_by_hand() {
        // Mean square of (3, 4) is 12.5; with eps 3.5 the root is 4.
        let mut x = [3.0, 4.0];
        rms_norm(&mut x, &[2.0, 0.5], 3.5);
        assert_eq!(x, [1.5, 0.5]);
        let mut gate = [0.0f32, 2.0];
        gate_with(&mut gate, &[5.0, 3.0], Activation::Silu);
        assert_eq!(gate[0], 0.0);
        assert!((gate[1] - 6.0 / (1.0 + (-2f32).exp())).abs() < 1e-6);
    }

    #[test]
    fn gelu_is_its_formula_and_its_gradient_a_difference() {
        let gelu = |x: f64| {
            let argument = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + argument.tanh())
        };
        for i in -60..=60 {
            let x = f64::from(i) * 0.2;
            let (mut gate, mut up) = ([x as f32], [3.0f32]);
            gate_with(&mut gate, &up, Activation::GeluTanh);
            assert!((f64::from(gate[0]) - 3.0 * gelu(x)).abs() < 2e-6 * (1.0 + x.abs()), "{x}: {}", gate[0]);
            gate = [x as f32];
            gate_backward(&mut gate, &mut up, &[2.0], Activation::GeluTanh);
            let slope = (gelu(x + 1e-5) - gelu(x - 1e-5)) / 2e-5;
            assert!((f64::from(gate[0]) - 6.0 * slope).abs() < 1e-4, "{x}: {}", gate[0]);
            assert!((f64::from(up[0]) - 2.0 * gelu(x)).abs() < 1e-5, "{x}: {}", up[0]);
        }
    }

    #[test]
    fn gradients_of_norm_and_gate_by_hand() {
        // As above: r = 1/4. By the outputs (1, 4), w y = (2, 2), and mean(x w y) is 7.
        let mut into = [10.0, 0.0];
        add_rms_norm_backward(&[3.0, 4.0], &[2.0, 0.5], 3.5, &[1.0, 4.0], &mut into);
        assert_eq!(into, [10.0 + 0.5 - 21.0 / 64.0, 0.5 - 28.0 / 64.0]);
        // silu has slope 1/2 at 0.
        let (mut gate, mut up) = ([0.0, 2f32.ln()], [5.0, 3.0]);
        gate_backward(&mut gate, &mut up, &[2.0, 1.0], Activation::Silu);
        let (third, log) = (1.0 / 3.0f32, 2f32.ln());
        assert_eq!((gate[0], up[0]), (5.0, 0.0));
        let wanted = [3.0 * (2.0 * third + log * 2.0 * third * third), log * 2.0 * third];
        assert!((gate[1] - wanted[0]).abs() < 1e-6 && (up[1] - wanted[1]).abs() < 1e-6, "{gate:?} {up:?}");
    }
}
