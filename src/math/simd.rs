//! Vector kernels on f32 slices, compiled for AVX-512, AVX2 + FMA and the baseline, chosen at run time.
//!
//! Sums run over 32 independent lanes, so the order of additions is fixed by the code and not by the thread count.
//! On one machine equal inputs give equal bits; between machines with and without FMA the last bits differ.

use std::cmp::Ordering;

use multiversion::multiversion;

/// Lanes of a partial sum: four AVX2 registers, enough to hide the latency of an FMA.
const LANES: usize = 32;
/// Thresholds that are compared with at once: a register of AVX-512.
pub const THRESHOLDS: usize = 16;

/// Inner product ⟨a, b⟩ over the shorter length.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    dot_lanes(a, b)
}

/// `out[j] = ⟨rows[j], x⟩`: one column of scores, or a matrix times a vector.
///
/// - Shape: rows `[n, D]`, x `[D]`, out `[n]`
#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
pub fn dot_rows(rows: &[f32], x: &[f32], out: &mut [f32]) {
    for (row, out) in rows.chunks_exact(x.len().max(1)).zip(out) {
        *out = dot_lanes(row, x);
    }
}

/// `out += Σ_j weights[j] · rows[j]`: a weighted sum of values.
///
/// - Shape: rows `[n, D]`, weights `[n]`, out `[D]`
#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
pub fn add_weighted_rows(rows: &[f32], weights: &[f32], out: &mut [f32]) {
    let width = out.len().max(1);
    for (row, weight) in rows.chunks_exact(width).zip(weights) {
        for (out, x) in out.iter_mut().zip(row) {
            *out += weight * x;
        }
    }
}

#[inline(always)]
fn dot_lanes(a: &[f32], b: &[f32]) -> f32 {
    let n = a.len().min(b.len());
    let (a, b) = (&a[..n], &b[..n]);
    let mut lanes = [0f32; LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (x, y) in a_chunks.iter().zip(b_chunks) {
        for i in 0..LANES {
            lanes[i] += x[i] * y[i];
        }
    }
    let mut tail = 0f32;
    for (x, y) in a_rest.iter().zip(b_rest) {
        tail += x * y;
    }
    fold(&lanes) + tail
}

/// Squared Euclidean distance ‖a - b‖² over the shorter length.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
pub fn squared_distance(a: &[f32], b: &[f32]) -> f32 {
    let n = a.len().min(b.len());
    let (a, b) = (&a[..n], &b[..n]);
    let mut lanes = [0f32; LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (x, y) in a_chunks.iter().zip(b_chunks) {
        for i in 0..LANES {
            let difference = x[i] - y[i];
            lanes[i] += difference * difference;
        }
    }
    let mut tail = 0f32;
    for (x, y) in a_rest.iter().zip(b_rest) {
        tail += (x - y) * (x - y);
    }
    fold(&lanes) + tail
}

/// Cosine of two vectors; `None` when one of them has no direction (zero or not finite).
///
/// ```
/// assert_eq!(kvscope::math::cosine(&[3.0, 4.0], &[4.0, 3.0]), Some(0.96));
/// assert_eq!(kvscope::math::cosine(&[0.0, 0.0], &[4.0, 3.0]), None);
/// ```
pub fn cosine(a: &[f32], b: &[f32]) -> Option<f32> {
    let norms = (f64::from(dot(a, a)) * f64::from(dot(b, b))).sqrt();
    let value = f64::from(dot(a, b)) / norms;
    (norms > 0.0 && value.is_finite()).then(|| value.clamp(-1.0, 1.0) as f32)
}

/// What scales a vector of that squared length to length 1; `None` when it has no direction, its squared length being 0 or not
/// finite.
pub fn unit_factor(square: f32) -> Option<f32> {
    let norm = f64::from(square).sqrt();
    (norm > 0.0 && norm.is_finite()).then(|| (1.0 / norm) as f32)
}

/// `y += factor · x`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
pub fn axpy(factor: f32, x: &[f32], y: &mut [f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += factor * x;
    }
}

/// `x *= factor`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
pub fn scale(x: &mut [f32], factor: f32) {
    for x in x {
        *x *= factor;
    }
}

/// Sum in double precision.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
pub fn sum(x: &[f32]) -> f64 {
    let mut lanes = [0f64; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] += f64::from(chunk[i]);
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|x| f64::from(*x)).sum::<f64>()
}

/// Thresholds, sixteen at a time, and how many there are of them; places behind the last hold +∞, which nothing exceeds.
pub fn threshold_lanes(thresholds: &[f32]) -> impl Iterator<Item = ([f32; THRESHOLDS], usize)> {
    thresholds.chunks(THRESHOLDS).map(|thresholds| {
        let mut lanes = [f32::INFINITY; THRESHOLDS];
        lanes[..thresholds.len()].copy_from_slice(thresholds);
        (lanes, thresholds.len())
    })
}

/// For each threshold, how many elements are greater.
///
/// - Cost: O(n) for every sixteen thresholds
pub fn counts_above(x: &[f32], thresholds: &[f32]) -> Vec<u64> {
    threshold_lanes(thresholds).flat_map(|(lanes, n)| count_lanes(x, &lanes).into_iter().take(n)).collect()
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn count_lanes(x: &[f32], thresholds: &[f32; THRESHOLDS]) -> [u64; THRESHOLDS] {
    let mut counts = [0u64; THRESHOLDS];
    for x in x {
        for lane in 0..THRESHOLDS {
            counts[lane] += u64::from(*x > thresholds[lane]);
        }
    }
    counts
}

/// Place of the first element whose magnitude is not below `limit`, `None` where all are. NaN is below nothing, so that a
/// limit of infinity finds what is not finite.
pub fn first_not_below(x: &[f32], limit: f32) -> Option<usize> {
    const AT_ONCE: usize = 1024;
    let is_beyond = |x: &f32| x.abs().partial_cmp(&limit) != Some(Ordering::Less);
    let chunks = x.chunks(AT_ONCE).enumerate();
    let mut found = chunks.filter(|(_, chunk)| !all_below(chunk, limit));
    found.find_map(|(i, chunk)| Some(i * AT_ONCE + chunk.iter().position(is_beyond)?))
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn all_below(x: &[f32], limit: f32) -> bool {
    x.iter().fold(true, |all, x| all & (x.abs() < limit))
}

/// Least and greatest element; +∞ and -∞ of an empty slice.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
pub fn range(x: &[f32]) -> [f32; 2] {
    let (mut least, mut greatest) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            least[i] = if chunk[i] < least[i] { chunk[i] } else { least[i] };
            greatest[i] = if chunk[i] > greatest[i] { chunk[i] } else { greatest[i] };
        }
    }
    let all = |of: [f32; LANES]| of.into_iter().chain(rest.iter().copied());
    [all(least).fold(f32::INFINITY, f32::min), all(greatest).fold(f32::NEG_INFINITY, f32::max)]
}

/// Largest element; -∞ of an empty slice.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
pub fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = if chunk[i] > lanes[i] { chunk[i] } else { lanes[i] };
        }
    }
    let mut best = f32::NEG_INFINITY;
    for x in lanes.iter().chain(rest) {
        best = best.max(*x);
    }
    best
}

