//! Text to token ids and back, and chat templates.
//!
//! Three sources: a Hugging Face folder ([`Tokenizer::from_hf_folder`]), a SentencePiece model
//! ([`Tokenizer::from_sentencepiece`]) and the metadata of a GGUF file ([`Tokenizer::from_gguf`]). Byte-level BPE is run
//! by the `tokenizers` library; SentencePiece BPE by an own exact merge, because its order of merges (score of the piece,
//! then place) cannot be written as the library's list of merges.

mod chat;
mod clock;
mod error;
mod gguf;
mod guard;
mod hub;
mod library;
mod matcher;
mod namespaces;
mod normalizer;
mod pretokenizer;
mod prompt;
mod protobuf;
mod sentencepiece;
mod settings;
mod stream;
mod truncate;

pub use chat::{ChatTemplate, Message};
pub use error::TokenizerError;
pub(crate) use guard::Stopped;
pub use prompt::PromptTokens;
pub use stream::TextStream;
pub use truncate::middle_truncate;

use std::path::Path;

use tokenizers::DecoderWrapper;

use crate::files::Sha256;
use crate::model::gguf::Gguf;
use crate::model::tokenizer::normalizer::Lead;
use crate::model::tokenizer::sentencepiece::{Kind, SentencePiece};

/// Whether the tokens that begin and end a text are added as the model expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddSpecial {
    /// As the tokenizer's own settings say.
    Yes,
    /// Never; for text that a chat template has already framed, or a continuation.
    No,
}

/// Whether special tokens are left out of decoded text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipSpecial {
    /// Left out.
    Yes,
    /// Shown as they are spelled.
    No,
}

/// A tokenizer with its special tokens and chat template.
#[derive(Debug)]
pub struct Tokenizer {
    name: String,
    engine: Engine,
    bos: Option<u32>,
    eos: Vec<u32>,
    frame: Option<Frame>,
    chat: Option<ChatTemplate>,
    vocab_size: usize,
    sha256: String,
}

#[derive(Debug)]
enum Engine {
    Library(Box<tokenizers::Tokenizer>),
    SentencePiece(Box<SentencePiece>),
}

/// Which tokens are put around a text; absent where the library's own post-processor does it.
#[derive(Clone, Copy, Debug)]
struct Frame {
    bos: bool,
    eos: bool,
}

/// What the loaders hand over.
struct Parts {
    name: String,
    engine: Engine,
    /// Has been fed everything that decides how text becomes ids, but for the frame.
    identity: Sha256,
    bos: Option<u32>,
    eos: Vec<u32>,
    frame: Option<Frame>,
    chat: Option<ChatTemplate>,
}

impl Tokenizer {
    /// Reads the tokenizer of a Hugging Face folder: tokenizer.json, else tokenizer.model; and beside it
    /// tokenizer_config.json, special_tokens_map.json, generation_config.json, config.json and chat_template.jinja.
    ///
    /// Errors: no tokenizer there, an unreadable file, or a kind that is not supported.
    pub fn from_hf_folder(folder: &Path) -> Result<Self, TokenizerError> {
        hub::from_folder(folder)
    }

    /// Reads a SentencePiece BPE model (`tokenizer.model`); `name` stands for it in messages.
    ///
    /// [`AddSpecial::Yes`] puts the model's `<s>` in front, as Llama expects.
    ///
    /// Errors: damaged file, or a model that is not BPE.
    pub fn from_sentencepiece(bytes: &[u8], name: &str) -> Result<Self, TokenizerError> {
        hub::from_sentencepiece(bytes, name)
    }

