//! Options that mean the same on every command, and how a typed model name becomes a model.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};

use crate::cli::common::Common;
use crate::cli::failure::{Context, Result, Usage};
use crate::cli::output::{LogLines, LogStream, note, size};
use crate::files::plain_name;
use crate::hub;
use crate::hub::HubSettings;
use crate::math::Float;
use crate::model::{Compute, Matmul, Model};
use crate::runtime::start_threads;

/// Starts the thread pool and the log.
pub(crate) fn set_up(common: &Common) -> Result<()> {
    let level = match (common.quiet, common.verbose) {
        (true, _) => "error",
        (_, 0) => "warn",
        (_, 1) => "kvscope=info",
        _ => "kvscope=debug",
    };
    let filter = tracing_subscriber::EnvFilter::new(level);
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        // Colours and escapes are those of all other lines on stderr.
        .with_ansi(false)
        .event_format(LogLines(common.color))
        .with_writer(|| LogStream)
        .init();
    start_threads(common.threads).context("cannot start threads")
}

/// Where to compute.
#[derive(Clone, Debug, Args)]
pub(crate) struct DeviceArg {
    /// Where to compute: cpu, cuda, cuda:N or metal; GPUs need a build with that feature
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: String,
    /// Element type of weights and attention on a GPU; the CPU computes in f32
    #[arg(long, value_enum, value_name = "TYPE", default_value = "f32")]
    compute_dtype: Float,
    /// How the CPU multiplies block-quantised weights (GGUF's Q4_0 to Q8_0) [default: fixed16 where the processor has it]
    #[arg(long, value_enum, value_name = "ARITHMETIC")]
    matmul: Option<MatmulArg>,
}

impl DeviceArg {
    /// Opens the device.
    pub(crate) fn open(&self) -> Result<Compute> {
        let compute = Compute::open(&self.device, self.compute_dtype)?;
        match (compute, self.matmul) {
            (compute, None) => Ok(compute),
            (Compute::Kernels { .. }, Some(matmul)) => Ok(Compute::Kernels { matmul: matmul.into() }),
            (Compute::Candle { .. }, Some(_)) => {
                Err(Usage::error("--matmul is a choice of the CPU", "leave it out, or use --device cpu"))
            }
        }
    }
}

/// Arithmetic of products with block-quantised weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum MatmulArg {
    /// Single precision
    F32,
    /// Activations rounded to 16 bits, 32 at a time: about half as long
    Fixed16,
}

impl From<MatmulArg> for Matmul {
    fn from(matmul: MatmulArg) -> Self {
        match matmul {
            MatmulArg::F32 => Self::F32,
            MatmulArg::Fixed16 => Self::Fixed16,
        }
    }
}

impl ValueEnum for Float {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let help = match self {
            Self::F16 => "Half precision",
            Self::Bf16 => "Upper half of single precision",
            Self::F32 => "Single precision",
        };
        Some(PossibleValue::new(self.name()).help(help))
    }
}

/// Finds a model by path or name and loads it, to compute where `compute` says.
pub(crate) fn load_model(name: &str, compute: &Compute, common: &Common) -> Result<Model> {
    let path = hub::resolve(name, &HubSettings::from_env())?;
    let model = Model::load_on(&path, compute).with_context(|| format!("cannot load the model {}", path.display()))?;
    let config = model.config();
    let shape = format!(
        "{}: {} layers, {} query and {} KV heads of {}, {} of weights ({})",
        model.name(),
        config.n_layers,
        config.n_q_heads,
        config.n_kv_heads,
        config.head_dim,
        size(model.weight_bytes()),
        compute.name(),
    );
    note(common, &shape);
    Ok(model)
}

/// Layers as typed for an option: `all`, or a list such as `0,3,last` or `0-7`.
pub(crate) fn parse_layers(option: &str, text: &str, n_layers: usize) -> Result<Vec<usize>> {
    if text == "all" {
        return Ok((0..n_layers).collect());
    }
    parse_list(option, text, n_layers, "layer", &format!("a model with {n_layers} layers"))
}

