//! Scores of LongBench's tasks whose answer is a number.

use crate::eval::metric::{MetricEntry, SCORE, best, mean_of_rows};

pub(super) const COUNT: MetricEntry = MetricEntry {
    name: "count",
    summary: "share of the numbers in the prediction that are the right one",
    source: "LongBench, Bai et al. 2023, arXiv 2308.14508 (passage_count). Differs: digits are ASCII digits",
    parts: SCORE,
    lacks: |reference| {
        let is_number = |answer: &str| share_of_numbers(answer, answer) == 1.0;
        reference.lacks_any(is_number, "none of its answers is a number")
    },
    score: |prediction, reference| best(reference.answers, |answer| share_of_numbers(prediction, answer)),
    aggregate: mean_of_rows,
};

pub(super) const RETRIEVAL: MetricEntry = MetricEntry {
    name: "retrieval",
    summary: "share of the numbers in the prediction that are the right paragraph's",
    source: "LongBench, Bai et al. 2023, arXiv 2308.14508 (passage_retrieval_en). Differs: digits are ASCII digits; an \
             answer without `Paragraph N` is refused, where the published script ends with an error",
    parts: SCORE,
    lacks: |reference| {
        reference.lacks_any(|answer| paragraph_number(answer).is_some(), "none of its answers names a `Paragraph N`")
    },
    score: |prediction, reference| {
        best(reference.answers, |answer| {
            paragraph_number(answer).map_or(0.0, |number| share_of_numbers(prediction, number))
        })
    },
    aggregate: mean_of_rows,
};

/// Runs of digits, compared as text: `03` is not `3`.
fn numbers(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty())
}

fn share_of_numbers(prediction: &str, wanted: &str) -> f64 {
    let (n, right) =
        numbers(prediction).fold((0, 0), |(n, right), number| (n + 1, right + usize::from(number == wanted)));
    if n == 0 { 0.0 } else { right as f64 / n as f64 }
}

fn paragraph_number(answer: &str) -> Option<&str> {
    answer.match_indices("Paragraph ").find_map(|(at, mark)| {
        let rest = &answer[at + mark.len()..];
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        (end > 0).then_some(&rest[..end])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_dilutes_the_right_one() {
        assert_eq!(share_of_numbers("12 of 30, or 12.5", "12"), 0.5);
        assert_eq!(share_of_numbers("none", "12"), 0.0);
        assert_eq!(paragraph_number("see Paragraph x, Paragraph 15."), Some("15"));
        assert_eq!(paragraph_number("15"), None);
    }
}
