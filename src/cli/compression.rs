//! The options that say how a cache is compressed, shared by the commands that generate.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::cli::common::Common;
use crate::cli::failure::{Context, Result, Usage};
use crate::cli::names::names;
use crate::cli::numbers;
use crate::cli::options::parse_layers;
use crate::cli::output::note;
use crate::files::{InputHash, plain_name, sha256_file};
use crate::format::profile::{Profile, SUFFIX};
use crate::math::Float;
use crate::model::Model;
use crate::policy;
use crate::policy::POLICIES;
use crate::runtime::{Budget, Compression};
use crate::tune;
use crate::tune::{BudgetUnit, TuneOptions, Tuned};

/// What compresses the cache.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CompressionArgs {
    #[arg(long, value_name = "SPEC", conflicts_with = "profile", help = format!("Policy: NAME[:key=value,...][+refit[:key=value,...]]; NAME is {} [default: full]", names(POLICIES.iter().map(|entry| entry.name))))]
    policy: Option<String>,
    /// Profile made by `kvscope tune`
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// Share of the slots to keep, over all layers and heads; a profile is solved for it [default: 0.5, of a profile its own]
    #[arg(long, value_name = "X", value_parser = numbers::kept_share)]
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
    /// As [`check_policies`].
    pub(crate) fn check(&self) -> Result<()> {
        check_policies(self.policy.as_slice())
    }

    /// Builds the compression; `None` for the full cache.
    pub(crate) fn build(&self, model: &Model, chat_template: bool, common: &Common) -> Result<Option<Compression>> {
        let skip_layers: BTreeSet<usize> = match &self.skip_layers {
            Some(text) => parse_layers("--skip-layers", text, model.config().n_layers)?.into_iter().collect(),
            None => BTreeSet::new(),
        };
        let more = |compression: Compression| {
            let (every_tokens, decode_slack) = (self.compress_every, self.decode_slack);
            Compression { skip_layers, every_tokens, decode_slack, ..compression }
        };
        if let Some(path) = &self.profile {
            let profile = read_profile(path, model, self.force)?;
            note_other_form(&profile, chat_template, common);
            let budget = self.kept_fraction.unwrap_or(profile.target_kept_fraction);
            let name = profile_names(std::slice::from_ref(path), model.name())?.concat();
            return Ok(Some(more(Compression::from_profile(name, &at_budget(profile, path, budget)?)?)));
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
        refuse_ignored_size(&compression, &given[..3])?;
        let compression = more(compression);
        Ok(Some(match self.budget_bytes {
            Some(bytes) => compression.within_bytes(bytes, model.config(), self.cache_dtype)?,
            None => compression,
        }))
    }
}

/// Refuses an option of a size, of those that may be given, beside a policy that decides its size itself.
pub(crate) fn refuse_ignored_size(compression: &Compression, options: &[(&str, bool)]) -> Result<()> {
    match options.iter().find(|(_, given)| *given && compression.policy.sets_own_size()) {
        Some((option, _)) => Err(Usage::error(
            format!("policy {} decides its size by a threshold, so {option} would be ignored", compression.name),
            format!("leave out the threshold (eps= or tau=), or {option}"),
        )),
        None => Ok(()),
    }
}

