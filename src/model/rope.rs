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
    /// One divisor per frequency, as GGUF stores Llama 3's.
    Factors(Vec<f32>),
}

/// Frequencies theta^(-2i/D), scaled as transformers' `ROPE_INIT_FUNCTIONS` do.
pub(super) fn rope(head_dim: usize, theta: f64, scaling: &RopeScaling) -> Rope {
    let frequency = |i: usize| {
        let plain = theta.powf(-2.0 * i as f64 / head_dim as f64);
        let scaled = match scaling {
            RopeScaling::None => plain,
            RopeScaling::Linear { factor } => plain / factor,
            RopeScaling::Factors(factors) => plain / f64::from(factors[i]),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => {
                let turns = original_max_positions * plain / std::f64::consts::TAU;
                let smooth = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                (1.0 - smooth) * plain / factor + smooth * plain
            }
        };
        scaled as f32
    };
    Rope::new((0..head_dim / 2).map(frequency).collect())
}
