//! Files, folders and standard input into prompts.

use std::collections::{BTreeMap, HashSet};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::files::{FileError, InputHash, open_regular, read_limited, sha256_bytes, sha256_file};
use crate::prompts::error::Place;
use crate::prompts::record::{RawRecord, Record, explain, field_names};
use crate::prompts::templates::{TEMPLATE_FILES, TemplateUse, Templates, join, render};
use crate::prompts::text::{MAX_LINE_BYTES, decode, decode_line, file_name};
use crate::prompts::{Prompt, PromptError, PromptSet, ReadOptions, Source};

/// Folders that are entered below the given one.
const MAX_DEPTH: usize = 16;

/// One text of a file or of standard input, as `generate` takes it.
///
/// - Errors: no regular file, larger than [`MAX_LINE_BYTES`], not UTF-8
pub fn read_text(source: &Source) -> Result<String, PromptError> {
    match source {
        Source::Stdin(bytes) => Ok(decode(bytes, "standard input")?.into()),
        Source::Path(path) => {
            let bytes = read_limited(path, "text", MAX_LINE_BYTES)?;
            Ok(decode(&bytes, &path.display().to_string())?.into())
        }
    }
}

/// Reads prompts.
///
/// - A `.jsonl` file has one record a line in LongBench's schema: `input`, `context`, `answers`, `length`, `dataset`,
///   `language`, `all_classes`, `_id`. Only one of `context` and `input` must hold text. Empty lines are passed over.
///   RULER's `outputs` are `answers`. A record with neither has its text in `text`, `prompt` or `content`, or in the field that
///   the options name; no template is put around that. Or it is a chat, `messages` with `role` and `content`, that ends with what
///   the user says; what an assistant says behind that is an answer.
/// - A `.json` file has one such record, or a list of them.
/// - A `.txt` file is one prompt, taken as it is. Its dataset is its own name, or its folder's where a folder is read.
/// - A file with another ending, and standard input, is JSON lines if it begins with `{`, a list of records if with `[{`,
///   else one text.
/// - All of them are UTF-8, with or without a byte order mark.
/// - A folder is searched at any depth, in sorted order; links to folders and hidden files are not followed or read.
/// - Errors: the first wrong line stops the reading; the error names file and line.
pub fn read(source: &Source, options: &ReadOptions) -> Result<PromptSet, PromptError> {
    let mut reader = Reader {
        options,
        set: PromptSet::default(),
        counts: BTreeMap::new(),
        ids: HashSet::new(),
        used: HashSet::new(),
    };
    let given = match &options.templates {
        Some(path) => {
            let mut templates = Templates::default();
            templates.add(path)?;
            Some(templates)
        }
        None => None,
    };
    match source {
        Source::Stdin(bytes) => {
            let stdin = Origin { label: "standard input".into(), name: "-".into(), dataset: "stdin".into() };
            let templates = given.unwrap_or_default();
            reader.set.inputs.push(InputHash { name: "-".into(), sha256: sha256_bytes(bytes) });
            match Form::of(bytes) {
                Form::Lines => reader.lines(bytes.as_slice(), &stdin, &templates)?,
                Form::List => reader.list(bytes, &stdin, &templates)?,
                Form::Text => reader.text(bytes, &stdin, "1")?,
            }
        }
        Source::Path(path) => {
            let mut files = Vec::new();
            let metadata = std::fs::metadata(path).map_err(|e| FileError::io("read", path, e))?;
            if metadata.is_dir() {
                walk(path, 0, &mut files, &mut reader.set.skipped)?;
                if files.is_empty() {
                    return Err(PromptError::EmptyFolder { path: path.clone(), skipped: reader.set.skipped.len() });
                }
                for file in &files {
                    reader.file(file, Some(folder_name(file)), given.as_ref())?;
                }
            } else {
                reader.file(path, None, given.as_ref())?;
            }
        }
    }
    Ok(reader.finish())
}

/// Where lines come from.
struct Origin {
    label: String,
    /// [`Prompt::source_name`].
    name: String,
    /// Dataset of records that state none.
    dataset: String,
}

struct Reader<'a> {
    options: &'a ReadOptions,
    set: PromptSet,
    /// Samples kept of each dataset.
    counts: BTreeMap<String, usize>,
    /// Pairs of dataset and id that are taken.
    ids: HashSet<(String, String)>,
    /// Template files that were used.
    used: HashSet<PathBuf>,
}

