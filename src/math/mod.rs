//! Pure numerics on slices: vector kernels, order statistics, bootstrap. No tensor library, no I/O, no clock.

mod rank;
mod simd;
mod stats;

pub use rank::ranks;
pub use rank::spearman;
pub use simd::add_weighted_rows;
pub use simd::axpy;
pub use simd::cosine;
pub use simd::dot;
pub use simd::dot_rows;
pub use simd::exp_shifted_sum;
pub use simd::exp_slice;
pub use simd::max;
pub use simd::scale;
pub use simd::squared_distance;
pub use stats::Interval;
pub use stats::bootstrap_mean;
pub use stats::mean;
pub use stats::quantile_sorted;
pub use stats::standard_deviation;
