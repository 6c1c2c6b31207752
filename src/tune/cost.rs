//! From squared changes of single heads to costs that can be added up over heads.

use crate::math::{Mean, mean};
use crate::tune::curves::Curves;
use crate::tune::measure::Measured;
use crate::tune::trial::{ByTrial, TrialKey};
use crate::tune::utility::{UtilityCurve, utility_shares};

/// What a squared change of a head's attention output is divided by, so that heads compare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Measure {
    /// By the squared output of all heads of the layer: what the layer as a whole loses.
    #[default]
    Layer,
    /// By the head's own squared output.
    Head,
    /// By nothing.
    Absolute,
}

impl Measure {
    /// All measures, the default first.
    pub const ALL: [Self; 3] = [Self::Layer, Self::Head, Self::Absolute];

    /// Name on the command line and in profiles.
    pub fn name(self) -> &'static str {
        match self {
            Self::Layer => "layer",
            Self::Head => "head",
            Self::Absolute => "absolute",
        }
    }

    /// The measure of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|measure| measure.name() == name)
    }

    /// What every head's squared changes are multiplied by in one sample; 0 where there is no output to change.
    fn factors(self, energy: &[f64], n_kv_heads: usize) -> Vec<f64> {
        let inverse = |x: f64| if x > 0.0 { 1.0 / x } else { 0.0 };
        match self {
            Self::Absolute => vec![1.0; energy.len()],
            Self::Head => energy.iter().map(|x| inverse(*x)).collect(),
            Self::Layer => {
                energy.chunks(n_kv_heads).flat_map(|layer| vec![inverse(layer.iter().sum()); layer.len()]).collect()
            }
        }
    }
}

/// What trials cost in the samples seen so far: sums that do not grow with their number.
#[derive(Clone, Debug)]
pub(super) struct CostSums {
    measure: Measure,
    n_kv_heads: usize,
    n_samples: usize,
    /// By head; `None` where a trial failed on some sample.
    totals: Vec<ByTrial<Total>>,
    sizes: Vec<usize>,
    /// Heads that share slots, each kind's by themselves.
    kinds: Vec<Vec<usize>>,
    /// Sums of the heads' shares by LU-KV, `[size][head]`; `None` where some sample cannot be so small.
    utility: Vec<Vec<Option<f64>>>,
}

#[derive(Clone, Copy, Debug)]
struct Total(Option<f64>);

impl Default for Total {
    fn default() -> Self {
        Self(Some(0.0))
    }
}

impl CostSums {
    /// Of trials at these sizes, of heads of these kinds.
    pub fn new(measure: Measure, n_kv_heads: usize, sizes: &[usize], kinds: &[Vec<usize>]) -> Self {
        let (utility, sizes, kinds) = (vec![Vec::new(); sizes.len()], sizes.to_vec(), kinds.to_vec());
        Self { measure, n_kv_heads, n_samples: 0, totals: Vec::new(), sizes, kinds, utility }
    }

    /// Shares of all heads by LU-KV at every size, each kind's by themselves.
    fn utility_shares(&self, curves: &[UtilityCurve]) -> Vec<Option<Vec<f64>>> {
        let mut all = vec![Some(vec![0.0; curves.len()]); self.sizes.len()];
        for heads in &self.kinds {
            let own: Vec<UtilityCurve> = heads.iter().map(|head| curves[*head].clone()).collect();
            for (all, own) in all.iter_mut().zip(utility_shares(&own, self.n_kv_heads, &self.sizes)) {
                *all = all.take().zip(own).map(|(mut all, own)| {
                    heads.iter().zip(own).for_each(|(head, share)| all[*head] = share);
                    all
                });
            }
        }
        all
    }

