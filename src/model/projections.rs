//! What output projections make of single heads.

use rayon::prelude::*;

use crate::math::{Rows, add_gram};

/// Weights that are unpacked at a time: 4 MB of f32.
const BLOCK_WEIGHTS: usize = 1 << 20;

/// Adds the Gram matrices W' W of an output projection's parts: each reads one query head.
///
/// - Shape: projection `[n_rows, n_q_heads · D]`, of which `unpack` gives rows from some row on; grams `[n_q_heads, D, D]`
/// - Cost:  O(n_rows · n_q_heads · D²); sums run in an order that does not depend on the number of threads
/// - Errors: those of `unpack`
pub(super) fn add_head_grams<E>(
    n_rows: usize,
    [n_q_heads, head_dim]: [usize; 2],
    mut unpack: impl FnMut(usize, &mut [f32]) -> Result<(), E>,
    grams: &mut [f32],
) -> Result<(), E> {
    let width = n_q_heads * head_dim;
    let block_rows = (BLOCK_WEIGHTS / width).clamp(1, n_rows.max(1));
    let mut block = vec![0f32; block_rows * width];
    for first in (0..n_rows).step_by(block_rows) {
        let rows = &mut block[..block_rows.min(n_rows - first) * width];
        unpack(first, rows)?;
        let rows = &*rows;
        grams.par_chunks_mut(head_dim * head_dim).enumerate().for_each(|(head, gram)| {
            let columns = rows.chunks_exact(width).flat_map(|row| &row[head * head_dim..][..head_dim]);
            add_gram(Rows::new(&columns.copied().collect::<Vec<f32>>(), head_dim), gram);
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_uneven_case_by_hand_in_several_blocks() {
        // Three heads of D = 1 and 400,000 rows, whose numbers are 1, 2, -1 in every even row and 3, 0, 1 in every odd one.
        let row = |index: usize| if index.is_multiple_of(2) { [1.0, 2.0, -1.0] } else { [3.0, 0.0, 1.0] };
        let mut asked = Vec::new();
        let unpack = |first: usize, out: &mut [f32]| {
            asked.push(first);
            out.chunks_exact_mut(3).enumerate().for_each(|(i, out)| out.copy_from_slice(&row(first + i)));
            Ok::<_, ()>(())
        };
        let mut grams = vec![0.0; 3];
        add_head_grams(400_000, [3, 1], unpack, &mut grams).unwrap();
        assert_eq!(asked, [0, 349_525]);
        assert_eq!(grams, [2e6, 8e5, 4e5]);
        // One head of D = 3, three rows.
        let mut grams = vec![0.0; 9];
        let unpack = |first: usize, out: &mut [f32]| {
            out.chunks_exact_mut(3).enumerate().for_each(|(i, out)| out.copy_from_slice(&row(first + i)));
            Ok::<_, ()>(())
        };
        add_head_grams(3, [1, 3], unpack, &mut grams).unwrap();
        assert_eq!(grams, [11.0, 4.0, 1.0, 4.0, 8.0, -4.0, 1.0, -4.0, 3.0]);
        assert_eq!(add_head_grams(3, [1, 3], |_, _| Err("unreadable"), &mut grams), Err("unreadable"));
    }
}
