//! Unpacked weights beside the tensor library's, products beside f64 loops.

use candle_core::quantized::QTensor;
use candle_core::{Device, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::model::matrix::format::FORMATS;

fn random(n: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
    (0..n).map(|_| rng.random_range(-1.5f32..1.5)).collect()
}

/// A random matrix of a type, quantised by the tensor library, and what the library unpacks it to.
fn quantised(format: &Format, shape: [usize; 2], rng: &mut ChaCha8Rng) -> (Matrix, Vec<f32>) {
    let values = Tensor::from_vec(random(shape[0] * shape[1], rng), shape.as_slice(), &Device::Cpu).unwrap();
    let stored = QTensor::quantize(&values, format.dtype).unwrap();
    let unpacked = stored.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    let matrix = Matrix::new(format.dtype, stored.data().unwrap().into_owned(), shape, None).unwrap();
    (matrix, unpacked)
}

#[test]
fn weights_are_those_of_the_tensor_library() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    for format in &FORMATS {
        let (matrix, expected) = quantised(format, [7, 512], &mut rng);
        let mut found = vec![0f32; 7 * 512];
        matrix.widen_rows(0, &mut found);
        for (i, (x, y)) in found.iter().zip(&expected).enumerate() {
            assert!((x - y).abs() <= 1e-6 * (1.0 + y.abs()), "{format:?}, weight {i}: {x} is not {y}");
        }
        let mut row = vec![0f32; 512];
        matrix.widen_rows(3, &mut row);
        assert_eq!(row, found[3 * 512..4 * 512]);
    }
}

#[test]
fn products_agree_with_f64_loops_for_every_type_and_remainder() {
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    for format in &FORMATS {
        let widths: &[usize] = match format.block_len {
            1 => &[1, 31, 64, 257, 580],
            32 => &[32, 96, 288, 576],
            _ => &[256, 768],
        };
        for n_in in widths.iter().copied() {
            for n_out in [1, 3, 4, 9, 70] {
                let (matrix, weights) = quantised(format, [n_out, n_in], &mut rng);
                for n_tokens in [1, 2, 5, 9] {
                    let x = random(n_tokens * n_in, &mut rng);
                    let (mut y, mut twice) = (vec![0f32; n_tokens * n_out], vec![0f32; n_tokens * n_out]);
                    multiply(&x, [(&matrix, &mut y), (&matrix, &mut twice)], &mut Scratch::default());
                    assert_eq!(y, twice);
                    for (i, y) in y.iter().enumerate() {
                        let (x, w) = (&x[i / n_out * n_in..][..n_in], &weights[i % n_out * n_in..][..n_in]);
                        let terms = || x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
                        let (exact, size) = (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>());
                        let error = (f64::from(*y) - exact).abs();
                        assert!(error <= 1e-6 * size, "{format:?}, {n_out} x {n_in}, {n_tokens} rows: {error:e}");
                    }
                }
            }
        }
    }
}

#[test]
fn transposed_products_add_those_of_f64_loops_for_every_type_and_remainder() {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    for format in &FORMATS {
        let n_in = 512;
        for (n_out, n_tokens) in [(1, 1), (9, 70), (70, 5)] {
            let (matrix, weights) = quantised(format, [n_out, n_in], &mut rng);
            let (y, mut x) = (random(n_tokens * n_out, &mut rng), vec![1f32; n_tokens * n_in]);
            add_transposed(&matrix, &y, &mut x, &mut Scratch::default());
            for (i, x) in x.iter().enumerate() {
                let y = &y[i / n_in * n_out..][..n_out];
                let column = weights.iter().skip(i % n_in).step_by(n_in);
                let terms = || y.iter().zip(column.clone()).map(|(y, w)| f64::from(*y) * f64::from(*w));
                let (exact, size) = (1.0 + terms().sum::<f64>(), 1.0 + terms().map(f64::abs).sum::<f64>());
                assert!((f64::from(*x) - exact).abs() <= 1e-6 * size, "{format:?}, {n_out} rows of {n_tokens}");
            }
        }
    }
}

#[test]
fn half_precision_has_its_line() {
    assert_eq!(super::format::F16.dtype, GgmlDType::F16);
    assert_eq!(super::format::BF16.dtype, GgmlDType::BF16);
}

#[test]
fn bytes_that_do_not_fit_the_shape_are_refused() {
    assert!(Matrix::new(GgmlDType::Q4_1, vec![0; 40], [2, 32], None).is_some());
    assert!(Matrix::new(GgmlDType::Q4_1, vec![0; 39], [2, 32], None).is_none());
    assert!(Matrix::new(GgmlDType::Q4_1, vec![0; 40], [2, 31], None).is_none());
    assert!(Matrix::new(GgmlDType::Q8_1, vec![0; 40], [2, 32], None).is_none());
}
