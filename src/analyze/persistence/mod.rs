//! Is sparsity a property of the model or of the data? Evidence over samples grouped by data set.
//!
//! The unit is the sample; the measure is a head's sets per unprotected token at the reference threshold. Every sample
//! measures every head, so that the table of samples and heads is complete, while data sets may differ in size.

mod resample;
mod verdict;

use crate::format::analysis::{
    DatasetAnalysis, EpsPersistence, Evidence, HeadPersistence, HeadTest, LengthDependence, Persistence,
};
use crate::math::{
    CovariateFit, Interval, benjamini_hochberg, covariate_fit, group_means, group_sizes, intraclass_correlation,
    kendall_w, kruskal_wallis, lowest_rank_p, mean, mean_spearman, spearman, spearman_brown,
};

/// Permutations of every null distribution; the lowest p value is one over one more.
pub(crate) const PERMUTATIONS: usize = 999;
/// False discovery rate at which a head counts as affected by the data set.
pub(crate) const FALSE_DISCOVERY_RATE: f64 = 0.05;

/// One sample's set ratios at the reference threshold.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SampleRatios {
    /// Number of its data set.
    pub(crate) dataset: usize,
    pub(crate) n_tokens: usize,
    /// Of every head, by layer and head.
    pub(crate) ratios: Vec<f64>,
}

/// Samples of the data sets that can be used, in which every group has at least two.
struct Table<'a> {
    rows: Vec<&'a [f64]>,
    groups: Vec<usize>,
    log_lengths: Vec<f64>,
    means: Vec<Vec<f64>>,
}

/// What is said about what, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PersistenceOptions<'a> {
    pub(crate) eps_grid: &'a [f32],
    pub(crate) reference_eps: usize,
    pub(crate) tolerance: f64,
    pub(crate) seed: u64,
    /// Layer and KV head of every column.
    pub(crate) heads: &'a [(usize, usize)],
}

/// - Cost: O(resamples · samples · heads), deterministic in the seed at any number of threads
pub(crate) fn persistence(
    samples: &[SampleRatios],
    datasets: &[DatasetAnalysis],
    options: PersistenceOptions<'_>,
) -> Persistence {
    let n_of = |dataset: usize| samples.iter().filter(|sample| sample.dataset == dataset).count();
    let (used, few): (Vec<usize>, Vec<usize>) = (0..datasets.len()).partition(|dataset| n_of(*dataset) >= 2);
    let name = |dataset: &usize| datasets[*dataset].dataset.clone();
    let left_out: Vec<String> = few.iter().map(name).collect();
    let evidence = Table::new(samples, &used)
        .filter(|table| table.means.len() >= 2 && options.heads.len() >= 2)
        .map(|table| table.evidence(datasets, &used, options));
    let verdict = match &evidence {
        Some(evidence) => verdict::verdict(evidence, options.tolerance),
        None => verdict::too_few(used.len(), left_out.len(), options.heads.len()),
    };
    Persistence { tolerance: options.tolerance, verdict, left_out, evidence }
}

impl<'a> Table<'a> {
    fn new(samples: &'a [SampleRatios], used: &[usize]) -> Option<Self> {
        let (mut rows, mut groups, mut log_lengths) = (Vec::new(), Vec::new(), Vec::new());
        for sample in samples {
            if let Some(group) = used.iter().position(|dataset| *dataset == sample.dataset) {
                rows.push(sample.ratios.as_slice());
                groups.push(group);
                log_lengths.push((sample.n_tokens as f64).ln());
            }
        }
        let means = group_means(&rows, &groups)?;
        Some(Self { rows, groups, log_lengths, means })
    }

    fn column(&self, head: usize) -> Vec<f64> {
        self.rows.iter().map(|row| row[head]).collect()
    }

    fn evidence(&self, datasets: &[DatasetAnalysis], used: &[usize], options: PersistenceOptions<'_>) -> Evidence {
        let n_samples = self.rows.len();
        let mut intervals = self.intervals(options.tolerance, options.seed);
        let of_heads = std::mem::take(&mut intervals.heads);
        let fits: Vec<Option<CovariateFit>> = (0..options.heads.len())
            .map(|head| covariate_fit(&self.column(head), &self.log_lengths, &self.groups))
            .collect();
        Evidence {
            eps: options.eps_grid[options.reference_eps],
            datasets: used.iter().map(|dataset| datasets[*dataset].dataset.clone()).collect(),
            n_samples,
            variance: intervals.variance,
            icc_absolute: intervals.icc_absolute,
            icc_consistency: intervals.icc_consistency,
            kendall_w: intervals.kendall_w,
            mean_spearman: intervals.mean_spearman,
            persistent_share: intervals.persistent_share,
            lowest_head_p: lowest_rank_p(&group_sizes(&self.groups)),
            rank_null: self.rank_null(options.seed),
            dataset_test: self.dataset_test(options.seed),
            split_half: self.split_half(),
            length: self.length(&fits, options.seed),
            heads: self.heads(&fits, &of_heads, options),
            by_eps: by_eps(datasets, used, options),
        }
    }

