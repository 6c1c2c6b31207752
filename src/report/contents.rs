//! What a report is made from: any of the files that the other commands save, found by the schema in them.

use std::path::{Path, PathBuf};

use crate::files::{Document, ModelIdentity, list, read_json};
use crate::format::analysis::Analysis;
use crate::format::bench::Bench;
use crate::format::comparison::Comparison;
use crate::format::dump::Manifest;
use crate::format::evaluation::{Evaluation, ROWS_FILE, Row, read_rows};
use crate::format::generation::Generated;
use crate::format::kind::Kind;
use crate::format::profile::Profile;
use crate::report::ReportError;
use crate::say;

/// An analysis, and the folder that the files it names are in.
#[derive(Clone, Debug)]
pub struct ReportInput {
    /// The analysis.
    pub analysis: Analysis,
    /// Folder that the analysis' map files are relative to.
    pub analysis_dir: PathBuf,
}

/// An evaluation, and what was measured of every text.
#[derive(Clone, Debug)]
pub struct Evaluated {
    /// The evaluation.
    pub evaluation: Evaluation,
    /// Its rows; empty where there is no file of them.
    pub rows: Vec<Row>,
}

/// The content of a file, and the file's name.
#[derive(Clone, Debug)]
pub struct Named<T> {
    /// Name of the file, without folders.
    pub name: String,
    /// What it holds.
    pub content: T,
}

/// Everything that is to stand on one page.
#[derive(Clone, Debug)]
pub struct Report {
    /// An analysis.
    pub analysis: Option<ReportInput>,
    /// Profiles.
    pub profiles: Vec<Named<Profile>>,
    /// An evaluation.
    pub evaluation: Option<Evaluated>,
    /// Generations with a compressed cache.
    pub generations: Vec<Named<Generated>>,
    /// Measurements of speed and memory.
    pub benches: Vec<Named<Bench>>,
    /// Comparisons of analyses.
    pub comparisons: Vec<Named<Comparison>>,
    /// Bytes of the page up to which the explorer fills it; a page that is larger without has the explorer's texts only.
    pub page_bytes: usize,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            analysis: None,
            profiles: Vec::new(),
            evaluation: None,
            generations: Vec::new(),
            benches: Vec::new(),
            comparisons: Vec::new(),
            page_bytes: Self::PAGE_BYTES,
        }
    }
}

impl Report {
    /// Bytes of a page that can be sent and opened anywhere.
    pub const PAGE_BYTES: usize = 10_000_000;

    /// Reads files, and of folders every file that a report shows.
    ///
    /// - Errors: a path at which there is none, a file that cannot be read or is damaged, two analyses or two evaluations
    pub fn read(paths: &[PathBuf]) -> Result<Self, ReportError> {
        let mut report = Self::default();
        // Of which file the analysis and the evaluation are.
        let mut read: [Option<PathBuf>; 2] = [None, None];
        for path in paths {
            let files = if path.is_dir() {
                list(path)?.into_iter().filter(|file| file.is_file()).collect()
            } else {
                vec![path.clone()]
            };
            let (mut n_found, mut has_dump) = (0, false);
            for file in files {
                let kind = match Kind::of(&file) {
                    // What else lies in a folder is not ours to complain of.
                    Err(_) if path.is_dir() && Kind::by_name(&file).is_none() => continue,
                    kind => kind?,
                };
                let Some(kind) = kind else { continue };
                if report.add(kind.schema, &file, &mut read)? {
                    n_found += 1;
                } else {
                    has_dump |= kind.schema == Manifest::NAME;
                }
            }
            if n_found == 0 {
                let (holds, hint) = if has_dump {
                    let dump = if path.is_dir() { path.as_path() } else { path.parent().unwrap_or(Path::new("")) };
                    (
                        "is a dump, and a report is made from what analyze, tune, eval, generate and bench save",
                        format!("run: kvscope analyze {}", dump.display()),
                    )
                } else {
                    (
                        "is nothing that a report shows",
                        "give a folder or file that analyze, tune, eval, generate --json or bench --out wrote".into(),
                    )
                };
                return Err(ReportError::Nothing { path: path.clone(), holds, hint });
            }
        }
        Ok(report)
    }

    /// Reads one file of that schema; whether it is one that a report shows.
    fn add(&mut self, schema: &str, path: &Path, read: &mut [Option<PathBuf>; 2]) -> Result<bool, ReportError> {
        let dir = path.parent().unwrap_or(Path::new(""));
        let mut one = |which: usize, what| match read[which].replace(path.into()) {
            Some(first) => Err(ReportError::Twice { what, first, second: path.into() }),
            None => Ok(()),
        };
        match schema {
            Analysis::NAME => {
                one(0, "analyses")?;
                self.analysis = Some(ReportInput { analysis: read_json(path)?, analysis_dir: dir.into() });
            }
            Evaluation::NAME => {
                one(1, "evaluations")?;
                let has_rows = dir.join(ROWS_FILE).symlink_metadata().is_ok();
                let rows = if has_rows { read_rows(dir)? } else { Vec::new() };
                self.evaluation = Some(Evaluated { evaluation: read_json(path)?, rows });
            }
            Profile::NAME => self.profiles.push(named(path, Profile::read(path)?)),
            Generated::NAME => self.generations.push(named(path, read_json(path)?)),
            Bench::NAME => self.benches.push(named(path, read_json(path)?)),
            Comparison::NAME => self.comparisons.push(named(path, read_json(path)?)),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// What the page is called.
    pub fn title(&self) -> String {
        let model = self.model().map_or("", |model| model.name.as_str());
        if self.analysis.is_some() {
            return format!("KV cache similarity of {model}");
        }
        match self.comparisons.first().map(|comparison| comparison.content.runs.as_slice()) {
            Some([first, rest @ ..]) if rest.iter().all(|run| run.model.name == first.model.name) => {
                format!("{} runs of {} compared", rest.len() + 1, first.model.name)
            }
            Some(runs @ [_, ..]) => {
                let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
                format!("{} compared", say::listed(&names))
            }
            _ => format!("KV cache compression of {model}"),
        }
    }

    /// Whose cache it is: the model of the first thing that is of one model.
    pub fn model(&self) -> Option<&ModelIdentity> {
        let analysis = self.analysis.iter().map(|input| &input.analysis.model);
        let evaluation = self.evaluation.iter().map(|evaluated| &evaluated.evaluation.model);
        let profiles = self.profiles.iter().map(|profile| &profile.content.model);
        let generations = self.generations.iter().map(|generation| &generation.content.model);
        let benches = self.benches.iter().map(|bench| &bench.content.model);
        analysis.chain(evaluation).chain(profiles).chain(generations).chain(benches).next()
    }
}

fn named<T>(path: &Path, content: T) -> Named<T> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Named { name, content }
}
