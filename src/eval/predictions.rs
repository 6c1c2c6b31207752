//! Prediction files in the benchmarks' own forms.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use crate::eval::EvalError;
use crate::eval::task::{Job, Predictions, Take, task};
use crate::files::{create_own_dir, write_atomic};
use crate::format::evaluation::Row;

/// A line as LongBench's scorer reads it, with the row's id beside.
#[derive(Serialize)]
struct Line<'a> {
    pred: &'a str,
    answers: &'a [String],
    all_classes: Option<&'a [String]>,
    length: Option<u64>,
    #[serde(rename = "_id")]
    id: &'a str,
}

/// Name of a policy's folder: letters, digits, `-`, `_`, `.`, `=` and `,` of its name, and its budget.
pub fn folder_name(policy: &str, budget: Option<f64>) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.=,".contains(c) { c } else { '-' };
    let name: String = policy.chars().map(plain).collect();
    budget.map_or_else(|| name.clone(), |budget| format!("{name}-{budget}"))
}

/// Writes `predictions/POLICY/TASK.jsonl`, or `preds_TASK.json` where the family has that form.
pub(super) fn write(dir: &Path, rows: &[Row]) -> Result<(), EvalError> {
    let mut files: BTreeMap<(String, String), Vec<u8>> = BTreeMap::new();
    let mut maps: BTreeMap<(String, String), BTreeMap<&str, &str>> = BTreeMap::new();
    for row in rows {
        let Some(pred) = &row.pred else { continue };
        let folder = folder_name(&row.policy, row.budget);
        let form = task(&row.task).map(|task| (task.take)(&row.dataset));
        if matches!(form, Some(Take::Yes(Job::Answer(job))) if job.predictions == Predictions::Map) {
            maps.entry((folder, format!("preds_{}.json", row.dataset))).or_default().insert(&row.id, pred);
            continue;
        }
        let line = Line {
            pred,
            answers: &row.answers,
            all_classes: row.all_classes.as_deref(),
            length: row.length,
            id: &row.id,
        };
        let text = files.entry((folder, format!("{}.jsonl", row.dataset))).or_default();
        text.extend(json(&line)?);
        text.push(b'\n');
    }
    for (name, map) in maps {
        files.insert(name, json(&map)?);
    }
    for ((folder, name), text) in files {
        let predictions = dir.join("predictions");
        let folder = predictions.join(folder);
        create_own_dir(&predictions)?;
        create_own_dir(&folder)?;
        write_atomic(&folder.join(name), &text)?;
    }
    Ok(())
}

fn json<T: Serialize>(value: &T) -> Result<Vec<u8>, EvalError> {
    serde_json::to_vec(value).map_err(|e| EvalError::Damaged(format!("a prediction cannot be written: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_named_after_policy_and_budget() {
        assert_eq!(folder_name("kvmerger:variant=convex", Some(0.35)), "kvmerger-variant=convex-0.35");
        assert_eq!(folder_name("full", None), "full");
    }
}
