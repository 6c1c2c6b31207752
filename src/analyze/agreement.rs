//! Whether data sets order the heads alike.

use crate::format::analysis::{Agreement, DatasetAnalysis};
use crate::math::spearman;

/// From this rank correlation on, two data sets agree: they have about half of the variance of their ranks in common.
const AGREES: f64 = 0.7;
/// Below this one they have less than a tenth in common, and do not agree.
const AGREES_IN_PART: f64 = 0.3;

/// Spearman's rho of the heads' set ratios for every pair of data sets.
pub(crate) fn agreement(datasets: &[DatasetAnalysis], reference_eps: usize) -> Vec<Agreement> {
    let mut pairs = Vec::new();
    for (index, a) in datasets.iter().enumerate() {
        for b in &datasets[index + 1..] {
            // Both lists are by layer and head, or empty.
            let both = a.sparsity.iter().zip(&b.sparsity);
            let (x, y): (Vec<f64>, Vec<f64>) =
                both.filter_map(|(a, b)| a.set_ratio[reference_eps].zip(b.set_ratio[reference_eps])).unzip();
            pairs.push(Agreement { a: a.dataset.clone(), b: b.dataset.clone(), spearman: spearman(&x, &y) });
        }
    }
    pairs
}

/// What the pairs come to: the one that agrees least decides. `None` where no pair has a correlation.
pub(crate) fn agreement_verdict(pairs: &[Agreement]) -> Option<String> {
    let known = || pairs.iter().filter_map(|pair| Some((pair, pair.spearman?)));
    let low = known().min_by(|a, b| a.1.total_cmp(&b.1))?;
    let high = known().max_by(|a, b| a.1.total_cmp(&b.1))?;
    let verb = match low.1 {
        rho if rho >= AGREES => "agree",
        rho if rho >= AGREES_IN_PART => "agree only in part",
        _ => "do not all agree",
    };
    let place = if known().count() == 1 { "" } else { "lowest " };
    let of = |(pair, rho): (&Agreement, f64)| format!("{rho:.2} between {} and {}", pair.a, pair.b);
    let highest = if place.is_empty() { String::new() } else { format!(", highest {}", of(high)) };
    Some(format!("The data sets {verb} on which heads are compressible: Spearman's ρ is {place}{}{highest}.", of(low)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pair_that_agrees_least_decides() {
        let pair = |b: &str, spearman| Agreement { a: "news".into(), b: b.into(), spearman };
        let says = |pairs: &[Agreement]| agreement_verdict(pairs).unwrap();
        assert_eq!(
            says(&[pair("code", Some(0.7)), pair("talk", None)]),
            "The data sets agree on which heads are compressible: Spearman's ρ is 0.70 between news and code."
        );
        assert_eq!(
            says(&[pair("code", Some(0.9)), pair("talk", Some(0.3))]),
            "The data sets agree only in part on which heads are compressible: Spearman's ρ is lowest 0.30 between news and \
             talk, highest 0.90 between news and code."
        );
        assert!(says(&[pair("code", Some(0.29))]).starts_with("The data sets do not all agree"));
        assert_eq!(agreement_verdict(&[pair("code", None)]), None);
    }
}
