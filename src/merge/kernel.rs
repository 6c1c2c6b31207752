//! What decides how the members of a merging set are weighed.

use serde::{Deserialize, Serialize};

/// Weights of the keys in a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kernel {
    /// g_i = exp(-‖k_p - k_i‖² / (2 sigma²)), as published.
    #[default]
    Gaussian,
    /// Equal weights.
    Uniform,
    /// Weights in proportion to the attention mass.
    Attention,
    /// The pivot's key and value as they are: eviction of the others, the control of every merge.
    Pivot,
    /// The pivot's key, Gaussian weights for the values.
    KeyFixed,
}

/// Width of the Gaussian kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Sigma {
    /// sigma = (1 / (√2 |S|)) Σ_i ‖k_p - k_i‖, from each set.
    #[default]
    Distance,
    /// One number for all sets; the paper's best was 5.
    Fixed(f32),
    /// One step of the printed, circular formula sigma = Σ_i g_i / (√2 |S|), from all g_i = 1.
    Printed,
}

impl TryFrom<String> for Sigma {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "distance" => Ok(Self::Distance),
            "printed" => Ok(Self::Printed),
            _ => match text.strip_prefix("fixed:").and_then(|x| x.parse::<f32>().ok()) {
                Some(x) if x > 0.0 && x.is_finite() => Ok(Self::Fixed(x)),
                _ => Err(format!("sigma is `distance`, `printed` or `fixed:X` with X > 0, not `{text}`")),
            },
        }
    }
}

impl From<Sigma> for String {
    fn from(sigma: Sigma) -> Self {
        match sigma {
            Sigma::Distance => "distance".into(),
            Sigma::Fixed(x) => format!("fixed:{x}"),
            Sigma::Printed => "printed".into(),
        }
    }
}

/// How a merged value and the slot's weight in the softmax come about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ValueRule {
    /// v* = |S| Σ w_i v_i, softmax unchanged: as published. A set of |S| tokens then gives |S| times a token's value, with one
    /// token's share of attention.
    #[serde(alias = "scaled")]
    Paper,
    /// v* = Σ w_i v_i, softmax unchanged.
    Convex,
    /// Convex, and log |S| added to the logit, so that a set keeps its tokens' share of attention (KeepKV, arXiv 2504.09936;
    /// ZSMerge, arXiv 2503.10714).
    #[default]
    LogCount,
    /// v* = Σ a_i v_i / Σ a_i, and min(log(Σ a_i / a_p), log |S|) added to the logit.
    Mass,
}

impl ValueRule {
    /// All rules, the published one first.
    pub const ALL: [Self; 4] = [Self::Paper, Self::Convex, Self::LogCount, Self::Mass];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sigma_reads_what_it_writes() {
        for sigma in [Sigma::Distance, Sigma::Printed, Sigma::Fixed(5.0), Sigma::Fixed(0.25)] {
            assert_eq!(Sigma::try_from(String::from(sigma)), Ok(sigma));
        }
        for bad in ["fixed:0", "fixed:-1", "fixed:nan", "fixed:", "five"] {
            assert!(Sigma::try_from(bad.to_string()).is_err(), "{bad}");
        }
    }
}
