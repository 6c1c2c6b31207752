//! What the files beside a vocabulary say of tokens: which ones are added, which are special, which begin and end a text,
//! and the chat templates.
//!
//! One rule for both kinds of vocabulary, that of the `transformers` library (version 5): `added_tokens_decoder` of
//! tokenizer_config.json decides where there is one; else special_tokens_map.json, added_tokens.json and the vocabulary's own
//! list do, in this order. Tokens with a name (`eos_token`, `image_token`) or in the list of extra special tokens are special.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::files::{FileError, read_limited};
use crate::model::tokenizer::TokenizerError;
use crate::model::tokenizer::chat::Templates;

/// Largest settings file that is read, in bytes.
const MAX_SETTINGS_BYTES: u64 = 16 << 20;
/// Names that every tokenizer may give a token, in the order in which tokens are added.
const NAMES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
/// Folder of further chat templates, one file each.
const TEMPLATES: &str = "additional_chat_templates";

/// A token that is looked for in the text itself, before anything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Added {
    pub(super) content: String,
    pub(super) single_word: bool,
    pub(super) lstrip: bool,
    pub(super) rstrip: bool,
    /// Whether it is looked for in normalised text; absent: unless it is special.
    pub(super) normalized: Option<bool>,
    pub(super) special: bool,
    /// The id that a file states.
    pub(super) id: Option<u64>,
}

impl Added {
    /// A special token by its text alone.
    fn special(content: &str) -> Self {
        let content = content.to_string();
        Self { content, single_word: false, lstrip: false, rstrip: false, normalized: None, special: true, id: None }
    }

    /// The token that an object with a `content` describes; `None` for anything else.
    pub(super) fn parse(value: &Value) -> Option<Self> {
        let flag = |key: &str| value[key].as_bool();
        Some(Self {
            content: value["content"].as_str()?.to_string(),
            single_word: flag("single_word").unwrap_or(false),
            lstrip: flag("lstrip").unwrap_or(false),
            rstrip: flag("rstrip").unwrap_or(false),
            normalized: flag("normalized"),
            special: flag("special").unwrap_or(false),
            id: None,
        })
    }

    pub(super) fn is_normalized(&self) -> bool {
        self.normalized.unwrap_or(!self.special)
    }
}

/// A token that has a name: its text, or all about it.
#[derive(Clone, Debug)]
enum Named {
    Text(String),
    Token(Added),
}

impl Named {
    fn parse(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) => Some(Self::Text(text.clone())),
            value => Added::parse(value).map(Self::Token),
        }
    }

    fn content(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Token(token) => &token.content,
        }
    }

    /// As a token that is added: a text alone is special, and so is what `names` holds.
    fn into_added(self, names: &BTreeSet<String>) -> Added {
        match self {
            Self::Text(text) => Added::special(&text),
            Self::Token(token) => Added { special: token.special || names.contains(&token.content), ..token },
        }
    }
}

/// Tokens that the files give names, or list as special.
#[derive(Debug, Default)]
struct Names {
    /// In the order in which they are added.
    named: Vec<(String, Named)>,
    extra: Vec<Named>,
    /// The older name of the list before; heeded where no file has that one.
    additional: Vec<Named>,
}

impl Names {
    /// Gives a token a name, in place of the one that has it.
    fn put(&mut self, name: &str, token: Named) {
        self.named.retain(|(other, _)| other != name);
        self.named.push((name.to_string(), token));
        self.named.sort_by_key(|(name, _)| NAMES.iter().position(|known| known == name).unwrap_or(NAMES.len()));
    }
}

/// What a tokenizer.json, or a class of tokenizers, says before the files beside it do.
#[derive(Debug, Default)]
pub(super) struct Own {
    /// The list `added_tokens`, with ids.
    pub(super) added: Vec<Added>,
    /// Text of the token that fills short texts up.
    pub(super) pad: Option<String>,
    /// Whether text is cut into bytes.
    pub(super) is_byte_level: bool,
}

/// The tokens that a folder adds and names.
#[derive(Debug)]
pub(super) struct Tokens {
    /// To be added in this order.
    pub(super) added: Vec<Added>,
    /// Texts by name, such as `eos_token`.
    pub(super) named: BTreeMap<String, String>,
}

