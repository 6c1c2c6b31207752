//! `kvscope merge`: joins the shards of a capture or an evaluation.

use std::path::PathBuf;

use serde_json::json;

use crate::cli::Outcome;
use crate::cli::eval;
use crate::cli::failure::Result;
use crate::cli::options::Common;
use crate::cli::output::bar;
use crate::cli::output::emit;
use crate::cli::output::emit_json;
use crate::cli::output::note;
use crate::cli::output::size;
use crate::eval::FILE;
use crate::format::dump;
use crate::format::dump::Dump;

/// Join the folders that `capture --shard` or `eval --shard` wrote into one
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Every shard's folder, in any order
    #[arg(value_name = "DUMP", required = true)]
    dumps: Vec<PathBuf>,
    /// Folder of what is joined, which must not exist
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub(crate) fn run(args: &Args, common: &Common) -> Result<Outcome> {
    if args.dumps.iter().all(|dir| dir.join(FILE).exists()) {
        return eval::merge(&args.dumps, &args.out, common);
    }
    let dumps = args.dumps.iter().map(|dir| Dump::open(dir)).collect::<Result<Vec<_>, _>>()?;
    let total = dumps.iter().flat_map(|dump| &dump.manifest().samples).map(|sample| sample.bytes).sum();
    let bar = bar(common, total, "bytes");
    bar.set_message("merge");
    let manifest = dump::merge(&dumps, &args.out, &mut |entry| bar.inc(entry.bytes))?;
    bar.finish_and_clear();
    let bytes: u64 = manifest.samples.iter().map(|sample| sample.bytes).sum();
    if common.json {
        emit_json(&json!({
            "schema": "kvscope.merge/1",
            "dump": args.out,
            "samples": manifest.samples.len(),
            "bytes": bytes,
        }))?;
    } else {
        emit(&format!("{}\n", args.out.display()))?;
        note(common, &format!("{} samples, {}", manifest.samples.len(), size(bytes)));
    }
    Ok(Outcome::Done)
}