    fn heads(
        &self,
        fits: &[Option<CovariateFit>],
        intervals: &[Interval],
        options: PersistenceOptions<'_>,
    ) -> Vec<HeadPersistence> {
        let tests: Vec<_> =
            (0..options.heads.len()).map(|head| kruskal_wallis(&self.column(head), &self.groups)).collect();
        let p: Vec<f64> = tests.iter().flatten().map(|test| test.p).collect();
        let mut adjusted = benjamini_hochberg(&p).into_iter();
        let deviations = deviations(&self.means);
        let mut heads = Vec::with_capacity(options.heads.len());
        for (index, (layer, kv_head)) in options.heads.iter().copied().enumerate() {
            let (mean, deviation) = deviations[index];
            let test = tests[index].zip(tests[index].and_then(|_| adjusted.next())).map(|(test, q)| HeadTest {
                statistic: test.statistic,
                p: test.p,
                q,
                epsilon_squared: test.epsilon_squared,
            });
            let persistent = deviation <= options.tolerance;
            let length_slope = fits[index].and_then(|fit| fit.slope);
            let interval = intervals.get(index).copied();
            heads.push(HeadPersistence { layer, kv_head, mean, interval, deviation, persistent, test, length_slope });
        }
        heads
    }

    /// Odd against even samples of each data set. Of an odd number the last one sits out, and the correction extrapolates
    /// to all.
    fn split_half(&self) -> Option<f64> {
        let sizes = group_sizes(&self.groups);
        let mut found = Vec::new();
        for (group, size) in sizes.iter().enumerate() {
            let rows: Vec<&[f64]> =
                self.rows.iter().zip(&self.groups).filter(|(_, g)| **g == group).map(|(row, _)| *row).collect();
            let half = size / 2;
            let halves: Vec<usize> = (0..2 * half).map(|i| i % 2).collect();
            let Some(means) = group_means(&rows[..2 * half], &halves) else { continue };
            // Halves that contradict each other have no reliability at all.
            let r = spearman(&means[0], &means[1]).map(|r| r.max(0.0));
            found.extend(r.and_then(|r| spearman_brown(r, *size as f64 / half as f64)));
        }
        mean(&found)
    }

    fn length(&self, fits: &[Option<CovariateFit>], seed: u64) -> Option<LengthDependence> {
        let fits: Vec<CovariateFit> = fits.iter().copied().collect::<Option<_>>()?;
        let total: f64 = fits.iter().map(|fit| fit.total).sum();
        if total <= 0.0 {
            return None;
        }
        let share = |part: &dyn Fn(&CovariateFit) -> f64| fits.iter().map(part).sum::<f64>() / total;
        let slopes: Vec<f64> = fits.iter().filter_map(|fit| fit.slope).collect();
        let within = share(&|fit| fit.within);
        Some(LengthDependence {
            slope: mean(&slopes),
            length: share(&|fit| fit.alone),
            dataset: share(&|fit| fit.group),
            length_after_dataset: within,
            dataset_after_length: share(&CovariateFit::group_after),
            p: (!slopes.is_empty()).then(|| self.length_p(within * total, seed)),
        })
    }
}

/// Every head's mean over data sets, and the largest distance of a data set's from it.
fn deviations(means: &[Vec<f64>]) -> Vec<(f64, f64)> {
    let n_heads = means.first().map_or(0, Vec::len);
    (0..n_heads)
        .map(|head| {
            let center = means.iter().map(|m| m[head]).sum::<f64>() / means.len() as f64;
            (center, means.iter().map(|m| (m[head] - center).abs()).fold(0.0, f64::max))
        })
        .collect()
}

/// Share of heads whose data sets all lie within the tolerance.
fn persistent_share(means: &[Vec<f64>], tolerance: f64) -> f64 {
    let deviations = deviations(means);
    deviations.iter().filter(|(_, deviation)| *deviation <= tolerance).count() as f64 / deviations.len() as f64
}

fn by_eps(datasets: &[DatasetAnalysis], used: &[usize], options: PersistenceOptions<'_>) -> Vec<EpsPersistence> {
    let at = |index: usize, eps: f32| {
        let of_dataset = |dataset: &usize| -> Option<Vec<f64>> {
            datasets[*dataset].sparsity.iter().map(|head| head.set_ratio[index]).collect()
        };
        let means: Option<Vec<Vec<f64>>> = used.iter().map(of_dataset).collect();
        let means = means.unwrap_or_default();
        let icc = intraclass_correlation(&means);
        EpsPersistence {
            eps,
            icc_absolute: icc.map(|icc| icc.absolute),
            icc_consistency: icc.map(|icc| icc.consistency),
            kendall_w: kendall_w(&means),
            persistent_share: (!means.is_empty()).then(|| persistent_share(&means, options.tolerance)),
        }
    };
    options.eps_grid.iter().enumerate().map(|(index, eps)| at(index, *eps)).collect()
}

/// Agreement figures of data set means.
fn agreement(means: &[Vec<f64>], tolerance: f64) -> [Option<f64>; 5] {
    let icc = intraclass_correlation(means);
    [
        icc.map(|icc| icc.absolute),
        icc.map(|icc| icc.consistency),
        kendall_w(means),
        mean_spearman(means),
        Some(persistent_share(means, tolerance)),
    ]
}
