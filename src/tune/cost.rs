//! From squared changes of single heads to costs that can be added up over heads.

use crate::files::ModelIdentity;
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

/// Costs of trials that are sizes x settings, setting running faster: means over samples.
pub(super) fn curves(
    samples: &[&Measured],
    model: &ModelIdentity,
    sizes: &[usize],
    n_settings: usize,
    measure: Measure,
) -> Curves {
    let factors: Vec<Vec<f64>> =
        samples.iter().map(|sample| measure.factors(&sample.energy, model.n_kv_heads)).collect();
    let cost = |head: usize, trial: usize| -> Option<f64> {
        let of_samples = samples.iter().zip(&factors);
        let total: f64 = of_samples.map(|(sample, by)| f64::from(sample.squares[head][trial]) * by[head]).sum();
        // One sample that a setting fails on is enough to leave the setting out.
        total.is_finite().then(|| total / samples.len() as f64)
    };
    let costs = (0..model.n_layers * model.n_kv_heads)
        .map(|head| {
            let row = |size: usize| (0..n_settings).map(|s| cost(head, size * n_settings + s)).collect();
            (0..sizes.len()).map(row).collect()
        })
        .collect();
    Curves { sizes: sizes.to_vec(), costs }
}

/// Error of one trial on a sample: the mean over layers of ‖O_full - O‖ / ‖O_full‖, all heads of a layer together; `None`
/// where some head cannot reach its size.
///
/// - Unit: relative error
pub(super) fn layer_error(sample: &Measured, trial: usize, n_kv_heads: usize) -> Option<f64> {
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
        let model = ModelIdentity {
            name: "m".into(),
            architecture: "LlamaForCausalLM".into(),
            fingerprint: String::new(),
            tokenizer_sha256: None,
            n_layers: 2,
            n_q_heads: 2,
            n_kv_heads: 2,
            head_dim: 1,
            rope_theta: 1.0,
            max_positions: 9,
        };
        let sample = |energy: [f64; 4], squares: [[f32; 2]; 4]| Measured {
            energy: energy.to_vec(),
            squares: squares.map(|row| row.to_vec()).to_vec(),
            eps: Vec::new(),
            kept: Vec::new(),
        };
        let a = sample([3.0, 1.0, 0.0, 4.0], [[1.0, 2.0], [0.0, 1.0], [0.0, 0.0], [4.0, f32::NAN]]);
        let b = sample([1.0, 1.0, 2.0, 2.0], [[1.0, 0.0], [1.0, 0.0], [1.0, 1.0], [1.0, 1.0]]);
        let costs = |measure| curves(&[&a, &b], &model, &[500], 2, measure).costs;
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
}
