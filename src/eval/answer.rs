//! Greedy answers behind a compressed prompt, and their scores.

use std::collections::BTreeMap;

use crate::eval::EvalError;
use crate::eval::item::Question;
use crate::eval::metric::metric;
use crate::eval::task::AnswerJob;
use crate::math::argmax;
use crate::model::tokenizer::{AddSpecial, SkipSpecial};
use crate::model::{Decoding, Pass};
use crate::runtime::{RaggedCache, RuntimeError};

/// Generates from the logits of the prompt's last token; the text, and the number of tokens.
pub(super) fn generate(
    pass: &mut Pass<'_>,
    logits: Vec<f32>,
    cache: &mut RaggedCache,
    job: &AnswerJob,
) -> Result<(String, usize), EvalError> {
    let tokenizer = pass.model().tokenizer()?;
    let mut stop = tokenizer.eos().to_vec();
    if job.one_line {
        stop.extend(tokenizer.encode("\n", AddSpecial::No)?.last());
    }
    let mut tokens = Vec::new();
    let position = cache.n_seen();
    let mut decoding = Decoding::new(pass, cache, position, logits);
    loop {
        if job.one_line && tokens.is_empty() {
            stop.iter().for_each(|id| decoding.logits()[*id as usize] = f32::NEG_INFINITY);
        }
        let token = argmax(decoding.logits()) as u32;
        if stop.contains(&token) {
            break;
        }
        tokens.push(token);
        if tokens.len() == job.max_new_tokens || decoding.is_full() {
            break;
        }
        decoding.feed(token).map_err(RuntimeError::from)?;
    }
    Ok((tokenizer.decode(&tokens, SkipSpecial::Yes)?, tokens.len()))
}

/// The scores of a prediction, by the names of the metric's parts; empty where there is nothing to score it against.
pub(super) fn score(pred: &str, question: &Question) -> BTreeMap<String, f64> {
    let Some(metric) = metric(question.job.metric).filter(|metric| (metric.lacks)(&question.reference()).is_none())
    else {
        return BTreeMap::new();
    };
    let scored =
        if question.job.first_line { pred.trim_start_matches('\n').split('\n').next().unwrap_or("") } else { pred };
    let parts = (metric.score)(scored, &question.reference());
    metric.parts.iter().zip(parts).map(|(name, value)| (name.to_string(), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::task::{Job, Take, task};

    #[test]
    fn only_the_first_line_of_a_few_shot_answer_counts() {
        let scored = |dataset: &str, pred: &str| {
            let Take::Yes(Job::Answer(job)) = (task("longbench").unwrap().take)(dataset) else { panic!() };
            let answers = vec!["Paris".to_string()];
            let question = Question {
                job,
                answers,
                all_classes: None,
                length: None,
                is_cut: false,
                n_hidden: 0,
                depth_percent: None,
            };
            score(pred, &question)["score"]
        };
        assert_eq!(scored("triviaqa", "\nParis\nPassage: more"), 1.0);
        assert_eq!(scored("hotpotqa", "\nParis\nPassage: more"), 0.5);
    }
}
