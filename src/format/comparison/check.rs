//! Numbers of a comparison that cannot be.

use std::path::Path;

use crate::files::read_json;
use crate::format::comparison::{ComparedRun, Comparison, FigureDifference, MOST_RUNS, RunSets};
use crate::math::Interval;

/// Faults of a comparison, each in words that name the file; empty when there is none: runs that are not there, numbers that are none,
/// ends of an interval in the wrong order, other heads than those that differ.
pub fn faults(path: &Path) -> Vec<String> {
    let comparison = match read_json::<Comparison>(path) {
        Err(error) => return vec![error.to_string()],
        Ok(comparison) => comparison,
    };
    let runs = comparison.runs.iter().filter_map(ComparedRun::fault);
    let differences = comparison.against_first.iter().flat_map(|against| &against.figures);
    let found = comparison.fault().into_iter().chain(runs).chain(differences.filter_map(FigureDifference::fault));
    found.map(|what| format!("{}: {what}", path.display())).collect()
}

fn can_be(interval: Interval) -> bool {
    let ends = interval.low.zip(interval.high);
    interval.estimate.is_finite() && ends.is_none_or(|(low, high)| low.is_finite() && high.is_finite() && low <= high)
}

impl Comparison {
    fn fault(&self) -> Option<String> {
        let n = self.runs.len();
        if !(2..=MOST_RUNS).contains(&n) {
            return Some(format!("{n} runs, where a comparison has 2 to {MOST_RUNS}"));
        }
        if let Some(name) = (1..n).find(|at| self.runs[..*at].iter().any(|run| run.name == self.runs[*at].name)) {
            return Some(format!("two runs are called {:?}", self.runs[name].name));
        }
        let is_other = |run: usize| (1..n).contains(&run);
        if let Some(against) = self.against_first.iter().find(|against| !is_other(against.run)) {
            return Some(format!("compares run {} with the first of {n}", against.run));
        }
        let distances = [self.distances.between_datasets, self.distances.between_runs, self.distances.difference];
        let are = self.eps.is_finite() && distances.into_iter().flatten().all(can_be);
        (!are).then(|| "a distance or the threshold cannot be".into())
    }
}

impl ComparedRun {
    fn fault(&self) -> Option<String> {
        let figures = self.figures.iter().map(|figure| figure.mean);
        if !figures.chain(self.sets.iter().flat_map(RunSets::intervals)).all(can_be) {
            return Some(format!("{}: a number or an interval cannot be", self.name));
        }
        let datasets = self.sets.iter().flat_map(|sets| &sets.datasets);
        let other = datasets.map(|dataset| (dataset, dataset.layers.len())).find(|(_, n)| *n != self.layers.len())?;
        let (name, n_layers) = (&self.name, self.layers.len());
        Some(format!("{name}: {} has the sets of {} layers where the run has {n_layers}", other.0.dataset, other.1))
    }
}

impl RunSets {
    fn intervals(&self) -> impl Iterator<Item = Interval> {
        let shares = self.variance.iter().flat_map(|v| [v.head, v.dataset, v.interaction, v.sample, v.residual]);
        let datasets = self.datasets.iter().flat_map(|d| d.layers.iter().copied().chain([d.mean]));
        let others = [self.between_datasets, self.kendall_w, self.persistent_share].into_iter().flatten();
        datasets.chain(self.heads.iter().map(|head| head.mean)).chain(shares).chain(others)
    }
}

impl FigureDifference {
    fn fault(&self) -> Option<String> {
        let of_heads = self.heads.iter().map(|head| head.difference);
        let mut intervals = of_heads.chain(self.rank_agreement).chain([self.difference]);
        let mut numbers = self.heads.iter().flat_map(|head| [head.first, head.other]).chain([self.first, self.other]);
        let name = self.id.name();
        if !intervals.all(can_be) || !numbers.all(f64::is_finite) {
            return Some(format!("{name}: a number or an interval cannot be"));
        }
        let n = self.heads.iter().filter(|head| head.differs).count();
        (n != self.n_differ).then(|| format!("{name}: {n} heads differ where it says {}", self.n_differ))
    }
}
