//! LongBench's classification score.

use crate::eval::metric::{MetricEntry, SCORE, any_answer, best, mean_of_rows};

pub(super) const ENTRY: MetricEntry = MetricEntry {
    name: "classification",
    summary: "1 over the number of class names in the prediction, if the right one is among them",
    source: "LongBench, Bai et al. 2023, arXiv 2308.14508 (trec). Differs: no, its slip included: the list of names is \
             shortened while it is walked, so that the name after a removed one is never looked at",
    parts: SCORE,
    lacks: |reference| {
        if reference.all_classes.is_empty() {
            return any_answer(reference).or(Some("it has no class names (`all_classes`)"));
        }
        let is_class = |answer: &str| reference.all_classes.iter().any(|class| class == answer);
        reference.lacks_any(is_class, "none of its answers is one of its class names (`all_classes`)")
    },
    score: |prediction, reference| best(reference.answers, |answer| score(prediction, answer, reference.all_classes)),
    aggregate: mean_of_rows,
};

fn score(prediction: &str, answer: &str, all_classes: &[String]) -> f64 {
    let mut named: Vec<&str> =
        all_classes.iter().map(String::as_str).filter(|name| prediction.contains(name)).collect();
    let mut at = 0;
    while at < named.len() {
        let name = named[at];
        if answer.contains(name) && name != answer {
            // The first equal entry goes, as Python's list.remove does it.
            if let Some(first) = named.iter().position(|other| *other == name) {
                named.remove(first);
            }
        }
        at += 1;
    }
    if named.contains(&answer) { 1.0 / named.len() as f64 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_after_a_removed_one_stays() {
        let classes: Vec<String> = ["Other", "Other place", "place", "Other place here"].map(String::from).to_vec();
        // `Other` goes, the walk steps over `Other place`, `place` goes: two names are left.
        assert_eq!(score("Other place here", "Other place here", &classes), 0.5);
        assert_eq!(score("place", "Other place here", &classes), 0.0);
        assert_eq!(score("", "place", &classes), 0.0);
    }
}
