//! tokenizer.json, run by the `tokenizers` library within bounds: what the library takes for granted is checked before, and
//! its panics become errors.

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tokenizers::AddedToken;

use crate::files::Sha256;
use crate::model::tokenizer::TokenizerError;
use crate::model::tokenizer::guard::caught;
use crate::model::tokenizer::normalizer::CharsMap;
use crate::model::tokenizer::settings::{Added, Own};

/// How many times longer its rewriting may make a text. The compatibility forms of Unicode make it 18 times longer.
const MAX_GROWTH: u64 = 64;

/// A tokenizer.json whose settings of somebody's training run are taken off.
#[derive(Debug)]
pub(super) struct Library {
    name: String,
    /// The file without those settings.
    text: String,
    pub(super) own: Own,
}

impl Library {
    /// Checks a file, given as JSON.
    pub(super) fn check(name: &str, mut content: Value) -> Result<Self, TokenizerError> {
        let malformed = |what: String| TokenizerError::Malformed { name: name.to_string(), what };
        if !content.is_object() {
            return Err(malformed("it is not an object".into()));
        }
        check_merges(name, &content)?;
        for part in ["normalizer", "decoder"] {
            let growth = growth(name, &content[part])?;
            if growth > MAX_GROWTH {
                let what = format!("makes a text up to {growth} times longer ({part}; at most {MAX_GROWTH} times)");
                return Err(TokenizerError::Unsupported { name: name.to_string(), what });
            }
        }
        check_frame(name, &content["post_processor"])?;
        let mut own = Own { is_byte_level: mentions(&content, "ByteLevel"), ..Own::default() };
        own.pad = content["padding"]["pad_token"].as_str().map(str::to_string);
        for token in content["added_tokens"].as_array().into_iter().flatten() {
            let id = token["id"].as_u64();
            let parsed = Added::parse(token).filter(|_| id.is_some());
            let parsed = parsed.ok_or_else(|| malformed(format!("{token} is not an added token")))?;
            own.added.push(Added { id, ..parsed });
        }
        if let Some(fields) = content.as_object_mut() {
            fields.remove("truncation");
            fields.remove("padding");
        }
        if let Some(model) = content.get_mut("model").and_then(Value::as_object_mut)
            && let Some(dropout) = model.remove("dropout")
            && !(dropout.is_null() || dropout.as_f64().is_some_and(|p| (0.0..1.0).contains(&p)))
        {
            return Err(malformed(format!("its dropout is {dropout}, not a share below 1")));
        }
        Ok(Self { name: name.to_string(), text: content.to_string(), own })
    }

    /// Builds the tokenizer with the tokens that the folder adds, and feeds the identity with all that decides the ids.
    ///
    /// Errors: the library refuses or panics, or it gives a token another id than a file states.
    pub(super) fn build(self, added: &[Added], identity: &mut Sha256) -> Result<tokenizers::Tokenizer, TokenizerError> {
        let Self { name, text, own } = self;
        identity.update(b"tokenizer.json\0");
        identity.update(text.as_bytes());
        let (tokenizer, before, after) = run(&name, "be read", || {
            let mut tokenizer = text.parse::<tokenizers::Tokenizer>()?;
            let before = added_vocabulary(&tokenizer);
            tokenizer.add_tokens(added.iter().map(|token| {
                AddedToken::from(token.content.clone(), token.special)
                    .single_word(token.single_word)
                    .lstrip(token.lstrip)
                    .rstrip(token.rstrip)
                    .normalized(token.is_normalized())
            }))?;
            let after = added_vocabulary(&tokenizer);
            Ok((tokenizer, before, after))
        })?;
        if before != after {
            identity.update(after.as_bytes());
        }
        for token in own.added.iter().chain(added).filter(|token| !token.content.is_empty()) {
            let got = tokenizer.token_to_id(&token.content);
            if let Some(stated) = token.id.filter(|stated| got.map(u64::from) != Some(*stated)) {
                let got = got.map_or("none".to_string(), |id| id.to_string());
                let what = format!("token {:?} is to have the id {stated}, but gets {got}", token.content);
                return Err(TokenizerError::Malformed { name, what });
            }
        }
        // What fails on any text is refused here, not at the first prompt.
        run(&name, "encode a text", || tokenizer.encode_fast("a", true))?;
        Ok(tokenizer)
    }
}

