//! What a saved file is, told by the schema in it.

use std::path::Path;

use safetensors::SafeTensors;

use crate::files::{Document, FileError, map_file, parse_head, read_limited};
use crate::format::analysis::Analysis;
use crate::format::bench::Bench;
use crate::format::comparison::Comparison;
use crate::format::dump::Manifest;
use crate::format::evaluation::{Evaluation, ROWS_FILE};
use crate::format::explorer::Explorer;
use crate::format::generation::Generated;
use crate::format::profile::Profile;
use crate::format::run::Run;
use crate::format::scorer::Learning;
use crate::format::stats::TABLE_FILE;
use crate::format::{analysis, bench, comparison, dump, evaluation, explorer, generation, map, profile, scorer, stats};

/// A kind of saved file.
#[derive(Debug)]
pub struct Kind {
    /// Name of its schema.
    pub schema: &'static str,
    /// How files of this kind are called, or how their names end; empty where the user names them.
    pub name: &'static str,
    /// What it is, in words.
    pub what: &'static str,
    /// Faults of a file, each in words that name the file; empty when there is none.
    pub faults: fn(&Path) -> Vec<String>,
    /// The document beside it that names it, and with whose faults its own stand.
    pub part_of: Option<&'static str>,
}

/// All kinds.
pub const KINDS: &[Kind] = &[
    kind(Manifest::NAME, Manifest::FILE, "a dump", |path| dump::faults(folder(path))),
    kind(Analysis::NAME, analysis::FILE, "an analysis", analysis::faults),
    Kind { part_of: Some(analysis::FILE), ..kind(map::NAME, "", "a similarity map", map::faults) },
    Kind { part_of: Some(analysis::FILE), ..kind(Explorer::NAME, explorer::FILE, "an explorer", explorer::faults) },
    Kind { part_of: Some(analysis::FILE), ..kind(stats::NAME, TABLE_FILE, "a table of figures", stats::faults) },
    kind(Comparison::NAME, comparison::FILE, "a comparison", comparison::faults),
    kind(Profile::NAME, profile::SUFFIX, "a profile", profile::faults),
    kind(Learning::NAME, scorer::SUFFIX, "learned weights", scorer::faults),
    kind(Evaluation::NAME, Evaluation::FILE, "an evaluation", |path| evaluation::faults(folder(path))),
    Kind {
        part_of: Some(Evaluation::FILE),
        ..kind("", ROWS_FILE, "an evaluation's rows", |path| evaluation::faults(folder(path)))
    },
    kind(Generated::NAME, "", "a generation", generation::faults),
    kind(Bench::NAME, "", "a measurement of speed and memory", bench::faults),
];

const fn kind(schema: &'static str, name: &'static str, what: &'static str, faults: fn(&Path) -> Vec<String>) -> Kind {
    Kind { schema, name, what, faults, part_of: None }
}

fn folder(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

impl Kind {
    /// The kind of a file: by the schema in it, else by its name; `None` of a file that is not ours.
    ///
    /// - Errors: a file that cannot be read
    pub fn of(path: &Path) -> Result<Option<&'static Self>, FileError> {
        let schema = schema(path)?;
        let name = schema.as_deref().and_then(|schema| schema.split('/').next()).filter(|name| !name.is_empty());
        Ok(KINDS.iter().find(|kind| name == Some(kind.schema)).or_else(|| Self::by_name(path)))
    }

    /// The kind that a file's name tells, whatever is in it.
    pub fn by_name(path: &Path) -> Option<&'static Self> {
        let name = path.file_name()?.to_string_lossy();
        let is_called = |kind: &&Self| match kind.name {
            "" => false,
            ending if ending.starts_with('.') => name.ends_with(ending),
            whole => name == whole,
        };
        KINDS.iter().find(is_called)
    }
}

/// The schema id in a file; `None` where there is none, or where the file cannot hold one.
fn schema(path: &Path) -> Result<Option<String>, FileError> {
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("json") => Ok(parse_head(&read_limited(path, "a JSON file", Analysis::MAX_BYTES)?)),
        Some("safetensors") => {
            let bytes = map_file(path)?;
            let Ok((_, header)) = SafeTensors::read_metadata(&bytes) else { return Ok(None) };
            let word = |name: &str| header.metadata().as_ref().and_then(|words| words.get(name));
            Ok(word("schema").cloned().or_else(|| parse_head(word(scorer::WORD)?.as_bytes())))
        }
        _ => Ok(None),
    }
}
