//! Distributions over a given continuation, against the full cache.

use crate::eval::plant::PLANTED;
use crate::eval::task::{Job, Take, TaskEntry, TaskHeadline};

pub(super) const ENTRY: TaskEntry = TaskEntry {
    name: "kl",
    summary: "KL, top-1 agreement and perplexity ratio against the full cache on the text's own continuation",
    source: "teacher forcing, as llama.cpp's perplexity tool compares quantised models",
    headline: TaskHeadline {
        metric: "kl",
        title: "mean KL (nats)",
        less_is_better: true,
        beside: &["top1_agreement", "perplexity_ratio"],
    },
    // Planted prompts are there to be answered.
    take: |dataset| if dataset == PLANTED { Take::No } else { Take::Yes(Job::TeacherForced) },
};