/// The files beside the vocabulary.
#[derive(Debug)]
pub(super) struct Settings {
    folder: PathBuf,
    config: Map<String, Value>,
    specials: Map<String, Value>,
    generation: Map<String, Value>,
    model: Map<String, Value>,
    added: Map<String, Value>,
    /// Chat templates that are files, by name.
    templates: BTreeMap<String, String>,
    /// Whether a file says which tokens have names.
    has_names: bool,
}

impl Settings {
    /// Reads the files of a folder that are there.
    pub(super) fn read(folder: &Path) -> Result<Self, TokenizerError> {
        let object = |file: &str| object(folder, file);
        let (config, specials) = (object("tokenizer_config.json")?, object("special_tokens_map.json")?);
        if config.as_ref().is_some_and(|config| config.get("split_special_tokens") == Some(&Value::Bool(true))) {
            let name = folder.join("tokenizer_config.json").display().to_string();
            let what = "has split_special_tokens, under which special tokens in a text are cut to pieces".into();
            return Err(TokenizerError::Unsupported { name, what });
        }
        let mut templates = BTreeMap::new();
        if let Some(text) = text(&folder.join("chat_template.jinja"))? {
            templates.insert("default".to_string(), text);
        }
        for path in jinja_files(&folder.join(TEMPLATES))? {
            let name = path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            templates.extend(text(&path)?.map(|text| (name, text)));
        }
        Ok(Self {
            has_names: config.is_some() || specials.is_some(),
            folder: folder.to_path_buf(),
            config: config.unwrap_or_default(),
            specials: specials.unwrap_or_default(),
            generation: object("generation_config.json")?.unwrap_or_default(),
            model: object("config.json")?.unwrap_or_default(),
            added: object("added_tokens.json")?.unwrap_or_default(),
            templates,
        })
    }

    fn malformed(&self, file: &str, what: String) -> TokenizerError {
        TokenizerError::Malformed { name: self.folder.join(file).display().to_string(), what }
    }

