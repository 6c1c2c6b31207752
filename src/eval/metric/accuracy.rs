//! Accuracy of a chosen letter.

use crate::eval::metric::{MetricEntry, SCORE, best, mean_of_rows};

pub(super) const ENTRY: MetricEntry = MetricEntry {
    name: "accuracy",
    summary: "1 if the first letter A to D that stands alone in the prediction is the answer's",
    source: "ZeroSCROLLS, Shaham et al. 2023, arXiv 2305.14196 (quality). Differs: an answer without such a letter is \
             refused, where the published script ends with an error",
    parts: SCORE,
    lacks: |reference| {
        reference
            .lacks_any(|answer| letter(answer).is_some(), "none of its answers has a letter A to D that stands alone")
    },
    score: |prediction, reference| {
        let chosen = letter(prediction);
        best(reference.answers, |answer| f64::from(u8::from(chosen.is_some() && chosen == letter(answer))))
    },
    aggregate: mean_of_rows,
};

/// The first A, B, C or D without a letter, digit or underscore beside it.
fn letter(text: &str) -> Option<char> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    text.split(|c: char| !is_word(c)).find_map(|word| match word {
        "A" => Some('A'),
        "B" => Some('B'),
        "C" => Some('C'),
        "D" => Some('D'),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_stands_alone() {
        assert_eq!(letter("Answer: (B) or C"), Some('B'));
        assert_eq!(letter("Bad_A D1 d"), None);
    }
}
