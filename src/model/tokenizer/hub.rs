//! Tokenizers from Hugging Face folders and from SentencePiece models.

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::path::Path;

use serde_json::Value;

use crate::files::FileError;
use crate::files::Sha256;
use crate::model::tokenizer::ChatTemplate;
use crate::model::tokenizer::Engine;
use crate::model::tokenizer::Frame;
use crate::model::tokenizer::Parts;
use crate::model::tokenizer::Tokenizer;
use crate::model::tokenizer::TokenizerError;
use crate::model::tokenizer::normalizer::CharsMap;
use crate::model::tokenizer::normalizer::Normalizer;
use crate::model::tokenizer::protobuf;
use crate::model::tokenizer::sentencepiece::Kind;
use crate::model::tokenizer::sentencepiece::Piece;
use crate::model::tokenizer::sentencepiece::Prefix;
use crate::model::tokenizer::sentencepiece::SentencePiece;

/// Largest vocabulary file that is read, in bytes; the largest known ones have 40 MB.
const MAX_VOCABULARY_BYTES: u64 = 256 << 20;
/// Largest settings file that is read, in bytes.
const MAX_SETTINGS_BYTES: u64 = 16 << 20;
/// Tokens that a folder may add behind the vocabulary of its tokenizer.model.
const MAX_ADDED: usize = 1 << 16;

/// The files beside the vocabulary.
struct Settings {
    config: Option<Value>,
    specials: Option<Value>,
    generation: Option<Value>,
    model: Option<Value>,
    added: Option<Value>,
    template: Option<String>,
}

pub(super) fn from_folder(folder: &Path) -> Result<Tokenizer, TokenizerError> {
    let json = |file: &str| read_json(&folder.join(file), MAX_SETTINGS_BYTES);
    let template = match read(&folder.join("chat_template.jinja"), "chat template", MAX_SETTINGS_BYTES)? {
        Some(bytes) => Some(String::from_utf8(bytes).map_err(|_| TokenizerError::Malformed {
            name: folder.join("chat_template.jinja").display().to_string(),
            what: "it is not UTF-8".into(),
        })?),
        None => None,
    };
    let settings = Settings {
        config: json("tokenizer_config.json")?,
        specials: json("special_tokens_map.json")?,
        generation: json("generation_config.json")?,
        model: json("config.json")?,
        added: json("added_tokens.json")?,
        template,
    };
    let path = folder.join("tokenizer.json");
    if let Some(bytes) = read(&path, "tokenizer.json", MAX_VOCABULARY_BYTES)? {
        return from_json(&path, &bytes, &settings);
    }
    let path = folder.join("tokenizer.model");
    match read(&path, "tokenizer.model", MAX_VOCABULARY_BYTES)? {
        Some(bytes) => from_model(&bytes, &path.display().to_string(), Some(&settings)),
        None => Err(TokenizerError::NoTokenizer { name: folder.display().to_string() }),
    }
}

pub(super) fn from_sentencepiece(bytes: &[u8], name: &str) -> Result<Tokenizer, TokenizerError> {
    from_model(bytes, name, None)
}

fn from_json(path: &Path, bytes: &[u8], settings: &Settings) -> Result<Tokenizer, TokenizerError> {
    let name = path.display().to_string();
    let mut content: Value =
        serde_json::from_slice(bytes).map_err(|source| json_error(path, "tokenizer.json", source))?;
    check_merges(&name, &content)?;
    let library = |action| move |source| TokenizerError::Library { name: path.display().to_string(), action, source };
    let mut tokenizer = tokenizers::Tokenizer::from_bytes(bytes).map_err(library("be read"))?;
    // Saved settings of somebody's training run, not rules of the tokenizer.
    tokenizer.with_truncation(None).map_err(library("be read"))?;
    tokenizer.with_padding(None);
    if let Some(fields) = content.as_object_mut() {
        fields.remove("truncation");
        fields.remove("padding");
    }
    let mut identity = Sha256::default();
    identity.update(b"tokenizer.json\0");
    identity.update(content.to_string().as_bytes());
    let id_of = |token: &str| tokenizer.token_to_id(token);
    let (bos, eos, chat) = (settings.bos(id_of), settings.eos(id_of), settings.chat(&name));
    let engine = Engine::Library(Box::new(tokenizer));
    Ok(Tokenizer::assemble(Parts { name, engine, identity, bos, eos, frame: None, chat }))
}

