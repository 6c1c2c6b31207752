//! An analysis in a few numbers.

use std::collections::{BTreeMap, BTreeSet};

use crate::format::analysis::{Analysis, DatasetAnalysis};
use crate::format::dump::State;
use crate::math::{Interval, Mean, mean};

/// One data set. The cosines are means over all pairs of neighbours of all heads, the rest are means over heads.
#[derive(Clone, Debug, PartialEq)]
pub struct DatasetSummary<'a> {
    pub dataset: &'a str,
    pub n_samples: usize,
    /// Tokens of all samples.
    pub n_tokens: usize,
    pub cosine_k: Option<f64>,
    /// Mean cosine of neighbouring keys before RoPE.
    pub cosine_k_pre_rope: Option<f64>,
    pub cosine_v: Option<f64>,
    /// Merging sets per unprotected token at the reference threshold.
    pub set_ratio: Option<f64>,
    /// Share of the cache's slots that stay, with its interval over samples.
    pub kept_fraction: Option<Interval>,
}

/// An analysis in a few numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary<'a> {
    /// Threshold of the merging sets.
    pub eps: Option<f32>,
    /// KV heads of each layer that were analysed.
    pub n_kv_heads: usize,
    /// In the order of the analysis.
    pub datasets: Vec<DatasetSummary<'a>>,
    /// Layers by their mean set ratio over heads and data sets, the most mergeable first.
    pub layers: Vec<(usize, f64)>,
    /// By layer and KV head, the mean set ratio over data sets; `None` where every token is protected.
    pub heads: BTreeMap<(usize, usize), Option<f64>>,
}

/// Sums an analysis up at its reference threshold.
pub fn summary(analysis: &Analysis) -> Summary<'_> {
    let heads = analysis.datasets.iter().flat_map(|d| &d.similarity).flat_map(|s| &s.heads).map(|h| h.kv_head);
    let eps = analysis.reference_eps;
    let datasets = analysis.datasets.iter().enumerate().map(|(index, dataset)| DatasetSummary {
        dataset: &dataset.dataset,
        n_samples: dataset.n_samples,
        n_tokens: dataset.n_tokens,
        cosine_k: mean_cosine(dataset, State::K),
        cosine_k_pre_rope: mean_cosine(dataset, State::KPreRope),
        cosine_v: mean_cosine(dataset, State::V),
        set_ratio: set_ratio(dataset, eps, None),
        kept_fraction: analysis.kept_fraction.get(index).copied().flatten(),
    });
    let ratio = |layer: usize| {
        let values = analysis.datasets.iter().filter_map(|dataset| set_ratio(dataset, eps, Some(layer)));
        mean(values)
    };
    let mut layers: Vec<(usize, f64)> =
        analysis.layers.iter().filter_map(|layer| Some((*layer, ratio(*layer)?))).collect();
    layers.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
    let mut of_heads: BTreeMap<(usize, usize), Mean> = BTreeMap::new();
    for head in analysis.datasets.iter().flat_map(|dataset| &dataset.sparsity) {
        let mean = of_heads.entry((head.layer, head.kv_head)).or_default();
        head.set_ratio.get(eps).copied().flatten().into_iter().for_each(|ratio| mean.add(ratio));
    }
    Summary {
        eps: analysis.eps_grid.get(eps).copied(),
        n_kv_heads: heads.collect::<BTreeSet<_>>().len(),
        datasets: datasets.collect(),
        layers,
        heads: of_heads.into_iter().map(|(place, mean)| (place, mean.get())).collect(),
    }
}

/// Mean over all pairs of all heads.
fn mean_cosine(dataset: &DatasetAnalysis, state: State) -> Option<f64> {
    let heads = &dataset.similarity.iter().find(|s| s.state == state)?.heads;
    let mut all = Mean::default();
    heads.iter().for_each(|head| all.join(head.neighbours.sum()));
    all.get()
}

/// Mean over the heads of one layer or of all.
fn set_ratio(dataset: &DatasetAnalysis, eps: usize, layer: Option<usize>) -> Option<f64> {
    let heads = dataset.sparsity.iter().filter(|head| layer.is_none_or(|layer| layer == head.layer));
    mean(heads.filter_map(|head| head.set_ratio.get(eps).copied().flatten()))
}
