//! The decoder's building blocks on the CPU: linear maps, RMS norm, gated activation.

use candle_core::CpuStorage;
use candle_core::Device;
use candle_core::Storage;
use candle_core::Tensor;
use rayon::prelude::*;

use crate::math::dot;
use crate::math::dot_rows;
use crate::math::exp_slice;

/// Output rows of a matrix-vector product per task: 64 rows of 576 are 147 kB, a good size for a core's L2.
const ROWS_PER_TASK: usize = 64;

/// y = W x + b.
#[derive(Debug)]
pub(crate) struct Linear {
    /// `[out, in]`.
    weight: Tensor,
    /// `[out]`.
    bias: Option<Vec<f32>>,
}

impl Linear {
    pub(crate) fn new(weight: Tensor, bias: Option<Vec<f32>>) -> Self {
        Self { weight, bias }
    }

    /// `x` `[T, in]` → `[T, out]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor, candle_core::Error> {
        let (n_rows, width) = x.dims2()?;
        let n_out = self.weight.dim(0)?;
        if n_rows > 1 {
            let y = x.matmul(&self.weight.t()?)?;
            let Some(bias) = &self.bias else { return Ok(y) };
            let mut y = to_vec(&y)?;
            y.par_chunks_mut(n_out).for_each(|row| row.iter_mut().zip(bias).for_each(|(y, b)| *y += b));
            return Tensor::from_vec(y, (n_rows, n_out), &Device::Cpu);
        }
        // One row is bound by reading the weights; a general matrix product uses one thread and half the bandwidth.
        let mut y = vec![0f32; n_out];
        with_slices([x, &self.weight], |[x, weight]| {
            y.par_chunks_mut(ROWS_PER_TASK).enumerate().for_each(|(task, out)| {
                let start = task * ROWS_PER_TASK;
                dot_rows(&weight[start * width..(start + out.len()) * width], x, out);
                if let Some(bias) = &self.bias {
                    out.iter_mut().zip(&bias[start..]).for_each(|(y, b)| *y += b);
                }
            });
        })?;
        Tensor::from_vec(y, (1, n_out), &Device::Cpu)
    }
}

/// x / √(mean(x²) + eps) · weight, over the last dimension of `weight.len()`.
///
/// Source: Zhang and Sennrich 2019 (arXiv 1910.07467).
pub(crate) fn rms_norm(x: &mut [f32], weight: &[f32], eps: f64) {
    x.par_chunks_mut(weight.len()).with_min_len(16).for_each(|row| {
        let mean_square = f64::from(dot(row, row)) / weight.len() as f64;
        let factor = (1.0 / (mean_square + eps).sqrt()) as f32;
        row.iter_mut().zip(weight).for_each(|(x, w)| *x *= factor * w);
    });
}

/// silu(gate) · up, elementwise.
pub(crate) fn gated(gate: &Tensor, up: &Tensor) -> Result<Tensor, candle_core::Error> {
    let mut out = vec![0f32; gate.elem_count()];
    with_slices([gate, up], |[gate, up]| {
        const PART: usize = 4096;
        out.par_chunks_mut(PART).enumerate().for_each(|(i, out)| {
            let (gate, up) = (&gate[i * PART..], &up[i * PART..]);
            out.iter_mut().zip(gate).for_each(|(y, x)| *y = -x);
            exp_slice(out);
            out.iter_mut().zip(gate.iter().zip(up)).for_each(|(y, (gate, up))| *y = gate / (1.0 + *y) * up);
        });
    })?;
    Tensor::from_vec(out, gate.shape(), &Device::Cpu)
}

/// `x += y`.
pub(crate) fn add(x: &mut [f32], y: &Tensor) -> Result<(), candle_core::Error> {
    with_slices([y], |[y]| {
        x.par_chunks_mut(4096)
            .zip(y.par_chunks(4096))
            .for_each(|(x, y)| x.iter_mut().zip(y).for_each(|(x, y)| *x += y));
    })
}

/// The tensor's values, in row-major order.
pub(crate) fn to_vec(x: &Tensor) -> Result<Vec<f32>, candle_core::Error> {
    let mut out = Vec::new();
    with_slices([x], |[x]| out = x.to_vec())?;
    Ok(out)
}

/// Lends the values of contiguous f32 tensors on the CPU.
pub(crate) fn with_slices<const N: usize>(
    tensors: [&Tensor; N],
    run: impl FnOnce([&[f32]; N]),
) -> Result<(), candle_core::Error> {
    let guards: Vec<_> = tensors.iter().map(|t| t.storage_and_layout()).collect();
    let mut slices: [&[f32]; N] = [&[]; N];
    for (slice, (storage, layout)) in slices.iter_mut().zip(&guards) {
        let (start, end) =
            layout.contiguous_offsets().ok_or_else(|| candle_core::Error::RequiresContiguous { op: "slice" })?;
        *slice = match &**storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[start..end],
            _ => candle_core::bail!("an f32 tensor on the CPU is needed"),
        };
    }
    run(slices);
    Ok(())
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
        let gate = Tensor::new(&[[0.0f32, 2.0]], &Device::Cpu).unwrap();
        let up = Tensor::new(&[[5.0f32, 3.0]], &Device::Cpu).unwrap();
        let y = to_vec(&gated(&gate, &up).unwrap()).unwrap();
        assert_eq!(y[0], 0.0);
        assert!((y[1] - 6.0 / (1.0 + (-2f32).exp())).abs() < 1e-6);
    }

    #[test]
    fn one_row_and_many_rows_agree() {
        let weight: Vec<f32> = (0..130 * 40).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
        let weight = Tensor::from_vec(weight, (130, 40), &Device::Cpu).unwrap();
        let bias: Vec<f32> = (0..130).map(|i| i as f32 / 10.0).collect();
        let linear = Linear::new(weight, Some(bias));
        let x: Vec<f32> = (0..80).map(|i| (i as f32).sin()).collect();
        let both =
            to_vec(&linear.forward(&Tensor::from_vec(x.clone(), (2, 40), &Device::Cpu).unwrap()).unwrap()).unwrap();
        for row in 0..2 {
            let one = Tensor::from_vec(x[row * 40..(row + 1) * 40].to_vec(), (1, 40), &Device::Cpu).unwrap();
            let one = to_vec(&linear.forward(&one).unwrap()).unwrap();
            for (a, b) in one.iter().zip(&both[row * 130..]) {
                assert!((a - b).abs() < 1e-4, "{a} {b}");
            }
        }
    }
}
