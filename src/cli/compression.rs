//! The options that say how a cache is compressed, shared by the commands that generate.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::cli::common::Common;
use crate::cli::failure::{Result, Usage};
use crate::cli::names::names;
use crate::cli::numbers;
use crate::cli::options::parse_layers;
use crate::cli::output::note;
use crate::format::profile::Profile;
use crate::math::Float;
use crate::model::Model;
use crate::policy;
use crate::policy::POLICIES;
use crate::runtime::{Budget, Compression};

/// What compresses the cache.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CompressionArgs {
    #[arg(long, value_name = "SPEC", conflicts_with = "profile", help = format!("Policy: NAME[:key=value,...][+refit[:key=value,...]]; NAME is {} [default: full]", names(POLICIES.iter().map(|entry| entry.name))))]
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
    /// Bytes that the whole cache may take after the prompt and while decoding, such as 64MB, instead of a share. Heads are
    /// compressed again while decoding
    #[arg(long, value_name = "SIZE", value_parser = numbers::bytes, conflicts_with_all = ["profile", "kept_fraction", "budget_tokens", "skip_layers"])]
    budget_bytes: Option<u64>,
    /// Compress every N prompt tokens instead of only at the end, so the full cache is never held in memory
    #[arg(long, value_name = "N", value_parser = numbers::count)]
    compress_every: Option<usize>,
    /// While decoding, compress a head again once it exceeds its budget by N slots [default: never]
    #[arg(long, value_name = "N")]
    decode_slack: Option<usize>,
    /// Layers to leave uncompressed; they count towards the budget
    #[arg(long, value_name = "LIST", conflicts_with = "profile")]
    skip_layers: Option<String>,
    /// Use the profile although it was made for another model
    #[arg(long, requires = "profile")]
    force: bool,
    /// Element type of the cache
    #[arg(long, value_enum, default_value = "f32")]
    pub(crate) cache_dtype: Float,
}

impl CompressionArgs {
    /// Builds the compression; `None` for the full cache.
    pub(crate) fn build(&self, model: &Model, common: &Common) -> Result<Option<Compression>> {
        let skip_layers: BTreeSet<usize> = match &self.skip_layers {
            Some(text) => parse_layers("--skip-layers", text, model.config().n_layers)?.into_iter().collect(),
            None => BTreeSet::new(),
        };
        let more = |compression: Compression| {
            let (every_tokens, decode_slack) = (self.compress_every, self.decode_slack);
            Compression { skip_layers, every_tokens, decode_slack, ..compression }
        };
        if let Some(path) = &self.profile {
            let (profile, name) = read_profile(path, model, self.force)?;
            return Ok(Some(more(Compression::from_profile(name, &profile)?)));
        }
        let spec = self.policy.as_deref().unwrap_or("full");
        note_published(self.policy.as_slice(), common)?;
        let budget = match self.budget_tokens {
            Some(tokens) => Budget::Tokens(tokens),
            None => Budget::KeptFraction(self.kept_fraction.unwrap_or(0.5)),
        };
        let compression = Compression::parse(spec, budget)?;
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
        let compression = more(compression);
        Ok(Some(match self.budget_bytes {
            Some(bytes) => compression.within_bytes(bytes, model.config(), self.cache_dtype)?,
            None => compression,
        }))
    }
}

/// Says so where a policy has the published merge rule: it is there to be compared with.
pub(crate) fn note_published(specs: &[String], common: &Common) -> Result<()> {
    for spec in specs {
        if policy::parse(spec)?.1.params()["variant"] == "paper" {
            let what = "is the published merge rule, run for comparison: the default, variant=log-count, keeps the attention mass";
            note(common, &format!("{spec} {what} of merged tokens"));
            break;
        }
    }
    Ok(())
}

/// A profile that may be used with the model, and what messages and files call it.
pub(crate) fn read_profile(path: &Path, model: &Model, force: bool) -> Result<(Profile, String)> {
    let profile = Profile::read(path)?;
    if !force {
        profile.check_model(model.identity()?)?;
    } else if profile.heads.len() != model.config().n_layers * model.config().n_kv_heads {
        let what = format!("{} has {} heads, another number than the model", path.display(), profile.heads.len());
        return Err(Usage::error(what, "tune a profile for this model"));
    }
    Ok((profile, profile_name(path)))
}

/// What messages and files call a profile.
pub(crate) fn profile_name(path: &Path) -> String {
    format!("profile {}", path.file_name().unwrap_or_default().to_string_lossy())
}
