//! Figures (PNG, SVG, PDF and CSV) and one offline HTML file, from saved files only: nothing is measured here.
//!
//! A new figure is one file in `figure/` and one line in [`FIGURES`]: it says what it shows and leaves the drawing to a layout,
//! `heat`, `curves` or `dots`. A figure is drawn once, as SVG; its PNG and PDF are made from that, and its CSV of the numbers that
//! the layout draws. A new section of the page is one file in `page/section/` and one line in its table.

mod axes;
mod canvas;
mod contents;
mod curves;
mod dots;
mod drawing;
mod figure;
mod heat;
mod legend;
mod page;
mod pool;
mod raster;
mod scale;
mod table;
mod text;
mod theme;

pub use contents::{Evaluated, Named, Report, ReportInput};
pub(crate) use drawing::Drawing;
pub use figure::{Build, FIGURES, FigureEntry};
pub use page::Served;
pub use raster::heatmap_png;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use page::Figures;
use rayon::prelude::*;

use crate::files::{FileError, FolderLock, create_dir, list, write_atomic};
use crate::format::FormatError;
use crate::format::profile::{Profile, ProfileError};
use crate::hint::Hint;

/// Cells a side of the rasters in SVG files.
pub(crate) const RASTER_SIDE: usize = 1024;
/// Most layers times heads that a figure is drawn for.
const MAX_HEADS: usize = 1 << 16;

/// What can go wrong with figures and the HTML file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// Reading or writing failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// A figure was asked for that does not exist.
    #[error("there is no figure {name:?}; there are: {known}")]
    UnknownFigure {
        /// What was asked for.
        name: String,
        /// The names that exist, separated by commas.
        known: String,
    },
    /// A figure was asked for whose data the files do not hold.
    #[error("the figure {name} cannot be drawn: it needs {needs}")]
    NothingToDraw {
        /// The figure.
        name: &'static str,
        /// What it needs.
        needs: &'static str,
    },
    /// A saved file is damaged.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The profile is damaged, or of another model.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// A file contradicts itself, or holds more than can be drawn.
    #[error("{0}")]
    Damaged(String),
    /// A path at which nothing lies that a report shows.
    #[error("{} {holds}", path.display())]
    Nothing {
        /// The path.
        path: PathBuf,
        /// What is there.
        holds: &'static str,
        /// What to do.
        hint: String,
    },
    /// Two files of a kind of which a page shows one.
    #[error("there are two {what}, {} and {}, and a page shows one", first.display(), second.display())]
    Twice {
        /// The kind, in words.
        what: &'static str,
        /// The first.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// The drawing library refused.
    #[error("drawing failed: {0}")]
    Draw(String),
    /// The page's template refused what it was given.
    #[error("the page cannot be made: {0}")]
    Page(String),
}

impl Hint for ReportError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::File(error) => error.hint(),
            Self::UnknownFigure { .. } => Some("leave --figure out to draw all of them".into()),
            Self::NothingToDraw { .. } => Some("leave --figure out to draw what the files do hold".into()),
            Self::Format(error) => error.hint(),
            Self::Profile(error) => error.hint(),
            Self::Damaged(_) => Some("make the file again with the same command".into()),
            Self::Nothing { hint, .. } => Some(hint.clone()),
            Self::Twice { .. } => Some("name the files that the page is to show, one by one".into()),
            Self::Draw(_) | Self::Page(_) => None,
        }
    }
}

/// A file that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenFile {
    /// Where it is.
    pub path: PathBuf,
    /// What it shows.
    pub shows: String,
}

/// What a report run left behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Files, in the order of writing; the HTML file, if one was written, is the last.
    pub files: Vec<WrittenFile>,
    /// Figures that were left out, each with what it needs.
    pub skipped: Vec<(&'static str, &'static str)>,
}

/// A figure, the number of the profile or measurement that it shows, and its drawings.
pub(crate) struct Drawn {
    entry: &'static FigureEntry,
    of: usize,
    drawings: Vec<Drawing>,
}

