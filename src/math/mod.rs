//! Pure numerics on slices: vector kernels, order statistics, bootstrap. No tensor library, no I/O, no clock.

mod band;
mod cholesky;
mod concordance;
mod cosines;
mod float;
mod groups;
mod halves;
mod instructions;
mod paired;
mod product;
mod projections;
mod rank;
mod reach;
mod rope;
mod rows;
mod scatter;
mod simd;
mod softmax;
mod spectrum;
mod stats;
mod variance;

pub use band::{add_gram, lagged_sums, neighbour_products};
pub(crate) use cholesky::solve_positive_definite;
pub use concordance::{kendall_w, mean_spearman, spearman_brown};
pub(crate) use cosines::{TILE, Tile, UnitRows, copy_past_caches, settle};
pub use float::Float;
pub(crate) use groups::CovariateFit;
pub use groups::{benjamini_hochberg, covariate_fit, kruskal_wallis, lowest_rank_p};
pub(crate) use halves::{narrow_f16, widen_f16};
pub(crate) use instructions::Instructions;
use instructions::by_instructions;
pub use paired::{Paired, paired, sign_test, sign_test_needs};
pub use product::product;
pub(crate) use product::{Rhs, product_columns};
pub use projections::{HeadProjection, Projections};
pub(crate) use rank::{falling, falls};
pub use rank::{ranks, spearman};
pub(crate) use reach::reach;
pub(crate) use rope::{LayerRopes, Rope};
pub(crate) use rows::HeldRows;
pub use rows::Rows;
pub use scatter::{LinearMap, Scatter};
pub(crate) use simd::fold;
pub(crate) use simd::{
    GELU_CUBIC, GELU_SLOPE, THRESHOLDS, add_weighted_rows, axpy, bf16_to_f32, counts_above, dot_rows, exp_shifted_sum,
    f16_to_f32, first_not_below, gelu_product,
};
pub use simd::{cosine, dot};
pub use simd::{max, range, sum};
pub(crate) use simd::{scale, scale_each, silu_product, squared_distance, threshold_lanes, unit_factor};
pub use softmax::argmax;
pub(crate) use softmax::{kl_divergence, log_sum_exp};
pub use spectrum::{centred_gram, effective_rank};
pub use stats::{
    Interval, Mean, Resamples, bootstrap_mean, bootstrap_ratio, centred_interval, mean, quantile, quantiles,
    standard_deviation,
};
pub use variance::{group_means, group_sizes, intraclass_correlation, variance_components};
