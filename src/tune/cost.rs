//! From squared changes of single heads to costs that can be added up over heads.

use crate::tune::curves::Curves;
use crate::tune::measure::Measured;

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
    /// By head and trial; not finite where a trial failed on some sample.
    totals: Vec<Vec<f64>>,
}

impl CostSums {
    pub fn new(measure: Measure, n_kv_heads: usize) -> Self {
        Self { measure, n_kv_heads, n_samples: 0, totals: Vec::new() }
    }

    pub fn add(&mut self, sample: &Measured) {
        self.n_samples += 1;
        self.totals.resize(sample.squares.len(), Vec::new());
        let factors = self.measure.factors(&sample.energy, self.n_kv_heads);
        for ((totals, squares), factor) in self.totals.iter_mut().zip(&sample.squares).zip(factors) {
            totals.resize(squares.len(), 0.0);
            totals.iter_mut().zip(squares).for_each(|(total, square)| *total += f64::from(*square) * factor);
        }
    }
}

/// Costs of trials that are sizes x settings, setting running faster: means over the samples of all parts.
pub(super) fn curves(parts: &[&CostSums], sizes: &[usize], n_settings: usize) -> Curves {
    let n_samples: usize = parts.iter().map(|part| part.n_samples).sum();
    let n_heads = parts.first().map_or(0, |part| part.totals.len());
    let cost = |head: usize, trial: usize| -> Option<f64> {
        let total: f64 = parts.iter().filter(|part| part.n_samples > 0).map(|part| part.totals[head][trial]).sum();
        // One sample that a setting fails on is enough to leave the setting out.
        total.is_finite().then(|| total / n_samples as f64)
    };
    let costs = (0..n_heads)
        .map(|head| {
            let row = |size: usize| (0..n_settings).map(|s| cost(head, size * n_settings + s)).collect();
            (0..sizes.len()).map(row).collect()
        })
        .collect();
    Curves { sizes: sizes.to_vec(), costs }
}

/// Means of the lowest similarities that trials joined, over samples where they joined any.
#[derive(Clone, Debug, Default)]
pub(super) struct EpsMeans {
    /// Sum and count by head and trial.
    sums: Vec<Vec<(f64, usize)>>,
}

impl EpsMeans {
    pub fn add(&mut self, sample: &Measured) {
        self.sums.resize(sample.eps.len(), Vec::new());
        for (sums, eps) in self.sums.iter_mut().zip(&sample.eps) {
            sums.resize(eps.len(), (0.0, 0));
            for (sum, eps) in sums.iter_mut().zip(eps).filter(|(_, eps)| !eps.is_nan()) {
                *sum = (sum.0 + f64::from(*eps), sum.1 + 1);
            }
        }
    }

    pub fn mean(&self, head: usize, trial: usize) -> Option<f32> {
        let (sum, n) = *self.sums.get(head)?.get(trial)?;
        (n > 0).then(|| (sum / n as f64) as f32)
    }
}

/// What is kept of a sample when chosen trials are checked on it.
#[derive(Clone, Debug)]
pub(super) struct Checked {
    /// [`layer_error`] by trial.
    pub errors: Vec<Option<f64>>,
    /// Slots kept per token, over all heads, by trial.
    pub kept: Vec<f64>,
}

impl Checked {
    pub fn of(sample: Measured, n_kv_heads: usize) -> Self {
        let errors = (0..sample.kept.len()).map(|trial| layer_error(&sample, trial, n_kv_heads)).collect();
        Self { errors, kept: sample.kept }
    }
}

/// Error of one trial on a sample: the mean over layers of ‖O_full - O‖ / ‖O_full‖, all heads of a layer together; `None`
/// where some head cannot reach its size.
///
/// - Unit: relative error
fn layer_error(sample: &Measured, trial: usize, n_kv_heads: usize) -> Option<f64> {
    let layers: Vec<f64> = sample
        .energy
        .chunks(n_kv_heads)
        .zip(sample.squares.chunks(n_kv_heads))
        .filter_map(|(energy, squares)| {
            let energy: f64 = energy.iter().sum();
            let squares: f64 = squares.iter().map(|head| f64::from(head[trial])).sum();
            (energy > 0.0).then(|| (squares / energy).sqrt())
        })
        .collect();
    crate::math::mean(&layers).filter(|mean| mean.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_and_errors_of_an_uneven_case_by_hand() {
        let sample = |energy: [f64; 4], squares: [[f32; 2]; 4]| Measured {
            energy: energy.to_vec(),
            squares: squares.map(|row| row.to_vec()).to_vec(),
            eps: Vec::new(),
            kept: Vec::new(),
        };
        let a = sample([3.0, 1.0, 0.0, 4.0], [[1.0, 2.0], [0.0, 1.0], [0.0, 0.0], [4.0, f32::NAN]]);
        let b = sample([1.0, 1.0, 2.0, 2.0], [[1.0, 0.0], [1.0, 0.0], [1.0, 1.0], [1.0, 1.0]]);
        let sums = |measure, samples: &[&Measured]| {
            let mut sums = CostSums::new(measure, 2);
            samples.iter().for_each(|sample| sums.add(sample));
            sums
        };
        let costs = |measure| curves(&[&sums(measure, &[&a, &b])], &[500], 2).costs;
        // In parts, one of them empty.
        let parts = [&[&a][..], &[], &[&b]].map(|samples| sums(Measure::Layer, samples));
        assert_eq!(curves(&parts.each_ref(), &[500], 2).costs, costs(Measure::Layer));
        let first = |measure| costs(measure).into_iter().map(|head| head[0][0].unwrap()).collect::<Vec<_>>();
        // Layer energies 4 and 4 in a, 2 and 4 in b.
        assert_eq!(first(Measure::Layer), [(0.25 + 0.5) / 2.0, 0.25, 0.125, (1.0 + 0.25) / 2.0]);
        assert_eq!(first(Measure::Head), [(1.0 / 3.0 + 1.0) / 2.0, 0.5, 0.25, 0.75]);
        assert_eq!(first(Measure::Absolute), [1.0, 0.5, 0.5, 2.5]);
        assert_eq!(costs(Measure::Layer)[3][0][1], None);
        // √(1/4) and √(4/4).
        assert_eq!(layer_error(&a, 0, 2), Some(0.75));
        assert_eq!(layer_error(&a, 1, 2), None);
        assert!(Measure::ALL.iter().all(|measure| Measure::from_name(measure.name()) == Some(*measure)));
    }

    #[test]
    fn similarities_are_averaged_where_something_was_joined() {
        let sample = |eps: [f32; 2]| Measured {
            energy: vec![1.0],
            squares: vec![vec![0.0; 2]],
            eps: vec![eps.to_vec()],
            kept: Vec::new(),
        };
        let mut means = EpsMeans::default();
        [[0.5, f32::NAN], [0.75, f32::NAN], [f32::NAN; 2]].into_iter().for_each(|eps| means.add(&sample(eps)));
        assert_eq!((means.mean(0, 0), means.mean(0, 1), means.mean(1, 0)), (Some(0.625), None, None));
    }
}