impl Reader<'_> {
    fn file(&mut self, path: &Path, folder: Option<String>, given: Option<&Templates>) -> Result<(), PromptError> {
        let io = |e| FileError::io("read", path, e);
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let mut file = BufReader::with_capacity(1 << 20, open_regular(path)?);
        let form = match ending(path).as_str() {
            "jsonl" => Form::Lines,
            "json" => Form::List,
            "txt" => Form::Text,
            _ => Form::of(file.fill_buf().map_err(io)?),
        };
        let mut origin = Origin { label: path.display().to_string(), name: file_name(path), dataset: stem.clone() };
        let place = self.set.inputs.len();
        if form == Form::Text {
            origin.dataset = folder.unwrap_or_else(|| stem.clone());
            self.text(&whole(file).map_err(io)?, &origin, &stem)?;
        } else {
            let found;
            let templates = match given {
                Some(templates) => templates,
                None => {
                    found = beside(path)?;
                    &found
                }
            };
            match form {
                Form::List => self.list(&whole(file).map_err(io)?, &origin, templates)?,
                _ => self.lines(file, &origin, templates)?,
            }
        }
        // Hashed when its size is known to be one that is read; it stands before the templates that it used.
        self.set.inputs.insert(place, InputHash { name: origin.name, sha256: sha256_file(path)? });
        Ok(())
    }

    fn text(&mut self, bytes: &[u8], origin: &Origin, id: &str) -> Result<(), PromptError> {
        let text = decode(bytes, &origin.label)?;
        // Blanks are a text too: a model has tokens for them.
        if text.is_empty() {
            return Err(PromptError::Empty(origin.label.clone()));
        }
        self.push(Prompt {
            dataset: origin.dataset.clone(),
            id: id.into(),
            text: text.into(),
            earlier: Vec::new(),
            context_bytes: None,
            answers: Vec::new(),
            all_classes: None,
            language: None,
            length: None,
            source_name: origin.name.clone(),
        });
        Ok(())
    }

    /// One record, or a list of them, in one JSON text.
    fn list(&mut self, bytes: &[u8], origin: &Origin, templates: &Templates) -> Result<(), PromptError> {
        let text = decode(bytes, &origin.label)?;
        if text.trim().is_empty() {
            return Err(PromptError::Empty(origin.label.clone()));
        }
        let records: serde_json::Result<Vec<RawRecord>> = match text.trim_start().starts_with('{') {
            true => serde_json::from_str(text).map(|record| vec![record]),
            false => serde_json::from_str(text),
        };
        let records = match records {
            Ok(records) => records,
            // What begins as an object and goes on behind it may be JSON lines under another ending.
            Err(json) if json.is_syntax() && text.trim_start().starts_with('{') && text.trim().contains('\n') => {
                return self.lines(text.as_bytes(), origin, templates);
            }
            Err(json) => {
                let (at, what) = (Place::Line(json.line()), explain(&json, text));
                return Err(PromptError::Record { source_name: origin.label.clone(), at, what });
            }
        };
        if records.is_empty() {
            return Err(PromptError::Empty(origin.label.clone()));
        }
        for (i, raw) in records.into_iter().enumerate() {
            self.record(raw, Place::Record(i + 1), origin, templates, || field_names(text, i))?;
        }
        Ok(())
    }

    fn lines(&mut self, mut from: impl BufRead, origin: &Origin, templates: &Templates) -> Result<(), PromptError> {
        let source_name = || origin.label.clone();
        let mut buffer = Vec::new();
        let mut records = 0usize;
        for line in 1.. {
            buffer.clear();
            let n = (&mut from)
                .take(MAX_LINE_BYTES + 1)
                .read_until(b'\n', &mut buffer)
                .map_err(|e| FileError::io("read", Path::new(&origin.label), e))?;
            if n == 0 {
                break;
            }
            if n as u64 > MAX_LINE_BYTES {
                return Err(PromptError::TooLong { source_name: source_name(), line, limit: MAX_LINE_BYTES });
            }
            let text = decode_line(&buffer, &origin.label, line)?.trim();
            if text.is_empty() {
                continue;
            }
            let raw = serde_json::from_str(text).map_err(|json| PromptError::Record {
                source_name: source_name(),
                at: Place::Line(line),
                what: explain(&json, text),
            })?;
            records += 1;
            self.record(raw, Place::Line(line), origin, templates, || field_names(text, 0))?;
        }
        if records == 0 {
            return Err(PromptError::Empty(source_name()));
        }
        Ok(())
    }

    fn record(
        &mut self,
        raw: RawRecord,
        at: Place,
        origin: &Origin,
        templates: &Templates,
        fields: impl FnOnce() -> Vec<String>,
    ) -> Result<(), PromptError> {
        let source_name = || origin.label.clone();
        let mut record = Record::new(raw, self.options.field.as_deref()).map_err(|what| PromptError::Record {
            source_name: source_name(),
            at,
            what,
        })?;
        if !record.has_text() {
            return Err(PromptError::NoText { source_name: source_name(), at, fields: fields() });
        }
        let dataset = record.dataset.take().unwrap_or_else(|| origin.dataset.clone());
        let Record { context, input, plain, .. } = &record;
        let found = templates.find(&dataset).filter(|_| plain.is_none());
        let (text, context_bytes) = match (&found, plain) {
            (_, Some(plain)) => (plain.clone(), None),
            (Some(found), None) => render(found.text, context, input),
            (None, None) => join(context, input),
        };
        if plain.is_none() {
            self.set.templates.insert(TemplateUse {
                dataset: dataset.clone(),
                file: found.as_ref().map(|found| found.hash.clone()),
                key: found.as_ref().map(|found| found.key.into()),
            });
        }
        if let Some(found) = found
            && self.used.insert(found.path.to_path_buf())
        {
            self.set.inputs.push(found.hash.clone());
        }
        self.push(Prompt {
            id: record.id.unwrap_or_else(|| format!("{}-{}", origin.dataset, at.number())),
            answers: record.answers,
            all_classes: record.all_classes,
            language: record.language,
            length: record.length,
            source_name: origin.name.clone(),
            dataset,
            text,
            earlier: record.earlier,
            context_bytes,
        });
        Ok(())
    }

    fn push(&mut self, mut prompt: Prompt) {
        let count = self.counts.entry(prompt.dataset.clone()).or_default();
        if self.options.max_samples.is_some_and(|max| *count >= max) {
            return;
        }
        *count += 1;
        let own = prompt.id.clone();
        let mut copy = 1usize;
        while !self.ids.insert((prompt.dataset.clone(), prompt.id.clone())) {
            copy += 1;
            prompt.id = format!("{own}-{copy}");
        }
        self.set.prompts.push(prompt);
    }

    /// A template file that was used was not passed over.
    fn finish(mut self) -> PromptSet {
        let used = self.used;
        self.set.skipped.retain(|path| !std::fs::canonicalize(path).is_ok_and(|path| used.contains(&path)));
        self.set
    }
}

