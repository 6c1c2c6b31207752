//! The options that say how a cache is compressed, shared by the commands that generate.

use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;

use crate::cli::failure::Context;
use crate::cli::failure::Result;
use crate::cli::failure::Usage;
use crate::cli::numbers;
use crate::cli::options::Dtype;
use crate::cli::options::parse_layers;
use crate::files::read_json;
use crate::format::profile::Profile;
use crate::model::Config;
use crate::model::Model;
use crate::runtime::Budget;
use crate::runtime::CacheType;
use crate::runtime::Compression;

/// Part of a budget of bytes that new tokens may fill before a head is compressed again.
const SLACK_PART: usize = 16;

/// What compresses the cache.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CompressionArgs {
    /// Policy: NAME[:key=value,...][+refit[:key=value,...]]; cam, evict, full, h2o, kvmerger, random, snapkv or streaming
    #[arg(long, value_name = "SPEC", conflicts_with = "profile")]
    policy: Option<String>,
    /// Profile made by `kvscope tune`
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// Share of the slots to keep, over all layers and heads [default: 0.5]
    #[arg(long, value_name = "X", value_parser = numbers::kept_share, conflicts_with = "profile")]
    kept_fraction: Option<f64>,
    /// Slots that every head may keep, instead of a share
    #[arg(long, value_name = "N", value_parser = numbers::count, conflicts_with_all = ["profile", "kept_fraction"])]
    budget_tokens: Option<usize>,
    /// Bytes that the whole cache may take behind the prompt and while decoding, such as 64MB, instead of a share; heads are
    /// compressed again in decode
    #[arg(long, value_name = "SIZE", value_parser = numbers::bytes, conflicts_with_all = ["profile", "kept_fraction", "budget_tokens", "skip_layers"])]
    budget_bytes: Option<u64>,
    /// Compress after every so many prompt tokens, not only at the end: the whole cache never stands in memory
    #[arg(long, value_name = "N", value_parser = numbers::count)]
    compress_every: Option<usize>,
    /// Compress a head again in decode when it is so many slots over its budget [default: new tokens stay]
    #[arg(long, value_name = "N")]
    decode_slack: Option<usize>,
    /// Layers to leave whole; they count in the budget
    #[arg(long, value_name = "LIST", conflicts_with = "profile")]
    skip_layers: Option<String>,
    /// Use the profile although it was made for another model
    #[arg(long, requires = "profile")]
    force: bool,
    /// Element type of the cache
    #[arg(long, value_enum, default_value = "f32")]
    cache_dtype: Dtype,
}

impl CompressionArgs {
    /// A profile and nothing else; for the demo.
    pub(crate) fn with_profile(path: PathBuf) -> Self {
        Self {
            policy: None,
            profile: Some(path),
            kept_fraction: None,
            budget_tokens: None,
            budget_bytes: None,
            compress_every: None,
            decode_slack: None,
            skip_layers: None,
            force: false,
            cache_dtype: Dtype::F32,
        }
    }

    pub(crate) fn cache_type(&self) -> CacheType {
        self.cache_dtype.into()
    }

    /// Builds the compression; `None` for the full cache.
    pub(crate) fn build(&self, model: &Model) -> Result<Option<Compression>> {
        let skip_layers: BTreeSet<usize> = match &self.skip_layers {
            Some(text) => parse_layers("--skip-layers", text, model.config().n_layers)?.into_iter().collect(),
            None => BTreeSet::new(),
        };
        let more = |compression: Compression| {
            let (every_tokens, decode_slack) = (self.compress_every, self.decode_slack.or(compression.decode_slack));
            Some(Compression { skip_layers, every_tokens, decode_slack, ..compression })
        };
        if let Some(path) = &self.profile {
            let (profile, name) = read_profile(path, model, self.force)?;
            return Ok(more(Compression::from_profile(name, &profile)?));
        }
        let spec = self.policy.as_deref().unwrap_or("full");
        let budget = match self.budget_tokens {
            Some(tokens) => Budget::Tokens(tokens),
            None => Budget::KeptFraction(self.kept_fraction.unwrap_or(0.5)),
        };
        let mut compression = Compression::parse(spec, budget)?;
        if let Some(bytes) = self.budget_bytes {
            let (slots, slack) = self.slots_within(bytes, &compression, model.config())?;
            compression.budget = Budget::Tokens(slots);
            compression.decode_slack = Some(slack);
        }
        let given = [
            ("--kept-fraction", self.kept_fraction.is_some()),
            ("--budget-tokens", self.budget_tokens.is_some()),
            ("--budget-bytes", self.budget_bytes.is_some()),
            ("--compress-every", self.compress_every.is_some()),
            ("--decode-slack", self.decode_slack.is_some()),
            ("+refit", compression.policy.refit().is_some()),
        ];
        if !compression.policy.compresses() {
            return match given.into_iter().find(|(_, given)| *given) {
                Some((option, _)) => Err(Usage::error(
                    format!("{option} needs a policy that compresses"),
                    "add --policy kvmerger, or another",
                )),
                None => Ok(None),
            };
        }
        if let Some((option, _)) = given[..3].iter().find(|(_, given)| *given && compression.policy.sets_own_size()) {
            return Err(Usage::error(
                format!("policy {spec} decides its size by eps, so {option} would be ignored"),
                format!("leave out eps= or {option}"),
            ));
        }
        Ok(more(compression))
    }
}

impl CompressionArgs {
    /// Slots that every head may keep within so many bytes of the whole cache, and those by which it may grow in decode before it
    /// is compressed again.
    fn slots_within(&self, bytes: u64, compression: &Compression, config: &Config) -> Result<(usize, usize)> {
        let heads = (config.n_layers * config.n_kv_heads) as u64;
        let element = if self.cache_type() == CacheType::F32 { 4 } else { 2 };
        let has_bias = compression.policy.refit().is_some_and(|refit| refit.mass);
        // Key, value, position, what the policy adds, and the two masses that selection in decode goes by.
        let slot = 2 * config.head_dim * element + 4 + compression.policy.slot_extras().bytes(has_bias) + 8;
        // Room grows by a 256th at a time.
        let fitting = |bytes: u64| (bytes / 256 * 255 / heads / slot as u64) as usize;
        let most = fitting(bytes);
        let slack = self.decode_slack.unwrap_or((most / SLACK_PART).max(1));
        match most.checked_sub(slack + 1).filter(|slots| *slots > 0) {
            Some(slots) => Ok((slots, slack)),
            None => {
                let least = (slack as u64 + 2) * heads * slot as u64 * 256 / 255 + 256;
                let what = format!("--budget-bytes {bytes} leaves the model's {heads} heads no slot and room to grow");
                Err(Usage::error(what, format!("allow at least {least} bytes")))
            }
        }
    }
}

/// A profile that may be used with the model, and what messages and files call it.
pub(crate) fn read_profile(path: &Path, model: &Model, force: bool) -> Result<(Profile, String)> {
    let profile: Profile = read_json(path)?;
    profile.check().with_context(|| format!("cannot use {}", path.display()))?;
    if !force {
        profile.check_model(model.identity()?)?;
    } else if profile.heads.len() != model.config().n_layers * model.config().n_kv_heads {
        let what = format!("{} has {} heads, another number than the model", path.display(), profile.heads.len());
        return Err(Usage::error(what, "tune a profile for this model"));
    }
    Ok((profile, format!("profile {}", path.file_name().unwrap_or_default().to_string_lossy())))
}
