//! `kvscope pull`: gets a model into the cache.

use serde_json::json;

use crate::cli::Outcome;
use crate::cli::common::Common;
use crate::cli::failure::Result;
use crate::cli::output::{TransferBar, emit, emit_json, note, size};
use crate::hub;
use crate::hub::{HubSettings, PullOptions};

/// Get a model into the cache
///
/// With HF_HUB_OFFLINE=1 nothing is downloaded: a model that is there is found, any other is an error.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// `smollm2-135m`, the demo model, or a hub id: org/name, org/name@revision or org/name:file.gguf
    #[arg(value_name = "NAME")]
    name: String,
    /// Hash files that are already there, and replace damaged ones
    #[arg(long)]
    verify: bool,
}

pub(crate) fn run(args: &Args, common: &Common) -> Result<Outcome> {
    let options = PullOptions { settings: HubSettings::from_env(), verify: args.verify };
    let pulled = hub::pull(&args.name, &options, &mut TransferBar::new(common))?;
    if common.json {
        emit_json(&json!({
            "schema": "kvscope.pull/1",
            "name": args.name,
            "path": pulled.path,
            "bytes": pulled.bytes,
            "files": pulled.sha256s,
            "already_there": pulled.already_there,
        }))?;
    } else {
        let state = if pulled.already_there { "already there" } else { "downloaded and checked" };
        note(common, &format!("{}: {}, {state}", args.name, size(pulled.bytes)));
        emit(&format!("{}\n", pulled.path.display()))?;
    }
    Ok(Outcome::Done)
}