    /// Builds the tokenizer from the metadata of a GGUF file.
    ///
    /// Errors: metadata that is absent or contradictory, or a kind or pre-tokenizer that is not supported, by name.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, TokenizerError> {
        gguf::from_gguf(gguf)
    }

    fn assemble(parts: Parts) -> Self {
        let Parts { name, engine, mut identity, bos, eos, frame, chat } = parts;
        let around = frame.unwrap_or(Frame { bos: false, eos: false });
        for (added, id) in [(around.bos, bos), (around.eos, eos.first().copied())] {
            let id = id.filter(|_| added).map_or(u64::MAX, u64::from);
            identity.update(&id.to_le_bytes());
        }
        let vocab_size = match &engine {
            Engine::Library(tokenizer) => tokenizer.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1),
            Engine::SentencePiece(model) => model.len(),
        };
        Self { name, engine, bos, eos, frame, chat, vocab_size, sha256: identity.hex() }
    }

    /// Ids of a text. Special tokens that the text spells out, such as `<|im_start|>`, become those tokens.
    ///
    /// Errors: the tokenizer library refuses.
    pub fn encode(&self, text: &str, special: AddSpecial) -> Result<Vec<u32>, TokenizerError> {
        let around = self.frame.filter(|_| special == AddSpecial::Yes);
        let mut ids = Vec::new();
        if around.is_some_and(|frame| frame.bos) {
            ids.extend(self.bos);
        }
        match &self.engine {
            Engine::Library(tokenizer) => {
                let add = special == AddSpecial::Yes && self.frame.is_none();
                ids.extend(self.library("encode a text", || tokenizer.encode_fast(text, add))?.get_ids());
            }
            Engine::SentencePiece(model) => model.encode(text, Lead::Blank, &mut ids),
        }
        if around.is_some_and(|frame| frame.eos) {
            ids.extend(self.eos.first());
        }
        Ok(ids)
    }

    /// Ids of a text that goes on where another one ended, such as what follows a reply in a talk: nothing is put in front
    /// of it that only the beginning of a text gets.
    ///
    /// Errors: the tokenizer library refuses.
    pub fn encode_behind(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        if let Engine::SentencePiece(model) = &self.engine {
            let mut ids = Vec::new();
            model.encode(text, Lead::Inside, &mut ids);
            return Ok(ids);
        }
        // The library cannot be told, so the text gets something to follow, unless the two would share a token.
        for before in ["a", ".", "0", "\n"] {
            let known = self.encode(before, AddSpecial::No)?;
            let whole = self.encode(&format!("{before}{text}"), AddSpecial::No)?;
            if let Some(rest) = whole.strip_prefix(known.as_slice()) {
                return Ok(rest.to_vec());
            }
        }
        self.encode(text, AddSpecial::No)
    }

    /// Text of the ids. Ids outside the vocabulary, which a model with a padded output layer can produce, give nothing.
    ///
    /// Errors: the tokenizer library refuses.
    pub fn decode(&self, ids: &[u32], skip: SkipSpecial) -> Result<String, TokenizerError> {
        match &self.engine {
            Engine::Library(tokenizer) => {
                self.library("decode ids", || tokenizer.decode(ids, skip == SkipSpecial::Yes))
            }
            Engine::SentencePiece(model) => Ok(model.decode(ids, skip)),
        }
    }

    /// Starts decoding token by token.
    pub fn stream(&self, skip: SkipSpecial) -> TextStream<'_> {
        TextStream::new(self, skip)
    }

    fn library<T>(
        &self,
        action: &'static str,
        work: impl FnOnce() -> tokenizers::Result<T>,
    ) -> Result<T, TokenizerError> {
        library::run(&self.name, action, work)
    }

    /// Compares the vocabulary with the rows of a model's embedding. Tokens that were added behind them may stand there, as
    /// in the libraries they come from: a text that has one is refused when it is run.
    ///
    /// Errors: a token of the vocabulary itself has no row.
    pub fn check_rows(&self, rows: usize) -> Result<(), TokenizerError> {
        let last = match &self.engine {
            Engine::Library(tokenizer) => tokenizer.get_vocab(false).into_iter().map(|(token, id)| (id, token)).max(),
            Engine::SentencePiece(model) => model.last_of_vocabulary().map(|(id, piece)| (id, piece.text.clone())),
        };
        match last.filter(|(id, _)| *id as usize >= rows) {
            Some((id, token)) => Err(TokenizerError::NoRow { name: self.name.clone(), token, id, rows }),
            None => Ok(()),
        }
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The tokens that end an answer, the main one first.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// Number of ids, that is, the largest id plus 1, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The id of a token by its spelling in the vocabulary.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        match &self.engine {
            Engine::Library(tokenizer) => tokenizer.token_to_id(token),
            Engine::SentencePiece(model) => model.id_of(token),
        }
    }

    /// One token as readable text with its leading space, for labels; bytes that are no text by themselves as `<0xE2>`.
    /// `None` for an id outside the vocabulary.
    pub fn token_text(&self, id: u32) -> Option<String> {
        match &self.engine {
            Engine::Library(tokenizer) => {
                let token = tokenizer.id_to_token(id)?;
                let byte_level = matches!(tokenizer.get_decoder(), Some(DecoderWrapper::ByteLevel(_)));
                let bytes: Option<Vec<u8>> = if byte_level { token.chars().map(byte_of_char).collect() } else { None };
                Some(match bytes {
                    Some(bytes) => match std::str::from_utf8(&bytes) {
                        Ok(text) => text.to_string(),
                        Err(_) => bytes.iter().map(|byte| format!("<0x{byte:02X}>")).collect(),
                    },
                    None => token.replace(normalizer::SPACE, " "),
                })
            }
            Engine::SentencePiece(model) => {
                let piece = model.piece(id)?;
                Some(match piece.kind {
                    Kind::Normal | Kind::UserDefined | Kind::Unused => piece.text.replace(normalizer::SPACE, " "),
                    Kind::Unknown | Kind::Control | Kind::Byte => piece.text.clone(),
                })
            }
        }
    }

    /// SHA-256 of everything that decides how text becomes ids: vocabulary, merges or scores, special tokens, rules, and
    /// the tokens put around a text. The same for every run; not the same for one model read from two formats.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// The chat template, if the model has one.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.chat.as_ref()
    }

    /// The messages as one prompt in the model's own form; encode it with [`AddSpecial::No`].
    ///
    /// Errors: no template, or one that fails or refuses the messages.
    pub fn apply_chat(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, TokenizerError> {
        match &self.chat {
            Some(template) => template.render(messages, add_generation_prompt),
            None => Err(TokenizerError::NoTemplate(self.name.clone())),
        }
    }
}

/// The byte that a character of a byte-level vocabulary stands for: printable Latin-1 for itself, the rest in order from
/// U+0100. Source: Radford et al. 2019, the GPT-2 encoder.
fn byte_of_char(c: char) -> Option<u8> {
    match u32::from(c) {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => u8::try_from(code).ok(),
        code @ 0x100..=0x120 => u8::try_from(code - 0x100).ok(),
        code @ 0x121..=0x142 => u8::try_from(code - 0x121 + 0x7f).ok(),
        0x143 => Some(0xad),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_characters_cover_all_bytes_once() {
        let mut seen: Vec<u8> = (0..=0x143).filter_map(char::from_u32).filter_map(byte_of_char).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..=255).collect::<Vec<u8>>());
        assert_eq!(byte_of_char('Ġ'), Some(b' '));
        assert_eq!(byte_of_char('Ċ'), Some(b'\n'));
        assert_eq!(byte_of_char('漢'), None);
    }
}