/// Draws the figures into `figures_dir`, in the place of those of an earlier run, and writes the page.
///
/// `only` names the figures to draw; others that are there, and a page, which has all of them, then stay as they are. Equal inputs
/// give equal bytes.
///
/// - Errors: an unknown name in `only`, a named figure without data, unreadable maps, files that cannot be written
pub fn write(
    report: &Report,
    figures_dir: &Path,
    html_path: &Path,
    only: Option<&[String]>,
    progress: &mut dyn FnMut(&str),
) -> Result<Written, ReportError> {
    check(report)?;
    let chosen = choose(only)?;
    let _locks = locks(figures_dir, html_path)?;
    let (drawn, skipped) = draw_all(report, chosen, only.is_some(), progress)?;
    let all: Vec<&Drawing> = drawn.iter().flat_map(|drawn| &drawn.drawings).collect();
    let files = all.par_iter().map(|drawing| save(drawing, figures_dir)).collect::<Result<Vec<_>, _>>()?;
    let files: Vec<WrittenFile> = files.into_iter().flatten().collect();
    if only.is_none() {
        remove_earlier(figures_dir, &files)?;
    } else if html_path.symlink_metadata().is_ok() {
        return Ok(Written { files, skipped });
    }
    progress("report");
    let page = page::of_report(report, Figures::new(&drawn, &skipped)?)?;
    write_atomic(html_path, page.as_bytes())?;
    let shows = format!("{}, with {} figures", report.title(), if only.is_some() { "these" } else { "all" });
    let page = WrittenFile { path: html_path.into(), shows };
    Ok(Written { files: files.into_iter().chain([page]).collect(), skipped })
}

/// The page for a server: it asks for the explorer's numbers when they are looked at, so that it has all of them. No file is
/// written.
///
/// - Errors: unreadable maps, an explorer's file that cannot be read or has changed
pub fn serve(report: &Report, progress: &mut dyn FnMut(&str)) -> Result<Served, ReportError> {
    check(report)?;
    let (drawn, skipped) = draw_all(report, choose(None)?, false, progress)?;
    progress("report");
    Served::new(report, Figures::new(&drawn, &skipped)?)
}

/// Figures that were left out, each with what it needs.
type Skipped = Vec<(&'static str, &'static str)>;

/// The drawings of figures, and those that were left out.
///
/// - Errors: with `named`, a figure without data
fn draw_all(
    report: &Report,
    chosen: Vec<&'static FigureEntry>,
    named: bool,
    progress: &mut dyn FnMut(&str),
) -> Result<(Vec<Drawn>, Skipped), ReportError> {
    let (mut drawn, mut skipped) = (Vec::new(), Skipped::new());
    for entry in chosen {
        let found = match draw(report, entry) {
            None if !named => continue,
            found => found.unwrap_or(Ok(Vec::new()))?,
        };
        if !found.is_empty() {
            progress(entry.name);
            drawn.extend(found);
        } else if !named {
            progress(&format!("{}: left out, it needs {}", entry.name, entry.needs));
            skipped.push((entry.name, entry.needs));
        } else {
            return Err(ReportError::NothingToDraw { name: entry.name, needs: entry.needs });
        }
    }
    Ok((drawn, skipped))
}

/// A figure's drawings; `None` for a figure of something that the report does not have.
fn draw(report: &Report, entry: &'static FigureEntry) -> Option<Result<Vec<Drawn>, ReportError>> {
    let all: Vec<Result<Vec<Drawing>, ReportError>> = match entry.build {
        Build::Analysis(build) => vec![build(report.analysis.as_ref()?)],
        // An analysis waits for a profile, which then belongs to it.
        Build::Profile(_) if report.profiles.is_empty() && report.analysis.is_none() => return None,
        Build::Profile(build) => report.profiles.iter().map(|profile| build(&profile.content)).collect(),
        Build::Evaluation(build) => vec![build(&report.evaluation.as_ref()?.evaluation)],
        Build::Bench(_) if report.benches.is_empty() => return None,
        Build::Bench(build) => report.benches.iter().map(|bench| build(&bench.content)).collect(),
        Build::Comparison(_) if report.comparisons.is_empty() => return None,
        Build::Comparison(build) => report.comparisons.iter().map(|found| build(&found.content)).collect(),
    };
    let numbered = |(of, drawings): (usize, Result<Vec<Drawing>, ReportError>)| {
        let mut drawings = drawings?;
        for drawing in drawings.iter_mut().filter(|_| of > 0) {
            drawing.name += &format!("-{}", of + 1);
        }
        Ok(Drawn { entry, of, drawings })
    };
    let has_drawings = |drawn: &Result<Drawn, ReportError>| drawn.as_ref().map_or(true, |d| !d.drawings.is_empty());
    Some(all.into_iter().enumerate().map(numbered).filter(has_drawings).collect())
}

