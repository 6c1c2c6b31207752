//! Task scores of one prediction, each equal to the benchmark's own scorer on the same text.
//!
//! A metric is one file and one line in [`METRICS`]. Reference scores, made with the published packages, stand in
//! `tests/fixtures/metrics`.

mod accuracy;
mod classification;
mod concordance;
mod edit;
mod exponential;
mod numbers;
mod qa_f1;
mod rouge_geometric;
mod rouge_l;
mod string_match;
mod word_recall;

/// What a prediction is scored against.
#[derive(Clone, Copy, Debug)]
pub struct Reference<'a> {
    /// Reference answers; the best one counts unless the metric says otherwise.
    pub answers: &'a [String],
    /// Class labels of a classification task.
    pub all_classes: &'a [String],
}

/// A line of the metric table.
#[derive(Clone, Copy, Debug)]
pub struct MetricEntry {
    /// Name in files.
    pub name: &'static str,
    /// What it measures, in one line.
    pub summary: &'static str,
    /// Where it comes from, and where it differs.
    pub source: &'static str,
    /// Names of what [`MetricEntry::score`] returns; the first is the score.
    pub parts: &'static [&'static str],
    /// What a reference lacks to be scored against; `None` where a prediction can be right.
    pub lacks: fn(&Reference<'_>) -> Option<&'static str>,
    /// Scores a prediction: one number in [0, 1] for each of `parts`.
    pub score: fn(&str, &Reference<'_>) -> Vec<f64>,
    /// The data set's score in [0, 1] from all rows' parts, as the benchmark computes it; `None` of no rows.
    pub aggregate: fn(&[Vec<f64>]) -> Option<f64>,
}

/// Every metric, by name.
pub const METRICS: &[MetricEntry] = &[
    accuracy::ENTRY,
    classification::ENTRY,
    concordance::ENTRY,
    numbers::COUNT,
    edit::ENTRY,
    exponential::ENTRY,
    qa_f1::ENTRY,
    numbers::RETRIEVAL,
    rouge_geometric::ENTRY,
    rouge_l::ENTRY,
    string_match::ENTRY,
    word_recall::ENTRY,
];

/// The metric of that name.
pub fn metric(name: &str) -> Option<&'static MetricEntry> {
    METRICS.iter().find(|entry| entry.name == name)
}

impl Reference<'_> {
    /// Whether any answer holds text.
    pub fn has_answer(&self) -> bool {
        self.answers.iter().any(|answer| !answer.trim().is_empty())
    }

    /// `what` where no answer is usable, or what is missing of all.
    fn lacks_any(&self, is_usable: impl Fn(&str) -> bool, what: &'static str) -> Option<&'static str> {
        any_answer(self).or_else(|| (!self.answers.iter().any(|answer| is_usable(answer))).then_some(what))
    }
}

/// What most metrics ask of a reference.
fn any_answer(reference: &Reference<'_>) -> Option<&'static str> {
    (!reference.has_answer()).then_some("it has no reference answer (`answers`, or RULER's `outputs`)")
}

/// The only part of most metrics.
const SCORE: &[&str] = &["score"];

/// The mean over rows of the first part.
fn mean_of_rows(rows: &[Vec<f64>]) -> Option<f64> {
    crate::math::mean(rows.iter().filter_map(|parts| parts.first()))
}

/// The best score over the answers, 0 without any.
fn best(answers: &[String], score: impl Fn(&str) -> f64) -> Vec<f64> {
    vec![answers.iter().map(|answer| score(answer)).fold(0.0, f64::max)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_well_formed() {
        for (i, entry) in METRICS.iter().enumerate() {
            assert!(i == 0 || METRICS[i - 1].name < entry.name, "{} is out of order", entry.name);
            assert!(!entry.summary.is_empty() && !entry.source.is_empty() && !entry.parts.is_empty());
            let answers = ["Paragraph 3", "3", "(B)", "3, 1, 2", "50%"].map(String::from);
            let reference = Reference { answers: &answers, all_classes: &answers };
            assert_eq!((entry.lacks)(&reference), None, "{}", entry.name);
            for blank in [&[][..], &[" ".to_string()]] {
                let reference = Reference { answers: blank, all_classes: &answers };
                assert!((entry.lacks)(&reference).is_some_and(|what| what.contains("answer")), "{}", entry.name);
            }
            assert_eq!((entry.score)("", &reference).len(), entry.parts.len(), "{}", entry.name);
            assert_eq!((entry.aggregate)(&[]), None, "{}", entry.name);
        }
        let unusable = ["x".to_string()];
        for name in ["accuracy", "classification", "concordance_index", "count", "exponential_similarity", "retrieval"]
        {
            let reference = Reference { answers: &unusable, all_classes: &[] };
            assert!((metric(name).unwrap().lacks)(&reference).is_some(), "{name}");
        }
        assert!(metric("qa_f1").is_some() && metric("qa").is_none());
    }
}