/// Refuses policies that do not exist, before a model is loaded.
pub(crate) fn check_policies(specs: &[String]) -> Result<()> {
    specs.iter().try_for_each(|spec| Ok(Compression::parse(spec, Budget::KeptFraction(0.5)).map(drop)?))
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

/// Says so where a profile was tuned on prompts in another form: its sizes may suit these less.
pub(crate) fn note_other_form(profile: &Profile, chat_template: bool, common: &Common) {
    if profile.chat_template.is_some_and(|tuned_on| tuned_on != chat_template) {
        let [here, there] = if chat_template { ["in", "without"] } else { ["without", "in"] };
        note(common, &format!("prompts stand {here} the model's chat template, and the profile was tuned {there} it"));
    }
}

/// A profile that may be used with the model.
pub(crate) fn read_profile(path: &Path, model: &Model, force: bool) -> Result<Profile> {
    let profile = Profile::read(path)?;
    if !force {
        profile.check_model(model.identity()?)?;
    } else if profile.heads.len() != model.config().n_layers * model.config().n_kv_heads {
        let what = format!("{} has {} heads, another number than the model", path.display(), profile.heads.len());
        return Err(Usage::error(what, "tune a profile for this model"));
    }
    Ok(profile)
}

/// A profile of a file, solved on its own curves where the budget is not the one that it was tuned for.
///
/// - Errors: a profile whose curves do not reach the budget
pub(crate) fn at_budget(profile: Profile, path: &Path, budget: f64) -> Result<Profile> {
    if profile.target_kept_fraction == budget {
        return Ok(profile);
    }
    let unit = BudgetUnit::ALL.into_iter().find(|unit| unit.name() == profile.budget_unit).unwrap_or_default();
    let (refit, beside) = (profile.refit, profile.beside.clone());
    let options = TuneOptions { budgets: vec![budget], unit, refit, beside, ..TuneOptions::default() };
    let tuned = tune::resolve(&profile, hash_of(path)?, &options)
        .with_context(|| format!("cannot solve {} for a budget of {budget}", path.display()))?;
    tuned.first().and_then(Tuned::profile).cloned().ok_or_else(|| {
        Usage::error(
            format!("{} cannot be solved for a budget of {budget}: its heads' curves do not reach it", path.display()),
            "allow more slots, or tune for that budget",
        )
    })
}

/// The name and digest of an input file.
pub(crate) fn hash_of(path: &Path) -> Result<InputHash> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(InputHash { name, sha256: sha256_file(path)? })
}

/// What tables, messages and files call profiles of one model: `profile`, and what tells the file from the model's other ones.
/// As many folders stand before it as tell the files apart.
///
/// - Errors: a file that is given twice
pub(crate) fn profile_names(paths: &[PathBuf], model: &str) -> Result<Vec<String>> {
    let model = plain_name(model);
    let parts_of = |path: &PathBuf| -> Vec<String> {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.clone());
        let mut parts: Vec<String> = absolute.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        let file = parts.pop().unwrap_or_default();
        let stem = file.strip_suffix(SUFFIX).unwrap_or(&file);
        // What `tune` writes begins with the model's name.
        let own = stem.strip_prefix(&model).filter(|own| own.is_empty() || own.starts_with('-'));
        parts.push(own.map_or(stem, |own| own.trim_start_matches('-')).into());
        parts
    };
    let parts: Vec<Vec<String>> = paths.iter().map(parts_of).collect();
    for n_folders in 0..parts.iter().map(Vec::len).max().unwrap_or(1) {
        let name = |parts: &Vec<String>| {
            let shown = parts[parts.len().saturating_sub(n_folders + 1)..].join("/");
            format!("profile {}", shown.trim_matches('/')).trim_end().to_string()
        };
        let names: Vec<String> = parts.iter().map(name).collect();
        if names.iter().collect::<BTreeSet<_>>().len() == names.len() {
            return Ok(names);
        }
    }
    Err(Usage::error("--profile names a file twice", "name every file once"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_called_by_what_tells_them_apart() {
        let names = |paths: &[&str]| profile_names(&paths.iter().map(PathBuf::from).collect::<Vec<_>>(), "Llama 1B");
        let own = format!("{}.profile.json", plain_name("Llama 1B"));
        assert_eq!(names(&[&own]).unwrap(), ["profile"]);
        let half = own.replace(".profile", "-0.5.profile");
        assert_eq!(names(&[&own, &half, "mine.json"]).unwrap(), ["profile", "profile 0.5", "profile mine.json"]);
        let [a, b, c] = ["x/a/", "x/b/", "y/b/"].map(|dir| format!("{dir}{half}"));
        assert_eq!(names(&[&a, &b]).unwrap(), ["profile a/0.5", "profile b/0.5"]);
        assert_eq!(names(&[&a, &c, &b]).unwrap(), ["profile x/a/0.5", "profile y/b/0.5", "profile x/b/0.5"]);
        assert!(names(&[&a, &a]).is_err());
    }
}
