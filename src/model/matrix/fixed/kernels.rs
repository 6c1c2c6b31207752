//! The product of tiles of rows and columns in AVX-512 and AVX2 registers.

use std::ops::Range;

use crate::model::matrix::fixed::{Activations, GROUP, Packed};

/// Blocks that are unpacked at once: 18 KiB of codes of two groups, which stay in the first cache while panels pass.
const BLOCKS_AT_ONCE: usize = 9;

/// Instructions that this processor has; exists only where they were detected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::model) struct Kernel(Instructions);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Instructions {
    Avx512,
    Avx2,
}

impl Kernel {
    /// All that this processor has, best first.
    pub(in crate::model) fn available() -> impl Iterator<Item = Self> {
        [Instructions::Avx512, Instructions::Avx2].into_iter().filter(|set| set.is_detected()).map(Self)
    }

    /// Rows of activations that are multiplied together where there are `n_rows`.
    pub(in crate::model::matrix) fn panel_rows(self, n_rows: usize) -> usize {
        match (n_rows, self.0) {
            (..=2, _) => n_rows.max(1),
            (_, Instructions::Avx512) => avx512::ROWS,
            (_, Instructions::Avx2) => avx2::ROWS,
        }
    }

    /// `out[t, j] = ⟨rows groups.start · 16 + j of W, x[rows.start + t]⟩`; out `[rows, stride]`, whose columns are those of the groups.
    /// The first row begins a panel.
    pub(super) fn multiply(
        self,
        packed: &Packed,
        groups: Range<usize>,
        x: &Activations,
        rows: Range<usize>,
        out: &mut [f32],
        stride: usize,
    ) {
        debug_assert_eq!(packed.n_blocks(), x.n_blocks());
        let task = Task { packed, groups, x, rows, stride };
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "the instructions were detected when this kernel was made")]
        unsafe {
            match self.0 {
                Instructions::Avx512 => avx512::multiply(&task, out),
                Instructions::Avx2 => avx2::multiply(&task, out),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (task, out);
    }
}

impl Instructions {
    #[cfg(target_arch = "x86_64")]
    fn is_detected(self) -> bool {
        let has_avx2 =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        has_avx2
            && match self {
                Self::Avx512 => {
                    is_x86_feature_detected!("avx512f")
                        && is_x86_feature_detected!("avx512bw")
                        && is_x86_feature_detected!("avx512vl")
                        && is_x86_feature_detected!("avx512vnni")
                }
                Self::Avx2 => true,
            }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn is_detected(self) -> bool {
        false
    }
}

/// Which part of a product is computed.
struct Task<'a> {
    packed: &'a Packed,
    groups: Range<usize>,
    x: &'a Activations,
    rows: Range<usize>,
    stride: usize,
}

impl Task<'_> {
    /// Puts one row of a tile, 16 columns of group `group`, where it belongs.
    fn store(&self, out: &mut [f32], row: usize, group: usize, values: &[f32; GROUP]) {
        let first = (group - self.groups.start) * GROUP;
        let n = self.packed.columns(&(group..group + 1)).len();
        let out = &mut out[(row - self.rows.start) * self.stride + first..];
        match out.first_chunk_mut() {
            Some(out) if n == GROUP => *out = *values,
            _ => store_part(out, &values[..n]),
        }
    }
}

/// The columns of a row that there are, of the last group. A function that is called: with a copy of any length beside it, the
/// compiler would make one copy of both cases.
#[cold]
#[inline(never)]
fn store_part(out: &mut [f32], values: &[f32]) {
    out.iter_mut().zip(values).for_each(|(out, value)| *out = *value);
}

