//! `kvscope report`: figures and one offline HTML file, from saved files only.

use std::path::{Path, PathBuf};

use clap::builder::{PossibleValue, PossibleValuesParser};
use serde_json::{Value, json};

use crate::cli::Outcome;
use crate::cli::common::Common;
use crate::cli::failure::Result;
use crate::cli::options::{out_dir, run_name};
use crate::cli::output::{counted, emit, emit_json, note};
use crate::cli::serve::serve;
use crate::report;
use crate::report::{FIGURES, Report};

/// Draw figures and one offline HTML page from whatever was saved: an analysis, profiles, an evaluation, generations, measurements
/// of speed, comparisons
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folders and files that analyze, tune, eval, generate --json and bench --out wrote. Of a folder everything is shown, in DIR/report.html;
    /// the page of a file stands beside it
    #[arg(value_name = "DIR|FILE", required = true)]
    paths: Vec<PathBuf>,
    /// Figures to draw; a page that is there stays as it is [default: all that there is data for, and the page]
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = figure_names())]
    figure: Vec<String>,
    /// Size up to which the explorer's maps fill the page, in MB
    #[arg(long, value_name = "MB", default_value_t = (Report::PAGE_BYTES / 1_000_000) as u32)]
    page_mb: u32,
    /// Write nothing: give the page to browsers on this machine until Ctrl-C, of an analysis with the maps of all explored heads whatever
    /// their size.
    /// Its address has a secret and a port that nobody else knows
    #[arg(long, conflicts_with_all = ["figure", "page_mb", "out"])]
    serve: bool,
    /// Open the page in a browser
    #[arg(long, requires = "serve")]
    open: bool,
    /// Folder of the figures [default: figures/RUN]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Every figure's name, with what it shows.
fn figure_names() -> PossibleValuesParser {
    FIGURES.iter().map(|figure| PossibleValue::new(figure.name).help(figure.title)).into()
}

pub(crate) fn run(args: &Args, common: &Common) -> Result<Outcome> {
    let report = Report { page_bytes: args.page_mb as usize * 1_000_000, ..Report::read(&args.paths)? };
    if args.serve {
        let served =
            counted(common, "report", "figures", FIGURES.len(), |more| report::serve(&report, &mut |_| more(1)))?;
        return serve(served, args.open, common);
    }
    let Place { page, run } = Place::of(&args.paths[0]);
    let figures = out_dir(args.out.as_ref(), "figures", &run);
    let only = Some(args.figure.as_slice()).filter(|names| !names.is_empty());
    let written = counted(common, "report", "figures", FIGURES.len(), |more| {
        report::write(&report, &figures, &page, only, &mut |_| more(1))
    })?;
    let files = written.files;
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
        note(common, &format!("{} files of figures in {}", drawn.len(), figures.display()));
    }
    Ok(Outcome::Done)
}

/// Where the page goes, and what the folder of figures is called.
struct Place {
    page: PathBuf,
    run: String,
}

impl Place {
    /// In a folder, which is the run; beside a file, under its name.
    fn of(path: &Path) -> Self {
        if path.is_dir() {
            return Self { page: path.join("report.html"), run: run_name(path) };
        }
        Self { page: path.with_extension("html"), run: run_name(&path.with_extension("")) }
    }
}
