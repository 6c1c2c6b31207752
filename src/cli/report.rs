//! `kvscope report`: figures and one offline HTML file, from saved files only.

use std::path::{Path, PathBuf};

use clap::builder::{PossibleValue, PossibleValuesParser};
use serde_json::{Value, json};

use crate::cli::Outcome;
use crate::cli::common::Common;
use crate::cli::failure::Result;
use crate::cli::options::{out_dir, run_name};
use crate::cli::output::{counted, emit, emit_json, note};
use crate::files::{list, read_json};
use crate::format::analysis::FILE;
use crate::format::evaluation::Evaluation;
use crate::format::profile;
use crate::format::run::Run;
use crate::report;
use crate::report::{Build, Document, FIGURES, ReportInput, Written};

/// Draw figures and an offline HTML report from an analysis, an evaluation, or both
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder of an analysis or evaluation, as `kvscope analyze` or `kvscope eval` wrote it
    #[arg(value_name = "DIR")]
    analysis: PathBuf,
    /// Profile to show [default: the first *.profile.json in DIR by name, if there is one]
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// A run of `kvscope generate --json` to show [default: generate.json in DIR, if it is there]
    #[arg(long, value_name = "FILE")]
    generation: Option<PathBuf>,
    /// Figures to draw; a page that is there stays as it is [default: all that there is data for, and the page]
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = figure_names())]
    figure: Vec<String>,
    /// Size up to which the explorer's maps fill the page, in MB
    #[arg(long, value_name = "MB", default_value_t = (ReportInput::PAGE_BYTES / 1_000_000) as u32)]
    page_mb: u32,
    /// Folder of the figures [default: figures/RUN]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Every figure's name, with what it shows.
fn figure_names() -> PossibleValuesParser {
    FIGURES.iter().map(|figure| PossibleValue::new(figure.name).help(figure.title)).into()
}

pub(crate) fn run(args: &Args, common: &Common) -> Result<Outcome> {
    let dir = &args.analysis;
    let figures = out_dir(args.out.as_ref(), "figures", &run_name(dir));
    let has_evaluation = dir.join(Evaluation::FILE).exists();
    let has_analysis = !has_evaluation || dir.join(FILE).exists();
    // What nothing is known of goes to the analysis, which says so.
    let of_evaluation = |name: &String| {
        has_evaluation
            && FIGURES.iter().any(|figure| figure.name == *name && matches!(figure.build, Build::Evaluation(_)))
    };
    let (of_eval, of_analysis): (Vec<String>, Vec<String>) = args.figure.iter().cloned().partition(of_evaluation);
    let named = !args.figure.is_empty();
    let mut files = Vec::new();
    if has_evaluation && (!named || !of_eval.is_empty()) {
        let evaluation: Evaluation = read_json(&dir.join(Evaluation::FILE))?;
        let only = named.then_some(of_eval.as_slice());
        files.extend(draw(&evaluation, &figures, &dir.join("eval.html"), only, common)?.files);
    }
    if has_analysis && !named || !of_analysis.is_empty() {
        files.extend(analysis_into(args, &figures, named.then_some(of_analysis.as_slice()), common)?.files);
    }
    if common.json {
        let files: Vec<Value> = files.iter().map(|file| json!({ "path": file.path, "shows": file.shows })).collect();
        emit_json(&json!({ "schema": "kvscope.report/1", "files": files }))?;
    } else {
        let (pages, drawn): (Vec<_>, Vec<_>) =
            files.iter().partition(|file| file.path.extension().is_some_and(|extension| extension == "html"));
        let listed = if common.verbose > 0 { drawn.as_slice() } else { &[] };
        for file in pages.iter().chain(listed) {
            emit(&format!("{}  {}\n", file.path.display(), file.shows))?;
        }
        note(common, &format!("{} figures in {}", drawn.len(), figures.display()));
    }
    Ok(Outcome::Done)
}

fn analysis_into(args: &Args, figures: &Path, only: Option<&[String]>, common: &Common) -> Result<Written> {
    let dir = &args.analysis;
    let profile = match &args.profile {
        Some(path) => Some(path.clone()),
        None => first_profile(dir, common)?,
    };
    let generation = args.generation.clone().or_else(|| Some(dir.join("generate.json")).filter(|path| path.exists()));
    let read = ReportInput::read(dir, profile.as_deref(), generation.as_deref())?;
    let input = ReportInput { page_bytes: args.page_mb as usize * 1_000_000, ..read };
    draw(&input, figures, &dir.join("report.html"), only, common)
}

/// Draws a document with a bar.
fn draw<'a>(
    document: impl Into<Document<'a>>,
    figures: &Path,
    page: &Path,
    only: Option<&[String]>,
    common: &Common,
) -> Result<Written> {
    let written = counted(common, "report", "figures", FIGURES.len(), |more| {
        report::write(document, figures, page, only, &mut |_| more(1))
    })?;
    Ok(written)
}

/// The profile in a folder; of several, which are told of, the first by name.
fn first_profile(dir: &Path, common: &Common) -> Result<Option<PathBuf>> {
    let mut found = list(dir)?;
    found.retain(|path| path.to_string_lossy().ends_with(profile::SUFFIX));
    let n = found.len();
    let first = found.into_iter().next();
    if let Some(first) = first.as_ref().filter(|_| n > 1) {
        let name = first.file_name().unwrap_or_default().to_string_lossy();
        note(common, &format!("of {n} profiles in {}, {name} is shown: --profile FILE names another", dir.display()));
    }
    Ok(first)
}
