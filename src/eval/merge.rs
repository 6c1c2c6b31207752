//! Joins the shards of a run.

use std::collections::HashMap;
use std::path::Path;
use std::path::PathBuf;

use crate::eval::EvalError;
use crate::eval::document::Evaluation;
use crate::eval::document::FILE;
use crate::eval::predictions;
use crate::eval::row;
use crate::eval::row::Row;
use crate::files::FolderLock;
use crate::files::check_replaceable;
use crate::files::read_json;
use crate::files::write_json;

/// Joins the folders of all shards of one run into `out`, which then is what one run would have written.
///
/// - Errors: folders of different runs, a shard that is missing, unfinished or there twice, an `out` that holds a run
pub fn merge(dirs: &[PathBuf], out: &Path) -> Result<Evaluation, EvalError> {
    if out.join(FILE).exists() {
        return Err(EvalError::Exists { dir: out.into() });
    }
    let mut joined: Option<Evaluation> = None;
    let mut rows: HashMap<_, Row> = HashMap::new();
    for dir in dirs {
        let part: Evaluation = read_json(&dir.join(FILE))?;
        let whole = joined.get_or_insert_with(|| part.whole());
        whole.check_same_run(&part.whole(), dir)?;
        for row in row::read(dir)? {
            if let Some(twice) = rows.insert(row.key(), row) {
                let what = format!("the row {} of {} for {} is in two shards", twice.id, twice.dataset, twice.policy);
                return Err(EvalError::Damaged(what));
            }
        }
    }
    let Some(mut evaluation) = joined else { return Err(EvalError::Nothing { n_skipped: 0 }) };
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
    check_replaceable::<Evaluation>(&out.join(FILE))?;
    row::write_all(&out.join(row::ROWS_FILE), &ordered)?;
    predictions::write(out, &ordered)?;
    evaluation.summarise(&ordered);
    write_json(&out.join(FILE), &evaluation)?;
    Ok(evaluation)
}
