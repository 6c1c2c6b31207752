//! A policy made of four parts.

use serde_json::{Map, Value};

use crate::merge::{HeadPlan, MergeError, Refit};
use crate::policy;
use crate::policy::allocation::ALLOCATIONS;
use crate::policy::fold::FOLDS;
use crate::policy::part::build;
use crate::policy::score::{SCORES, beside};
use crate::policy::{
    Allocation, Claim, Fold, HeadView, Needs, Params, Policy, PolicyEntry, PolicyError, Scope, Score, SlotExtras,
};

/// How the parts that a policy names are called.
const PARTS: [&str; 3] = ["score", "allocation", "fold"];

/// The allocation that leaves heads their own sizes.
const EQUAL: &str = "equal";

/// What a method makes of every head: a score ranks its tokens, an allocation sizes it, a fold makes its slots, and a refit,
/// which the runtime carries out, mends what they hold.
#[derive(Debug)]
pub(super) struct Method {
    score: Box<dyn Score>,
    allocation: Box<dyn Allocation>,
    fold: Box<dyn Fold>,
    refit: Option<Refit>,
    /// As artifacts record them: the parts' names and all their parameters.
    params: Value,
    /// Name and parameters of the score.
    scored_by: String,
    /// The eviction of what this one folds, as it is typed.
    control: Option<String>,
}

impl Method {
    /// From a line of the table, the parameters typed behind its name, and the refit typed behind them.
    pub(super) fn new(entry: &'static PolicyEntry, typed: &str, refit: Option<&str>) -> Result<Self, PolicyError> {
        let mut params = Params::parse(entry.name, typed)?;
        entry.resolve_base(&mut params)?;
        params.or(&Params::parse(entry.name, entry.with)?);
        let [score, allocation, fold] = PARTS.map(|part| params.take_word(part));
        let (score_name, fold_name) = (score?.unwrap_or(entry.score.into()), fold?.unwrap_or(entry.fold.into()));
        let (score, of_score) = build(SCORES, "score", &score_name, &mut params)?;
        let (score, of_score) = beside(score, of_score, &mut params)?;
        let (fold, of_fold) = build(FOLDS, "fold", &fold_name, &mut params)?;
        // Thresholds that decide sizes leave nothing to share out.
        let own = if fold.sets_own_size() { EQUAL } else { entry.allocation };
        let names: [String; 3] = [score_name, allocation?.unwrap_or(own.into()), fold_name];
        let (allocation, of_allocation) = build(ALLOCATIONS, "allocation", &names[1], &mut params)?;
        params.finish()?;
        if !fold.compresses() && !typed.trim().is_empty() {
            let what = "it keeps everything and has no parameters".into();
            return Err(PolicyError::BadParameter { policy: entry.name, what });
        }
        if fold.sets_own_size() && allocation.scope() != Scope::Head {
            let what = format!("fold {} decides sizes itself, so allocation={} would be ignored", names[2], names[1]);
            return Err(PolicyError::BadParameter { policy: entry.name, what });
        }
        if of_score.get("beside").is_some() && allocation.scope() != Scope::Head {
            let what = format!("beside= ranks within a head, and allocation={} compares heads by worth", names[1]);
            return Err(PolicyError::BadParameter { policy: entry.name, what });
        }
        let scored_by = format!("{} {of_score}", names[0]);
        let mut fields: Map<String, Value> =
            PARTS.into_iter().zip(&names).map(|(part, name)| (part.into(), name.as_str().into())).collect();
        let control =
            fold.folds().then(|| control_of(entry, &names, [&of_score, &of_allocation], typed, refit)).transpose()?;
        for part in [of_score, of_allocation, of_fold] {
            fields.extend(part.as_object().into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())));
        }
        let refit = refit.map(parse_refit).transpose()?;
        Ok(Self { score, allocation, fold, refit, params: fields.into(), scored_by, control })
    }
}

impl Policy for Method {
    fn needs(&self) -> Needs {
        if self.compresses() { self.score.needs().and(self.fold.needs()) } else { Needs::default() }
    }

