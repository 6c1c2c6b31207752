//! ZeroSCROLLS' summary score.

use std::collections::HashMap;

use crate::eval::metric::{MetricEntry, any_answer, mean_of_rows};

pub(super) const ENTRY: MetricEntry = MetricEntry {
    name: "rouge_geometric",
    summary: "geometric mean of ROUGE-1, ROUGE-2 and ROUGE-L (F, no stemming)",
    source: "ZeroSCROLLS, Shaham et al. 2023, arXiv 2305.14196, by way of rouge_score 0.1.2: each kind takes its own best \
             answer and its mean over rows before the three are multiplied. Differs: no. A row's score, which paired \
             comparisons need, is the geometric mean of that row",
    parts: &["score", "rouge1", "rouge2", "rougeL"],
    lacks: any_answer,
    score: |prediction, reference| {
        let predicted = tokens(prediction);
        let answers: Vec<Vec<String>> = reference.answers.iter().map(|answer| tokens(answer)).collect();
        let over = |f: &dyn Fn(&[String]) -> f64| answers.iter().map(|answer| f(answer)).fold(0.0, f64::max);
        let (one, two) = (over(&|a| n_grams(&predicted, a, 1)), over(&|a| n_grams(&predicted, a, 2)));
        let longest = over(&|a| subsequence(&predicted, a));
        vec![(one * two * longest).cbrt(), one, two, longest]
    },
    aggregate: |rows| {
        mean_of_rows(rows)?;
        let mean = |part: usize| rows.iter().map(|parts| parts[part]).sum::<f64>() / rows.len() as f64;
        Some((mean(1) * mean(2) * mean(3)).cbrt())
    },
};

/// Lower-case runs of ASCII letters and digits.
fn tokens(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    lower.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).map(String::from).collect()
}

fn f(same: usize, predicted: usize, wanted: usize) -> f64 {
    if same == 0 {
        return 0.0;
    }
    let (precision, recall) = (same as f64 / predicted as f64, same as f64 / wanted as f64);
    2.0 * precision * recall / (precision + recall)
}

fn n_grams(predicted: &[String], answer: &[String], n: usize) -> f64 {
    let mut left: HashMap<&[String], usize> = HashMap::new();
    answer.windows(n).for_each(|gram| *left.entry(gram).or_default() += 1);
    let mut same = 0;
    for gram in predicted.windows(n) {
        if let Some(count) = left.get_mut(gram).filter(|count| **count > 0) {
            *count -= 1;
            same += 1;
        }
    }
    f(same, (predicted.len() + 1).saturating_sub(n), (answer.len() + 1).saturating_sub(n))
}

fn subsequence(predicted: &[String], answer: &[String]) -> f64 {
    let mut row = vec![0usize; answer.len() + 1];
    for x in predicted {
        let mut diagonal = 0;
        for (j, y) in answer.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if x == y { diagonal + 1 } else { above.max(row[j]) };
            diagonal = above;
        }
    }
    f(row[answer.len()], predicted.len(), answer.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_order_of_means_by_hand() {
        let (a, b) = (tokens("The cat-sat, the mat"), tokens("the cat the mat SAT"));
        assert_eq!(a, ["the", "cat", "sat", "the", "mat"]);
        // All 5 words; bigrams `the cat` and `the mat` of 4 and 4; subsequence the cat the mat.
        assert_eq!((n_grams(&a, &b, 1), n_grams(&a, &b, 2)), (1.0, 0.5));
        assert!((subsequence(&a, &b) - 0.8).abs() < 1e-12);
        assert_eq!(n_grams(&a[..1], &b, 2), 0.0);
        // Means first, then the product: (1/2 · 1/2 · 1)^(1/3), where the mean of the rows' own is 1/2.
        let rows = [vec![1.0, 1.0, 1.0, 1.0], vec![0.0, 0.0, 0.0, 1.0]];
        assert!(((ENTRY.aggregate)(&rows).unwrap() - 0.25f64.cbrt()).abs() < 1e-12);
    }
}