/// Runs the library on a stranger's file.
pub(super) fn run<T>(
    name: &str,
    action: &'static str,
    work: impl FnOnce() -> tokenizers::Result<T>,
) -> Result<T, TokenizerError> {
    caught(work)
        .map_err(|stopped| TokenizerError::Stopped { name: name.to_string(), action, stopped })?
        .map_err(|source| TokenizerError::Library { name: name.to_string(), action, source })
}

/// The added tokens by id, as text.
fn added_vocabulary(tokenizer: &tokenizers::Tokenizer) -> String {
    let mut tokens: Vec<_> = tokenizer.get_added_tokens_decoder().into_iter().collect();
    tokens.sort_by_key(|(id, _)| *id);
    format!("{tokens:?}")
}

/// Whether a text stands anywhere in a JSON value.
fn mentions(value: &Value, text: &str) -> bool {
    match value {
        Value::String(found) => found == text,
        Value::Array(list) => list.iter().any(|value| mentions(value, text)),
        Value::Object(table) => {
            table.iter().any(|(key, value)| key != "vocab" && key != "merges" && mentions(value, text))
        }
        _ => false,
    }
}

/// How many times longer a normaliser or decoder can make a text, by its fields.
fn growth(name: &str, step: &Value) -> Result<u64, TokenizerError> {
    let malformed = |what: &str| TokenizerError::Malformed { name: name.to_string(), what: what.into() };
    let mut product = 1u64;
    for list in ["normalizers", "decoders"] {
        for inner in step[list].as_array().into_iter().flatten() {
            product = product.saturating_mul(growth(name, inner)?);
        }
    }
    let length = |key: &str| step[key].as_str().map_or(0, |text| text.len() as u64);
    if let Some(pattern) = step["pattern"].as_object() {
        if pattern.values().any(|pattern| pattern.as_str() == Some("")) {
            return Err(malformed("it replaces an empty pattern"));
        }
        // What an expression matches may have one byte.
        let matched = pattern.get("String").and_then(Value::as_str).map_or(1, |text| text.len() as u64);
        product = product.saturating_mul(length("content").div_ceil(matched).max(1));
    }
    if let Some(table) = step["precompiled_charsmap"].as_str() {
        let bytes = STANDARD.decode(table).map_err(|_| malformed("its character table is not base64"))?;
        CharsMap::parse(name, &bytes)?;
    }
    // Put before every text, the shortest of which has one byte.
    product = product.saturating_mul(length("prepend").saturating_add(1));
    Ok(product)
}

/// Most ids that a post-processor may put around a text; published ones put a handful.
const MAX_FRAME_IDS: usize = 1024;

/// Checks how many ids a post-processor puts around a text.
fn check_frame(name: &str, processor: &Value) -> Result<(), TokenizerError> {
    for inner in processor["processors"].as_array().into_iter().flatten() {
        check_frame(name, inner)?;
    }
    for part in ["single", "pair"] {
        let ids = |item: &Value| {
            let token = item["SpecialToken"]["id"].as_str()?;
            processor["special_tokens"].get(token)?["ids"].as_array().map(Vec::len)
        };
        let n: usize = processor[part].as_array().into_iter().flatten().filter_map(ids).sum();
        if n > MAX_FRAME_IDS {
            let what = format!("puts {n} tokens around a text (post_processor; at most {MAX_FRAME_IDS})");
            return Err(TokenizerError::Unsupported { name: name.to_string(), what });
        }
    }
    Ok(())
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