/// `x *= factor · weights`, elementwise.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
pub fn scale_each(x: &mut [f32], weights: &[f32], factor: f32) {
    for (x, weight) in x.iter_mut().zip(weights) {
        *x *= factor * weight;
    }
}

/// `gate = silu(gate) · up`, elementwise, where silu(x) = x / (1 + exp(-x)).
#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
pub fn silu_product(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = *gate / (1.0 + exp_lane(-*gate)) * up;
    }
}

/// `gate = gelu(gate) · up`, elementwise, where gelu(x) = x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2.
///
/// The half of 1 + tanh(y) is 1 / (1 + exp(-2y)).
#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
pub fn gelu_product(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        let x = *gate;
        *gate = x / (1.0 + exp_lane(-2.0 * GELU_SLOPE * (x + GELU_CUBIC * x * x * x))) * up;
    }
}

/// √(2/π).
pub const GELU_SLOPE: f32 = 0.797_884_6;
/// Of the cubic term in GELU's argument.
pub const GELU_CUBIC: f32 = 0.044_715;

/// `x = exp(x - shift)`, returning the sum of the results: the heart of a softmax.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
pub fn exp_shifted_sum(x: &mut [f32], shift: f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let (chunks, rest) = x.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            chunk[i] = exp_lane(chunk[i] - shift);
            lanes[i] += chunk[i];
        }
    }
    let mut tail = 0f32;
    for x in rest {
        *x = exp_lane(*x - shift);
        tail += *x;
    }
    fold(&lanes) + tail
}

/// The value of a number in IEEE half precision, without a branch, so that loops over it become vector code.
#[inline(always)]
pub fn f16_to_f32(bits: u16) -> f32 {
    // 2^112: the difference of the exponents' biases.
    const REBIAS: f32 = f32::from_bits((127 + 112) << 23);
    let bits = u32::from(bits);
    let magnitude = (f32::from_bits((bits & 0x7fff) << 13) * REBIAS).to_bits();
    let special = if bits & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(magnitude | special | (bits & 0x8000) << 16)
}

