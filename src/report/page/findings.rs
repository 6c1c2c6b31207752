//! An analysis in plain words, computed from its numbers: what compresses, where, and whether it is worth it.

use crate::format::analysis::Analysis;
use crate::format::dump::State;
use crate::report::page::words::{percent, sentences, unbroken};
use crate::report::pool;
use crate::report::pool::{Head, Measure};
use crate::report::theme::{count, number, threshold};
use crate::say;

/// Above this share of slots kept, compression is not worth the name.
const NOTHING_MERGES: f64 = 0.99;

/// The outcome in three sentences: what stays, what merging costs, and whether that is the model's.
pub(super) fn verdict(analysis: &Analysis) -> Vec<String> {
    let queries = analysis.queries.as_ref();
    let at_half = queries.and_then(|queries| {
        let distance = |budget: &f64| (budget - 0.5).abs();
        let nearest = queries.budgets.iter().copied().min_by(|a, b| distance(a).total_cmp(&distance(b)))?;
        let begins = format!("At {} kept", say::percent(nearest, 0));
        sentences(&queries.verdict).find(|sentence| sentence.starts_with(&begins))
    });
    let persistence = analysis.persistence.as_ref().and_then(|persistence| sentences(&persistence.verdict).next());
    let kept = kept(analysis);
    let first = sentences(&kept).next().map(String::from);
    let told = [first, at_half.map(unbroken), persistence.map(unbroken)].into_iter().flatten();
    told.chain(rope(analysis)).chain(distance(analysis)).take(3).collect()
}

/// One sentence or two a finding, as plain text.
pub(super) fn findings(analysis: &Analysis) -> Vec<String> {
    let mut findings = vec![kept(analysis)];
    findings.extend(sweep(analysis));
    findings.extend(extremes(analysis));
    findings.extend(rope(analysis));
    findings.extend(distance(analysis));
    findings.extend(analysis.agreement_verdict.clone());
    if analysis.datasets.len() == 1 {
        findings.push("Only one data set was analysed, so that nothing is known of how other texts behave.".into());
    }
    findings.extend(analysis.queries.as_ref().map(|queries| queries.verdict.clone()));
    findings.extend(analysis.persistence.as_ref().map(|persistence| persistence.verdict.clone()));
    findings
}

/// Which tokens are never merged.
pub(super) fn protected(analysis: &Analysis) -> String {
    let share = |share: f64| format!("{}\u{a0}%", threshold((100.0 * share) as f32));
    let shares = analysis.shares;
    format!("the last {} and the {} of largest attention mass", share(shares.recent), share(shares.heavy))
}

fn kept(analysis: &Analysis) -> String {
    let name = &analysis.model.name;
    let Some(eps) = pool::reference_eps(analysis) else {
        return format!(
            "The analysis of {name} has no reference threshold, so that nothing can be said on compression."
        );
    };
    let of_dataset =
        |i: usize| pool::known_interval(analysis.kept_fraction.get(i).copied().flatten()).map(|k| k.estimate);
    let mut known: Vec<(&str, f64)> =
        analysis.datasets.iter().enumerate().filter_map(|(i, d)| Some((d.dataset.as_str(), of_dataset(i)?))).collect();
    let Some(overall) = pool::mean(known.iter().map(|k| Some(k.1))) else {
        return format!(
            "The analysis of {name} holds no merging sets (keys or attention masses were not captured), so that nothing \
             can be said on compression."
        );
    };
    known.sort_by(|a, b| a.1.total_cmp(&b.1));
    let one = |(name, share): &(&str, f64)| format!("{name} {}", percent(*share));
    let listed = match known.as_slice() {
        [_] => String::new(),
        few if few.len() <= 4 => format!(" ({})", few.iter().map(one).collect::<Vec<_>>().join(", ")),
        [first, .., last] => format!(" (from {} to {})", one(first), one(last)),
        [] => String::new(),
    };
    let protected = format!("That includes the protected tokens: {}.", protected(analysis));
    let eps = threshold(eps);
    if overall >= NOTHING_MERGES {
        return format!(
            "At threshold {eps} next to nothing merges: the cache of {name} keeps {} of its slots{listed}. {protected}",
            percent(overall)
        );
    }
    format!(
        "At threshold {eps} the cache of {name} keeps {} of its slots{listed}: {} tokens per slot. {protected}",
        percent(overall),
        number(1.0 / overall.max(1e-9), 2)
    )
}

fn sweep(analysis: &Analysis) -> Option<String> {
    let last = analysis.eps_grid.len().checked_sub(1).filter(|last| *last > 0)?;
    let at = |i: usize| pool::mean(pool::pooled_at_eps(analysis, Measure::Kept, i).into_values());
    let (low, high) = (at(0)?, at(last)?);
    Some(format!(
        "From threshold {} to {} the slots kept, averaged over heads and data sets, go from {} to {}.",
        threshold(analysis.eps_grid[0]),
        threshold(analysis.eps_grid[last]),
        percent(low),
        percent(high)
    ))
}

