//! Figures (PNG and SVG) and one offline HTML file, from saved files only: nothing is measured here.
//!
//! A new figure is one file in `figure/` and one line in [`FIGURES`], or in [`EVAL_FIGURES`] if an evaluation is what it shows.

mod axes;
mod canvas;
mod drawing;
mod figure;
mod glyphs;
mod heat;
mod legend;
mod lines;
mod page;
mod plot;
mod pool;
mod raster;
mod rows;
mod theme;

pub use drawing::Drawing;
pub use figure::EVAL_FIGURES;
pub use figure::FIGURES;
pub use figure::FigureEntry;

use std::collections::HashSet;
use std::path::Path;
use std::path::PathBuf;

use crate::files::FileError;
use crate::files::FolderLock;
use crate::files::create_dir;
use crate::files::write_atomic;
use crate::format::FormatError;
use crate::format::analysis::Analysis;
use crate::format::evaluation::Evaluation;
use crate::format::generation::Generated;
use crate::format::profile::Profile;
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
    /// A file contradicts itself, or holds more than can be drawn.
    #[error("{0}")]
    Damaged(String),
    /// The drawing library refused.
    #[error("drawing failed: {0}")]
    Draw(String),
}

impl Hint for ReportError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::File(error) => error.hint(),
            Self::UnknownFigure { .. } => Some("leave --figure out to draw all of them".into()),
            Self::NothingToDraw { .. } => Some("leave --figure out to draw what the files do hold".into()),
            Self::Format(error) => error.hint(),
            Self::Damaged(_) => Some("make the file again with the same command".into()),
            Self::Draw(_) => None,
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
    /// Files, in the order of writing; the HTML file is the last.
    pub files: Vec<WrittenFile>,
    /// Figures that were left out, each with what it needs.
    pub skipped: Vec<(&'static str, &'static str)>,
}

/// A figure and its drawings.
pub(crate) type Drawn<I = ReportInput> = (&'static FigureEntry<I>, Vec<Drawing>);

/// Draws the figures into `figures_dir` and writes the HTML file.
///
/// `only` names the figures to draw, in both places; all that the files hold data for when `None`. Equal inputs give
/// equal bytes.
///
/// - Errors: an unknown name in `only`, a named figure without data, unreadable maps, files that cannot be written
pub fn write(
    input: &ReportInput,
    figures_dir: &Path,
    html_path: &Path,
    only: Option<&[String]>,
    progress: &mut dyn FnMut(&str),
) -> Result<Written, ReportError> {
    check(input)?;
    let _locks = locks(figures_dir, html_path)?;
    let (drawn, mut written) = draw(choose(FIGURES, only)?, input, figures_dir, only.is_some(), progress)?;
    progress("report");
    let html = page::render(input, &drawn, &written.skipped)?;
    let shows = format!("Report on {}, with all figures", input.analysis.model.name);
    write_page(&mut written, html_path, &html, shows)?;
    Ok(written)
}

/// Draws the figures of an evaluation and writes an HTML file of its own, as [`write()`] does for an analysis.
pub fn write_evaluation(
    evaluation: &Evaluation,
    figures_dir: &Path,
    html_path: &Path,
    only: Option<&[String]>,
    progress: &mut dyn FnMut(&str),
) -> Result<Written, ReportError> {
    let _locks = locks(figures_dir, html_path)?;
    let (drawn, mut written) = draw(choose(EVAL_FIGURES, only)?, evaluation, figures_dir, only.is_some(), progress)?;
    progress("report");
    let html = page::render_evaluation(evaluation, &drawn, &written.skipped)?;
    let shows = format!("Evaluation of {}, with all figures", evaluation.model.name);
    write_page(&mut written, html_path, &html, shows)?;
    Ok(written)
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

fn write_page(written: &mut Written, path: &Path, html: &str, shows: String) -> Result<(), ReportError> {
    write_atomic(path, html.as_bytes())?;
    written.files.push(WrittenFile { path: path.into(), shows });
    Ok(())
}

/// Draws figures into a folder.
fn draw<I>(
    chosen: Vec<&'static FigureEntry<I>>,
    input: &I,
    figures_dir: &Path,
    must_draw: bool,
    progress: &mut dyn FnMut(&str),
) -> Result<(Vec<Drawn<I>>, Written), ReportError> {
    let mut written = Written::default();
    let mut drawn: Vec<Drawn<I>> = Vec::new();
    for entry in chosen {
        let drawings = (entry.build)(input)?;
        if drawings.is_empty() {
            if must_draw {
                return Err(ReportError::NothingToDraw { name: entry.name, needs: entry.needs });
            }
            progress(&format!("{}: left out, it needs {}", entry.name, entry.needs));
            written.skipped.push((entry.name, entry.needs));
            continue;
        }
        for drawing in &drawings {
            progress(&drawing.name);
            let (png, svg) = rayon::join(|| drawing.png(), || drawing.svg(RASTER_SIDE));
            for (extension, bytes) in [("png", png?), ("svg", svg?.into_bytes())] {
                let path = figures_dir.join(format!("{}.{extension}", drawing.name));
                write_atomic(&path, &bytes)?;
                written.files.push(WrittenFile { path, shows: drawing.title.clone() });
            }
        }
        drawn.push((entry, drawings));
    }
    Ok((drawn, written))
}

/// The entries that `only` names, in the table's order.
fn choose<I>(
    table: &'static [FigureEntry<I>],
    only: Option<&[String]>,
) -> Result<Vec<&'static FigureEntry<I>>, ReportError> {
    let Some(names) = only else { return Ok(table.iter().collect()) };
    if let Some(name) = names.iter().find(|name| !table.iter().any(|f| f.name == name.as_str())) {
        let known: Vec<&str> = table.iter().map(|f| f.name).collect();
        return Err(ReportError::UnknownFigure { name: name.clone(), known: known.join(", ") });
    }
    Ok(table.iter().filter(|f| names.iter().any(|name| name == f.name)).collect())
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
