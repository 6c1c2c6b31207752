//! The frequencies of rotary position embeddings.

use crate::math::Rope;

/// How rotary frequencies are stretched for long contexts.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// As trained.
    None,
    /// All frequencies divided by one factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Llama 3: low frequencies divided, high ones kept, a ramp between.
    Llama3 {
        /// Divisor of low frequencies.
        factor: f64,
        /// Wavelengths above `original_max_positions / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_positions / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context length of the first training.
        original_max_positions: f64,
    },
    /// YaRN: low frequencies divided, high ones kept, a ramp between; rotated queries and keys are lengthened.
    Yarn(Yarn),
    /// As trained, up to the context that the model states. Beyond, frequencies follow the length of the text and keys that are
    /// stored would have to turn again, so there is no beyond.
    Dynamic {
        /// How much the base grows there.
        factor: f64,
    },
    /// LongRoPE: one divisor per frequency, and rotated queries and keys are lengthened. Longer texts than those of the first
    /// training have other divisors, from their first token on; keys that are stored cannot change theirs, so there is no beyond.
    LongRope {
        /// The divisors of texts up to the first training's length.
        short: Vec<f32>,
        /// Context length of the first training.
        original_max_positions: usize,
        /// By what rotated queries and keys are multiplied.
        attention_factor: f64,
    },
    /// One divisor per frequency, as GGUF stores Llama 3's.
    Factors(Vec<f32>),
}

/// Settings of YaRN.
///
/// Source: Peng et al. 2023 (arXiv 2309.00071)
#[derive(Clone, Debug, PartialEq)]
pub struct Yarn {
    /// Divisor of low frequencies.
    pub factor: f64,
    /// Context length of the first training.
    pub original_max_positions: f64,
    /// Turns within that length from which on a frequency is kept.
    pub beta_fast: f64,
    /// Turns within that length up to which a frequency is divided.
    pub beta_slow: f64,
    /// Whether the ramp begins and ends at whole dimensions.
    pub truncate: bool,
    /// By what rotated queries and keys are multiplied.
    pub attention_factor: f64,
}

impl Yarn {
    pub(super) const BETA_FAST: f64 = 32.0;
    pub(super) const BETA_SLOW: f64 = 1.0;

    /// What attention is multiplied by where texts become `factor` times longer; `slope` is 1 where nothing is stated.
    pub(super) fn lengthening(factor: f64, slope: f64) -> f64 {
        if factor <= 1.0 { 1.0 } else { 0.1 * slope * factor.ln() + 1.0 }
    }

    /// Share of each plain frequency that is divided: 0 keeps it, 1 divides it whole.
    fn divided(&self, rotary_dim: usize, theta: f64) -> Vec<f64> {
        let last = rotary_dim as f64 - 1.0;
        // The pair of dimensions that makes so many turns within the first training's context.
        let pair = |turns: f64| {
            let wavelengths = self.original_max_positions / (turns * std::f64::consts::TAU);
            rotary_dim as f64 * wavelengths.ln() / (2.0 * theta.ln())
        };
        let (mut low, mut high) = (pair(self.beta_fast), pair(self.beta_slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(last));
        let width = if low == high { 0.001 } else { high - low };
        (0..rotary_dim / 2).map(|i| ((i as f64 - low) / width).clamp(0.0, 1.0)).collect()
    }
}

impl RopeScaling {
    /// By what rotated queries and keys are multiplied.
    fn lengthening(&self) -> f64 {
        match self {
            Self::Yarn(yarn) => yarn.attention_factor,
            Self::LongRope { attention_factor, .. } => *attention_factor,
            _ => 1.0,
        }
    }

    /// Longest context of a model that states one of `max_positions`: YaRN's files state theirs by the factor, or by both, and
    /// LongRoPE ends where its divisors change.
    pub(super) fn max_positions(&self, max_positions: usize) -> usize {
        match self {
            Self::Yarn(yarn) => max_positions.max((yarn.original_max_positions * yarn.factor) as usize),
            Self::LongRope { original_max_positions, .. } => max_positions.min(*original_max_positions),
            _ => max_positions,
        }
    }
}

/// Frequencies theta^(-2i/R), scaled as transformers' `ROPE_INIT_FUNCTIONS` do, for the first R of D numbers.
pub(super) fn rope([rotary_dim, head_dim]: [usize; 2], theta: f64, scaling: &RopeScaling) -> Rope {
    let divided = match scaling {
        RopeScaling::Yarn(yarn) => yarn.divided(rotary_dim, theta),
        _ => Vec::new(),
    };
    let frequency = |i: usize| {
        let plain = theta.powf(-2.0 * i as f64 / rotary_dim as f64);
        let scaled = match scaling {
            RopeScaling::None | RopeScaling::Dynamic { .. } => plain,
            RopeScaling::Linear { factor } => plain / factor,
            RopeScaling::Factors(factors) | RopeScaling::LongRope { short: factors, .. } => {
                plain / f64::from(factors[i])
            }
            RopeScaling::Yarn(yarn) => (1.0 - divided[i]) * plain + divided[i] * plain / yarn.factor,
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => {
                let turns = original_max_positions * plain / std::f64::consts::TAU;
                let smooth = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                (1.0 - smooth) * plain / factor + smooth * plain
            }
        };
        scaled as f32
    };
    let rope = Rope::new((0..rotary_dim / 2).map(frequency).collect(), head_dim);
    rope.lengthening(scaling.lengthening() as f32)
}