    pub fn add(&mut self, sample: &Measured) {
        self.n_samples += 1;
        self.totals.resize(sample.heads.len(), ByTrial::default());
        let shares = self.utility_shares(&sample.utilities);
        for (sums, shares) in self.utility.iter_mut().zip(shares) {
            sums.resize(sample.heads.len(), Some(0.0));
            let of_head = |head: usize| shares.as_ref().map(|shares| shares[head]);
            sums.iter_mut().enumerate().for_each(|(head, sum)| *sum = sum.zip(of_head(head)).map(|(a, b)| a + b));
        }
        let factors = self.measure.factors(&sample.energy, self.n_kv_heads);
        for ((totals, head), factor) in self.totals.iter_mut().zip(&sample.heads).zip(factors) {
            totals.update(head, |total, outcome| {
                total.0 = total.0.zip(outcome.square).map(|(sum, square)| sum + f64::from(square) * factor);
            });
        }
    }
}

/// Costs at every size under every setting, and LU-KV's shares: means over the samples of all parts.
pub(super) fn curves(parts: &[&CostSums], n_settings: usize) -> Curves {
    let sizes = parts.first().map_or(&[][..], |part| &part.sizes);
    let parts: Vec<&&CostSums> = parts.iter().filter(|part| part.n_samples > 0).collect();
    let n_samples: usize = parts.iter().map(|part| part.n_samples).sum();
    let n_heads = parts.first().map_or(0, |part| part.totals.len());
    // One sample that a setting fails on is enough to leave the setting out.
    let cost = |head: usize, key: TrialKey| -> Option<f64> {
        let total: Option<f64> = parts.iter().map(|part| part.totals[head].get(key)?.0).sum();
        total.filter(|total| total.is_finite()).map(|total| total / n_samples as f64)
    };
    let costs = (0..n_heads)
        .map(|head| {
            let row = |size| (0..n_settings).map(|setting| cost(head, TrialKey::Grid { size, setting })).collect();
            (0..sizes.len()).map(row).collect()
        })
        .collect();
    let share = |size: usize, head: usize| -> Option<f64> {
        let total: Option<f64> = parts.iter().map(|part| part.utility[size][head]).sum();
        total.map(|total| total / n_samples as f64)
    };
    let shares = |size| (0..n_heads).map(|head| share(size, head)).collect();
    Curves { sizes: sizes.to_vec(), costs, utility: (0..sizes.len()).map(shares).collect() }
}

/// Means of the lowest similarities that trials joined, over samples where they joined any.
#[derive(Clone, Debug, Default)]
pub(super) struct EpsMeans {
    by_head: Vec<ByTrial<Mean>>,
}

impl EpsMeans {
    pub fn add(&mut self, sample: &Measured) {
        self.by_head.resize(sample.heads.len(), ByTrial::default());
        for (means, head) in self.by_head.iter_mut().zip(&sample.heads) {
            means.update(head, |mean, outcome| mean.extend(outcome.eps.map(f64::from)));
        }
    }

    pub fn mean(&self, head: usize, key: TrialKey) -> Option<f32> {
        self.by_head.get(head)?.get(key)?.get().map(|mean| mean as f32)
    }
}

/// What is kept of a sample when a chosen trial is checked on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Checked {
    /// [`layer_error`].
    pub error: Option<f64>,
    /// Slots kept per slot of the whole cache, over all heads.
    pub kept: f64,
}

impl Checked {
    /// Of every trial of a sample.
    pub fn all(sample: &Measured, n_kv_heads: usize) -> ByTrial<Self> {
        let n_slots = sample.n_slots as f64;
        let kept =
            |key| sample.heads.iter().filter_map(|head| head.get(key)).map(|outcome| outcome.kept).sum::<usize>();
        let keys = sample.heads.first().into_iter().flat_map(ByTrial::iter).map(|(key, _)| key);
        keys.map(|key| (key, Self { error: layer_error(sample, key, n_kv_heads), kept: kept(key) as f64 / n_slots }))
            .collect()
    }
}

