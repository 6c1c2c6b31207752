//! Share of an answer's words that a prediction holds.

use std::collections::HashSet;

use crate::eval::metric::qa_f1::normalised_words;
use crate::eval::metric::{MetricEntry, SCORE, any_answer, best, mean_of_rows};

pub(super) const ENTRY: MetricEntry = MetricEntry {
    name: "word_recall",
    summary: "share of the answer's different words that the prediction holds",
    source: "kvscope's own, for planted sentences: a found needle scores 1 however much is said around it",
    parts: SCORE,
    lacks: any_answer,
    score: |prediction, reference| {
        let predicted: HashSet<String> = normalised_words(prediction).into_iter().collect();
        best(reference.answers, |answer| {
            let wanted: HashSet<String> = normalised_words(answer).into_iter().collect();
            if wanted.is_empty() { 0.0 } else { wanted.intersection(&predicted).count() as f64 / wanted.len() as f64 }
        })
    },
    aggregate: mean_of_rows,
};
