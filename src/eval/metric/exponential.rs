//! Exponential similarity of a percentage.

use crate::eval::metric::{MetricEntry, SCORE, best, mean_of_rows};

pub(super) const ENTRY: MetricEntry = MetricEntry {
    name: "exponential_similarity",
    summary: "2 to the power of minus the distance in tens of percent",
    source: "ZeroSCROLLS, Shaham et al. 2023, arXiv 2305.14196 (space_digest): 2^(-10 |p - q|), of the first number before \
             a percent sign. Differs: digits are ASCII digits; an answer without a percentage is refused",
    parts: SCORE,
    lacks: |reference| {
        reference.lacks_any(|answer| percentage(answer).is_some(), "none of its answers is a percentage")
    },
    score: |prediction, reference| {
        let Some(predicted) = percentage(prediction) else { return vec![0.0] };
        best(reference.answers, |answer| {
            percentage(answer).map_or(0.0, |wanted| 0.5f64.powf((wanted - predicted).abs() / 10.0))
        })
    },
    aggregate: mean_of_rows,
};

/// The first number, with or without decimals, that a percent sign follows at once.
fn percentage(text: &str) -> Option<f64> {
    text.match_indices('%').find_map(|(at, _)| {
        let before = &text[..at];
        let digits = |text: &str| text.len() - text.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        let last = digits(before);
        let whole = before[..before.len() - last].strip_suffix('.').map_or(0, digits);
        let n = if whole > 0 { whole + 1 + last } else { last };
        before[before.len() - n..].parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_as_people_write_them() {
        assert_eq!(percentage("of 50 about 62.5% or 70%"), Some(62.5));
        assert_eq!(percentage("a .5% b 8.%"), Some(5.0));
        assert_eq!(percentage("8.% then 3%"), Some(8.0));
        assert_eq!(percentage("60 %"), None);
        let score = |prediction: &str| {
            let answers = ["60%".to_string()];
            (ENTRY.score)(prediction, &crate::eval::metric::Reference { answers: &answers, all_classes: &[] })[0]
        };
        // 15 points are one and a half halvings.
        assert!((score("75%") - 0.5f64.powf(1.5)).abs() < 1e-12);
        assert_eq!((score("60%"), score("sixty")), (1.0, 0.0));
    }
}
