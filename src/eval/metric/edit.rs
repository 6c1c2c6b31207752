//! Edit similarity of a line of code.

use crate::eval::metric::{MetricEntry, SCORE, any_answer, best, mean_of_rows};

pub(super) const ENTRY: MetricEntry = MetricEntry {
    name: "edit_similarity",
    summary: "similarity of the prediction's first line of code to the right one",
    source: "LongBench, Bai et al. 2023, arXiv 2308.14508 (lcc, repobench-p), by way of fuzzywuzzy 0.18 with \
             python-Levenshtein; without the latter fuzzywuzzy falls back on difflib, whose ratio is at most this one",
    parts: SCORE,
    lacks: any_answer,
    score: |prediction, reference| {
        let line = first_code_line(prediction);
        best(reference.answers, |answer| percent_ratio(line, answer) / 100.0)
    },
    aggregate: mean_of_rows,
};

/// The first line without a backtick, `#` or `//`; empty if there is none.
fn first_code_line(prediction: &str) -> &str {
    let is_code = |line: &&str| !line.contains('`') && !line.contains('#') && !line.contains("//");
    prediction.trim_start_matches('\n').split('\n').find(is_code).unwrap_or("")
}

/// 100 · 2 LCS / (n + m) over characters, rounded to a whole number, halves to even.
fn percent_ratio(a: &str, b: &str) -> f64 {
    if a == b {
        return 100.0;
    }
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.is_empty() || b.is_empty() {
        return 0.0;
    }
    let mut row = vec![0usize; b.len() + 1];
    for x in &a {
        let mut diagonal = 0;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if x == y { diagonal + 1 } else { above.max(row[j]) };
            diagonal = above;
        }
    }
    (100.0 * (2 * row[b.len()]) as f64 / (a.len() + b.len()) as f64).round_ties_even()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratio_and_line_by_hand() {
        // LCS of `abcd` and `bcde` is 3: 6 / 8.
        assert_eq!(percent_ratio("abcd", "bcde"), 75.0);
        // 2 · 1 / 16 is 12.5, and halves go to the even neighbour.
        assert_eq!(percent_ratio("a", "abbbbbbbbbbbbbb"), 12.0);
        assert_eq!(percent_ratio("", ""), 100.0);
        assert_eq!(percent_ratio("", "x"), 0.0);
        assert_eq!(first_code_line("\n\n# note\n// more\n`x`\n  y = 1\nz"), "  y = 1");
        assert_eq!(first_code_line("a // b"), "");
    }
}
