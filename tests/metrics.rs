//! Task scores against those of the published packages on hand-made predictions (`tests/fixtures/metrics/make.py`).

use std::collections::BTreeMap;
use std::path::Path;

use kvscope::eval::metric::{METRICS, Reference, metric};
use serde::Deserialize;

#[derive(Deserialize)]
struct Expected {
    rows: Vec<Row>,
    score_percent: f64,
}

#[derive(Deserialize)]
struct Row {
    pred: String,
    answers: Vec<String>,
    all_classes: Vec<String>,
    parts: Vec<f64>,
}

#[test]
fn scores_are_those_of_the_published_scorers() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/metrics/reference.json");
    let expected: BTreeMap<String, Expected> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    for (name, expected) in &expected {
        let entry = metric(name).unwrap_or_else(|| panic!("no metric {name}"));
        let mut rows = Vec::new();
        for row in &expected.rows {
            let reference = Reference { answers: &row.answers, all_classes: &row.all_classes };
            let found = (entry.score)(&row.pred, &reference);
            assert_eq!(found.len(), row.parts.len(), "{name}");
            for (found, wanted) in found.iter().zip(&row.parts) {
                assert!((found - wanted).abs() < 1e-9, "{name}, {:?}: {found} instead of {wanted}", row.pred);
            }
            rows.push(found);
        }
        let percent = 100.0 * (entry.aggregate)(&rows).unwrap();
        assert_eq!(format!("{percent:.2}"), format!("{:.2}", expected.score_percent), "{name}");
    }
    // Words of a planted sentence are counted by a rule of our own, which no package has.
    let own: Vec<&str> = METRICS.iter().map(|m| m.name).filter(|name| !expected.contains_key(*name)).collect();
    assert_eq!(own, ["word_recall"]);
}

#[test]
fn word_recall_by_hand() {
    let answers = ["in the green biscuit tin, in a tin".to_string()];
    let reference = Reference { answers: &answers, all_classes: &[] };
    let score = |prediction: &str| (metric("word_recall").unwrap().score)(prediction, &reference)[0];
    // Different words: in, green, biscuit, tin.
    assert_eq!(score("She keeps them in a Tin. A green one, I think."), 0.75);
    assert_eq!(score("nowhere"), 0.0);
}
