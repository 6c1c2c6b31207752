//! `kvscope pull`: gets a model into the cache.

use indicatif::ProgressBar;
use serde_json::json;

use crate::cli::Outcome;
use crate::cli::common::Common;
use crate::cli::failure::Result;
use crate::cli::output::{bar, emit, emit_json, note, printable, size};
use crate::hub;
use crate::hub::{HubSettings, Progress, PullOptions};

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

/// Shows a transfer as a bar.
pub(crate) struct Bar<'a> {
    common: &'a Common,
    bar: Option<ProgressBar>,
}

impl<'a> Bar<'a> {
    pub(crate) fn new(common: &'a Common) -> Self {
        Self { common, bar: None }
    }
}

impl Progress for Bar<'_> {
    fn start(&mut self, what: &str, bytes: Option<u64>) {
        let bar = bar(self.common, bytes.unwrap_or(0), "bytes");
        bar.set_message(printable(what, 60));
        self.bar = Some(bar);
    }

    fn advance(&mut self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
    }

    fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

pub(crate) fn run(args: &Args, common: &Common) -> Result<Outcome> {
    let options = PullOptions { settings: HubSettings::from_env(), verify: args.verify };
    let pulled = hub::pull(&args.name, &options, &mut Bar::new(common))?;
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
