//! The profile: what was tuned for one model, with the evidence. Human-readable JSON, bound to the model it was made for.
//!
//! Knows nothing of how a profile is found or applied.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::files::{
    Document, FileError, ModelIdentity, Provenance, check_replaceable, create_dir, plain_name, read_json, write_json,
};
use crate::format::dump::SampleEntry;
use crate::hint::Hint;
use crate::math::{Float, Interval};
use crate::merge::Refit;

/// End of the name of every profile's file.
pub const SUFFIX: &str = ".profile.json";

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

impl Hint for ProfileError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::File(error) => error.hint(),
            Self::OtherModel { .. } => {
                Some("tune a profile for this model, or pass --force to use this one anyway".into())
            }
            Self::Damaged(_) => Some("tune it again".into()),
        }
    }
}

/// How large a head is, and what each setting costs there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Slots per token.
    pub kept_fraction: f64,
    /// The measure under every setting, mean over the calibration samples; `None` where a setting cannot reach the size.
    pub errors: Vec<Option<f32>>,
    /// Cosine above which the head's own setting joins neighbours there, mean over the samples; `None` where none are joined.
    pub eps: Option<f32>,
    /// Slots per token of the head among LU-KV's sizes that keep `kept_fraction` of all slots, mean over the samples; `None` where
    /// its heads cannot be so small.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub utility_fraction: Option<f64>,
}

/// What was chosen for one KV head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadProfile {
    /// Layer.
    pub layer: usize,
    /// KV head within the layer.
    pub kv_head: usize,
    /// Its place in [`Profile::settings`].
    pub setting: usize,
    /// What the measure was multiplied by, for what the model loses by this head; `None` where that was not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_weight: Option<f64>,
    /// Slots per token that the head keeps.
    pub kept_fraction: f64,
    /// Cosine above which neighbours are joined, mean over the calibration samples; `None` where none are joined.
    pub eps: Option<f32>,
    /// The head's curve, by rising size.
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
    /// Its tokens; `None` in files of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_tokens: Option<usize>,
    /// kept_fraction that the profile reaches on it, over all layers and heads; `None` where it was not measured.
    pub kept_fraction: Option<f64>,
}

impl UsedSample {
    /// A sample of a dump.
    pub(crate) fn of(entry: &SampleEntry, kept_fraction: Option<f64>) -> Self {
        let (dataset, id, sha256) = (entry.dataset.clone(), entry.id.clone(), entry.sha256.clone());
        Self { dataset, id, sha256, n_tokens: Some(entry.n_tokens), kept_fraction }
    }
}

/// Error of the attention output under one way to compress: the mean over layers of ‖O_full - O‖ / ‖O_full‖, all heads of a
/// layer together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// [`TUNED`], [`CONTROL`], or a setting that every head has at equal sizes.
    pub rule: String,
    /// Mean over the calibration samples.
    pub calibration: Interval,
    /// Mean over samples that no choice has seen; `None` when none were set aside.
    pub held_out: Option<Interval>,
}

/// By how much the heads' mean size may miss the budget: sizes are solved in steps.
const SIZE_TOLERANCE: f64 = 0.005;

/// The [`Profile::budget_unit`] of budgets that are shares of slots.
pub const SLOTS: &str = "slots";

/// Name in [`Profile::quality`] of what the profile does.
pub const TUNED: &str = "tuned";
/// Name in [`Profile::quality`] of the same slots with nothing folded into them.
pub const CONTROL: &str = "tuned, evicting";

