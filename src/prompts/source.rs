//! Files, folders and standard input into prompts.

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;

use crate::files::FileError;
use crate::files::InputHash;
use crate::files::sha256_bytes;
use crate::files::sha256_file;
use crate::prompts::Prompt;
use crate::prompts::PromptError;
use crate::prompts::PromptSet;
use crate::prompts::ReadOptions;
use crate::prompts::Source;
use crate::prompts::record::Record;
use crate::prompts::record::field_names;
use crate::prompts::templates::TEMPLATE_FILES;
use crate::prompts::templates::TemplateUse;
use crate::prompts::templates::Templates;
use crate::prompts::templates::join;
use crate::prompts::templates::render;

/// Longest line of a JSON lines file, and longest text file, in bytes.
pub const MAX_LINE_BYTES: u64 = 64 << 20;

/// Folders that are entered below the given one.
const MAX_DEPTH: usize = 16;

/// Reads prompts.
///
/// - A `.jsonl` file has one record a line in LongBench's schema: `input`, `context`, `answers`, `length`, `dataset`,
///   `language`, `all_classes`, `_id`. Only one of `context` and `input` must hold text. Empty lines are passed over.
/// - A `.txt` file is one prompt, taken as it is. Its dataset is its own name, or its folder's where a folder is read.
/// - A file with another ending, and standard input, is JSON lines if it begins with `{`, else one text.
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
            match starts_with_brace(bytes) {
                true => reader.lines(bytes.as_slice(), &stdin, &templates)?,
                false => reader.text(bytes, &stdin, "1")?,
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
    /// For messages.
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
        let mut file = BufReader::with_capacity(1 << 20, std::fs::File::open(path).map_err(io)?);
        let is_lines = match ending(path).as_str() {
            "jsonl" => true,
            "txt" => false,
            _ => starts_with_brace(file.fill_buf().map_err(io)?),
        };
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let mut origin = Origin { label: path.display().to_string(), name: name.clone(), dataset: stem.clone() };
        self.set.inputs.push(InputHash { name, sha256: sha256_file(path)? });
        if is_lines {
            return match given {
                Some(templates) => self.lines(file, &origin, templates),
                None => self.lines(file, &origin, &beside(path)?),
            };
        }
        let mut bytes = Vec::new();
        file.take(MAX_LINE_BYTES + 1).read_to_end(&mut bytes).map_err(io)?;
        origin.dataset = folder.unwrap_or_else(|| stem.clone());
        self.text(&bytes, &origin, &stem)
    }

    fn text(&mut self, bytes: &[u8], origin: &Origin, id: &str) -> Result<(), PromptError> {
        if bytes.len() as u64 > MAX_LINE_BYTES {
            let source_name = origin.label.clone();
            return Err(PromptError::TooLong { source_name, line: 1, limit: MAX_LINE_BYTES });
        }
        let text = std::str::from_utf8(bytes).map_err(|e| {
            let good = &bytes[..e.valid_up_to()];
            let start = good.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
            let line = good.iter().filter(|b| **b == b'\n').count() + 1;
            PromptError::NotUtf8 { source_name: origin.label.clone(), line, byte: good.len() - start + 1 }
        })?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        if text.trim().is_empty() {
            return Err(PromptError::Empty { source_name: origin.label.clone() });
        }
        self.push(Prompt {
            dataset: origin.dataset.clone(),
            id: id.into(),
            text: text.into(),
            answers: Vec::new(),
            all_classes: None,
            language: None,
            length: None,
            source_name: origin.name.clone(),
        });
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
            let text = std::str::from_utf8(&buffer).map_err(|e| PromptError::NotUtf8 {
                source_name: source_name(),
                line,
                byte: e.valid_up_to() + 1,
            })?;
            let text = text.strip_prefix('\u{feff}').filter(|_| line == 1).unwrap_or(text).trim();
            if text.is_empty() {
                continue;
            }
            let record =
                Record::parse(text).map_err(|json| PromptError::Record { source_name: source_name(), line, json })?;
            if !record.has_text() {
                let fields = field_names(text);
                return Err(PromptError::NoText { source_name: source_name(), line, fields });
            }
            records += 1;
            self.record(record, line, origin, templates)?;
        }
        if records == 0 {
            return Err(PromptError::Empty { source_name: source_name() });
        }
        Ok(())
    }

    fn record(
        &mut self,
        mut record: Record,
        line: usize,
        origin: &Origin,
        templates: &Templates,
    ) -> Result<(), PromptError> {
        let dataset = record.dataset.take().filter(|name| !name.trim().is_empty());
        let dataset = dataset.unwrap_or_else(|| origin.dataset.clone());
        let context = record.context.take().unwrap_or_default();
        let input = record.input.take().unwrap_or_default();
        let found = templates.find(&dataset);
        let text = match &found {
            Some(found) => render(found.text, &context, &input),
            None => join(&context, &input),
        };
        let used = TemplateUse {
            dataset: dataset.clone(),
            file: found.as_ref().map(|found| found.hash.clone()),
            key: found.as_ref().map(|found| found.key.into()),
        };
        self.set.templates.insert(used);
        if let Some(found) = found
            && self.used.insert(found.path.to_path_buf())
        {
            self.set.inputs.push(found.hash.clone());
        }
        self.push(Prompt {
            id: record.take_id().unwrap_or_else(|| format!("{}-{line}", origin.dataset)),
            answers: record.take_answers(),
            all_classes: record.all_classes.take(),
            language: record.language.take(),
            length: record.length,
            source_name: origin.name.clone(),
            dataset,
            text,
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
                    Err(PromptError::File(error)) => return Err(error.into()),
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

fn starts_with_brace(bytes: &[u8]) -> bool {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{')
}