fn extremes(analysis: &Analysis) -> Option<String> {
    let ratios = pool::pooled_at_eps(analysis, Measure::SetRatio, analysis.reference_eps);
    let by_layer = pool::pooled(ratios.iter().map(|((layer, _), value)| (*layer, *value)));
    let layers: Vec<(usize, f64)> = by_layer.into_iter().filter_map(|(layer, ratio)| Some((layer, ratio?))).collect();
    let heads: Vec<(Head, f64)> = ratios.into_iter().filter_map(|(head, value)| Some((head, value?))).collect();
    let (most, least) = ends(&heads)?;
    if heads.len() < 2 {
        return None;
    }
    if (least.1 - most.1).abs() < 0.005 {
        return Some(format!("All heads merge alike: {} sets per unprotected token everywhere.", number(most.1, 2)));
    }
    let of_heads = format!(
        "the KV head that merges most is head {} of layer {} ({}), the one that merges least head {} of layer {} ({})",
        most.0.1,
        most.0.0,
        number(most.1, 2),
        least.0.1,
        least.0.0,
        number(least.1, 2)
    );
    let (most, least) = ends(&layers)?;
    if layers.len() < 2 {
        return Some(format!("In sets per unprotected token, where 1 means that nothing merges, {of_heads}."));
    }
    Some(format!(
        "Layer {} merges most ({} sets per unprotected token; 1 would mean that nothing merges) and layer {} least ({}); {of_heads}.",
        most.0,
        number(most.1, 2),
        least.0,
        number(least.1, 2)
    ))
}

/// The entries of lowest and highest value, the first of equals.
fn ends<K: Copy>(values: &[(K, f64)]) -> Option<((K, f64), (K, f64))> {
    let first = *values.first()?;
    Some(values.iter().fold((first, first), |(low, high), v| {
        (if v.1 < low.1 { *v } else { low }, if v.1 > high.1 { *v } else { high })
    }))
}

fn rope(analysis: &Analysis) -> Option<String> {
    let after = pool::neighbour_means(analysis, State::K);
    let before = pool::neighbour_means(analysis, State::KPreRope);
    let values = pool::mean(pool::neighbour_means(analysis, State::V).into_values());
    let of_values = values.map(|v| format!(" Neighbouring values: {}.", number(v, 2))).unwrap_or_default();
    let (Some(mean_after), Some(mean_before)) =
        (pool::mean(after.values().copied()), pool::mean(before.values().copied()))
    else {
        let keys = pool::mean(after.values().copied())?;
        return Some(format!("Neighbouring keys have a mean cosine of {} after RoPE.{of_values}", number(keys, 2)));
    };
    let pairs: Vec<(f64, f64)> =
        after.iter().filter_map(|(head, a)| Some(((*a)?, before.get(head).copied().flatten()?))).collect();
    let higher = pairs.iter().filter(|(a, b)| b > a).count();
    let difference = mean_before - mean_after;
    let relation = match difference {
        d if d.abs() < 0.005 => "about as alike before RoPE as after it",
        d if d > 0.0 => "more alike before RoPE than after it",
        _ => "less alike before RoPE than after it",
    };
    Some(format!(
        "Neighbouring keys are {relation}: mean cosine {} before, {} after; before RoPE is higher in {higher} of {}.{of_values}",
        number(mean_before, 2),
        number(mean_after, 2),
        count(pairs.len(), "head")
    ))
}

fn distance(analysis: &Analysis) -> Option<String> {
    let state = [State::K, State::KPreRope, State::V].into_iter().find(|s| pool::states(analysis).contains(s))?;
    let at = |i: usize| pool::mean(pool::of_heads(analysis, state).map(|head| head.locality.get(i).copied().flatten()));
    let known: Vec<(usize, f64)> =
        analysis.lags.iter().enumerate().filter_map(|(i, lag)| Some((*lag, at(i)?))).collect();
    let (first, last) = (known.first()?, known.last()?);
    if first.0 == last.0 {
        return None;
    }
    let verb = if last.1 < first.1 - 0.02 {
        "falls"
    } else if last.1 > first.1 + 0.02 {
        "rises"
    } else {
        "hardly changes with distance: it goes"
    };
    Some(format!(
        "The similarity of {} {verb} from {} at distance {} to {} at distance {}.",
        crate::report::theme::state_label(state),
        number(first.1, 2),
        first.0,
        number(last.1, 2),
        last.0
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_take_the_first_of_equals() {
        let values = [(0, 2.0), (1, 1.0), (2, 1.0), (3, 2.0)];
        assert_eq!(ends(&values), Some(((1, 1.0), (0, 2.0))));
        assert_eq!(ends::<usize>(&[]), None);
    }
}