/// The value of a number that is the upper half of single precision.
#[inline(always)]
pub fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// exp(x) within 2 units in the last place; 0 below -87.3, +∞ never (saturates at exp(88)).
///
/// By range reduction to [-ln2/2, ln2/2] and a degree-6 Taylor-Horner polynomial (truncation error 1.2e-7 · |r|).
#[inline(always)]
fn exp_lane(x: f32) -> f32 {
    // ln 2 in two parts, the first with few enough bits that n · LN2_HIGH is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // 1.5 · 2^23: adding it rounds to the nearest integer, which then stands in the low mantissa bits.
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x > 88.0 { 88.0 } else { x };
    let clamped = if clamped < -87.3 { -87.3 } else { clamped };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = clamped - n * LN2_HIGH - n * LN2_LOW;
    let mut p = 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    if x < -87.3 { 0.0 } else { p * power }
}

/// Sum of the lanes of a partial sum, halves onto halves.
#[inline(always)]
pub(crate) fn fold(lanes: &[f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    let mut sums = *lanes;
    while width > 0 {
        for i in 0..width {
            sums[i] += sums[i + width];
        }
        width /= 2;
    }
    sums[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(n: usize, step: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * step).sin()).collect()
    }

    #[test]
    fn sums_counts_and_ranges_at_uneven_lengths() {
        for n in [0, 1, 31, 32, 77] {
            let x: Vec<f32> = (0..n).map(|i| ((i * 37) % 64) as f32 - 20.0).collect();
            assert_eq!(sum(&x), x.iter().map(|x| f64::from(*x)).sum::<f64>());
            let thresholds: Vec<f32> = (-9..9).map(|t| t as f32 * 4.0).collect();
            let counts = thresholds.iter().map(|t| x.iter().filter(|x| *x > t).count() as u64);
            assert_eq!(counts_above(&x, &thresholds), counts.collect::<Vec<_>>());
            let [least, greatest] = range(&x);
            assert_eq!(least, x.iter().copied().fold(f32::INFINITY, f32::min));
            assert_eq!(greatest, x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }

    #[test]
    fn products_agree_with_f64_at_every_remainder() {
        for n in [0, 1, 7, 31, 32, 33, 64, 100, 129] {
            let (a, b) = (ramp(n, 0.37), ramp(n, 0.81));
            let exact: f64 = a.iter().zip(&b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
            assert!((f64::from(dot(&a, &b)) - exact).abs() < 1e-5, "n = {n}");
            let exact: f64 = a.iter().zip(&b).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2)).sum();
            assert!((f64::from(squared_distance(&a, &b)) - exact).abs() < 1e-4, "n = {n}");
        }
    }

    #[test]
    fn cosine_of_an_uneven_pair_by_hand() {
        // (1,2,2)·(2,-1,2) = 4, norms 3 and 3.
        assert_eq!(cosine(&[1.0, 2.0, 2.0], &[2.0, -1.0, 2.0]), Some(4.0 / 9.0));
        assert_eq!(cosine(&[f32::NAN, 1.0], &[1.0, 1.0]), None);
        assert_eq!(cosine(&[0.0], &[0.0]), None);
    }

    #[test]
    fn exponential_is_within_two_units_in_the_last_place() {
        let mut worst = 0f64;
        for i in -87_000..88_000 {
            let x = i as f32 * 1e-3;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp_lane(x)) / exact - 1.0).abs());
        }
        assert!(worst < 2.5e-7, "relative error {worst:e}");
        assert_eq!([f32::NEG_INFINITY, -1000.0, 0.0].map(exp_lane), [0.0, 0.0, 1.0]);
    }

    #[test]
    fn every_half_precision_number_is_widened_exactly() {
        for bits in 0..=u16::MAX {
            let (found, exact) = (f16_to_f32(bits), half::f16::from_bits(bits).to_f32());
            assert!(found == exact || found.is_nan() && exact.is_nan(), "{bits:04x}: {found} is not {exact}");
            assert_eq!(found.is_sign_negative(), exact.is_sign_negative(), "{bits:04x}");
        }
    }

    #[test]
    fn shifted_sum_is_a_softmax_denominator() {
        let mut x: Vec<f32> = (0..70).map(|i| (i % 9) as f32).collect();
        let exact: f64 = x.iter().map(|v| f64::from(*v - 8.0).exp()).sum();
        let sum = exp_shifted_sum(&mut x, 8.0);
        assert!((f64::from(sum) / exact - 1.0).abs() < 1e-6);
        assert_eq!(max(&[1.0, 5.0, -2.0]), 5.0);
        assert_eq!(max(&[]), f32::NEG_INFINITY);
    }

    #[test]
    fn the_first_number_beyond_a_limit_is_found_wherever_it_stands() {
        for n in [0, 1, 7, 1024, 1025, 3000] {
            let mut x = vec![-3.0f32; n];
            assert_eq!(first_not_below(&x, 3.5), None);
            assert_eq!(first_not_below(&x, 3.0), (n > 0).then_some(0));
            for at in [0, 5, 1023, 1024, 2999].into_iter().filter(|at| *at < n) {
                for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    x[at] = odd;
                    assert_eq!(first_not_below(&x, f32::INFINITY), Some(at));
                }
                x[at] = -3.0;
            }
        }
    }
}
