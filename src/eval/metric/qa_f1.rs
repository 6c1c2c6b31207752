//! F1 over the words of a short answer.

use std::collections::HashMap;

use crate::eval::metric::{MetricEntry, SCORE, any_answer, best, mean_of_rows};

pub(super) const ENTRY: MetricEntry = MetricEntry {
    name: "qa_f1",
    summary: "F1 over the words of prediction and answer, without case, punctuation and articles",
    source: "Rajpurkar et al. 2016, arXiv 1606.05250, as LongBench and ZeroSCROLLS score questions. Differs: no",
    parts: SCORE,
    lacks: any_answer,
    score: |prediction, reference| {
        let predicted = normalised_words(prediction);
        best(reference.answers, |answer| f1(&predicted, &normalised_words(answer)))
    },
    aggregate: mean_of_rows,
};

/// Lower-case words without ASCII punctuation and without the articles.
///
/// Punctuation is deleted, not made a blank (`well-known` is `wellknown`), and an article is a run of letters and digits
/// of its own, so that one between typographic quotes goes too.
pub(super) fn normalised_words(text: &str) -> Vec<String> {
    let kept: String = text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    let mut without = String::with_capacity(kept.len());
    let mut word = String::new();
    for c in kept.chars().chain([' ']) {
        if c.is_alphanumeric() {
            word.push(c);
            continue;
        }
        without.push_str(if ["a", "an", "the"].contains(&word.as_str()) { " " } else { &word });
        word.clear();
        without.push(c);
    }
    without.split_whitespace().map(String::from).collect()
}

fn f1(predicted: &[String], answer: &[String]) -> f64 {
    let mut left: HashMap<&str, usize> = HashMap::new();
    for word in answer {
        *left.entry(word).or_default() += 1;
    }
    let mut same = 0usize;
    for word in predicted {
        if let Some(n) = left.get_mut(word.as_str()).filter(|n| **n > 0) {
            *n -= 1;
            same += 1;
        }
    }
    if same == 0 {
        return 0.0;
    }
    let (precision, recall) = (same as f64 / predicted.len() as f64, same as f64 / answer.len() as f64);
    2.0 * precision * recall / (precision + recall)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_f1_by_hand() {
        assert_eq!(
            normalised_words("The  well-known “a” An apple, theory."),
            ["wellknown", "“", "”", "apple", "theory"]
        );
        let words = |text: &str| text.split(' ').map(String::from).collect::<Vec<_>>();
        // 2 of 3 predicted words and 2 of 4 of the answer's: 2 · 2/3 · 1/2 / (7/6).
        assert!((f1(&words("x y y"), &words("y x z z")) - 4.0 / 7.0).abs() < 1e-12);
        assert_eq!(f1(&[], &words("x")), 0.0);
    }
}
