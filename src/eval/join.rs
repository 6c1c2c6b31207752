//! Joins the shards of an evaluation.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::eval::{EvalError, predictions, summary};
use crate::files::{FolderLock, read_own_json, write_json};
use crate::format::evaluation::{Evaluation, Row, read_rows, write_rows};
use crate::format::join::whole_run;
use crate::format::run::Run;

/// Joins the folders of all shards of one run into the new folder `out`, which then is what one run would have written.
///
/// - Errors: anything at `out`; folders that are no shards, of different runs, given twice, missing or unfinished
pub fn join(dirs: &[PathBuf], out: &Path) -> Result<Evaluation, EvalError> {
    let documents: Vec<Evaluation> =
        dirs.iter().map(|dir| read_own_json(&dir.join(Evaluation::FILE))).collect::<Result<_, _>>()?;
    let parts: Vec<_> = dirs.iter().map(PathBuf::as_path).zip(&documents).collect();
    let mut evaluation = whole_run(&parts, out)?;
    let mut rows: HashMap<_, Row> = HashMap::new();
    for dir in dirs {
        rows.extend(read_rows(dir)?.into_iter().map(|row| (row.key(), row)));
    }
    let mut ordered = Vec::with_capacity(rows.len());
    for key in evaluation.planned_keys() {
        match rows.remove(&key) {
            Some(row) => ordered.push(row),
            None => {
                let (_, dataset, id, policy, _) = key;
                return Err(EvalError::Damaged(format!("no shard has the row {id} of {dataset} for {policy}")));
            }
        }
    }
    let _lock = FolderLock::take(out)?;
    write_rows(out, &ordered)?;
    predictions::write(out, &ordered)?;
    summary::fill_in(&mut evaluation, &ordered);
    write_json(&out.join(Evaluation::FILE), &evaluation)?;
    Ok(evaluation)
}
