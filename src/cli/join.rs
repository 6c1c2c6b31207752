//! `kvscope join`: joins the shards of a capture or an evaluation.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cli::Outcome;
use crate::cli::common::Common;
use crate::cli::failure::Result;
use crate::cli::output::{counted, emit, emit_json, note, size};
use crate::eval;
use crate::format::dump;
use crate::format::dump::Dump;
use crate::format::evaluation::Evaluation;
use crate::format::run::Run;

/// Join the folders that `capture --shard` or `eval --shard` wrote into one
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Every shard's folder, in any order
    #[arg(value_name = "DIR", required = true)]
    dirs: Vec<PathBuf>,
    /// Folder of what is joined, which must not exist
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub(crate) fn run(args: &Args, common: &Common) -> Result<Outcome> {
    if args.dirs.iter().all(|dir| dir.join(Evaluation::FILE).exists()) {
        let evaluation = eval::join(&args.dirs, &args.out)?;
        let facts = json!({ "schema": "kvscope.join/1", "evaluation": args.out, "rows": evaluation.rows });
        return tell(&args.out.join(Evaluation::FILE), &format!("{} rows", evaluation.rows), &facts, common);
    }
    let dumps = args.dirs.iter().map(|dir| Dump::open(dir)).collect::<Result<Vec<_>, _>>()?;
    let total: u64 = dumps.iter().flat_map(|dump| &dump.manifest().samples).map(|sample| sample.bytes).sum();
    let manifest = counted(common, "join", "bytes", total as usize, |more| {
        dump::join(&dumps, &args.out, &mut |entry| more(entry.bytes as usize))
    })?;
    let n_samples = manifest.samples.len();
    let facts = json!({ "schema": "kvscope.join/1", "dump": args.out, "samples": n_samples, "bytes": total });
    tell(&args.out, &format!("{n_samples} samples, {}", size(total)), &facts, common)
}

fn tell(place: &Path, content: &str, facts: &Value, common: &Common) -> Result<Outcome> {
    if common.json {
        emit_json(facts)?;
    } else {
        emit(&format!("{}\n", place.display()))?;
        note(common, content);
    }
    Ok(Outcome::Done)
}
