//! Share of the answers that stand in a prediction, and whether all do as words of their own.

use crate::eval::metric::{MetricEntry, any_answer, mean_of_rows};

pub(super) const ENTRY: MetricEntry = MetricEntry {
    name: "string_match",
    summary: "share of the answers that stand in the prediction, without regard to case; exact: 1 where all do as whole words",
    source: "RULER, Hsieh et al. 2024, arXiv 2404.06654 (its string match for all tasks but question answering). Differs: no; \
             exact is ours",
    parts: &["score", "exact"],
    lacks: any_answer,
    score: |prediction, reference| {
        let prediction = prediction.to_lowercase();
        let answers: Vec<String> = reference.answers.iter().map(|answer| answer.to_lowercase()).collect();
        let found = answers.iter().filter(|answer| prediction.contains(answer.as_str())).count();
        let exact = answers.iter().all(|answer| stands_as_words(&prediction, answer));
        let share = if answers.is_empty() { 0.0 } else { found as f64 / answers.len() as f64 };
        vec![share, f64::from(u8::from(exact && !answers.is_empty()))]
    },
    aggregate: mean_of_rows,
};

/// Whether a text has these words with no letter or digit next to them.
fn stands_as_words(text: &str, words: &str) -> bool {
    let ends = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric());
    text.match_indices(words)
        .any(|(at, found)| ends(text[..at].chars().next_back()) && ends(text[at + found.len()..].chars().next()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::metric::Reference;

    #[test]
    fn a_number_within_a_longer_one_is_found_and_not_exact() {
        let answers = ["1234".to_string(), "Blue".to_string()];
        let score = |prediction| (ENTRY.score)(prediction, &Reference { answers: &answers, all_classes: &[] });
        assert_eq!(score("They are 12345 and blue."), [1.0, 0.0]);
        assert_eq!(score("12345, no: 1234; BLUE"), [1.0, 1.0]);
        assert_eq!(score("It is 1234."), [0.5, 0.0]);
    }
}
