//! A comparison in three sentences.

use crate::format::comparison::{Against, ComparedRun, Comparison};
use crate::math::Interval;
use crate::say;

/// How far two rank orders may differ and still be called alike, and roughly alike.
const ALIKE: f64 = 0.8;
const ROUGHLY: f64 = 0.5;

impl Comparison {
    /// What comes out of it, in at most three sentences with their numbers: which run merges most, whether that is the model's or the
    /// data's, and what single heads do.
    pub fn verdict(&self) -> Vec<String> {
        let told = [self.order_of_runs(), self.model_or_data(), self.heads()];
        let words: Vec<String> = told.into_iter().flatten().collect();
        if words.is_empty() { vec!["The runs have no merging sets to compare.".into()] } else { words }
    }

    /// "A merges most, with 0.21 sets per unprotected token at eps 0.75 (0.20 to 0.22), before B with 0.25 (0.24 to 0.26)."
    fn order_of_runs(&self) -> Option<String> {
        let mut runs: Vec<(&ComparedRun, Interval)> =
            self.runs.iter().filter_map(|run| Some((run, run.set_ratio()?.mean))).collect();
        runs.sort_by(|a, b| a.1.estimate.total_cmp(&b.1.estimate));
        let [(most, sets), rest @ ..] = runs.as_slice() else { return None };
        let rest: Vec<String> =
            rest.iter().map(|(run, sets)| format!("{} with {}", run.name, number(*sets, 3))).collect();
        let before = if rest.is_empty() { String::new() } else { format!(", before {}", say::listed(&rest)) };
        let (name, eps) = (&most.name, self.eps);
        Some(format!("{name} merges most, with {} sets per unprotected token at eps {eps}{before}.", number(*sets, 3)))
    }

    fn model_or_data(&self) -> Option<String> {
        let mut parts = Vec::new();
        let distances = self.distances;
        if let Some((datasets, runs)) = distances.between_datasets.zip(distances.between_runs) {
            let are_models = (1..self.runs.len())
                .all(|at| self.runs[..at].iter().all(|run| run.model.fingerprint != self.runs[at].model.fingerprint));
            let run = if are_models { "model" } else { "run" };
            let says = match distances.difference.filter(|difference| difference.leaves_out_0()) {
                Some(difference) if difference.estimate > 0.0 => {
                    format!("The {run}s differ more than the data sets do")
                }
                Some(_) => format!("The data sets differ more than the {run}s do"),
                None => format!("It is not shown whether {run}s or data sets differ more"),
            };
            parts.push(format!(
                "{says}: at equal depth, two data sets of one {run} lie {} apart, two {run}s on one data set {}",
                number(datasets, 3),
                number(runs, 3)
            ));
        }
        let known = |of: &dyn Fn(&ComparedRun) -> Option<String>| -> Vec<String> {
            self.runs.iter().filter_map(|run| Some(format!("{} in {}", of(run)?, run.name))).collect()
        };
        let between_heads = known(&|run| Some(say::percent(run.sets.as_ref()?.variance?.head.estimate, 0)));
        if !between_heads.is_empty() {
            let begins = if parts.is_empty() { "Of" } else { "of" };
            parts.push(format!("{begins} the variance of a run, heads account for {}", say::listed(&between_heads)));
        }
        (!parts.is_empty()).then(|| format!("{}.", parts.join("; ")))
    }

    /// What heads do in runs whose heads are those of the first, and which runs have other heads.
    fn heads(&self) -> Option<String> {
        let first = self.runs.first()?;
        let (same, other): (Vec<_>, Vec<_>) = self.pairs().partition(|(first, run, _)| run.has_heads_of(first));
        let told =
            same.into_iter().filter_map(|(_, run, against)| Some(format!("{} {}", run.name, of_heads(against)?)));
        let told: Vec<String> = told.collect();
        let mut parts = Vec::new();
        if !told.is_empty() {
            parts.push(format!("Head by head against {}: {}", first.name, told.join("; ")));
        }
        if !other.is_empty() {
            let names: Vec<String> =
                other.iter().map(|(_, run, _)| format!("{} ({})", run.name, run.shape())).collect();
            let begins = if parts.is_empty() { "Heads" } else { "heads" };
            parts.push(format!(
                "{begins} of {} are not compared one by one with those of {} ({})",
                say::listed(&names),
                first.name,
                first.shape()
            ));
        }
        (!parts.is_empty()).then(|| format!("{}.", parts.join("; ")))
    }
}

/// "differs in 32 of 90, by -0.001 to 0.002 on average (not shown to differ), and orders them alike (rank correlation 0.99)".
fn of_heads(against: &Against) -> Option<String> {
    let sets = against.sets()?;
    let by = match say::ends(sets.difference, 3) {
        Some(ends) => ends,
        None => format!("{:.3}, from one sample without an interval,", sets.difference.estimate),
    };
    let doubt = if sets.differs() { "" } else { " (no difference is shown)" };
    let order = sets.rank_agreement.filter(|rho| rho.estimate.is_finite()).map(|rho| {
        let says = match rho.estimate {
            rho if rho >= ALIKE => "orders them alike",
            rho if rho >= ROUGHLY => "orders them roughly alike",
            _ => "orders them differently",
        };
        format!(", and {says} (rank correlation {:.2})", rho.estimate)
    });
    let (n, of) = (sets.n_differ, sets.heads.len());
    Some(format!("differs in {n} of {of}, by {by} on average{doubt}{}", order.unwrap_or_default()))
}

/// "0.251 (0.240 to 0.262)".
fn number(value: Interval, decimals: usize) -> String {
    format!("{:.decimals$}{}", value.estimate, say::bracketed(value, decimals))
}
