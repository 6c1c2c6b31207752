//! Products in fixed point beside f64 loops, and one block by hand.

use candle_core::quantized::QTensor;
use candle_core::{Device, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::model::StorageType;
use crate::model::matrix::Matrix;
use crate::model::matrix::fixed::packed::LAYOUTS;
use crate::model::matrix::format::format_of;
use crate::model::matrix::tests::library_type;

const TYPES: [StorageType; 5] =
    [StorageType::Q4_0, StorageType::Q4_1, StorageType::Q5_0, StorageType::Q5_1, StorageType::Q8_0];

fn random(n: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
    (0..n).map(|_| rng.random_range(-1.5f32..1.5)).collect()
}

/// The file's bytes of random weights.
fn stored(dtype: StorageType, shape: [usize; 2], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let values = Tensor::from_vec(random(shape[0] * shape[1], rng), shape.as_slice(), &Device::Cpu).unwrap();
    QTensor::quantize(&values, library_type(dtype).unwrap()).unwrap().data().unwrap().into_owned()
}

fn rounded(x: &[f32], n_in: usize, kernel: Kernel) -> Activations {
    let mut activations = Activations::default();
    activations.round(x, n_in, kernel.panel_rows(x.len() / n_in));
    activations
}

/// Every instruction set here; fails where there is none although the processor is of a kind that has one.
fn kernels() -> Vec<Kernel> {
    let kernels: Vec<Kernel> = Kernel::available().collect();
    #[cfg(target_arch = "x86_64")]
    assert_eq!(kernels.is_empty(), !is_x86_feature_detected!("avx2"));
    kernels
}

#[test]
fn every_type_is_in_the_table_with_the_bytes_of_its_file() {
    for (layout, dtype) in LAYOUTS.iter().zip(TYPES) {
        assert_eq!(layout.block_bytes(), format_of(dtype).unwrap().row_bytes(32), "{dtype:?}");
    }
}

#[test]
fn one_block_by_hand() {
    // Q4_1 with scale 0.5 and minimum -2: byte i holds code i % 16 for weight i and 15 - i % 16 for weight i + 16.
    let mut block = vec![];
    block.extend(half::f16::from_f32(0.5).to_le_bytes());
    block.extend(half::f16::from_f32(-2.0).to_le_bytes());
    block.extend((0..16u8).map(|i| i | (15 - i) << 4));
    let mut x = vec![0f32; 32];
    // 32767 steps are 4: weight 3 is 0.5 · 3 - 2 = -0.5, weight 16 is 0.5 · 15 - 2 = 5.5, weight 31 is -2.
    (x[3], x[16], x[31]) = (4.0, -2.0, 1.0);
    let steps = |x: f64| (x * 32767.0 / 4.0).round();
    let integers = [steps(4.0), steps(-2.0), steps(1.0)];
    assert_eq!(integers, [32767.0, -16384.0, 8192.0]);
    let scale = 4.0 / 32767f64;
    // Σ X·code = 3 · 32767 - 15 · 16384 + 0, ΣX = 32767 - 16384 + 8192.
    let expected = scale * 0.5 * (98_301.0 - 245_760.0) - 2.0 * scale * 24_575.0;
    assert!((expected + 15.0).abs() < 1e-3);
    let packed = Packed::new(StorageType::Q4_1, &block, [1, 32]).unwrap();
    for kernel in kernels() {
        let mut out = [0f32];
        multiply(kernel, &rounded(&x, 32, kernel), vec![(&packed, &mut out)]);
        assert!((f64::from(out[0]) - expected).abs() < 1e-5, "{kernel:?}: {out:?} is not {expected}");
    }
}

#[test]
fn rows_come_back_as_they_were() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for dtype in TYPES {
        for n_out in [1, 16, 37] {
            let bytes = stored(dtype, [n_out, 96], &mut rng);
            let packed = Packed::new(dtype, &bytes, [n_out, 96]).unwrap();
            for (row, expected) in bytes.chunks_exact(bytes.len() / n_out).enumerate() {
                assert_eq!(packed.row(row), expected, "{dtype:?}, row {row} of {n_out}");
            }
        }
    }
}

