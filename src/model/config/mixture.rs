//! Mixtures of experts: how many experts a layer has, and how many of them a token passes.

use serde_json::Value;

use crate::model::ModelError;
use crate::model::config::settings::{Settings, shown};

/// Which settings an architecture's mixtures are stated by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MixtureSettings {
    /// Every layer is a mixture; an expert is as wide as `intermediate_size`, weights of the chosen experts sum to 1.
    Mixtral,
    /// `moe_intermediate_size`, `norm_topk_prob`, and layers that are none by `decoder_sparse_step` and `mlp_only_layers`.
    Qwen3,
}

/// The mixtures of experts of a model's feed-forward layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mixture {
    /// Experts of a layer.
    pub n_experts: usize,
    /// Experts that a token passes.
    pub n_used: usize,
    /// Width of an expert.
    pub expert_size: usize,
    /// Whether the weights of the experts that a token passes are divided by their sum.
    pub renormalises: bool,
    /// Layers with a feed-forward layer of the usual kind, rising.
    pub dense_layers: Vec<usize>,
}

/// Limit against absurd numbers in a stranger's file; far above any real model.
const MAX_EXPERTS: usize = 1 << 16;

impl Mixture {
    /// Refuses numbers that cannot belong to a model.
    pub(super) fn check(&self, max_width: usize) -> Result<(), ModelError> {
        let sizes =
            [("num_experts", self.n_experts, MAX_EXPERTS), ("moe_intermediate_size", self.expert_size, max_width)];
        for (key, value, limit) in sizes {
            if value == 0 || value > limit {
                return Err(ModelError::config(key, format!("is {value}, which no mixture of experts has")));
            }
        }
        if self.n_used == 0 || self.n_used > self.n_experts {
            let what = format!("is {}, of {} experts", self.n_used, self.n_experts);
            return Err(ModelError::config("num_experts_per_tok", what));
        }
        Ok(())
    }

    /// That of `config.json`, where the dense layers are `ffn_size` wide.
    pub(super) fn from_hf(
        settings: Settings<'_>,
        kind: MixtureSettings,
        ffn_size: usize,
        n_layers: usize,
    ) -> Result<Self, ModelError> {
        let (default_used, expert_size, renormalises, dense_layers) = match kind {
            MixtureSettings::Mixtral => (2, ffn_size, true, Vec::new()),
            MixtureSettings::Qwen3 => (
                8,
                settings.count("moe_intermediate_size")?,
                settings.flag("norm_topk_prob")?,
                dense_layers(settings, n_layers)?,
            ),
        };
        Ok(Self {
            n_experts: n_experts(settings, kind)?,
            n_used: settings.optional_count("num_experts_per_tok")?.unwrap_or(default_used),
            expert_size,
            renormalises,
            dense_layers,
        })
    }

    /// That of a GGUF file. No key says how weights are divided: llama.cpp does so with both architectures, and knows neither
    /// with dense layers.
    ///
    /// `optional` and `count` read a key behind the architecture's name, of which the file must have the latter.
    pub(super) fn from_gguf(
        kind: MixtureSettings,
        ffn_size: usize,
        optional: impl Fn(&str) -> Result<Option<usize>, ModelError>,
        count: impl Fn(&str) -> Result<usize, ModelError>,
    ) -> Result<Self, ModelError> {
        let (n_experts, n_used) = (count("expert_count")?, count("expert_used_count")?);
        let expert_size = match kind {
            MixtureSettings::Mixtral => ffn_size,
            // Files before the key had the widths of the experts that a token passes as one.
            MixtureSettings::Qwen3 => {
                let stated = optional("expert_feed_forward_length")?.filter(|size| *size > 0);
                stated.unwrap_or(ffn_size / n_used.max(1))
            }
        };
        Ok(Self { n_experts, n_used, expert_size, renormalises: true, dense_layers: Vec::new() })
    }
}

/// The number of experts, of which transformers 5 writes Qwen's under Mixtral's name and reads either's under both.
fn n_experts(settings: Settings<'_>, kind: MixtureSettings) -> Result<usize, ModelError> {
    let [own, other] = match kind {
        MixtureSettings::Mixtral => ["num_local_experts", "num_experts"],
        MixtureSettings::Qwen3 => ["num_experts", "num_local_experts"],
    };
    match (settings.optional_count(own)?, settings.optional_count(other)?) {
        (Some(n), Some(also)) if n != also => Err(settings.error(own, format!("is {n}, but {other} is {also}"))),
        (Some(n), _) | (None, Some(n)) => Ok(n),
        (None, None) => Err(settings.error(own, "is missing")),
    }
}

/// Layers that `mlp_only_layers` names, and all but every so-manieth by `decoder_sparse_step`.
fn dense_layers(settings: Settings<'_>, n_layers: usize) -> Result<Vec<usize>, ModelError> {
    const LIST: &str = "mlp_only_layers";
    const PERIOD: &str = "decoder_sparse_step";
    let period = match settings.raw(PERIOD).map_or(Ok(1), |_| settings.count(PERIOD))? {
        0 => return Err(settings.error(PERIOD, "is 0: no layer is every 0th")),
        period => period,
    };
    let layer = |value: &Value| {
        value.as_u64().ok_or_else(|| settings.error(LIST, format!("holds {}, not the number of a layer", shown(value))))
    };
    let named = settings.list(LIST)?.unwrap_or_default().iter().map(layer).collect::<Result<Vec<u64>, _>>()?;
    let is_dense = |layer: &usize| !(layer + 1).is_multiple_of(period) || named.contains(&(*layer as u64));
    Ok((0..n_layers).filter(is_dense).collect())
}
