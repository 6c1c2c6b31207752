//! Share of the answers that stand in a prediction.

use crate::eval::metric::{MetricEntry, SCORE, any_answer, mean_of_rows};

pub(super) const ENTRY: MetricEntry = MetricEntry {
    name: "string_match",
    summary: "share of the answers that stand in the prediction, without regard to case",
    source: "RULER, Hsieh et al. 2024, arXiv 2404.06654 (its string match for all tasks but question answering). Differs: no",
    parts: SCORE,
    lacks: any_answer,
    score: |prediction, reference| {
        let prediction = prediction.to_lowercase();
        let found = reference.answers.iter().filter(|answer| prediction.contains(&answer.to_lowercase())).count();
        vec![if reference.answers.is_empty() { 0.0 } else { found as f64 / reference.answers.len() as f64 }]
    },
    aggregate: mean_of_rows,
};
