//! Task families: which data sets they take, and what is done with one of their prompts.
//!
//! A family is one file and one line in [`TASKS`].

mod kl;
mod longbench;
mod needle;
mod ruler;
mod zeroscrolls;

use crate::format::evaluation::Headline;

/// A line of the task table.
#[derive(Clone, Copy, Debug)]
pub struct TaskEntry {
    /// Name on the command line and in files.
    pub name: &'static str,
    /// What it measures, in one line.
    pub summary: &'static str,
    /// Where it comes from.
    pub source: &'static str,
    /// What its policies are compared by.
    pub headline: TaskHeadline,
    /// Whether it takes a data set, by its name.
    pub take: fn(&str) -> Take,
}

/// What a family's policies are compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskHeadline {
    /// Name of the metric.
    pub metric: &'static str,
    /// What it is, with its unit, in words.
    pub title: &'static str,
    /// Whether less of it is better.
    pub less_is_better: bool,
    /// Metrics to be shown beside it.
    pub beside: &'static [&'static str],
}

/// What scored answers are compared by.
const SCORE: TaskHeadline = TaskHeadline { metric: "score", title: "score", less_is_better: false, beside: &[] };

impl From<TaskHeadline> for Headline {
    fn from(headline: TaskHeadline) -> Self {
        let TaskHeadline { metric, title, less_is_better, beside } = headline;
        let beside = beside.iter().map(|name| name.to_string()).collect();
        Self { metric: metric.into(), title: title.into(), less_is_better, beside }
    }
}

/// Whether a family takes a data set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Take {
    /// It is none of its data sets.
    No,
    /// It is one, but it cannot be scored here: why.
    Refused(&'static str),
    /// It is one.
    Yes(Job),
}

/// What is done with a prompt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Job {
    /// The text's first tokens are the prompt and the next ones are given, too: distributions are compared.
    TeacherForced,
    /// An answer is generated and scored.
    Answer(AnswerJob),
}

/// How an answer is generated and scored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AnswerJob {
    /// Name in [`crate::eval::metric::METRICS`].
    pub metric: &'static str,
    /// Tokens generated at most.
    pub max_new_tokens: usize,
    /// Whether the prompt is put into the model's chat format, where it has one.
    pub chat: bool,
    /// Whether a prompt beyond the model's context loses its middle; else it is passed over.
    pub cut_middle: bool,
    /// Whether only the prediction's first line is scored.
    pub first_line: bool,
    /// Whether a line break ends the answer, of which one token at least is generated.
    pub one_line: bool,
    /// Whether the answer stands in the text at a depth that the result is shown by.
    pub by_depth: bool,
    /// Which prediction files the family has.
    pub predictions: Predictions,
}

/// Prediction files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Predictions {
    /// `TASK.jsonl` with LongBench's fields.
    Lines,
    /// `preds_TASK.json`, an object from id to text, as ZeroSCROLLS takes it.
    Map,
}

impl AnswerJob {
    /// A prompt in the chat format, whole, with prediction lines.
    const fn new(metric: &'static str, max_new_tokens: usize) -> Self {
        Self {
            metric,
            max_new_tokens,
            chat: true,
            cut_middle: false,
            first_line: false,
            one_line: false,
            by_depth: false,
            predictions: Predictions::Lines,
        }
    }
}

/// Every task family, by name.
pub const TASKS: &[TaskEntry] = &[kl::ENTRY, longbench::ENTRY, needle::ENTRY, ruler::ENTRY, zeroscrolls::ENTRY];

/// The family of that name.
pub fn task(name: &str) -> Option<&'static TaskEntry> {
    TASKS.iter().find(|entry| entry.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::metric::metric;

    #[test]
    fn the_table_is_well_formed() {
        for (i, entry) in TASKS.iter().enumerate() {
            assert!(i == 0 || TASKS[i - 1].name < entry.name, "{} is out of order", entry.name);
            assert!(!entry.summary.is_empty() && !entry.source.is_empty());
            let file = format!("{}/src/eval/task/{}.rs", env!("CARGO_MANIFEST_DIR"), entry.name);
            assert!(std::path::Path::new(&file).exists(), "{file}");
        }
        let longbench = [
            "narrativeqa",
            "multifieldqa_en",
            "hotpotqa",
            "gov_report",
            "passage_count",
            "passage_retrieval_en",
            "trec",
            "triviaqa",
            "samsum",
            "lcc",
        ];
        let others = ["needle_books", "ruler_vt", "squality", "quality", "space_digest"];
        let mut seen = 0;
        for name in longbench.iter().chain(&others) {
            for entry in TASKS {
                if let Take::Yes(Job::Answer(job)) = (entry.take)(name) {
                    assert!(metric(job.metric).is_some(), "{name}: no metric {}", job.metric);
                    seen += 1;
                }
            }
        }
        assert!(seen >= 15, "{seen}");
    }

    #[test]
    fn families_take_what_is_theirs() {
        let takes = |family: &str, dataset: &str| (task(family).unwrap().take)(dataset);
        assert!(matches!(takes("longbench", "dureader"), Take::Refused(_)));
        assert_eq!(takes("longbench", "c4"), Take::No);
        assert_eq!(takes("longbench", "qasper_e"), takes("longbench", "qasper"));
        assert!(matches!(takes("kl", "anything"), Take::Yes(Job::TeacherForced)));
        let Take::Yes(Job::Answer(samsum)) = takes("longbench", "samsum") else { panic!() };
        assert!(samsum.first_line && samsum.one_line && !samsum.chat);
        assert_eq!((samsum.metric, samsum.max_new_tokens), ("rouge_l", 128));
        assert!(matches!(takes("ruler", "ruler_cwe"), Take::Yes(_)) && takes("ruler", "rulers") == Take::No);
        assert!(task("bleu").is_none());
    }
}
