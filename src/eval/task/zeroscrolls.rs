//! ZeroSCROLLS' ten tasks.

use crate::eval::task::{AnswerJob, Job, Predictions, SCORE, Take, TaskEntry};

pub(super) const ENTRY: TaskEntry = TaskEntry {
    name: "zeroscrolls",
    summary: "ZeroSCROLLS' tasks, with its metrics and its prediction files",
    source: "Shaham et al. 2023, arXiv 2305.14196. Differs: prompts are made from LongBench-style records by their \
             template, and too long ones lose their middle, where ZeroSCROLLS cuts the end of the document; at most 512 \
             tokens are generated, not 1,024",
    headline: SCORE,
    take: |dataset| {
        let job = match dataset {
            "gov_report" | "summ_screen_fd" | "qmsum" | "squality" => AnswerJob::new("rouge_geometric", 512),
            "qasper" | "narrative_qa" | "musique" => AnswerJob::new("qa_f1", 128),
            "quality" => AnswerJob::new("accuracy", 32),
            "space_digest" => AnswerJob::new("exponential_similarity", 32),
            "book_sum_sort" => AnswerJob::new("concordance_index", 64),
            _ => return Take::No,
        };
        Take::Yes(Job::Answer(AnswerJob { cut_middle: true, predictions: Predictions::Map, ..job }))
    },
};
