//! Compressions on texts: what the model loses by each.

use crate::eval;
use crate::eval::{Arm, EvalError, Item, Work};
use crate::format::dump::{Dump, DumpError};
use crate::format::evaluation::Role;
use crate::format::profile::Profile;
use crate::math::Float;
use crate::model::Model;
use crate::runtime::Compression;

/// Part of a sample's tokens that continues the rest.
const CONTINUED_PART: usize = 8;
/// Tokens of a sample that continue the rest, at most.
const MOST_CONTINUED: usize = 256;

/// Compressions to compare, each with its budget.
pub(super) type Ways = Vec<(f64, Compression)>;

pub(super) fn way(name: impl Into<String>, profile: &Profile) -> Result<(f64, Compression), EvalError> {
    Ok((profile.target_kept_fraction, Compression::from_profile(name, profile)?))
}

/// KL of every way of every group on every text, `[group][way][text]`; fewer where a budget could not be met.
pub(super) fn measured_kls(
    model: &Model,
    items: &[Item],
    groups: &[Ways],
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Vec<Vec<f64>>>, EvalError> {
    let arm = |(budget, compression): &(f64, Compression)| Arm {
        policy: compression.name.clone(),
        budget: Some(*budget),
        role: Role::Profile,
        control: None,
        compression: compression.clone(),
    };
    let arms: Vec<Arm> = groups.iter().flatten().map(arm).collect();
    let (mut done, total) = (0, items.len() * arms.len());
    let rows = eval::measure(model, items, &arms, Float::F32, &mut || {
        done += 1;
        progress(done, total);
    })?;
    let of = |arm: usize| rows.iter().filter_map(|text| text[arm].metrics.get("kl").copied()).collect();
    let mut all = (0..arms.len()).map(of);
    Ok(groups.iter().map(|ways| all.by_ref().take(ways.len()).collect()).collect())
}

/// Some of so many samples, spread over all of them: places, rising.
pub(super) fn spread(n_samples: usize, n_wanted: usize) -> impl Iterator<Item = usize> {
    let n = n_wanted.min(n_samples);
    (0..n).map(move |i| (2 * i + 1) * n_samples / (2 * n))
}

/// A captured sample, of which the end continues the rest.
pub(super) fn sample_item(dump: &Dump, index: usize) -> Result<Item, DumpError> {
    let entry = &dump.manifest().samples[index];
    let mut prompt = dump.sample(index)?.token_ids()?;
    let n_continued = (prompt.len() / CONTINUED_PART).min(MOST_CONTINUED);
    let continuation = prompt.split_off(prompt.len() - n_continued);
    let (dataset, id) = (entry.dataset.clone(), entry.id.clone());
    Ok(Item { task: "kl", dataset, id, prompt, work: Work::Continue(continuation) })
}