/// Numbers below `n`, rising, of a list such as `0,3,last` or `0-7`.
fn parse_list(option: &str, text: &str, n: usize, what: &str, whole: &str) -> Result<Vec<usize>> {
    let last = n.saturating_sub(1);
    let one = |name: &str| match name {
        "last" => Ok(last),
        _ => name.parse::<usize>().ok().filter(|index| *index < n).ok_or_else(|| {
            Usage::error(
                format!("{option}: {name:?} names no {what} of {whole}"),
                format!("write `all`, or a list such as 0,last or 0-{last}"),
            )
        }),
    };
    let mut chosen = Vec::new();
    for part in text.split(',').map(str::trim) {
        match part.split_once('-') {
            Some((first, last)) => {
                let (first, last) = (one(first)?, one(last)?);
                if first > last {
                    return Err(Usage::error(
                        format!("{option}: {part:?} runs backwards"),
                        format!("write {last}-{first}"),
                    ));
                }
                chosen.extend(first..=last);
            }
            None => chosen.push(one(part)?),
        }
    }
    chosen.sort_unstable();
    chosen.dedup();
    Ok(chosen)
}

/// KV heads as typed for an option: `all`, which is `None`, or a list such as `0,2` or `0-3`.
pub(crate) fn parse_heads(option: &str, text: &str, n_kv_heads: usize) -> Result<Option<Vec<usize>>> {
    if text == "all" {
        return Ok(None);
    }
    let whole = format!("a layer with {n_kv_heads} KV heads");
    let heads = parse_list(option, text, n_kv_heads, "KV head", &whole)?;
    // The whole list is `all`, so that both ways of asking for it give one dump.
    Ok(Some(heads).filter(|heads| heads.len() < n_kv_heads))
}

/// The last part of a path, as a run name.
pub(crate) fn run_name(path: &Path) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.into());
    let name = absolute.file_name().map(|name| plain_name(&name.to_string_lossy())).unwrap_or_default();
    if name.is_empty() { "run".into() } else { name }
}

/// `parent/run`, unless a folder was named.
pub(crate) fn out_dir(typed: Option<&PathBuf>, parent: &str, run: &str) -> PathBuf {
    typed.cloned().unwrap_or_else(|| Path::new(parent).join(run))
}

/// A flag that Ctrl-C sets; a second Ctrl-C ends the process at once.
pub(crate) fn stop_flag() -> Result<Arc<AtomicBool>> {
    // The handler can be set once per process, and the demo has two stages that listen.
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    if let Some(flag) = FLAG.get() {
        return Ok(Arc::clone(flag));
    }
    let flag = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&flag);
    ctrlc::set_handler(move || {
        if seen.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    })
    .context("cannot listen for Ctrl-C")?;
    Ok(Arc::clone(FLAG.get_or_init(|| flag)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_as_people_write_them() {
        assert_eq!(parse_layers("--layers", "all", 3).unwrap(), [0, 1, 2]);
        assert_eq!(parse_layers("--layers", "2,0,last,2", 5).unwrap(), [0, 2, 4]);
        assert_eq!(parse_layers("--layers", "1-3, 0", 5).unwrap(), [0, 1, 2, 3]);
        for bad in ["5", "x", "", "1-9", "-1", "4-1", "0,last-3"] {
            assert!(parse_layers("--layers", bad, 5).is_err(), "{bad}");
        }
    }

    #[test]
    fn heads_as_people_write_them() {
        assert_eq!(parse_heads("--heads", "all", 3).unwrap(), None);
        assert_eq!(parse_heads("--heads", "2,1-2,1", 3).unwrap(), Some(vec![1, 2]));
        assert_eq!(parse_heads("--heads", "0-last", 3).unwrap(), None);
        assert!(parse_heads("--heads", "3", 3).is_err() && parse_heads("--heads", "", 3).is_err());
    }

    #[test]
    fn names_for_folders() {
        assert_eq!(run_name(Path::new("dumps/qasper/")), "qasper");
        assert_eq!(run_name(Path::new("/")), "run");
    }
}