/// Writes a drawing as PNG, SVG and PDF, and its numbers as CSV.
fn save(drawing: &Drawing, dir: &Path) -> Result<[WrittenFile; 4], ReportError> {
    let svg = drawing.svg(RASTER_SIDE)?;
    let (png, pdf) = raster::png_and_pdf(&svg, &drawing.title, &format!("{}. {}", drawing.subtitle, drawing.alt))?;
    let write = |extension: &str, bytes: &[u8]| {
        let path = dir.join(format!("{}.{extension}", drawing.name));
        write_atomic(&path, bytes)?;
        Ok::<_, ReportError>(WrittenFile { path, shows: drawing.title.clone() })
    };
    Ok([
        write("png", &png)?,
        write("svg", svg.as_bytes())?,
        write("pdf", &pdf)?,
        write("csv", drawing.csv().as_bytes())?,
    ])
}

/// The right to write into the figures' folder and into the page's, which may be the same.
fn locks(figures_dir: &Path, html_path: &Path) -> Result<Vec<FolderLock>, ReportError> {
    let beside = html_path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for dir in [figures_dir, beside] {
        create_dir(dir)?;
    }
    let whole = |dir: &Path| dir.canonicalize().map_err(|e| FileError::io("open", dir, e));
    let mut dirs = vec![whole(figures_dir)?, whole(beside)?];
    dirs.dedup();
    Ok(dirs.iter().map(|dir| FolderLock::take(dir)).collect::<Result<_, _>>()?)
}

/// The entries that `only` names, in the table's order; all without names.
fn choose(only: Option<&[String]>) -> Result<Vec<&'static FigureEntry>, ReportError> {
    let Some(names) = only else { return Ok(FIGURES.iter().collect()) };
    if let Some(name) = names.iter().find(|name| !FIGURES.iter().any(|f| f.name == name.as_str())) {
        let known: Vec<&str> = FIGURES.iter().map(|f| f.name).collect();
        return Err(ReportError::UnknownFigure { name: name.clone(), known: known.join(", ") });
    }
    Ok(FIGURES.iter().filter(|f| names.iter().any(|name| name == f.name)).collect())
}

/// Refuses sizes that no figure can show, before anything is allocated for them.
fn check(report: &Report) -> Result<(), ReportError> {
    if let Some(ReportInput { analysis, .. }) = &report.analysis {
        let (layers, heads) = pool::layers_and_heads(analysis);
        check_heads("the analysis", layers.len(), heads.len())?;
        let names: HashSet<&str> = analysis.datasets.iter().map(|d| d.dataset.as_str()).collect();
        if names.len() < analysis.datasets.len() {
            return Err(ReportError::Damaged("the analysis has two data sets of the same name".into()));
        }
    }
    for Named { name, content: Profile { heads, .. }, .. } in &report.profiles {
        let layers: HashSet<usize> = heads.iter().map(|h| h.layer).collect();
        let heads: HashSet<usize> = heads.iter().map(|h| h.kv_head).collect();
        check_heads(&format!("the profile {name}"), layers.len(), heads.len())?;
    }
    Ok(())
}

fn check_heads(whose: &str, n_layers: usize, n_heads: usize) -> Result<(), ReportError> {
    if n_layers.saturating_mul(n_heads.max(1)) <= MAX_HEADS {
        return Ok(());
    }
    let what = format!("{whose} has {n_layers} layers of {n_heads} KV heads; at most {MAX_HEADS} heads can be drawn");
    Err(ReportError::Damaged(what))
}

/// Removes figures that an earlier run drew and this one did not: a figure's name, an SVG as [`Drawing::svg`] begins it, and what
/// has its name with another ending.
fn remove_earlier(dir: &Path, written: &[WrittenFile]) -> Result<(), ReportError> {
    let now: HashSet<&Path> = written.iter().map(|file| file.path.as_path()).collect();
    let is_figure = |stem: &str| {
        FIGURES.iter().any(|f| stem.strip_prefix(f.name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-')))
    };
    let all = list(dir)?;
    for svg in all.iter().filter(|path| path.extension().is_some_and(|ending| ending == "svg")) {
        let is_ours = svg.file_stem().and_then(|stem| stem.to_str()).is_some_and(is_figure) && drawing::is_drawing(svg);
        if now.contains(svg.as_path()) || !is_ours {
            continue;
        }
        for path in all.iter().filter(|path| path.with_extension("") == svg.with_extension("")) {
            std::fs::remove_file(path).map_err(|e| FileError::io("remove", path, e))?;
        }
    }
    Ok(())
}
