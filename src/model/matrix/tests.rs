//! Unpacked weights beside the tensor library's, products beside f64 loops.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::model::matrix::format::FORMATS;

fn random(n: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
    (0..n).map(|_| rng.random_range(-1.5f32..1.5)).collect()
}

/// The tensor library's name of a type; `None` for one that it does not know.
pub(super) fn library_type(dtype: StorageType) -> Option<GgmlDType> {
    Some(match dtype {
        StorageType::F32 => GgmlDType::F32,
        StorageType::F16 => GgmlDType::F16,
        StorageType::BF16 => GgmlDType::BF16,
        StorageType::Q4_0 => GgmlDType::Q4_0,
        StorageType::Q4_1 => GgmlDType::Q4_1,
        StorageType::Q5_0 => GgmlDType::Q5_0,
        StorageType::Q5_1 => GgmlDType::Q5_1,
        StorageType::Q8_0 => GgmlDType::Q8_0,
        StorageType::Q2K => GgmlDType::Q2K,
        StorageType::Q3K => GgmlDType::Q3K,
        StorageType::Q4K => GgmlDType::Q4K,
        StorageType::Q5K => GgmlDType::Q5K,
        StorageType::Q6K => GgmlDType::Q6K,
        _ => return None,
    })
}

/// A random matrix of a type, quantised by the tensor library, and what the library unpacks it to. Of a type that the library
/// does not know, random blocks and what they are unpacked to here.
fn quantised(format: &Format, shape: [usize; 2], rng: &mut ChaCha8Rng) -> (Matrix, Vec<f32>) {
    let Some(dtype) = library_type(format.dtype) else { return random_blocks(format, shape, rng) };
    let values = Tensor::from_vec(random(shape[0] * shape[1], rng), shape.as_slice(), &Device::Cpu).unwrap();
    let stored = QTensor::quantize(&values, dtype).unwrap();
    let unpacked = stored.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    let matrix = Matrix::new(format.dtype, stored.data().unwrap().into_owned(), shape, None).unwrap();
    (matrix, unpacked)
}

fn random_blocks(format: &Format, shape: [usize; 2], rng: &mut ChaCha8Rng) -> (Matrix, Vec<f32>) {
    // 2⁻⁷ as half precision, and as an exponent.
    let (scale_at, scale) = match format.dtype {
        StorageType::Mxfp4 => (0, &[120][..]),
        StorageType::Tq1_0 => (52, &[0x00, 0x20][..]),
        StorageType::Tq2_0 => (64, &[0x00, 0x20][..]),
        _ => (0, &[0x00, 0x20][..]),
    };
    let mut bytes: Vec<u8> = (0..shape[0] * format.row_bytes(shape[1])).map(|_| rng.random()).collect();
    for block in bytes.chunks_exact_mut(format.row_bytes(format.block_len)) {
        block[scale_at..][..scale.len()].copy_from_slice(scale);
    }
    let unpacked = unpack(format.dtype, &bytes).unwrap();
    (Matrix::new(format.dtype, bytes, shape, None).unwrap(), unpacked)
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
fn weights_that_the_tensor_library_does_not_know_by_hand() {
    let first = |dtype, block: &[u8], places: &[usize]| -> Vec<f32> {
        let weights = unpack(dtype, block).unwrap();
        places.iter().map(|place| weights[*place]).collect()
    };
    // A scale of 0.5; the low half of byte 1 is weight 1, its high half weight 17.
    let mut block = [0u8; 18];
    block[..2].copy_from_slice(&[0x00, 0x38]);
    block[3] = 0xf7;
    assert_eq!(first(StorageType::Iq4Nl, &block, &[0, 1, 17]), [-63.5, -5.0, 56.5]);
    // 2^(129 - 127) times 1.5 and -6; the least scale, 2^-127, times 0.5.
    let mut block = [0u8; 17];
    (block[0], block[1]) = (129, 0xf3);
    assert_eq!(first(StorageType::Mxfp4, &block, &[0, 16, 1]), [6.0, -24.0, 0.0]);
    (block[0], block[1]) = (0, 0x01);
    assert_eq!(first(StorageType::Mxfp4, &block, &[0]), [2f32.powi(-128)]);
    // Scales of 0.5 times 33 - 32 (run 5: low bits 1, high bits 2) and 0 - 32 (run 0).
    let mut block = [0u8; 136];
    block[..2].copy_from_slice(&[0x00, 0x38]);
    (block[3], block[6]) = (0b1000, 0x10);
    (block[8], block[8 + 80 + 2]) = (0x08, 0xf9);
    assert_eq!(first(StorageType::Iq4Xs, &block, &[0, 16, 162, 178]), [-16.0, 2032.0, 6.5, 56.5]);
    // Digits 2, 1, 0, 2, 1 are 196 of 243, as a fraction of 256 rounded up 207; 0 is five digits of 0.
    let mut block = [0u8; 54];
    block[52..].copy_from_slice(&[0x00, 0x38]);
    (block[3], block[33], block[49]) = (207, 207, 207);
    let places = [3, 35, 67, 99, 131, 161, 177, 193, 209, 225, 241, 245, 249, 253, 2];
    let digits = [0.5, 0.0, -0.5, 0.5, 0.0];
    let expected: Vec<f32> = digits.iter().chain(&digits).chain(&digits[..4]).chain(&[-0.5]).copied().collect();
    assert_eq!(first(StorageType::Tq1_0, &block, &places), expected);
    // Bits 2, 1, 0, 2 from the lowest on, in the second half.
    let mut block = [0u8; 66];
    block[64..].copy_from_slice(&[0x00, 0x38]);
    block[33] = 0b10_00_01_10;
    assert_eq!(first(StorageType::Tq2_0, &block, &[129, 161, 193, 225, 0]), [0.5, 0.0, -0.5, 0.5, -0.5]);
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
    assert_eq!(super::format::F16.dtype, StorageType::F16);
    assert_eq!(super::format::BF16.dtype, StorageType::BF16);
}

#[test]
fn bytes_that_do_not_fit_the_shape_are_refused() {
    assert!(Matrix::new(StorageType::Q4_1, vec![0; 40], [2, 32], None).is_some());
    assert!(Matrix::new(StorageType::Q4_1, vec![0; 39], [2, 32], None).is_none());
    assert!(Matrix::new(StorageType::Q4_1, vec![0; 40], [2, 31], None).is_none());
}
