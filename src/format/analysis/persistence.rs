//! Whether sparsity is a property of the model or of the data, as an analysis tells it.

use serde::{Deserialize, Serialize};

use crate::math::Interval;

/// Whether the heads' sparsity persists over data sets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Persistence {
    /// Largest distance of a data set's mean set ratio from the head's mean at which the head counts as persistent.
    pub tolerance: f64,
    /// The outcome in words, with its numbers.
    pub verdict: String,
    /// Data sets without two samples that have sets.
    pub left_out: Vec<String>,
    /// The numbers; `None` when fewer than two data sets remain, or a model has one head only.
    pub evidence: Option<Evidence>,
}

/// Shares of the variance of the set ratio, from variance components; they sum to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct VarianceShares {
    /// Heads that differ alike in all data sets.
    pub head: Interval,
    /// Data sets that shift all heads alike.
    pub dataset: Interval,
    /// Data sets that shift single heads.
    pub interaction: Interval,
    /// Samples of a data set that shift all heads alike.
    pub sample: Interval,
    /// Samples of a data set that differ in single heads.
    pub residual: Interval,
}

impl VarianceShares {
    /// Share of the data sets, whether they shift all heads or single ones.
    pub fn of_datasets(&self) -> f64 {
        self.dataset.estimate + self.interaction.estimate
    }

    /// Share of the samples of one data set.
    pub fn of_samples(&self) -> f64 {
        self.sample.estimate + self.residual.estimate
    }
}

/// A permutation test of whether data sets rank the heads alike.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RankNull {
    /// Permutations of the heads, independent in every data set.
    pub n_permutations: usize,
    /// Mean of W over them: what chance gives.
    pub mean_w: f64,
    /// (1 + permutations with W as high) / (1 + permutations).
    pub p: f64,
}

/// A permutation test of whether data sets differ more than samples of one data set do.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct DatasetTest {
    /// Permutations of the samples' data sets.
    pub n_permutations: usize,
    /// Mean square between data sets over mean square within, summed over heads (pseudo-F of Anderson 2001).
    pub pseudo_f: f64,
    /// (1 + permutations with an F as high) / (1 + permutations).
    pub p: f64,
}

/// How the set ratio depends on the prompt's length, beside the data set. Shares are of the squares about the heads' means.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LengthDependence {
    /// Mean over heads of the slope on ln T within data sets; `None` when lengths differ between data sets only.
    pub slope: Option<f64>,
    /// Explained by length alone.
    pub length: f64,
    /// Explained by the data set alone.
    pub dataset: f64,
    /// Explained by length once the data set is known.
    pub length_after_dataset: f64,
    /// Explained by the data set once length is known. What both could explain is in neither of these two.
    pub dataset_after_length: f64,
    /// Permutation test of the length's part, lengths permuted within data sets.
    pub p: Option<f64>,
}

/// Kruskal and Wallis' test of one head over data sets.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadTest {
    /// H, corrected for ties.
    pub statistic: f64,
    /// Its p value by chi-squared.
    pub p: f64,
    /// Benjamini and Hochberg's adjusted p value over heads.
    pub q: f64,
    /// Effect size, 0 to 1.
    pub epsilon_squared: f64,
}

/// One head.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadPersistence {
    /// Layer.
    pub layer: usize,
    /// KV head within the layer.
    pub kv_head: usize,
    /// Set ratio, mean of the data sets' means.
    pub mean: f64,
    /// The mean with its interval over samples; `None` in files of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Interval>,
    /// Largest distance of a data set's mean from it.
    pub deviation: f64,
    /// Whether that is within the tolerance.
    pub persistent: bool,
    /// Whether data sets differ; `None` when all samples are equal.
    pub test: Option<HeadTest>,
    /// Slope of the set ratio on ln T within data sets.
    pub length_slope: Option<f64>,
}

/// The same figures at another threshold, without intervals.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpsPersistence {
    /// Threshold.
    pub eps: f32,
    /// ICC(A,1).
    pub icc_absolute: Option<f64>,
    /// ICC(C,1).
    pub icc_consistency: Option<f64>,
    /// Kendall's W.
    pub kendall_w: Option<f64>,
    /// Share of heads within the tolerance.
    pub persistent_share: Option<f64>,
}

/// The numbers behind a verdict. Intervals are over samples, drawn anew within each data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Threshold of all but `by_eps`.
    pub eps: f32,
    /// Data sets used.
    pub datasets: Vec<String>,
    /// Their samples.
    pub n_samples: usize,
    /// Where the variance of the set ratio comes from; `None` when nothing varies.
    pub variance: Option<VarianceShares>,
    /// ICC(A,1) of heads as targets and data sets as raters, from data set means: absolute agreement.
    pub icc_absolute: Option<Interval>,
    /// ICC(C,1) of the same: consistency, a data set's shift of all heads left out.
    pub icc_consistency: Option<Interval>,
    /// Kendall's W of data sets ranking heads, corrected for ties.
    pub kendall_w: Option<Interval>,
    /// Mean Spearman correlation over pairs of data sets.
    pub mean_spearman: Option<Interval>,
    /// Share of heads within the tolerance.
    pub persistent_share: Option<Interval>,
    /// Lowest p that the rank test of a single head can give with these numbers of samples; `None` in files of earlier
    /// versions.
    #[serde(default)]
    pub lowest_head_p: Option<f64>,
    /// Do data sets rank heads alike beyond chance?
    pub rank_null: Option<RankNull>,
    /// Do data sets differ beyond the samples of one?
    pub dataset_test: Option<DatasetTest>,
    /// Reliability of a data set's ranking of heads, from its odd against its even samples (Spearman-Brown), mean over data
    /// sets: the ceiling of `mean_spearman`.
    pub split_half: Option<f64>,
    /// Dependence on the prompt's length; `None` when all samples are equally long.
    pub length: Option<LengthDependence>,
    /// Every head, by layer and head.
    pub heads: Vec<HeadPersistence>,
    /// Every threshold of the grid.
    pub by_eps: Vec<EpsPersistence>,
}
