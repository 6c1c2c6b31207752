//! The profile: what was tuned for one model, with the evidence. Human-readable JSON, bound to the model it was made for.
//!
//! A leaf: knows the file format and nothing of how a profile is found or applied.

use serde::Deserialize;
use serde::Serialize;

use crate::files::Document;
use crate::files::FileError;
use crate::files::ModelIdentity;
use crate::files::Provenance;
use crate::math::Interval;
use crate::merge::Kernel;
use crate::merge::Shares;
use crate::merge::Sigma;
use crate::merge::ValueRule;

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// Reading or writing failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The profile belongs to another model.
    #[error(
        "the profile was tuned for {theirs} (fingerprint {their_fingerprint:.12}), not for {ours} ({our_fingerprint:.12})"
    )]
    OtherModel {
        /// Model named in the profile.
        theirs: String,
        /// Its fingerprint.
        their_fingerprint: String,
        /// Model at hand.
        ours: String,
        /// Its fingerprint.
        our_fingerprint: String,
    },
    /// A number in the profile cannot be.
    #[error("the profile is damaged: {0}")]
    Damaged(String),
}

impl ProfileError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::File(error) => error.hint(),
            Self::OtherModel { .. } => {
                Some("tune a profile for this model, or pass --force to use this one anyway".into())
            }
            Self::Damaged(_) => Some("tune it again".into()),
        }
    }
}

/// How the members of a set become one slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MergeRule {
    /// Weights of the keys.
    pub kernel: Kernel,
    /// Width of the Gaussian kernel.
    pub sigma: Sigma,
    /// Values and logit bias.
    pub variant: ValueRule,
    /// Whether chains run on across protected tokens.
    pub bridge: bool,
}

/// A point of a head's threshold → size curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Threshold.
    pub eps: f32,
    /// Mean kept_fraction over the calibration samples, protected tokens included.
    pub kept_fraction: f64,
}

/// What was chosen for one KV head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadProfile {
    /// Layer.
    pub layer: usize,
    /// KV head within the layer.
    pub kv_head: usize,
    /// Neighbours above this cosine are joined.
    pub eps: f32,
    /// Mean kept_fraction of the head on the calibration samples at `eps`.
    pub kept_fraction: f64,
    /// The head's curve, by rising eps.
    pub curve: Vec<CurvePoint>,
}

/// A sample that was used, by name and content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UsedSample {
    /// Data set.
    pub dataset: String,
    /// Row id.
    pub id: String,
    /// SHA-256 of the captured file.
    pub sha256: String,
    /// kept_fraction that the profile reaches on it, over all layers and heads.
    pub kept_fraction: f64,
}

/// Relative error of the attention output, ‖o_full - o_compressed‖ / ‖o_full‖, of one way to compress.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// `scaled`, `convex`, `log-count`, `mass`, or `evict`: the same pivots without merging.
    pub rule: String,
    /// Mean over heads on the calibration samples.
    pub calibration: Interval,
    /// The same on samples that no choice has seen; `None` when none were set aside.
    pub held_out: Option<Interval>,
}

/// The whole profile.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// `kvscope.profile/1`.
    pub schema: String,
    /// How it was made.
    pub provenance: Provenance,
    /// The model that it is for.
    pub model: ModelIdentity,
    /// Policy that carries it out.
    pub policy: String,
    /// How sets become slots.
    pub rule: MergeRule,
    /// Protected shares of the tokens seen.
    pub shares: Shares,
    /// Budget that was asked for: slots kept per token seen.
    pub target_kept_fraction: f64,
    /// kept_fraction on the calibration samples.
    pub calibration_kept_fraction: Interval,
    /// kept_fraction on held-out samples; `None` when none were set aside.
    pub held_out_kept_fraction: Option<Interval>,
    /// Attention-output error of every rule and of `evict`; empty when the dump holds no queries.
    pub quality: Vec<Quality>,
    /// The outcome in words.
    pub verdict: String,
    /// Samples that choices were made on.
    pub calibration: Vec<UsedSample>,
    /// Samples that were only measured.
    pub held_out: Vec<UsedSample>,
    /// Every head, by layer and head.
    pub heads: Vec<HeadProfile>,
}

impl Document for Profile {
    const NAME: &'static str = "kvscope.profile";
    const VERSION: u32 = 1;
    const MAX_BYTES: u64 = 256 << 20;
}

impl Profile {
    /// Checks that the numbers can be: shares and thresholds in range, one line per head in order.
    pub fn check(&self) -> Result<(), ProfileError> {
        let fault = |what: String| Err(ProfileError::Damaged(what));
        let Shares { recent, heavy } = self.shares;
        if !(recent >= 0.0 && heavy >= 0.0 && recent + heavy <= 1.0) {
            return fault(format!("shares recent = {recent}, heavy = {heavy}"));
        }
        if self.heads.len() != self.model.n_layers * self.model.n_kv_heads {
            return fault(format!(
                "{} heads for {} layers of {} KV heads",
                self.heads.len(),
                self.model.n_layers,
                self.model.n_kv_heads
            ));
        }
        for (i, head) in self.heads.iter().enumerate() {
            if (head.layer, head.kv_head) != (i / self.model.n_kv_heads, i % self.model.n_kv_heads) {
                return fault(format!("line {i} is of layer {} head {}", head.layer, head.kv_head));
            }
            if !(-1.0..=1.0).contains(&head.eps) {
                return fault(format!("eps {} of layer {} head {}", head.eps, head.layer, head.kv_head));
            }
        }
        Ok(())
    }

    /// Refuses a model other than the profile's own.
    pub fn check_model(&self, model: &ModelIdentity) -> Result<(), ProfileError> {
        if self.model.fingerprint == model.fingerprint {
            return Ok(());
        }
        Err(ProfileError::OtherModel {
            theirs: self.model.name.clone(),
            their_fingerprint: self.model.fingerprint.clone(),
            ours: model.name.clone(),
            our_fingerprint: model.fingerprint.clone(),
        })
    }
}
