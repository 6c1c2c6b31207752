//! ROUGE-L as LongBench computes it.

use std::collections::{HashMap, HashSet};

use crate::eval::metric::{MetricEntry, SCORE, any_answer, best, mean_of_rows};

pub(super) const ENTRY: MetricEntry = MetricEntry {
    name: "rouge_l",
    summary: "F of the union of longest common subsequences over sentences, counting different words",
    source: "Lin 2004, as the package rouge 1.0.1 computes it for LongBench: sentences end at full stops, words are split \
             at blanks with their case and punctuation, and sets of words are counted. Differs: sentences of some 500 \
             words, at which the package exceeds Python's recursion limit and LongBench scores 0, are scored",
    parts: SCORE,
    lacks: any_answer,
    score: |prediction, reference| best(reference.answers, |answer| rouge_l(prediction, answer)),
    aggregate: mean_of_rows,
};

/// Words of every sentence, as numbers shared between both texts.
fn sentences<'a>(text: &'a str, ids: &mut HashMap<&'a str, u32>) -> Vec<Vec<u32>> {
    let mut words_of = |sentence: &'a str| -> Vec<u32> {
        let mut words: Vec<&str> = sentence.split_whitespace().collect();
        if words.is_empty() {
            // A sentence of blanks only is one empty word.
            words.push("");
        }
        words
            .into_iter()
            .map(|word| {
                let next = ids.len() as u32;
                *ids.entry(word).or_insert(next)
            })
            .collect()
    };
    text.split('.').filter(|sentence| !sentence.is_empty()).map(&mut words_of).collect()
}

fn rouge_l(prediction: &str, answer: &str) -> f64 {
    let mut ids = HashMap::new();
    let (predicted, wanted) = (sentences(prediction, &mut ids), sentences(answer, &mut ids));
    if predicted.is_empty() || wanted.is_empty() {
        return 0.0;
    }
    let different = |sentences: &[Vec<u32>]| sentences.iter().flatten().collect::<HashSet<_>>().len() as f64;
    let mut union = HashSet::new();
    for reference in &wanted {
        for sentence in &predicted {
            union.extend(common_subsequence(reference, sentence));
        }
    }
    let (precision, recall) = (union.len() as f64 / different(&predicted), union.len() as f64 / different(&wanted));
    2.0 * precision * recall / (precision + recall + 1e-8)
}

/// Words of one longest common subsequence: of several, the one that is found by walking back from the ends and shortening
/// `y` where both ways are as long.
fn common_subsequence(x: &[u32], y: &[u32]) -> Vec<u32> {
    let width = y.len() + 1;
    let mut lengths = vec![0u32; (x.len() + 1) * width];
    for i in 1..=x.len() {
        for j in 1..=y.len() {
            lengths[i * width + j] = if x[i - 1] == y[j - 1] {
                lengths[(i - 1) * width + j - 1] + 1
            } else {
                lengths[(i - 1) * width + j].max(lengths[i * width + j - 1])
            };
        }
    }
    let (mut i, mut j, mut words) = (x.len(), y.len(), Vec::new());
    while i > 0 && j > 0 {
        if x[i - 1] == y[j - 1] {
            words.push(x[i - 1]);
            (i, j) = (i - 1, j - 1);
        } else if lengths[(i - 1) * width + j] > lengths[i * width + j - 1] {
            i -= 1;
        } else {
            j -= 1;
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn union_over_sentences_by_hand() {
        // Lin 2004: w1 w2 w3 w4 w5 against w1 w2 w6 w7 w8 and w1 w3 w8 w9 w5: the union is w1 w2 w3 w5, of 5 and of 8 words.
        let found = rouge_l("w1 w2 w6 w7 w8. w1 w3 w8 w9 w5", "w1 w2 w3 w4 w5");
        let (precision, recall) = (4.0 / 8.0, 4.0 / 5.0);
        assert!((found - 2.0 * precision * recall / (precision + recall)).abs() < 1e-7, "{found}");
        assert_eq!(rouge_l("", "a"), 0.0);
        assert_eq!(rouge_l("...", "a"), 0.0);
    }
}
