//! `kvscope learn`: the weights by which the policy `kvzap` predicts what tokens are worth, from dumps and their model.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::cli::Outcome;
use crate::cli::common::Common;
use crate::cli::failure::Result;
use crate::cli::numbers;
use crate::cli::options::{DeviceArg, load_model, out_dir, run_name};
use crate::cli::output::{emit, emit_json, note, with_bar};
use crate::cli::table::{Table, digits, name, number};
use crate::files::{FolderLock, plain_name};
use crate::format::dump::Dump;
use crate::format::scorer;
use crate::format::scorer::Scorer;
use crate::learn::{LearnOptions, Learned, learn};
use crate::math::{mean, quantile};

/// Learn from dumps what the model's own repetition of a prompt says of its tokens, as weights for the policy kvzap. The model
/// reads every sample again, and repeats it
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Dumps of the model
    #[arg(value_name = "DUMP", required = true)]
    dumps: Vec<PathBuf>,
    /// Model that was captured: a GGUF file, a Hugging Face folder, or a name that was pulled
    #[arg(long, value_name = "PATH|NAME")]
    model: String,
    /// Share of each data set's samples that are held out: they judge, and nothing is learned from them
    #[arg(long, value_name = "X", default_value_t = 0.34, value_parser = numbers::share)]
    hold_out: f64,
    /// Seed of the split
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    device: DeviceArg,
    /// File of the weights [default: reports/RUN/MODEL.scorer.safetensors, RUN being the first dump's]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(crate) fn run(args: &Args, common: &Common) -> Result<Outcome> {
    let dumps = args.dumps.iter().map(|dir| Dump::open(dir)).collect::<Result<Vec<_>, _>>()?;
    let model = load_model(&args.model, &args.device.open()?, common)?;
    let path = args.out.clone().unwrap_or_else(|| {
        let dir = out_dir(None, "reports", &run_name(&args.dumps[0]));
        dir.join(format!("{}{}", plain_name(model.name()), scorer::SUFFIX))
    });
    // Before the work, so that it is not lost.
    let _lock = FolderLock::take(path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
    Scorer::check_replaceable(&path)?;
    let options = LearnOptions { hold_out: args.hold_out, seed: args.seed };
    let learned = with_bar(common, "learn", "samples", |progress| learn(&model, &dumps, &options, progress))?;
    let sha256 = Scorer::write(&path, &learned.learning, &learned.maps)?;
    summarise(&learned, &path, &sha256, &args.model, common)?;
    Ok(Outcome::Done)
}

fn summarise(
    Learned { learning, r2, .. }: &Learned,
    path: &Path,
    sha256: &str,
    model: &str,
    common: &Common,
) -> Result<()> {
    let overall = mean(r2.iter().flatten());
    if common.json {
        return emit_json(&json!({
            "schema": "kvscope.learn/1",
            "weights": path,
            "sha256": sha256,
            "lambda": learning.lambda,
            "calibration_samples": learning.calibration.len(),
            "held_out_samples": learning.held_out.len(),
            "r2": overall,
            "r2_by_layer": learning.held_out_r2,
            "r2_by_head": r2,
        }));
    }
    let mut table = Table::new([name("R² on held-out samples"), number("least"), number("median"), number("most")]);
    for (row, values) in [("of layers", &learning.held_out_r2), ("of heads", r2)] {
        let [least, median, most] = [0.0, 0.5, 1.0].map(|share| digits(quantile(values.iter().flatten(), share), 3));
        table.row([row.into(), least, median, most]);
    }
    emit(&format!("{}\n{table}", path.display()))?;
    let overall = digits(overall, 3);
    let (n, n_out) = (learning.calibration.len(), learning.held_out.len());
    note(
        common,
        &format!("R² {overall} over all heads; {n} samples learned from, {n_out} held out, lambda {}", learning.lambda),
    );
    let weights = path.display();
    note(
        common,
        &format!(
            "next: kvscope generate --model {model} --prompt-file FILE --policy kvzap:weights={weights} --compare"
        ),
    );
    Ok(())
}
