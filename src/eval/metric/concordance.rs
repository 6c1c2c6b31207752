//! Concordance of an order.

use crate::eval::metric::{MetricEntry, SCORE, best, mean_of_rows};

pub(super) const ENTRY: MetricEntry = MetricEntry {
    name: "concordance_index",
    summary: "share of pairs that stand in the right order, 0 unless the prediction names every item once",
    source: "ZeroSCROLLS, Shaham et al. 2023, arXiv 2305.14196 (book_sum_sort). Differs: no",
    parts: SCORE,
    lacks: |reference| {
        let is_order = |answer: &str| concordance(&items(answer), &items(answer)) == 1.0;
        reference.lacks_any(is_order, "none of its answers is an order of two or more different numbers")
    },
    score: |prediction, reference| {
        let predicted = items(prediction);
        best(reference.answers, |answer| concordance(&predicted, &items(answer)))
    },
    aggregate: mean_of_rows,
};

/// Numbers of a list; anything but digits, commas and white space is deleted first, so that `1.2` is the number 12.
fn items(text: &str) -> Vec<String> {
    let kept: String = text
        .chars()
        .filter(|c| c.is_ascii_digit() || c.is_whitespace() || *c == ',')
        .collect::<String>()
        .replace(',', " ");
    kept.split_whitespace().map(String::from).collect()
}

fn concordance(predicted: &[String], answer: &[String]) -> f64 {
    let sorted = |list: &[String]| {
        let mut list = list.to_vec();
        list.sort();
        list
    };
    let wanted = sorted(answer);
    let unique = wanted.windows(2).all(|pair| pair[0] != pair[1]);
    if !unique || answer.len() < 2 || sorted(predicted) != wanted {
        return 0.0;
    }
    let place = |item: &String| predicted.iter().position(|other| other == item);
    let places: Vec<Option<usize>> = answer.iter().map(place).collect();
    let pairs = (0..places.len()).flat_map(|i| (i + 1..places.len()).map(move |j| (i, j)));
    let (n, right) = pairs.fold((0, 0), |(n, right), (i, j)| (n + 1, right + usize::from(places[i] < places[j])));
    right as f64 / n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_in_order_by_hand() {
        let score = |predicted: &str| concordance(&items(predicted), &items("2, 4, 1, 3"));
        assert_eq!(score("2, 4, 1, 3"), 1.0);
        assert_eq!(score("3,1,4,2"), 0.0);
        // 2-4, 2-3, 4-3 and 1-3 keep their order, 2-1 and 4-1 do not.
        assert!((score("The order is: 1 2 4 3.") - 4.0 / 6.0).abs() < 1e-12);
        assert_eq!(score("2, 4, 1"), 0.0);
        assert_eq!(score("2, 4, 1, 1, 3"), 0.0);
    }
}