    fn sets_own_size(&self) -> bool {
        self.fold.sets_own_size()
    }

    fn compresses(&self) -> bool {
        self.fold.compresses()
    }

    fn control(&self) -> Option<&str> {
        self.control.as_deref()
    }

    fn slot_extras(&self) -> SlotExtras {
        let predicted = SlotExtras { predicted: self.needs().learned.is_some(), ..SlotExtras::default() };
        self.fold.slot_extras().or(predicted).with(self.refit)
    }

    fn refit(&self) -> Option<Refit> {
        self.refit
    }

    fn scope(&self) -> Scope {
        self.allocation.scope()
    }

    fn claim(&self, view: &HeadView<'_>, given: usize) -> Claim {
        let n = view.n_slots();
        let worth = if given < n { self.score.worth(view, given) } else { vec![0.0; n] };
        Claim { layer: view.layer, given, worth }
    }

    fn sizes(&self, heads: &[Claim]) -> Vec<usize> {
        self.allocation.sizes(heads)
    }

    fn scored_by(&self) -> Option<&str> {
        Some(&self.scored_by)
    }

    fn fixed_score(&self) -> Option<&str> {
        self.scored_by().filter(|_| !self.score.depends_on_budget())
    }

    fn worth(&self, view: &HeadView<'_>, budget_tokens: usize) -> Vec<f32> {
        self.score.worth(view, budget_tokens)
    }

    fn plan_by(&self, view: &HeadView<'_>, worth: &[f32], budget_tokens: usize) -> Result<HeadPlan, MergeError> {
        self.fold.plan(view, worth, budget_tokens)
    }

    fn protected(&self, view: &HeadView<'_>, worth: &[f32], budget_tokens: usize) -> Option<Vec<bool>> {
        self.fold.protected(view, worth, budget_tokens)
    }

    fn params(&self) -> Value {
        self.params.clone()
    }
}

/// How the eviction is typed that keeps the same slots as this policy with these parts, parameters and refit, and folds
/// nothing into them. `scoring` is what its score and its allocation, which are this policy's, know.
fn control_of(
    entry: &PolicyEntry,
    [score, allocation, fold]: &[String; 3],
    scoring: [&Value; 2],
    typed: &str,
    refit: Option<&str>,
) -> Result<String, PolicyError> {
    let is_own = *allocation == entry.allocation && *fold == entry.fold;
    let named = entry.evicting.iter().find(|(of, _)| of == score && is_own);
    let (name, fold, parts) = match named {
        Some((_, name)) => (*name, policy::entry(name)?.fold, String::new()),
        None => {
            let fold = if fold == "sets" { "pivots" } else { "drop" };
            (entry.name, fold, format!("score={score},allocation={allocation},fold={fold}"))
        }
    };
    // Of what was typed, all that the eviction knows.
    let (_, of_fold) = build(FOLDS, "fold", fold, &mut Params::parse(entry.name, "")?)?;
    let is_shared = |pair: &&str| {
        let key = pair.split('=').next().unwrap_or_default().trim();
        scoring.into_iter().chain([&of_fold]).any(|known| known.get(key).is_some())
    };
    let shared = typed.split(',').filter(is_shared);
    let all: Vec<&str> = std::iter::once(parts.as_str()).filter(|parts| !parts.is_empty()).chain(shared).collect();
    let refit = refit.map(|refit| format!("+refit{refit}")).unwrap_or_default();
    Ok(if all.is_empty() { format!("{name}{refit}") } else { format!("{name}:{}{refit}", all.join(",")) })
}

/// Reads what follows `+refit` as typed: nothing, or `:key=value,...`.
///
/// - Errors: an unknown or faulty parameter
pub fn parse_refit(text: &str) -> Result<Refit, PolicyError> {
    let mut params = Params::parse("refit", text.strip_prefix(':').unwrap_or(text))?;
    let refit: Refit = params.read()?;
    if !refit.is_sound() {
        return Err(params.bad("queries is at least 1 and lambda a number above 0"));
    }
    params.finish()?;
    Ok(refit)
}
