//! What can go wrong with a tokenizer or a chat template.

use crate::files::FileError;
use crate::hint::Hint;
use crate::model::gguf::GgufError;
use crate::model::tokenizer::Stopped;

/// What can go wrong with a tokenizer or a chat template. `name` is the file or folder it came from.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A file of the tokenizer cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The metadata of the GGUF file is not as expected.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The folder holds no tokenizer.
    #[error("{0} holds neither tokenizer.json nor tokenizer.model")]
    NoTokenizer(String),
    /// The file contradicts its format.
    #[error("{name} is not a valid tokenizer: {what}")]
    Malformed {
        /// The file.
        name: String,
        /// What is wrong.
        what: String,
    },
    /// The tokenizer is of a kind that is not read.
    #[error("the tokenizer of {name} {what}, which kvscope does not read")]
    Unsupported {
        /// The file.
        name: String,
        /// What is special about it, as a verb phrase.
        what: String,
    },
    /// The tokenizer library refused.
    #[error("the tokenizer of {name} cannot {action}: {source}")]
    Library {
        /// The file.
        name: String,
        /// What was attempted.
        action: &'static str,
        /// The library's answer.
        source: tokenizers::Error,
    },
    /// The tokenizer library panicked.
    #[error("the tokenizer of {name} cannot {action}: {stopped}")]
    Stopped {
        /// The file.
        name: String,
        /// What was attempted.
        action: &'static str,
        /// What happened.
        stopped: Stopped,
    },
    /// The model has no row for a token.
    #[error("token {token:?} of {name} has the id {id}, but the model has {rows} rows")]
    NoRow {
        /// The tokenizer's file.
        name: String,
        /// The token with the largest id.
        token: String,
        /// Its id.
        id: u32,
        /// Rows of the embedding.
        rows: usize,
    },
    /// The model has no chat template.
    #[error("{0} has no chat template")]
    NoTemplate(String),
    /// A chat that is to be given as it is.
    #[error("the prompt is a chat of {n_messages} messages, which only the model's chat template can join")]
    MessagesWithoutTemplate {
        /// Messages of the chat.
        n_messages: usize,
    },
    /// The chat template does not hold the text that it was given.
    #[error("the chat template changes the text of the prompt, so that the text cannot be continued")]
    TemplateChanges,
    /// The chat template leaves no room for a text.
    #[error("the chat template has {n_tokens} tokens without a text, and a prompt may have {most}")]
    TemplateTooLong {
        /// Tokens of the template.
        n_tokens: usize,
        /// Tokens that a prompt may have.
        most: usize,
    },
    /// The chat template cannot be compiled or run, or refused the messages.
    #[error("the chat template of {name} failed: {source}")]
    Template {
        /// The file or folder.
        name: String,
        /// The template engine's answer, with the line.
        source: minijinja::Error,
    },
    /// The chat template was given up.
    #[error("the chat template of {name} was given up: {stopped}")]
    TemplateStopped {
        /// The file or folder.
        name: String,
        /// Why.
        stopped: Stopped,
    },
    /// The chat template cannot be used.
    #[error("the chat template of {name} {what}")]
    TemplateRefused {
        /// The file or folder.
        name: String,
        /// Why, as a verb phrase.
        what: String,
    },
    /// There are several chat templates, and none of them is the default.
    #[error("{name} has several chat templates and no default: {}", choices.join(", "))]
    SeveralTemplates {
        /// The file or folder.
        name: String,
        /// Their names.
        choices: Vec<String>,
    },
}

impl Hint for TokenizerError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::File(source) => source.hint(),
            Self::Gguf(source) => source.hint(),
            Self::NoTokenizer(_) => Some("copy the model's tokenizer.json into the folder".into()),
            Self::Unsupported { .. } => {
                Some("use the Hugging Face folder of the same model with its tokenizer.json".into())
            }
            Self::NoTemplate(_) => {
                Some("this is a base model: give a plain prompt, or use its instruct version".into())
            }
            Self::TemplateChanges => Some("use --raw".into()),
            Self::MessagesWithoutTemplate { .. } => Some("leave out --raw, or use a model that has a chat template".into()),
            Self::TemplateTooLong { .. } => Some("allow more tokens, or use --raw".into()),
            Self::Template { .. } | Self::TemplateStopped { .. } | Self::TemplateRefused { .. } => {
                Some("use --raw, and give the prompt in the model's own chat form".into())
            }
            Self::SeveralTemplates { .. } => Some(
                "put the one you want into the model's folder as chat_template.jinja; or use --raw, and give the prompt in \
                 the model's own chat form"
                    .into(),
            ),
            Self::Malformed { .. } | Self::Stopped { .. } => Some("download the tokenizer again".into()),
            Self::NoRow { .. } => Some("tokenizer and weights are of different models: download both again".into()),
            Self::Library { .. } => {
                Some("download the tokenizer again, or save it again with a current version of transformers".into())
            }
        }
    }
}