/// Checks that every merge gives a token; the library takes that for granted.
fn check_merges(name: &str, content: &Value) -> Result<(), TokenizerError> {
    let malformed = |what: String| TokenizerError::Malformed { name: name.to_string(), what };
    let model = &content["model"];
    let (Some(vocab), Some(merges)) = (model["vocab"].as_object(), model["merges"].as_array()) else { return Ok(()) };
    let known: HashSet<&str> = vocab.keys().map(String::as_str).collect();
    let prefix = model["continuing_subword_prefix"].as_str().unwrap_or_default();
    for (i, merge) in merges.iter().enumerate() {
        let pair = match merge {
            Value::String(text) => text.split_once(' '),
            Value::Array(pair) => match pair.as_slice() {
                [Value::String(a), Value::String(b)] => Some((a.as_str(), b.as_str())),
                _ => None,
            },
            _ => None,
        };
        let (a, b) = pair.ok_or_else(|| malformed(format!("merge {i} is not two parts")))?;
        let whole = b.get(prefix.len()..).map(|tail| [a, tail].concat());
        if !whole.as_ref().is_some_and(|whole| known.contains(whole.as_str())) {
            return Err(malformed(format!("merge {i} of {a:?} and {b:?} does not give a token")));
        }
    }
    Ok(())
}

fn from_model(bytes: &[u8], name: &str, settings: Option<&Settings>) -> Result<Tokenizer, TokenizerError> {
    let mut file = protobuf::read_model(name, bytes)?;
    let normalizer = Normalizer {
        charsmap: CharsMap::parse(name, &file.charsmap)?,
        add_dummy_prefix: file.add_dummy_prefix,
        remove_extra_whitespaces: file.remove_extra_whitespaces,
        escape_whitespaces: file.escape_whitespaces,
    };
    if let Some(settings) = settings {
        settings.add_tokens(name, &mut file.pieces)?;
    }
    let flag = |key: &str| settings.and_then(|settings| settings.config.as_ref()?[key].as_bool());
    let prefix = if settings.is_some() && flag("legacy").unwrap_or(true) { Prefix::Each } else { Prefix::First };
    let model = SentencePiece::new(name, file.pieces, normalizer, prefix, file.unk_surface)?;
    let id_of = |token: &str| model.id_of(token);
    let mut bos = settings.and_then(|settings| settings.bos(id_of));
    let mut eos = settings.map(|settings| settings.eos(id_of)).unwrap_or_default();
    if bos.is_none() {
        bos = control(&model, &file.bos_piece);
    }
    if eos.is_empty() {
        eos.extend(control(&model, &file.eos_piece));
    }
    let frame = Frame { bos: flag("add_bos_token").unwrap_or(true), eos: flag("add_eos_token").unwrap_or(false) };
    let chat = settings.and_then(|settings| settings.chat(name));
    let mut identity = Sha256::default();
    model.hash_into(&mut identity);
    let engine = Engine::SentencePiece(Box::new(model));
    Ok(Tokenizer::assemble(Parts { name: name.to_string(), engine, identity, bos, eos, frame: Some(frame), chat }))
}

/// The id of a piece that is a control piece.
fn control(model: &SentencePiece, text: &str) -> Option<u32> {
    model.id_of(text).filter(|id| model.piece(*id).is_some_and(|piece| piece.kind == Kind::Control))
}

impl Settings {
    /// The text of a special token, written as a text or as an object with a `content`.
    fn special(&self, key: &str) -> Option<String> {
        let sources = [&self.config, &self.specials].into_iter().flatten();
        sources
            .map(|source| &source[key])
            .find_map(|token| token.as_str().or_else(|| token["content"].as_str()).map(str::to_string))
    }

    fn bos(&self, id_of: impl Fn(&str) -> Option<u32>) -> Option<u32> {
        if self.config.is_some() || self.specials.is_some() {
            // A tokenizer that names no such token has none, whatever number the model's settings carry.
            return id_of(&self.special("bos_token")?);
        }
        self.numbers("bos_token_id").first().copied()
    }

