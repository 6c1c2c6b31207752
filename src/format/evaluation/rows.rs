//! A run's rows: one line each, appended when it is done, never twice.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::files::{FileError, append_own, read_own, sha256_bytes, write_atomic};
use crate::format::FormatError;
use crate::merge::Counters;

/// Name of the rows' file within a run's folder.
pub const ROWS_FILE: &str = "rows.jsonl";

/// One policy at one budget on one text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Task family.
    pub task: String,
    /// Data set.
    pub dataset: String,
    /// Row id.
    #[serde(rename = "_id")]
    pub id: String,
    /// Policy.
    pub policy: String,
    /// Target share of slots; `None` where thresholds decide, and for the full cache.
    pub budget: Option<f64>,
    /// Tokens of the prompt.
    pub n_prompt_tokens: usize,
    /// Tokens fed or generated behind it.
    pub n_new_tokens: usize,
    /// What compression did, over all layers and heads.
    pub counters: Counters,
    /// Slots kept of the prompt's; `None` where the policy could not compress it.
    pub kept_fraction: Option<f64>,
    /// Bytes allocated for the prompt's cache.
    pub cache_bytes: Option<u64>,
    /// Bytes that the whole cache takes.
    pub full_cache_bytes: u64,
    /// Measurements by name; empty where the policy could not compress the prompt.
    pub metrics: BTreeMap<String, f64>,
    /// Why the policy could not compress the prompt.
    pub unmet: Option<String>,
    /// Generated text.
    pub pred: Option<String>,
    /// Reference answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<String>,
    /// Class labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all_classes: Option<Vec<String>>,
    /// Length that the record states.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// Where the answer stands in the prompt, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth_percent: Option<u32>,
}

/// What makes a row one of its kind.
pub type RowKey = (String, String, String, String, Option<u64>);

impl Row {
    /// Its key: task, data set, id, policy, budget.
    pub fn key(&self) -> RowKey {
        (self.task.clone(), self.dataset.clone(), self.id.clone(), self.policy.clone(), self.budget.map(f64::to_bits))
    }
}

/// Largest rows' file that is read.
const MAX_BYTES: u64 = 1 << 32;
/// Hexadecimal digits of a row's digest: enough to notice a change that nobody made on purpose.
const DIGEST_DIGITS: usize = 16;

/// The rows of a folder, open for more.
#[derive(Debug)]
pub(crate) struct RowFile {
    path: PathBuf,
    /// `None` until there is a row.
    file: Option<File>,
}

impl RowFile {
    /// Reads what is there, and opens the file for more, if there is one; a line that a killed run left unfinished is cut off.
    ///
    /// - Errors: a line that is no row or was changed, a row that is there twice, a link in the file's place
    pub(crate) fn open(dir: &Path) -> Result<(Self, Vec<Row>), FormatError> {
        let path = dir.join(ROWS_FILE);
        if path.symlink_metadata().is_err() {
            return Ok((Self { path, file: None }, Vec::new()));
        }
        let text = read_text(&path)?;
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let rows = parse(&text[..whole], &path)?;
        let file = append_own(&path)?;
        if whole < text.len() {
            file.set_len(whole as u64).map_err(|e| FileError::io("shorten", &path, e))?;
        }
        Ok((Self { path, file: Some(file) }, rows))
    }

    /// The file, which is made where there is none.
    pub(crate) fn made(&mut self) -> Result<&mut File, FormatError> {
        match self.file {
            Some(ref mut file) => Ok(file),
            ref mut none => Ok(none.insert(append_own(&self.path)?)),
        }
    }

    /// Writes a row and waits until the disk has it.
    pub(crate) fn append(&mut self, row: &Row) -> Result<(), FormatError> {
        let path = self.path.clone();
        let io = |e| FileError::io("write", &path, e);
        let bytes = line(row, &self.path)?;
        let file = self.made()?;
        file.write_all(&bytes).and_then(|()| file.sync_data()).map_err(io)?;
        Ok(())
    }
}

/// Writes the file of rows of a folder in one step.
pub(crate) fn write_rows(dir: &Path, rows: &[Row]) -> Result<(), FormatError> {
    let path = dir.join(ROWS_FILE);
    let text = rows.iter().map(|row| line(row, &path)).collect::<Result<Vec<_>, _>>()?.concat();
    Ok(write_atomic(&path, &text)?)
}

