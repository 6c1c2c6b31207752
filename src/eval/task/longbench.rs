//! LongBench v1: the English and the code tasks.

use crate::eval::task::{AnswerJob, Job, SCORE, Take, TaskEntry};

pub(super) const ENTRY: TaskEntry = TaskEntry {
    name: "longbench",
    summary: "LongBench v1, English and code tasks, with its lengths, post-processing and metrics",
    source: "Bai et al. 2023, arXiv 2308.14508. Differs: a prompt is cut at tokens, without decoding the halves first",
    headline: SCORE,
    take,
};

fn take(dataset: &str) -> Take {
    // LongBench-E's data sets are scored like those they are drawn from.
    let dataset = dataset.strip_suffix("_e").unwrap_or(dataset);
    let job = match dataset {
        "narrativeqa" | "qasper" => AnswerJob::new("qa_f1", 128),
        "multifieldqa_en" => AnswerJob::new("qa_f1", 64),
        "hotpotqa" | "2wikimqa" | "musique" => AnswerJob::new("qa_f1", 32),
        "gov_report" | "qmsum" | "multi_news" => AnswerJob::new("rouge_l", 512),
        "passage_count" => AnswerJob::new("count", 32),
        "passage_retrieval_en" => AnswerJob::new("retrieval", 32),
        // Few-shot and code prompts are continued as they are.
        "trec" => AnswerJob { first_line: true, chat: false, ..AnswerJob::new("classification", 64) },
        "triviaqa" => AnswerJob { first_line: true, chat: false, ..AnswerJob::new("qa_f1", 32) },
        "samsum" => AnswerJob { first_line: true, one_line: true, chat: false, ..AnswerJob::new("rouge_l", 128) },
        "lcc" | "repobench-p" => AnswerJob { chat: false, ..AnswerJob::new("edit_similarity", 64) },
        "multifieldqa_zh" | "dureader" | "vcsum" | "lsht" | "passage_retrieval_zh" => {
            return Take::Refused("a Chinese task, whose scores need a Chinese word segmenter");
        }
        _ => return Take::No,
    };
    Take::Yes(Job::Answer(AnswerJob { cut_middle: true, ..job }))
}