    /// A flag of tokenizer_config.json.
    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        self.config.get(key)?.as_bool()
    }

    /// Decides which tokens are added and named.
    ///
    /// Errors: an entry that is no token, or has no number for an id.
    pub(super) fn tokens(&self, own: &Own) -> Result<Tokens, TokenizerError> {
        let mut names = Names::default();
        self.collect(&self.config, "tokenizer_config.json", &mut names)?;
        // The older list counts at once where the newer one is empty, else at the end where it is no list at all.
        let is_empty =
            |list: &Value| list.as_array().is_some_and(Vec::is_empty) || list.as_object().is_some_and(Map::is_empty);
        let is_early = self.config.get("extra_special_tokens").is_none_or(|list| list.is_null() || is_empty(list));
        if is_early {
            names.extra.append(&mut names.additional);
        }
        let mut stated = BTreeMap::new();
        if let Some(decoder) = self.config.get("added_tokens_decoder") {
            let wrong = |what: String| self.malformed("tokenizer_config.json", what);
            let decoder = decoder.as_object().ok_or_else(|| wrong("added_tokens_decoder is no table".into()))?;
            for (id, value) in decoder {
                let number: u64 = id.parse().map_err(|_| wrong(format!("{id:?} is not the number of a token")))?;
                let token = Added::parse(value).ok_or_else(|| wrong(format!("added token {id} has no content")))?;
                stated.insert(number, Added { id: Some(number), ..token });
            }
        } else {
            if self.specials.contains_key("additional_special_tokens") {
                names.additional.clear();
            }
            self.collect(&self.specials, "special_tokens_map.json", &mut names)?;
            // An object of tokenizer_config.json makes no token of added_tokens.json special, a text does.
            let counts = |name: &str, token: &Named| {
                NAMES.contains(&name) && (matches!(token, Named::Text(_)) || self.specials.contains_key(name))
            };
            let named = names.named.iter().filter(|(name, token)| counts(name, token)).map(|(_, token)| token);
            let extra = names.extra.iter().filter(|token| matches!(token, Named::Text(_)));
            let special: BTreeSet<String> = named.chain(extra).map(|token| token.content().to_string()).collect();
            for (text, id) in &self.added {
                let what = || self.malformed("added_tokens.json", format!("added token {text:?} has no number"));
                let id = id.as_u64().ok_or_else(what)?;
                let special = special.contains(text);
                let token = Added { special, normalized: Some(!special), id: Some(id), ..Added::special(text) };
                stated.insert(id, token);
            }
            stated.extend(own.added.iter().filter_map(|token| Some((token.id?, token.clone()))));
        }
        for (_, token) in names.named.iter_mut().filter(|(name, _)| NAMES.contains(&name.as_str())) {
            if let Some(known) = stated.values().find(|known| known.content == token.content()) {
                *token = Named::Token(known.clone());
            }
        }
        self.name_by_default(own, &mut names);
        let has_list =
            |from: &Map<String, Value>| from.get("extra_special_tokens").is_some_and(|list| !list.is_object());
        if !(has_list(&self.config)
            || has_list(&self.specials)
            || (is_early && self.config.contains_key("additional_special_tokens")))
        {
            names.extra.append(&mut names.additional);
        }
        let Names { mut named, extra, .. } = names;
        // Where a file says that there is no such token, no default may say otherwise.
        named.retain(|(_, token)| !token.content().is_empty());
        let special: BTreeSet<String> = named.iter().map(|(_, token)| token.content().to_string()).collect();
        let known: BTreeSet<&str> = own.added.iter().chain(stated.values()).map(|t| t.content.as_str()).collect();
        let new = named.iter().map(|(_, token)| token).chain(&extra).filter(|token| !known.contains(token.content()));
        let added = stated.values().cloned().map(Named::Token).chain(new.cloned());
        Ok(Tokens {
            added: added.map(|token| token.into_added(&special)).collect(),
            named: named.iter().map(|(name, token)| (name.clone(), token.content().to_string())).collect(),
        })
    }

    /// Takes the names and lists of special tokens out of a file; what it says replaces what `names` holds.
    fn collect(&self, from: &Map<String, Value>, file: &str, names: &mut Names) -> Result<(), TokenizerError> {
        let wrong = |key: &str| self.malformed(file, format!("{key} is not a token"));
        let parse = |key: &str, value: &Value| Named::parse(value).ok_or_else(|| wrong(key));
        for (key, value) in from.iter().filter(|(key, _)| key.ends_with("_token")) {
            match value {
                // An empty text stands for "none" until defaults were given.
                Value::Null => names.put(key, Named::Text(String::new())),
                Value::String(_) | Value::Object(_) => names.put(key, parse(key, value)?),
                _ if NAMES.contains(&key.as_str()) => return Err(wrong(key)),
                // Flags, such as add_bos_token.
                _ => {}
            }
        }
        for key in ["extra_special_tokens", "additional_special_tokens"] {
            match from.get(key) {
                None | Some(Value::Null) => {}
                Some(Value::Array(list)) => {
                    let list = list.iter().map(|value| parse(key, value)).collect::<Result<Vec<_>, _>>()?;
                    let is_extra = key == "extra_special_tokens";
                    if is_extra { &mut names.extra } else { &mut names.additional }.extend(list);
                }
                Some(Value::Object(table)) => {
                    for (name, value) in table {
                        names.put(name, parse(key, value)?);
                    }
                }
                Some(_) => return Err(wrong(key)),
            }
        }
        Ok(())
    }

    /// Names that the vocabulary's file or the class of the tokenizer gives where no file does.
    fn name_by_default(&self, own: &Own, names: &mut Names) {
        let text = |from: &Map<String, Value>, key: &str| from.get(key).and_then(Value::as_str).map(str::to_string);
        let declared = text(&self.config, "tokenizer_class").or_else(|| text(&self.model, "tokenizer_class"));
        let class = declared.as_deref().map(|class| class.strip_suffix("Fast").unwrap_or(class));
        let kind = text(&self.model, "model_type");
        let defaults: &[(&str, &str)] = match (class, kind.as_deref()) {
            (Some("LlamaTokenizer"), kind) if !own.is_byte_level && !kind.is_some_and(|k| k.contains("mistral")) => {
                &[("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>")]
            }
            (Some("Qwen2Tokenizer"), _) | (None, Some("qwen2" | "qwen3")) => {
                &[("eos_token", "<|endoftext|>"), ("unk_token", "<|endoftext|>"), ("pad_token", "<|endoftext|>")]
            }
            _ => &[],
        };
        let pad = own.pad.iter().map(|pad| ("pad_token", pad.as_str()));
        for (name, text) in pad.chain(defaults.iter().copied()) {
            if !names.named.iter().any(|(other, _)| other == name) {
                names.put(name, Named::Text(text.to_string()));
            }
        }
    }

    /// The token that begins a text.
    pub(super) fn bos(
        &self,
        tokens: &Tokens,
        id_of: impl Fn(&str) -> Option<u32>,
    ) -> Result<Option<u32>, TokenizerError> {
        if self.has_names {
            // A tokenizer that names no such token has none, whatever number the model's settings carry.
            return Ok(tokens.named.get("bos_token").and_then(|token| id_of(token)));
        }
        Ok(self.numbers("bos_token_id")?.first().copied())
    }

    /// The tokens that end an answer: the tokenizer's own first, then those of the generation settings.
    pub(super) fn eos(&self, tokens: &Tokens, id_of: impl Fn(&str) -> Option<u32>) -> Result<Vec<u32>, TokenizerError> {
        let mut ids: Vec<u32> = tokens.named.get("eos_token").and_then(|token| id_of(token)).into_iter().collect();
        for id in self.numbers("eos_token_id")? {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        Ok(ids)
    }

    /// One id or a list of ids from the generation settings, else from the model's. Numbers that no token can have, such as
    /// -1 for "none", are left out.
    fn numbers(&self, key: &str) -> Result<Vec<u32>, TokenizerError> {
        for (file, source) in [("generation_config.json", &self.generation), ("config.json", &self.model)] {
            let values = match source.get(key) {
                None | Some(Value::Null) => continue,
                Some(Value::Array(list)) => list.as_slice(),
                Some(one) => std::slice::from_ref(one),
            };
            if let Some(value) = values.iter().find(|value| !(value.is_i64() || value.is_u64())) {
                return Err(self.malformed(file, format!("{key} is {value}, not the id of a token")));
            }
            return Ok(values.iter().filter_map(|id| u32::try_from(id.as_u64()?).ok()).collect());
        }
        Ok(Vec::new())
    }

    /// The chat templates: files, else those of tokenizer_config.json.
    pub(super) fn templates(&self) -> Result<Option<Templates>, TokenizerError> {
        if !self.templates.is_empty() {
            return Ok(Some(Templates::Named(self.templates.clone())));
        }
        let wrong = || self.malformed("tokenizer_config.json", "chat_template is no text and no table of texts".into());
        let text = |value: &Value| value.as_str().map(str::to_string).ok_or_else(wrong);
        let named = match self.config.get("chat_template") {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(source)) => return Ok(Some(Templates::One(source.clone()))),
            Some(Value::Array(list)) => {
                list.iter().map(|entry| Ok((text(&entry["name"])?, text(&entry["template"])?))).collect()
            }
            Some(Value::Object(table)) => table.iter().map(|(name, entry)| Ok((name.clone(), text(entry)?))).collect(),
            Some(_) => Err(wrong()),
        };
        let named: BTreeMap<String, String> = named?;
        Ok((!named.is_empty()).then_some(Templates::Named(named)))
    }
}