/// A way to choose sizes and settings that was tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tried {
    /// Name of the search.
    pub search: String,
    /// Whether with the profile's refit.
    pub refitted: bool,
    /// Whether with the eviction of what the settings merge in their place.
    #[serde(default)]
    pub evicting: bool,
    /// Sum of the measure over heads on calibration samples that this search had not seen, over that of equal sizes with one
    /// setting; `None` with too few samples, or where it meets no budget.
    pub cross_validated: Option<f64>,
    /// Mean KL to the full cache (nats) on the calibration texts; `None` where no model was run.
    pub kl: Option<Interval>,
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
    /// Whether the samples' prompts stood in the model's chat format; `None` where a dump did not record it, and where dumps differ.
    #[serde(default)]
    pub chat_template: Option<bool>,
    /// Policies with parameters that heads chose among, as they are typed: `NAME[:key=value,...]`.
    pub settings: Vec<String>,
    /// A second score and its share of every head's slots, as typed behind `beside=` of a policy; `None` where there is none.
    /// Curves and [`Profile::quality`] were measured without it, [`Profile::held_out_kl`] with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beside: Option<String>,
    /// How the stored slots are refitted; `None` where they are not.
    pub refit: Option<Refit>,
    /// What is minimised: `layer`, `head` or `absolute`.
    pub measure: String,
    /// The search whose sizes and settings these are.
    pub search: String,
    /// Least size of a head over the budget.
    pub min_share: f64,
    /// Every search that was tried.
    pub tried: Vec<Tried>,
    /// Budget that was asked for: the share of a full cache to keep.
    pub target_kept_fraction: f64,
    /// What it is a share of: `slots`, or the bytes of a cache of `f16`, `bf16` or `f32`.
    pub budget_unit: String,
    /// kept_fraction on the calibration samples.
    pub calibration_kept_fraction: Interval,
    /// kept_fraction on held-out samples; `None` when none were measured.
    pub held_out_kept_fraction: Option<Interval>,
    /// Attention-output error of the profile, its control, and every setting at equal sizes; empty when none was measured.
    pub quality: Vec<Quality>,
    /// Mean KL to the full cache (nats) on held-out texts, by policy; empty where no model was run.
    pub held_out_kl: Vec<HeldOutKl>,
    /// The outcome in words.
    pub verdict: String,
    /// Samples that choices were made on.
    pub calibration: Vec<UsedSample>,
    /// Samples that had no part in any choice.
    pub held_out: Vec<UsedSample>,
    /// Every head, by layer and head.
    pub heads: Vec<HeadProfile>,
}

/// Mean KL of one policy on held-out texts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeldOutKl {
    /// [`TUNED`], [`CONTROL`], or a policy as typed.
    pub policy: String,
    /// Nats per token.
    pub kl: Interval,
}

impl Document for Profile {
    const NAME: &'static str = "kvscope.profile";
    const VERSION: u32 = 1;
    const MAX_BYTES: u64 = 256 << 20;
}

/// Faults of a profile, each in words that name the file; empty when there is none.
pub fn faults(path: &Path) -> Vec<String> {
    Profile::read(path).err().map(|error| error.to_string()).into_iter().collect()
}

impl Profile {
    /// Reads a profile, and checks it.
    pub fn read(path: &Path) -> Result<Self, ProfileError> {
        let profile: Self = read_json(path)?;
        match profile.check() {
            Err(ProfileError::Damaged(what)) => Err(ProfileError::Damaged(format!("{}: {what}", path.display()))),
            checked => checked.map(|()| profile),
        }
    }

    /// Writes the profile into a folder, under the model's name and, if `name_budget`, its budget; gives the path.
    pub fn write_into(&self, dir: &Path, name_budget: bool) -> Result<PathBuf, FileError> {
        create_dir(dir)?;
        let budget = if name_budget { format!("-{}", self.target_kept_fraction) } else { String::new() };
        let path = dir.join(format!("{}{budget}{SUFFIX}", plain_name(&self.model.name)));
        check_replaceable::<Self>(&path)?;
        write_json(&path, self)?;
        Ok(path)
    }

