//! Texts that a model is run over: JSON lines in LongBench's schema, plain text, whole folders, standard input.
//!
//! A record becomes one text by its task's template. No task's templates are built in: they are read from a file that is
//! given, or from `dataset2prompt.json` and `prompts.json` near the data, as LongBench ships them.

mod demo;
mod error;
mod record;
mod source;
mod templates;
#[cfg(test)]
mod tests;
mod text;

pub use demo::demo;
pub use error::{Place, PromptError};
pub use source::{read, read_text};
pub use templates::TemplateUse;
pub use text::MAX_LINE_BYTES;

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::files::InputHash;

/// Where prompts come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file, or a folder that is searched for `.jsonl` and `.txt` files at any depth.
    Path(PathBuf),
    /// What standard input held: records if it begins as such (see [`read`]), else one text.
    Stdin(Vec<u8>),
}

/// How prompts are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// Keep the first so many samples of every dataset; the rest is still checked. `None` keeps all.
    pub max_samples: Option<usize>,
    /// JSON object from dataset name to template, with `{context}` and `{input}` as places. Found templates are then not used.
    pub templates: Option<PathBuf>,
    /// Field of a record that has its whole text; `None` for LongBench's fields.
    pub field: Option<String>,
}

/// One text for the model, and what is needed to score its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Task name: the record's `dataset`, else the file's name without its ending.
    pub dataset: String,
    /// The record's `_id`, else made from file and line. Unique within the dataset: a repeated id gets `-2`, `-3`, ...
    pub id: String,
    /// The whole prompt, with the template applied; of a chat, its last message.
    pub text: String,
    /// Of a chat, who speaks and what is said in each message before the text.
    pub earlier: Vec<(String, String)>,
    /// Bytes of the text up to the end of its context, where a question stands behind that and nowhere before.
    pub context_bytes: Option<usize>,
    /// Reference answers; empty if there are none.
    pub answers: Vec<String>,
    /// Class labels of a classification task.
    pub all_classes: Option<Vec<String>>,
    /// Language of the text, such as `en`, `zh`, `python`.
    pub language: Option<String>,
    /// Length that the record states: words, or characters for Chinese.
    pub length: Option<u64>,
    /// Name of the file it came from, without folders.
    pub source_name: String,
}

/// Everything that [`read`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PromptSet {
    /// Prompts, in the order of the sorted files and of their lines.
    pub prompts: Vec<Prompt>,
    /// Files that were read, template files included, in the order of first use.
    pub inputs: Vec<InputHash>,
    /// Files of the folder that are neither `.jsonl` nor `.txt`, nor a template file that was used.
    pub skipped: Vec<PathBuf>,
    /// Which template each dataset got, sorted by dataset.
    pub templates: BTreeSet<TemplateUse>,
}
