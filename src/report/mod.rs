//! Figures (PNG and SVG) and one offline HTML file, from saved files only: nothing is measured here.
//!
//! A new figure is one file in `figure/` and one line in [`FIGURES`]: it says what it shows and leaves the drawing to a layout,
//! `heat`, `curves` or `dots`. A figure is drawn once, as SVG; its PNG is made from that.

mod axes;
mod canvas;
mod curves;
mod dots;
mod drawing;
mod figure;
mod heat;
mod legend;
mod page;
mod pool;
mod raster;
mod text;
mod theme;

pub(crate) use drawing::Drawing;
pub use figure::{Build, FIGURES, FigureEntry};

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use page::Figures;
use rayon::prelude::*;

use crate::files::{FileError, FolderLock, create_dir, read_json, write_atomic};
use crate::format::FormatError;
use crate::format::analysis::{Analysis, FILE};
use crate::format::evaluation::Evaluation;
use crate::format::generation::Generated;
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
            Self::Draw(_) | Self::Page(_) => None,
        }
    }
}

/// What a report is made from.
#[derive(Clone, Debug)]
pub struct ReportInput {
    /// The analysis.
    pub analysis: Analysis,
    /// Folder that the analysis' map files are relative to.
    pub analysis_dir: PathBuf,
    /// A profile that was tuned for the model.
    pub profile: Option<Profile>,
    /// A generation with the compressed cache.
    pub generation: Option<Generated>,
    /// Bytes of the page up to which the explorer fills it; a page that is larger without has the explorer's texts only.
    pub page_bytes: usize,
}

impl ReportInput {
    /// Bytes of a page that can be sent and opened anywhere.
    pub const PAGE_BYTES: usize = 10_000_000;

    /// Reads an analysis with what is to be shown beside it.
    ///
    /// - Errors: a file that cannot be read, a profile of another model
    pub fn read(dir: &Path, profile: Option<&Path>, generation: Option<&Path>) -> Result<Self, ReportError> {
        let input = Self {
            analysis: read_json::<Analysis>(&dir.join(FILE))?,
            analysis_dir: dir.into(),
            profile: profile.map(Profile::read).transpose()?,
            generation: generation.map(read_json).transpose()?,
            page_bytes: Self::PAGE_BYTES,
        };
        if let Some(profile) = &input.profile {
            profile.check_model(&input.analysis.model)?;
        }
        Ok(input)
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

/// A figure and its drawings.
pub(crate) type Drawn = (&'static FigureEntry, Vec<Drawing>);

/// What gets a page of its own.
#[derive(Clone, Copy, Debug)]
pub enum Document<'a> {
    /// An analysis, with what stands beside it.
    Analysis(&'a ReportInput),
    /// An evaluation.
    Evaluation(&'a Evaluation),
}

impl<'a> From<&'a ReportInput> for Document<'a> {
    fn from(input: &'a ReportInput) -> Self {
        Self::Analysis(input)
    }
}

impl<'a> From<&'a Evaluation> for Document<'a> {
    fn from(evaluation: &'a Evaluation) -> Self {
        Self::Evaluation(evaluation)
    }
}

/// Draws a document's figures into `figures_dir` and writes its page.
///
/// `only` names the figures to draw; a page that is there, which has all of them, then stays as it is. Equal inputs give equal
/// bytes.
///
/// - Errors: an unknown name in `only`, a named figure without data, unreadable maps, files that cannot be written
pub fn write<'a>(
    document: impl Into<Document<'a>>,
    figures_dir: &Path,
    html_path: &Path,
    only: Option<&[String]>,
    progress: &mut dyn FnMut(&str),
) -> Result<Written, ReportError> {
    let document = document.into();
    if let Document::Analysis(input) = document {
        check(input)?;
    }
    let chosen = choose(only)?;
    let _locks = locks(figures_dir, html_path)?;
    let (mut drawn, mut skipped): (Vec<Drawn>, _) = (Vec::new(), Vec::new());
    for entry in chosen {
        let drawings = match draw(document, entry) {
            None if only.is_none() => continue,
            drawings => drawings.unwrap_or(Ok(Vec::new()))?,
        };
        if !drawings.is_empty() {
            progress(entry.name);
            drawn.push((entry, drawings));
        } else if only.is_none() {
            progress(&format!("{}: left out, it needs {}", entry.name, entry.needs));
            skipped.push((entry.name, entry.needs));
        } else {
            return Err(ReportError::NothingToDraw { name: entry.name, needs: entry.needs });
        }
    }
    let all: Vec<&Drawing> = drawn.iter().flat_map(|(_, drawings)| drawings).collect();
    let files = all.par_iter().map(|drawing| save(drawing, figures_dir)).collect::<Result<Vec<_>, _>>()?;
    let files = files.into_iter().flatten();
    if only.is_some() && html_path.symlink_metadata().is_ok() {
        return Ok(Written { files: files.collect(), skipped });
    }
    progress("report");
    let figures = Figures::new(&drawn, &skipped)?;
    let (page, shows) = match document {
        Document::Analysis(input) => {
            (page::of_analysis(input, figures)?, format!("Report on {}", input.analysis.model.name))
        }
        Document::Evaluation(e) => {
            (page::render(&page::of_evaluation(e, figures))?, format!("Evaluation of {}", e.model.name))
        }
    };
    write_atomic(html_path, page.as_bytes())?;
    let page = WrittenFile {
        path: html_path.into(),
        shows: format!("{shows}, with {} figures", if only.is_some() { "these" } else { "all" }),
    };
    Ok(Written { files: files.chain([page]).collect(), skipped })
}

/// A figure's drawings; `None` for a figure of another document.
fn draw(document: Document<'_>, entry: &FigureEntry) -> Option<Result<Vec<Drawing>, ReportError>> {
    match (entry.build, document) {
        (Build::Analysis(build), Document::Analysis(input)) => Some(build(input)),
        (Build::Profile(build), Document::Analysis(input)) => {
            Some(input.profile.as_ref().map_or(Ok(Vec::new()), build))
        }
        (Build::Evaluation(build), Document::Evaluation(evaluation)) => Some(build(evaluation)),
        _ => None,
    }
}

/// Writes a drawing as PNG and SVG.
fn save(drawing: &Drawing, dir: &Path) -> Result<[WrittenFile; 2], ReportError> {
    let svg = drawing.svg(RASTER_SIDE)?;
    let write = |extension: &str, bytes: &[u8]| {
        let path = dir.join(format!("{}.{extension}", drawing.name));
        write_atomic(&path, bytes)?;
        Ok::<_, ReportError>(WrittenFile { path, shows: drawing.title.clone() })
    };
    Ok([write("png", &raster::png(&svg)?)?, write("svg", svg.as_bytes())?])
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
fn check(input: &ReportInput) -> Result<(), ReportError> {
    let analysis = &input.analysis;
    let (layers, heads) = pool::layers_and_heads(analysis);
    check_heads("the analysis", layers.len(), heads.len())?;
    if let Some(profile) = &input.profile {
        let layers: HashSet<usize> = profile.heads.iter().map(|h| h.layer).collect();
        let heads: HashSet<usize> = profile.heads.iter().map(|h| h.kv_head).collect();
        check_heads("the profile", layers.len(), heads.len())?;
    }
    let names: HashSet<&str> = analysis.datasets.iter().map(|d| d.dataset.as_str()).collect();
    if names.len() < analysis.datasets.len() {
        return Err(ReportError::Damaged("the analysis has two data sets of the same name".into()));
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