#[test]
fn products_agree_with_f64_loops_and_do_not_depend_on_the_kernel_or_the_number_of_rows() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for dtype in TYPES {
        for n_in in [32, 96, 576] {
            for n_out in [1, 15, 16, 50, 97] {
                let bytes = stored(dtype, [n_out, n_in], &mut rng);
                let mut weights = vec![0f32; n_out * n_in];
                Matrix::new(dtype, bytes.clone(), [n_out, n_in], None).unwrap().widen_rows(0, &mut weights);
                let packed = Packed::new(dtype, &bytes, [n_out, n_in]).unwrap();
                let x = random(75 * n_in, &mut rng);
                let mut first: Option<Vec<f32>> = None;
                for kernel in kernels() {
                    for n_rows in [75, 1, 2, 5, 7, 32, 33] {
                        let mut y = vec![0f32; n_rows * n_out];
                        multiply(kernel, &rounded(&x[..n_rows * n_in], n_in, kernel), vec![(&packed, &mut y)]);
                        let all = first.get_or_insert_with(|| y.clone());
                        assert_eq!(y, all[..y.len()], "{kernel:?}, {dtype:?}, {n_out} x {n_in}, {n_rows} rows");
                    }
                }
                for (i, y) in first.iter().flatten().enumerate() {
                    let (x, w) = (&x[i / n_out * n_in..][..n_in], &weights[i % n_out * n_in..][..n_in]);
                    let terms = || x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
                    let (exact, size) = (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>());
                    let error = (f64::from(*y) - exact).abs() / size;
                    // 2^-16 of the largest value, 1.5, for each: twice that of the mean size, less by chance.
                    assert!(error <= 3e-5, "{dtype:?}, {n_out} x {n_in}: {error:e}");
                }
            }
        }
    }
}

#[test]
fn what_is_not_finite_stays_so_and_zero_is_exact() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let packed = Packed::new(StorageType::Q8_0, &stored(StorageType::Q8_0, [3, 64], &mut rng), [3, 64]).unwrap();
    for kernel in kernels() {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = random(64, &mut rng);
            x[40] = value;
            let mut y = [0f32; 3];
            multiply(kernel, &rounded(&x, 64, kernel), vec![(&packed, &mut y)]);
            assert!(y.iter().all(|y| !y.is_finite()), "{kernel:?}, {value}: {y:?}");
        }
        let mut y = [1f32; 3];
        multiply(kernel, &rounded(&[0.0; 64], 64, kernel), vec![(&packed, &mut y)]);
        assert_eq!(y, [0.0; 3]);
    }
}

#[test]
fn the_largest_codes_do_not_overflow() {
    // All weights -128 · 1 or 15 · 1, all activations at an end of their range.
    for (dtype, code, weight) in [(StorageType::Q8_0, 0x80, -128.0), (StorageType::Q4_1, 0xff, 15.0)] {
        let n = format_of(dtype).unwrap().row_bytes(32);
        let mut block = vec![code; n];
        block[..2].copy_from_slice(&half::f16::from_f32(1.0).to_le_bytes());
        if dtype == StorageType::Q4_1 {
            block[2..4].fill(0);
        }
        let packed = Packed::new(dtype, &block, [1, 32]).unwrap();
        for kernel in kernels() {
            for value in [2.0, -2.0] {
                let mut y = [0f32];
                multiply(kernel, &rounded(&[value; 32], 32, kernel), vec![(&packed, &mut y)]);
                let expected = 32.0 * weight * value;
                assert!((y[0] / expected - 1.0).abs() < 1e-6, "{kernel:?}, {dtype:?}: {} is not {expected}", y[0]);
            }
        }
    }
}