    /// Checks that the numbers can be: sizes and thresholds in range, one line per head in order.
    pub fn check(&self) -> Result<(), ProfileError> {
        let fault = |what: String| Err(ProfileError::Damaged(what));
        if !(self.target_kept_fraction > 0.0 && self.target_kept_fraction <= 1.0) {
            return fault(format!("target_kept_fraction {}", self.target_kept_fraction));
        }
        let units = Float::ALL.map(Float::name);
        if self.budget_unit != SLOTS && !units.contains(&self.budget_unit.as_str()) {
            let known = format!("{SLOTS}, {}", units.join(", "));
            return fault(format!("budget_unit {:?} is none of {known}", self.budget_unit));
        }
        if !(0.0..=1.0).contains(&self.min_share) {
            return fault(format!("min_share {}", self.min_share));
        }
        if let Some(refit) = self.refit.filter(|refit| !refit.is_sound()) {
            return fault(format!("a refit of {} queries and lambda {}", refit.queries, refit.lambda));
        }
        self.check_intervals()?;
        let n_heads = self.model.n_layers.checked_mul(self.model.n_kv_heads).filter(|n| *n > 0);
        if n_heads != Some(self.heads.len()) {
            return fault(format!(
                "{} heads for {} layers of {} KV heads",
                self.heads.len(),
                self.model.n_layers,
                self.model.n_kv_heads
            ));
        }
        if let Some(what) = self.model.layer_fault() {
            return fault(what);
        }
        for (i, head) in self.heads.iter().enumerate() {
            if (head.layer, head.kv_head) != (i / self.model.n_kv_heads, i % self.model.n_kv_heads) {
                return fault(format!("line {i} is of layer {} head {}", head.layer, head.kv_head));
            }
            let place = format!("layer {} head {}", head.layer, head.kv_head);
            if head.setting >= self.settings.len() {
                return fault(format!("setting {} of {} in {place}", head.setting, self.settings.len()));
            }
            if let Some(weight) = head.loss_weight.filter(|weight| !(weight.is_finite() && *weight > 0.0)) {
                return fault(format!("loss_weight {weight} of {place}"));
            }
            let sizes = || head.curve.iter().map(|point| point.kept_fraction);
            let of_utility = head.curve.iter().filter_map(|point| point.utility_fraction);
            let is_share = |share: f64| share > 0.0 && share <= 1.0;
            let mut shares = std::iter::once(head.kept_fraction).chain(sizes()).chain(of_utility);
            if let Some(share) = shares.find(|share| !is_share(*share)) {
                return fault(format!("kept_fraction {share} of {place}"));
            }
            if head.curve.iter().any(|point| point.errors.len() != self.settings.len()) || !sizes().is_sorted() {
                return fault(format!("the curve of {place}"));
            }
            let errors = head.curve.iter().flat_map(|point| &point.errors).flatten();
            if let Some(error) = errors.copied().find(|error| !(error.is_finite() && *error >= 0.0)) {
                return fault(format!("error {error} of {place}"));
            }
            let thresholds = head.curve.iter().map(|point| point.eps).chain([head.eps]).flatten();
            if let Some(eps) = thresholds.into_iter().find(|eps| !(-1.0..=1.0).contains(eps)) {
                return fault(format!("eps {eps} of {place}"));
            }
        }
        // Last, as the sum of impossible sizes says less than the size that is impossible.
        self.check_size()
    }

    /// The heads' sizes meet the budget, as far as slots tell: in bytes, slots weigh as their settings have it.
    fn check_size(&self) -> Result<(), ProfileError> {
        let sum: f64 = self.heads.iter().map(|head| head.kept_fraction).sum();
        let (mean, target) = (sum / self.heads.len() as f64, self.target_kept_fraction);
        if self.budget_unit == SLOTS && (mean - target).abs() > SIZE_TOLERANCE {
            let what = format!("its heads keep {mean:.4} of the slots where the budget says {target}");
            return Err(ProfileError::Damaged(what));
        }
        Ok(())
    }

    fn check_intervals(&self) -> Result<(), ProfileError> {
        let named = |name: &str, interval: Option<Interval>| interval.map(|interval| (name.to_string(), interval));
        let of_quality = self.quality.iter().flat_map(|quality| {
            let name = format!("error of {}", quality.rule);
            [named(&name, Some(quality.calibration)), named(&name, quality.held_out)]
        });
        let of_kl = self.held_out_kl.iter().map(|line| named(&format!("KL of {}", line.policy), Some(line.kl)));
        let of_tried = self.tried.iter().map(|tried| named(&format!("KL of {}", tried.search), tried.kl));
        let kept = [
            named("kept_fraction", Some(self.calibration_kept_fraction)),
            named("kept_fraction", self.held_out_kept_fraction),
        ];
        let mut all = of_quality.chain(of_kl).chain(of_tried).chain(kept).flatten();
        let is_number = |interval: &Interval| {
            let ends = [interval.low, interval.high].into_iter().flatten();
            interval.estimate >= 0.0
                && ends.chain([interval.estimate]).all(f64::is_finite)
                && interval.low.zip(interval.high).is_none_or(|(low, high)| low <= high)
        };
        match all.find(|(_, interval)| !is_number(interval)) {
            Some((name, Interval { estimate, .. })) => {
                Err(ProfileError::Damaged(format!("the {name} has an interval that cannot be, around {estimate}")))
            }
            None => Ok(()),
        }
    }

    /// What the budget is a share of, in words.
    pub fn budget_of(&self) -> String {
        match self.budget_unit.as_str() {
            SLOTS => "of the slots".into(),
            unit => format!("of the bytes in {unit}"),
        }
    }

    /// The setting of a head.
    pub fn setting_of(&self, head: &HeadProfile) -> &str {
        self.settings.get(head.setting).map_or("", String::as_str)
    }

    /// The policy that a head runs with, as typed: its setting, and what stands beside it where it names nothing itself.
    pub fn policy_of(&self, head: &HeadProfile) -> String {
        let setting = self.setting_of(head);
        match &self.beside {
            Some(beside) if !setting.contains("beside=") => {
                let joint = if setting.contains(':') { ',' } else { ':' };
                format!("{setting}{joint}beside={beside}")
            }
            _ => setting.into(),
        }
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
