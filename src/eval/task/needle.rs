//! Needle in a haystack, by length and depth.

use crate::eval::task::{AnswerJob, Job, SCORE, Take, TaskEntry};

pub(super) const ENTRY: TaskEntry = TaskEntry {
    name: "needle",
    summary: "a sentence planted in a long text, by length and depth: share of its words in the answer",
    source: "Kamradt 2023, needle in a haystack; data sets named needle or needle_NAME",
    headline: SCORE,
    take: |dataset| match dataset.strip_prefix("needle") {
        Some(rest) if rest.is_empty() || rest.starts_with('_') => {
            Take::Yes(Job::Answer(AnswerJob { by_depth: true, ..AnswerJob::new("word_recall", 48) }))
        }
        _ => Take::No,
    },
};