/// Error of one trial on a sample: the mean over layers of ‖O_full - O‖ / ‖O_full‖, all heads of a layer together; `None`
/// where some head cannot reach its size.
///
/// - Unit: relative error
pub(super) fn layer_error(sample: &Measured, trial: TrialKey, n_kv_heads: usize) -> Option<f64> {
    let mut layers = Vec::new();
    for (energy, heads) in sample.energy.chunks(n_kv_heads).zip(sample.heads.chunks(n_kv_heads)) {
        let energy: f64 = energy.iter().sum();
        let squares: f64 = heads.iter().map(|head| head.get(trial)?.square.map(f64::from)).sum::<Option<f64>>()?;
        if energy > 0.0 {
            layers.push((squares / energy).sqrt());
        }
    }
    mean(&layers).filter(|mean| mean.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::HeadPlan;
    use crate::tune::measure::Outcome;

    #[test]
    fn costs_and_errors_of_an_uneven_case_by_hand() {
        let key = |setting| TrialKey::Grid { size: 0, setting };
        let sample = |energy: [f64; 4], squares: [[Option<f32>; 2]; 4]| Measured {
            energy: energy.to_vec(),
            heads: squares
                .map(|row| (0..2).map(|i| (key(i), Outcome { square: row[i], ..Outcome::default() })).collect())
                .to_vec(),
            n_slots: 16,
            utilities: [[4.0, 3.0, 2.0, 1.0]; 4]
                .map(|u| UtilityCurve::new(&u, &u, &[Some(HeadPlan::keep_marked(&[true, false, false, false]))]))
                .to_vec(),
        };
        let both = |a: f32, b: f32| [Some(a), Some(b)];
        let a = sample([3.0, 1.0, 0.0, 4.0], [both(1.0, 2.0), both(0.0, 1.0), both(0.0, 0.0), [Some(4.0), None]]);
        let b = sample([1.0, 1.0, 2.0, 2.0], [both(1.0, 0.0), both(1.0, 0.0), both(1.0, 1.0), both(1.0, 1.0)]);
        let sums = |measure, samples: &[&Measured]| {
            let mut sums = CostSums::new(measure, 2, &[5000], &[(0..4).collect()]);
            samples.iter().for_each(|sample| sums.add(sample));
            sums
        };
        let costs = |measure| curves(&[&sums(measure, &[&a, &b])], 2).costs;
        // In parts, one of them empty.
        let parts = [&[&a][..], &[], &[&b]].map(|samples| sums(Measure::Layer, samples));
        assert_eq!(curves(&parts.each_ref(), 2).costs, costs(Measure::Layer));
        let first = |measure| costs(measure).into_iter().map(|head| head[0][0].unwrap()).collect::<Vec<_>>();
        // Layer energies 4 and 4 in a, 2 and 4 in b.
        assert_eq!(first(Measure::Layer), [(0.25 + 0.5) / 2.0, 0.25, 0.125, (1.0 + 0.25) / 2.0]);
        assert_eq!(first(Measure::Head), [(1.0 / 3.0 + 1.0) / 2.0, 0.5, 0.25, 0.75]);
        assert_eq!(first(Measure::Absolute), [1.0, 0.5, 0.5, 2.5]);
        assert_eq!(costs(Measure::Layer)[3][0][1], None);
        // Slopes are the same in every head: of 16 slots the eight that are worth least go.
        let all = [&a, &b];
        assert_eq!(curves(&[&sums(Measure::Layer, &all)], 2).utility, [Some(vec![0.5; 4])]);
        // √(1/4) and √(4/4).
        assert_eq!(layer_error(&a, key(0), 2), Some(0.75));
        assert_eq!(layer_error(&a, key(1), 2), None);
        assert!(Measure::ALL.iter().all(|measure| Measure::from_name(measure.name()) == Some(*measure)));
    }

    #[test]
    fn similarities_are_averaged_where_something_was_joined() {
        let (first, second) = (TrialKey::Equal { budget: 0, setting: 0 }, TrialKey::Equal { budget: 0, setting: 1 });
        let sample = |eps: Option<f32>| Measured {
            energy: vec![1.0],
            heads: vec![
                [(first, Outcome { eps, ..Outcome::default() }), (second, Outcome::default())].into_iter().collect(),
            ],
            n_slots: 1,
            utilities: Vec::new(),
        };
        let mut means = EpsMeans::default();
        [Some(0.5), Some(0.75), None].into_iter().for_each(|eps| means.add(&sample(eps)));
        assert_eq!((means.mean(0, first), means.mean(0, second), means.mean(1, first)), (Some(0.625), None, None));
    }
}
