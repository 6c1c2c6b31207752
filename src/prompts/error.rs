//! What can go wrong while prompts are read.

use std::fmt;
use std::fmt::{Display, Formatter};
use std::path::PathBuf;

use crate::files::FileError;
use crate::hint::Hint;

/// Errors of [`crate::prompts`]. `source_name` is a path, or `standard input`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PromptError {
    /// The operating system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// The folder holds no prompts.
    #[error("{} holds no .jsonl or .txt file ({skipped} other files)", path.display())]
    EmptyFolder {
        /// The folder.
        path: PathBuf,
        /// Number of files that are neither.
        skipped: usize,
    },
    /// The folder is nested deeper than is searched.
    #[error("{} is nested more than {limit} folders deep", path.display())]
    TooDeep {
        /// The folder that was not entered.
        path: PathBuf,
        /// Folders that are entered below the given one.
        limit: usize,
    },
    /// There is no text at all.
    #[error("{0} is empty")]
    Empty(String),
    /// A line or a text file is larger than is read.
    #[error("{source_name}, line {line}: longer than {limit} bytes")]
    TooLong {
        /// Where.
        source_name: String,
        /// Line, from 1.
        line: usize,
        /// Largest size, in bytes.
        limit: u64,
    },
    /// Bytes that are not UTF-8.
    #[error("{source_name}, line {line}: not UTF-8 at byte {byte} of the line")]
    NotUtf8 {
        /// Where.
        source_name: String,
        /// Line, from 1.
        line: usize,
        /// First wrong byte of the line, from 1.
        byte: usize,
    },
    /// UTF-16, as some programs on Windows write.
    #[error("{0} is UTF-16, and only UTF-8 is read")]
    Utf16(String),
    /// A line that is no record.
    #[error("{source_name}, {at}: {what}")]
    Record {
        /// Where.
        source_name: String,
        /// Which.
        at: Place,
        /// What is wrong; a line number in it counts within the line.
        what: String,
    },
    /// A record without anything to read.
    #[error("{source_name}, {at}: neither `context` nor `input`, nor `text`, `prompt`, `content` or `messages`, holds any text (fields: {})", fields.join(", "))]
    NoText {
        /// Where.
        source_name: String,
        /// Which.
        at: Place,
        /// Names of the fields that the record has.
        fields: Vec<String>,
    },
    /// A template file that is none.
    #[error("{} is not a table from dataset name to template: {what}", path.display())]
    TemplateFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A template without a place for the text.
    #[error("{}: the template of {dataset:?} has neither {{context}} nor {{input}}", path.display())]
    Template {
        /// The file.
        path: PathBuf,
        /// Dataset whose template it is.
        dataset: String,
    },
}

/// Where in a file a record stands, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Its line.
    Line(usize),
    /// Its place in a list.
    Record(usize),
}

impl Place {
    /// The number alone.
    pub(crate) fn number(self) -> usize {
        match self {
            Self::Line(n) | Self::Record(n) => n,
        }
    }
}

impl Display for Place {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(n) => write!(f, "line {n}"),
            Self::Record(n) => write!(f, "record {n}"),
        }
    }
}

impl Hint for PromptError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::File(FileError::NotRegular { .. }) => Some("give a file, or - to read standard input".into()),
            Self::File(error) => error.hint(),
            Self::EmptyFolder { .. } => Some("give a folder with .jsonl (LongBench's schema) or .txt files".into()),
            Self::TooDeep { .. } => Some("give one of the inner folders".into()),
            Self::Empty(_) => Some("give at least one prompt".into()),
            Self::TooLong { .. } => {
                Some("split it; a model cannot read a text of that size in one piece anyway".into())
            }
            Self::NotUtf8 { .. } => Some("convert it, for example with: iconv -f latin1 -t utf-8".into()),
            Self::Utf16(_) => Some("convert it, for example with: iconv -f utf-16 -t utf-8".into()),
            Self::Record { .. } => Some(
                "a .jsonl file has one JSON object on each line and nothing else, a .json file one object or a list of them"
                    .into(),
            ),
            Self::NoText { .. } => {
                Some("put the long text into `context` and the question into `input`, or name the field that has it with --field".into())
            }
            Self::TemplateFile { .. } | Self::Template { .. } => {
                Some("a template file looks like {\"hotpotqa\": \"{context}\\n\\nQuestion: {input}\\nAnswer:\"}".into())
            }
        }
    }
}
