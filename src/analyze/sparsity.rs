//! Merging sets of one head at every threshold of a grid.

use crate::analyze::HeadSparsity;
use crate::merge::Shares;
use crate::merge::links;
use crate::merge::protect;
use crate::merge::sets_above;

/// Which tokens are merged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SetRule<'a> {
    pub(crate) shares: Shares,
    pub(crate) bridge: bool,
    pub(crate) eps_grid: &'a [f32],
}

/// One sample's sets in one head, one entry per threshold.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SampleSets {
    /// Sets per unprotected token; `None` when every token is protected.
    pub(crate) set_ratio: Vec<Option<f64>>,
    /// (sets + protected) / T.
    pub(crate) kept_fraction: Vec<f64>,
    /// Tokens in the largest set.
    pub(crate) largest_set: Vec<usize>,
}

impl SampleSets {
    /// - Shape: keys `[T, D]`, mass `[T]`, T > 0
    /// - Cost:  O(T·(D + log T + thresholds))
    pub(crate) fn of(keys: &[f32], head_dim: usize, mass: &[f32], rule: SetRule<'_>) -> Self {
        let n_tokens = mass.len();
        let (n_recent, n_heavy) = rule.shares.counts(n_tokens);
        let (tokens, found) = links(keys, head_dim, &protect(mass, n_recent, n_heavy), rule.bridge);
        let n_free = tokens.len();
        let mut result = Self { set_ratio: Vec::new(), kept_fraction: Vec::new(), largest_set: Vec::new() };
        for eps in rule.eps_grid {
            let sets = sets_above(tokens.clone(), &found, *eps).sets;
            result.set_ratio.push((n_free > 0).then(|| sets.len() as f64 / n_free as f64));
            result.kept_fraction.push((sets.len() + n_tokens - n_free) as f64 / n_tokens as f64);
            result.largest_set.push(sets.iter().map(|set| set.len()).max().unwrap_or(0));
        }
        result
    }
}

/// Means over the samples of a data set, the sample as unit.
#[derive(Clone, Debug)]
pub(crate) struct SetCounters {
    ratio: Vec<(f64, usize)>,
    kept: Vec<(f64, usize)>,
    largest: Vec<usize>,
}

impl SetCounters {
    pub(crate) fn new(n_thresholds: usize) -> Self {
        let empty = vec![(0.0, 0); n_thresholds];
        Self { ratio: empty.clone(), kept: empty, largest: vec![0; n_thresholds] }
    }

    pub(crate) fn add(&mut self, sample: &SampleSets) {
        for (index, kept) in sample.kept_fraction.iter().enumerate() {
            if let Some(ratio) = sample.set_ratio[index] {
                self.ratio[index].0 += ratio;
                self.ratio[index].1 += 1;
            }
            self.kept[index].0 += kept;
            self.kept[index].1 += 1;
            self.largest[index] = self.largest[index].max(sample.largest_set[index]);
        }
    }

    pub(crate) fn finish(self, layer: usize, kv_head: usize) -> HeadSparsity {
        let means =
            |sums: Vec<(f64, usize)>| sums.into_iter().map(|(sum, n)| (n > 0).then(|| sum / n as f64)).collect();
        HeadSparsity {
            layer,
            kv_head,
            set_ratio: means(self.ratio),
            kept_fraction: means(self.kept),
            largest_set: self.largest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_an_uneven_head_by_hand() {
        // Seven tokens: 17 % recent is 1 (token 6), 12 % heavy is 1 (token 2), which cuts the chain 0-1 | 3-4-5.
        // Cosines: 0-1 is 0.96, 3-4 is 1, 4-5 is 0.6.
        let keys =
            [3.0, 4.0, 4.0, 3.0, 1.0, 0.0, 0.0, 2.0, 0.0, 5.0, 4.0, 3.0, 1.0, 1.0].map(|x: f32| x * 0.5).to_vec();
        let mass = [0.1, 0.2, 9.0, 0.1, 0.3, 0.1, 20.0];
        let shares = Shares::of_paper(0.5);
        let rule = SetRule { shares, bridge: false, eps_grid: &[0.5, 0.75, 0.99] };
        let sets = SampleSets::of(&keys, 2, &mass, rule);
        assert_eq!(sets.set_ratio, [Some(2.0 / 5.0), Some(3.0 / 5.0), Some(4.0 / 5.0)]);
        assert_eq!(sets.kept_fraction, [4.0 / 7.0, 5.0 / 7.0, 6.0 / 7.0]);
        assert_eq!(sets.largest_set, [3, 2, 2]);
        // Bridged, 1 and 3 are neighbours too: cos = 0.6.
        let bridged = SampleSets::of(&keys, 2, &mass, SetRule { bridge: true, ..rule });
        assert_eq!(bridged.set_ratio[0], Some(1.0 / 5.0));
        assert_eq!(bridged.largest_set[0], 5);
    }

    #[test]
    fn means_leave_out_samples_without_free_tokens() {
        let rule = SetRule { shares: Shares { recent: 1.0, heavy: 0.0 }, bridge: false, eps_grid: &[0.75] };
        let all_protected = SampleSets::of(&[1.0, 2.0], 1, &[0.5, 0.5], rule);
        assert_eq!((all_protected.set_ratio[0], all_protected.kept_fraction[0]), (None, 1.0));
        let none_protected =
            SampleSets::of(&[1.0, 2.0], 1, &[0.5, 0.5], SetRule { shares: Shares { recent: 0.0, heavy: 0.0 }, ..rule });
        let mut counters = SetCounters::new(1);
        counters.add(&all_protected);
        assert_eq!(counters.clone().finish(0, 0).set_ratio, [None]);
        counters.add(&none_protected);
        let head = counters.finish(3, 1);
        assert_eq!((head.layer, head.kv_head), (3, 1));
        assert_eq!((head.set_ratio[0], head.kept_fraction[0], head.largest_set[0]), (Some(0.5), Some(0.75), 2));
    }
}
