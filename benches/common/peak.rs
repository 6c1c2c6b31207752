//! What the machine can do at most.

use std::time::{Duration, Instant};

use rayon::prelude::*;

/// Rest before each timing: threads of the last one stop spinning.
pub const PAUSE: Duration = Duration::from_millis(300);

/// GFLOP/s of loops of independent multiply-adds on `threads` threads, which no product can exceed here: of f32, and of 16-bit
/// integers into sums of 32 bits. The best of several loops with the instructions that this processor has.
pub fn peaks(threads: usize) -> [f64; 2] {
    const STEPS: usize = 5_000_000;
    let best = |operations: fn(usize) -> usize| {
        let rate = |_| {
            let start = Instant::now();
            let n: usize = (0..threads).into_par_iter().with_max_len(1).map(|_| operations(STEPS)).sum();
            n as f64 / start.elapsed().as_secs_f64() / 1e9
        };
        (0..5).map(rate).fold(0.0, f64::max)
    };
    [best(loops::f32), best(loops::fixed16)]
}

/// Loops that do nothing but multiply and add; each returns its number of operations.
#[cfg(target_arch = "x86_64")]
mod loops {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    /// Sums in flight: more than the latency of an instruction times their number a cycle.
    const N: usize = 12;

    macro_rules! repeat {
        ($name:ident, $features:literal, $n_steps:ident, $first:expr, $step:expr, $per_step:literal) => {
            #[target_feature(enable = $features)]
            fn $name($n_steps: usize) -> usize {
                let mut sums = std::hint::black_box([$first; N]);
                for _ in 0..$n_steps {
                    for sum in &mut sums {
                        *sum = $step(*sum);
                    }
                }
                black_box(sums);
                $n_steps * N * $per_step
            }
        };
    }

    repeat!(
        f32_512,
        "avx512f",
        n_steps,
        _mm512_set1_ps(1.0),
        |x| _mm512_fmadd_ps(x, _mm512_set1_ps(0.999), _mm512_set1_ps(1e-3)),
        32
    );
    repeat!(
        f32_256,
        "avx2,fma",
        n_steps,
        _mm256_set1_ps(1.0),
        |x| _mm256_fmadd_ps(x, _mm256_set1_ps(0.999), _mm256_set1_ps(1e-3)),
        16
    );
    repeat!(
        fixed16_256,
        "avx2",
        n_steps,
        _mm256_set1_epi16(3),
        |x| _mm256_add_epi32(x, _mm256_madd_epi16(x, _mm256_set1_epi16(5))),
        32
    );

    #[target_feature(enable = "avx512f,avx512vnni")]
    fn fixed16_512(n_steps: usize) -> usize {
        let factor = _mm512_set1_epi16(5);
        let mut sums = black_box([_mm512_set1_epi16(3); N]);
        for _ in 0..n_steps {
            for sum in &mut sums {
                // In assembly: the compiler would take the instruction apart.
                #[expect(unsafe_code, reason = "the instruction was asked for, and touches these registers only")]
                unsafe {
                    std::arch::asm!(
                        "vpdpwssd {sum}, {factor}, {factor}",
                        sum = inout(zmm_reg) *sum,
                        factor = in(zmm_reg) factor,
                        options(pure, nomem, nostack, preserves_flags)
                    );
                }
            }
        }
        black_box(sums);
        n_steps * N * 64
    }

    #[expect(unsafe_code, reason = "the instructions were asked for")]
    pub fn f32(n_steps: usize) -> usize {
        if is_x86_feature_detected!("avx512f") {
            unsafe { f32_512(n_steps) }
        } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            unsafe { f32_256(n_steps) }
        } else {
            0
        }
    }

    #[expect(unsafe_code, reason = "the instructions were asked for")]
    pub fn fixed16(n_steps: usize) -> usize {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni") {
            unsafe { fixed16_512(n_steps) }
        } else if is_x86_feature_detected!("avx2") {
            unsafe { fixed16_256(n_steps) }
        } else {
            0
        }
    }
}

/// Unknown elsewhere.
#[cfg(not(target_arch = "x86_64"))]
mod loops {
    pub fn f32(_n_steps: usize) -> usize {
        0
    }

    pub fn fixed16(_n_steps: usize) -> usize {
        0
    }
}