/// The body for each i below a constant, as code and not as a loop: what is indexed by i stays in registers.
#[cfg(target_arch = "x86_64")]
macro_rules! unroll {
    (groups $i:ident < $n:expr, $body:block) => { unroll!(@ $i, $n, $body, 0 1 2 3) };
    (steps $i:ident < $n:expr, $body:block) => { unroll!(@ $i, $n, $body, 0 1 2 3) };
    (rows $i:ident < $n:expr, $body:block) => { unroll!(@ $i, $n, $body, 0 1 2 3 4 5 6 7) };
    (@ $i:ident, $n:expr, $body:block, $($value:literal)*) => {
        $(
            #[expect(non_upper_case_globals, reason = "a counter, whose value is known")]
            {
                const $i: usize = $value;
                if $i < $n $body
            }
        )*
    };
}

/// The kernels in one set of instructions. The module that expands it has, beside the intrinsics' types, `REGISTERS` of a
/// group of 16 columns and functions of one register: see [`avx512`].
#[cfg(target_arch = "x86_64")]
macro_rules! kernels {
    ($features:literal, [$($register:literal)*], $groups:literal, $groups_of_one_row:literal) => {
        #[target_feature(enable = $features)]
        pub(super) fn multiply(task: &Task<'_>, out: &mut [f32]) {
            match task.packed.layout {
                0 => all_tiles::<0>(task, out),
                1 => all_tiles::<1>(task, out),
                2 => all_tiles::<2>(task, out),
                3 => all_tiles::<3>(task, out),
                _ => all_tiles::<4>(task, out),
            }
        }

        #[target_feature(enable = $features)]
        fn all_tiles<const L: usize>(task: &Task<'_>, out: &mut [f32]) {
            const { assert!(LAYOUTS.len() == 5) };
            let groups = task.groups.clone();
            // As many groups at a time as the registers take, then one by one.
            let split = |width: usize| groups.end - groups.len() % width;
            match task.x.height() {
                1 => {
                    let middle = split($groups_of_one_row);
                    few_rows::<L, 1, $groups_of_one_row>(task, groups.start..middle, out);
                    few_rows::<L, 1, 1>(task, middle..groups.end, out);
                }
                2 => few_rows::<L, 2, 1>(task, groups, out),
                _ => {
                    let middle = split($groups);
                    panels::<L, $groups>(task, groups.start..middle, out);
                    panels::<L, 1>(task, middle..groups.end, out);
                }
            }
        }

        /// Sums `[R, C]` of 16 columns each.
        type Sums<const R: usize, const C: usize> = [[[Floats; REGISTERS]; C]; R];

        /// A block of C groups, ready to be multiplied.
        #[derive(Clone, Copy)]
        struct Unpacked<const C: usize> {
            /// Pairs i, i + 16.
            codes: [[[Integers; REGISTERS]; C]; LEN / 2],
            scales: [[Floats; REGISTERS]; C],
            minimums: [[Floats; REGISTERS]; C],
        }

        /// The bytes of a block of C groups.
        #[inline]
        #[target_feature(enable = $features)]
        fn records<'a, const L: usize, const C: usize>(task: &Task<'a>, group: usize, block: usize) -> [&'a [u8]; C] {
            let n_bytes = const { GROUP * LAYOUTS[L].block_bytes() };
            // No closures: the compiler calls them, as they have not this function's instructions.
            let mut records = [[].as_slice(); C];
            unroll!(groups c < C, { records[c] = &task.packed.group(group + c)[block * n_bytes..][..n_bytes] });
            records
        }

        /// Scales and minima of C groups.
        #[inline]
        #[target_feature(enable = $features)]
        fn unpack_scales<const L: usize, const C: usize>(
            records: &[&[u8]; C],
        ) -> ([[Floats; REGISTERS]; C], [[Floats; REGISTERS]; C]) {
            let layout = const { LAYOUTS[L] };
            let mut scales = [[zero_floats(); REGISTERS]; C];
            let mut minimums = [[zero_floats(); REGISTERS]; C];
            unroll!(groups c < C, {
                scales[c] = halves(&records[c][..2 * GROUP]);
                if layout.has_minimum {
                    minimums[c] = halves(&records[c][2 * GROUP..4 * GROUP]);
                } else {
                    unroll!(@ i, REGISTERS, {
                        minimums[c][i] = multiply_floats(scales[c][i], splat(layout.offset));
                    }, $($register)*);
                }
            });
            (scales, minimums)
        }

        /// Runs the body for every pair of codes of a block, in `$codes` `[C][REGISTERS]`.
        macro_rules! for_each_pair {
            ($L:ident, $C:ident, $records:expr, |$pair:ident, $codes:ident| $body:block) => {
                let layout = const { LAYOUTS[$L] };
                let codes_at = const { GROUP * LAYOUTS[$L].head_bytes() };
                let n_words = const { LAYOUTS[$L].code_bytes() / 4 };
                let n_steps = const { LEN / 2 / (LAYOUTS[$L].code_bytes() / 4) };
                let mut fifth = [[zero_integers(); REGISTERS]; $C];
                if layout.bits == 5 {
                    unroll!(groups c < $C, { fifth[c] = load(&$records[c][codes_at - 4 * GROUP..]) });
                }
                for word in 0..n_words {
                    let mut words = [[zero_integers(); REGISTERS]; $C];
                    unroll!(groups c < $C, { words[c] = load(&$records[c][codes_at + word * 4 * GROUP..]) });
                    unroll!(steps step < n_steps, {
                        let $pair = word * n_steps + step;
                        let mut $codes = [[zero_integers(); REGISTERS]; $C];
                        unroll!(groups c < $C, {
                            unroll!(@ i, REGISTERS, {
                                $codes[c][i] = match layout.bits {
                                    8 => bytes(words[c][i], step),
                                    5 => or(nibbles(words[c][i], step), fifth_bits(fifth[c][i], $pair)),
                                    _ => nibbles(words[c][i], step),
                                };
                            }, $($register)*);
                        });
                        $body
                    });
                }
            };
        }

        /// Adds the products of a pair of R rows of activations and C groups of codes.
        macro_rules! add_pair {
            ($R:ident, $C:ident, $x:expr, $pair:expr, $codes:expr, $dots:ident) => {
                unroll!(rows r < $R, {
                    let x = splat_integer($x[r].pairs[$pair]);
                    unroll!(groups c < $C, {
                        unroll!(@ i, REGISTERS, {
                            $dots[r][c][i] = add_products($dots[r][c][i], $codes[c][i], x);
                        }, $($register)*);
                    });
                });
            };
        }

        /// Adds a block's products to the sums, times their scales.
        #[inline]
        #[target_feature(enable = $features)]
        fn add_block<const L: usize, const R: usize, const C: usize>(
            sums: &mut Sums<R, C>,
            dots: &[[[Integers; REGISTERS]; C]; R],
            x: &[Block; R],
            scales: &[[Floats; REGISTERS]; C],
            minimums: &[[Floats; REGISTERS]; C],
        ) {
            let layout = const { LAYOUTS[L] };
            unroll!(rows r < R, {
                let (scale_of_x, sum_of_x) = (splat(x[r].scale), splat(x[r].sum));
                unroll!(groups c < C, {
                    unroll!(@ i, REGISTERS, {
                        let factor = multiply_floats(scales[c][i], scale_of_x);
                        sums[r][c][i] = multiply_add(to_floats(dots[r][c][i]), factor, sums[r][c][i]);
                        if layout.has_minimum || layout.offset != 0.0 {
                            sums[r][c][i] = multiply_add(minimums[c][i], sum_of_x, sums[r][c][i]);
                        }
                    }, $($register)*);
                });
            });
        }

        /// A panel of one or two rows times C groups at a time, which are unpacked in registers.
        #[target_feature(enable = $features)]
        fn few_rows<const L: usize, const R: usize, const C: usize>(
            task: &Task<'_>,
            groups: Range<usize>,
            out: &mut [f32],
        ) {
            let row = task.rows.start;
            for group in groups.step_by(C) {
                let mut sums = [[[zero_floats(); REGISTERS]; C]; R];
                for (block, x) in task.x.panel(row).as_chunks::<R>().0.iter().enumerate() {
                    let records = records::<L, C>(task, group, block);
                    let mut dots = [[[zero_integers(); REGISTERS]; C]; R];
                    for_each_pair!(L, C, records, |pair, codes| { add_pair!(R, C, x, pair, codes, dots); });
                    let (scales, minimums) = unpack_scales::<L, C>(&records);
                    add_block::<L, R, C>(&mut sums, &dots, x, &scales, &minimums);
                }
                store(task, row, group, &sums, out);
            }
        }

        /// Several panels times C groups at a time, whose codes are unpacked once for all of them.
        #[target_feature(enable = $features)]
        fn panels<const L: usize, const C: usize>(task: &Task<'_>, groups: Range<usize>, out: &mut [f32]) {
            debug_assert_eq!(task.x.height(), ROWS);
            let mut unpacked = [Unpacked {
                codes: [[[zero_integers(); REGISTERS]; C]; LEN / 2],
                scales: [[zero_floats(); REGISTERS]; C],
                minimums: [[zero_floats(); REGISTERS]; C],
            }; BLOCKS_AT_ONCE];
            let n_blocks = task.packed.n_blocks();
            for group in groups.step_by(C) {
                let mut sums = [[[[zero_floats(); REGISTERS]; C]; ROWS]; TASK_ROWS / ROWS];
                for first in (0..n_blocks).step_by(BLOCKS_AT_ONCE) {
                    let blocks = first..n_blocks.min(first + BLOCKS_AT_ONCE);
                    for (block, unpacked) in blocks.clone().zip(&mut unpacked) {
                        let records = records::<L, C>(task, group, block);
                        for_each_pair!(L, C, records, |pair, codes| { unpacked.codes[pair] = codes });
                        (unpacked.scales, unpacked.minimums) = unpack_scales::<L, C>(&records);
                    }
                    for (row, sums) in task.rows.clone().step_by(ROWS).zip(&mut sums) {
                        let x = &task.x.panel(row).as_chunks::<ROWS>().0[blocks.clone()];
                        add_blocks::<L, ROWS, C>(sums, x, &unpacked);
                    }
                }
                for (row, sums) in task.rows.clone().step_by(ROWS).zip(&sums) {
                    store(task, row, group, sums, out);
                }
            }
        }

        #[target_feature(enable = $features)]
        fn add_blocks<const L: usize, const R: usize, const C: usize>(
            into: &mut Sums<R, C>,
            x: &[[Block; R]],
            unpacked: &[Unpacked<C>],
        ) {
            let mut sums = *into;
            for (x, unpacked) in x.iter().zip(unpacked) {
                let mut dots = [[[zero_integers(); REGISTERS]; C]; R];
                for (pair, codes) in unpacked.codes.iter().enumerate() {
                    add_pair!(R, C, x, pair, codes, dots);
                }
                add_block::<L, R, C>(&mut sums, &dots, x, &unpacked.scales, &unpacked.minimums);
            }
            *into = sums;
        }

        /// Puts sums where they belong; rows beyond the task's only fill the panel.
        #[inline]
        #[target_feature(enable = $features)]
        fn store<const R: usize, const C: usize>(
            task: &Task<'_>,
            row: usize,
            group: usize,
            sums: &Sums<R, C>,
            out: &mut [f32],
        ) {
            for (row, sums) in (row..task.rows.end).zip(sums) {
                for (c, sums) in sums.iter().enumerate() {
                    task.store(out, row, group + c, &cast(*sums));
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod avx512;

#[cfg(target_arch = "x86_64")]
mod avx2;

/// The first N bytes.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn first<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let bytes = &bytes[..N];
    std::array::from_fn(|i| bytes[i])
}