    fn eos(&self, id_of: impl Fn(&str) -> Option<u32>) -> Vec<u32> {
        let mut ids: Vec<u32> = self.special("eos_token").and_then(|token| id_of(&token)).into_iter().collect();
        for id in self.numbers("eos_token_id") {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        ids
    }

    /// One id or a list of ids from the generation settings, else from the model's.
    fn numbers(&self, key: &str) -> Vec<u32> {
        let number = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        for source in [&self.generation, &self.model].into_iter().flatten() {
            match &source[key] {
                Value::Array(list) => return list.iter().filter_map(number).collect(),
                Value::Null => {}
                one => return number(one).into_iter().collect(),
            }
        }
        Vec::new()
    }

    fn chat(&self, name: &str) -> Option<ChatTemplate> {
        let source = match (&self.template, self.config.as_ref().map(|config| &config["chat_template"])) {
            (Some(source), _) => source.as_str(),
            (None, Some(Value::String(source))) => source,
            (None, Some(Value::Array(list))) => {
                let default = list.iter().find(|entry| entry["name"].as_str() == Some("default"));
                default.or(list.first())?["template"].as_str()?
            }
            _ => return None,
        };
        let named = ["bos_token", "eos_token", "unk_token", "pad_token"].map(|key| (key, self.special(key)));
        Some(ChatTemplate::new(name, source, named))
    }

    /// Appends the tokens that the folder adds behind the vocabulary.
    fn add_tokens(&self, name: &str, pieces: &mut Vec<Piece>) -> Result<(), TokenizerError> {
        let malformed = |what: String| TokenizerError::Malformed { name: name.to_string(), what };
        let mut added = BTreeMap::new();
        if let Some(Value::Object(tokens)) = &self.added {
            for (text, id) in tokens {
                let id = id.as_u64().ok_or_else(|| malformed(format!("added token {text:?} has no number")))?;
                added.insert(id, (text.clone(), true));
            }
        }
        if let Some(Value::Object(tokens)) = self.config.as_ref().map(|config| &config["added_tokens_decoder"]) {
            for (id, token) in tokens {
                let number: u64 = id.parse().map_err(|_| malformed(format!("{id:?} is not the number of a token")))?;
                let text = token["content"].as_str().unwrap_or_default().to_string();
                added.insert(number, (text, token["special"].as_bool().unwrap_or(false)));
            }
        }
        let most = pieces.len() + MAX_ADDED;
        let n = pieces.len() as u64;
        for (id, (text, special)) in added.into_iter().filter(|(id, _)| *id >= n) {
            let id = usize::try_from(id).ok().filter(|id| *id < most);
            let id = id.ok_or_else(|| malformed(format!("added token {text:?} lies far behind the vocabulary")))?;
            pieces.resize(id, Piece { text: String::new(), score: 0.0, kind: Kind::Unused });
            let kind = if special { Kind::Control } else { Kind::UserDefined };
            pieces.push(Piece { text, score: 0.0, kind });
        }
        Ok(())
    }
}

/// The bytes of a file, `None` when there is none.
fn read(path: &Path, expected: &'static str, limit: u64) -> Result<Option<Vec<u8>>, FileError> {
    let bytes = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(FileError::io("read", path, error)),
    };
    if bytes > limit {
        return Err(FileError::TooLarge { path: path.to_path_buf(), expected, bytes, limit });
    }
    std::fs::read(path).map(Some).map_err(|error| FileError::io("read", path, error))
}

fn read_json(path: &Path, limit: u64) -> Result<Option<Value>, FileError> {
    match read(path, "JSON", limit)? {
        Some(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|source| json(path, "JSON", source)),
        None => Ok(None),
    }
}

fn json(path: &Path, expected: &'static str, source: serde_json::Error) -> FileError {
    FileError::Json { path: path.to_path_buf(), expected, source }
}

fn json_error(path: &Path, expected: &'static str, source: serde_json::Error) -> TokenizerError {
    json(path, expected, source).into()
}