/// Template files in the file's folder, then in the folder above. The names are common ones, so a file with another content
/// is no error.
fn beside(path: &Path) -> Result<Templates, PromptError> {
    let mut templates = Templates::default();
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_path_buf(),
        _ => PathBuf::from("."),
    };
    // `..` rather than parent(), which knows nothing above a relative path.
    for folder in [folder.clone(), folder.join("..")] {
        for name in TEMPLATE_FILES {
            let file = folder.join(name);
            if file.is_file() {
                let file = std::fs::canonicalize(&file).map_err(|e| FileError::io("read", &file, e))?;
                match templates.add(&file) {
                    Err(error @ PromptError::File(FileError::Io { .. })) => return Err(error),
                    Err(error) => tracing::warn!("not used for templates: {error}"),
                    Ok(()) => {}
                }
            }
        }
    }
    Ok(templates)
}

fn walk(folder: &Path, depth: usize, files: &mut Vec<PathBuf>, skipped: &mut Vec<PathBuf>) -> Result<(), PromptError> {
    if depth > MAX_DEPTH {
        return Err(PromptError::TooDeep { path: folder.into(), limit: MAX_DEPTH });
    }
    let io = |e| FileError::io("list", folder, e);
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        entries.push(entry.map_err(io)?);
    }
    entries.sort_by_key(|entry| entry.file_name());
    for entry in entries {
        let path = entry.path();
        let is_folder = entry.file_type().map_err(io)?.is_dir();
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        match ending(&path).as_str() {
            _ if hidden => skipped.push(path),
            _ if is_folder => walk(&path, depth + 1, files, skipped)?,
            "jsonl" | "txt" if path.is_file() => files.push(path),
            _ => skipped.push(path),
        }
    }
    Ok(())
}

fn ending(path: &Path) -> String {
    path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase()).unwrap_or_default()
}

/// Name of the folder that holds the file.
fn folder_name(file: &Path) -> String {
    let folder = file.parent().and_then(|folder| std::fs::canonicalize(folder).ok());
    let name = folder.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| "text".into())
}

/// How a file holds its prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// A record a line.
    Lines,
    /// A record, or a list of records.
    List,
    Text,
}

impl Form {
    /// By the first characters that are no white space.
    fn of(bytes: &[u8]) -> Self {
        let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
        let mut begin = bytes.iter().filter(|byte| !byte.is_ascii_whitespace());
        match (begin.next(), begin.next()) {
            (Some(b'{'), _) => Self::Lines,
            (Some(b'['), Some(b'{')) => Self::List,
            _ => Self::Text,
        }
    }
}

/// All bytes of a text, or one more than it may have.
fn whole(from: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(MAX_LINE_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