/// The bytes of a file, `None` when there is none.
pub(super) fn read(path: &Path, expected: &'static str, limit: u64) -> Result<Option<Vec<u8>>, FileError> {
    match read_limited(path, expected, limit) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(FileError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The table that a JSON file holds, `None` when there is no file.
fn object(folder: &Path, file: &str) -> Result<Option<Map<String, Value>>, TokenizerError> {
    let path = folder.join(file);
    let Some(bytes) = read(&path, "JSON", MAX_SETTINGS_BYTES)? else { return Ok(None) };
    let json = |source| FileError::Json { path: path.clone(), expected: "JSON", source };
    match serde_json::from_slice(&bytes).map_err(json)? {
        Value::Object(table) => Ok(Some(table)),
        _ => Err(TokenizerError::Malformed {
            name: path.display().to_string(),
            what: "it holds no table of settings".into(),
        }),
    }
}

/// The text of a file, `None` when there is none.
fn text(path: &Path) -> Result<Option<String>, TokenizerError> {
    let Some(bytes) = read(path, "chat template", MAX_SETTINGS_BYTES)? else { return Ok(None) };
    let malformed = |_| TokenizerError::Malformed { name: path.display().to_string(), what: "it is not UTF-8".into() };
    String::from_utf8(bytes).map(Some).map_err(malformed)
}

/// The template files of a folder, in the order of their names.
fn jinja_files(folder: &Path) -> Result<Vec<PathBuf>, FileError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(Vec::new()),
        Err(error) => return Err(FileError::io("list", folder, error)),
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "jinja"));
    paths.sort();
    Ok(paths)
}
