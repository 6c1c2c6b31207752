//! RULER's families: needles of several kinds, variable tracking, common and frequent words.

use crate::eval::task::{AnswerJob, Job, SCORE, Take, TaskEntry};

pub(super) const ENTRY: TaskEntry = TaskEntry {
    name: "ruler",
    summary: "RULER's needle, variable and word families: share of the answers found",
    source: "Hsieh et al. 2024, arXiv 2404.06654, with its generation lengths",
    headline: SCORE,
    take: |dataset| {
        let Some(family) = dataset.strip_prefix("ruler_") else { return Take::No };
        let max_new_tokens = match family {
            _ if family.starts_with("niah") => 128,
            "vt" => 30,
            "cwe" => 120,
            "fwe" => 50,
            _ => return Take::Refused("not one of the families that string match scores"),
        };
        Take::Yes(Job::Answer(AnswerJob::new("string_match", max_new_tokens)))
    },
};