/// A row as its file has it: the row, the digest of its text, a line break.
fn line(row: &Row, path: &Path) -> Result<Vec<u8>, FormatError> {
    let damaged = |e| FormatError::damaged(path, format!("a row cannot be written: {e}"));
    let mut line = serde_json::to_vec(row).map_err(damaged)?;
    // Of the closing brace.
    line.pop();
    let seal = seal(&line);
    line.extend_from_slice(seal.as_bytes());
    line.push(b'\n');
    Ok(line)
}

/// What ends a row's line: the digest of the text before it.
fn seal(text: &[u8]) -> String {
    format!(",\"digest\":\"{}\"}}", &sha256_bytes(text)[..DIGEST_DIGITS])
}

/// Whether a row's line ends with the digest of what stands before.
fn is_sealed(line: &[u8]) -> bool {
    let text = line.len().checked_sub(seal(b"").len()).map(|end| &line[..end]);
    text.is_some_and(|text| line[text.len()..] == *seal(text).as_bytes())
}

/// Rows of a folder that is not being written.
pub(crate) fn read_rows(dir: &Path) -> Result<Vec<Row>, FormatError> {
    let path = dir.join(ROWS_FILE);
    parse(&read_text(&path)?, &path)
}

fn read_text(path: &Path) -> Result<Vec<u8>, FormatError> {
    Ok(read_own(path, "rows of an evaluation", MAX_BYTES)?)
}

fn parse(text: &[u8], path: &Path) -> Result<Vec<Row>, FormatError> {
    let damaged = |line: usize, what: String| FormatError::damaged(path, format!("line {}: {what}", line + 1));
    let (mut rows, mut keys) = (Vec::<Row>::new(), HashSet::new());
    for (i, line) in text.split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty()) {
        let row: Row = serde_json::from_slice(line).map_err(|e| damaged(i, e.to_string()))?;
        if !is_sealed(line) {
            let (id, dataset, policy) = (&row.id, &row.dataset, &row.policy);
            return Err(damaged(i, format!("the row {id} of {dataset} for {policy} was changed after it was written")));
        }
        if !keys.insert(row.key()) {
            return Err(damaged(i, format!("the row {} of {} for {} is there twice", row.id, row.dataset, row.policy)));
        }
        rows.push(row);
    }
    Ok(rows)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A row with one measurement.
    pub(crate) fn row(dataset: &str, id: &str, policy: &str, budget: Option<f64>, metric: (&str, f64)) -> Row {
        Row {
            task: "kl".into(),
            dataset: dataset.into(),
            id: id.into(),
            policy: policy.into(),
            budget,
            n_prompt_tokens: 10,
            n_new_tokens: 2,
            counters: Counters { seen: 100, kept: 50, merged: 20, evicted: 30 },
            kept_fraction: Some(0.5),
            cache_bytes: Some(500),
            full_cache_bytes: 1000,
            metrics: BTreeMap::from([(metric.0.to_string(), metric.1)]),
            unmet: None,
            pred: None,
            answers: Vec::new(),
            all_classes: None,
            length: None,
            depth_percent: None,
        }
    }

    #[test]
    fn half_a_line_is_cut_off_and_a_second_row_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (row("d", "1", "h2o", Some(0.5), ("kl", 0.25)), row("d", "2", "h2o", Some(0.5), ("kl", 0.5)));
        let (mut file, rows) = RowFile::open(dir.path()).unwrap();
        assert!(rows.is_empty());
        file.append(&a).unwrap();
        file.append(&b).unwrap();
        let path = dir.path().join(ROWS_FILE);
        let text = std::fs::read(&path).unwrap();
        std::fs::write(&path, &text[..text.len() - 9]).unwrap();
        let (mut file, rows) = RowFile::open(dir.path()).unwrap();
        assert_eq!(rows, std::slice::from_ref(&a));
        file.append(&b).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), text);
        file.append(&b).unwrap();
        assert!(matches!(RowFile::open(dir.path()), Err(FormatError::Damaged { .. })));
    }

    #[test]
    fn a_changed_number_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let (mut file, _) = RowFile::open(dir.path()).unwrap();
        file.append(&row("d", "1", "h2o", Some(0.5), ("kl", 0.25))).unwrap();
        let path = dir.path().join(ROWS_FILE);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(read_rows(dir.path()).unwrap().len(), 1);
        for (from, to) in [("0.25", "0.125"), ("\"digest\"", "\"digests\""), ("\"h2o\"", "\"snapkv\"")] {
            std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
            let error = read_rows(dir.path()).unwrap_err().to_string();
            assert!(error.contains("line 1") && error.contains("was changed"), "{error}");
        }
    }
}
