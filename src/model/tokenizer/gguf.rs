//! Tokenizers from the metadata of GGUF files: `gpt2` (byte-level BPE) and `llama` (SentencePiece BPE).

use std::collections::{BTreeMap, BTreeSet, HashSet};

use tokenizers::AddedToken;
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::bpe::{BPE, Vocab};

use crate::files::Sha256;
use crate::model::gguf::Gguf;
use crate::model::tokenizer::chat::Templates;
use crate::model::tokenizer::normalizer::{CharsMap, Normalizer};
use crate::model::tokenizer::pretokenizer;
use crate::model::tokenizer::sentencepiece::{Kind, Piece, Prefix, SentencePiece, byte_of};
use crate::model::tokenizer::{ChatTemplate, Engine, Frame, Parts, Tokenizer, TokenizerError};

/// Tokens that end a text or a turn whatever their type and the metadata say, as llama.cpp takes them.
const ENDS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|calls|>",
    "<|flush|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "\u{2581}<EOT>",
    "[EOT]",
    "[EOS]",
    "</s>",
    "<eos>",
    "<\u{ff5c}end\u{2581}of\u{2581}sentence\u{ff5c}>",
    "<end_of_utterance>",
    "<turn|>",
    "<|tool_response>",
    // Behind a file or a part of it nothing follows either.
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
];
/// Tokens that are taken whole whatever their type, but end nothing: they mark the parts of a file with a gap.
const MARKS: &[&str] = &[
    "<|fim_prefix|>",
    "<fim-prefix>",
    "<fim_prefix>",
    "<PRE>",
    "<|code_prefix|>",
    "<|prefix|>",
    "<|fim_suffix|>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<SUF>",
    "<|code_suffix|>",
    "<|suffix|>",
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<MID>",
    "<|code_middle|>",
    "<|middle|>",
];
/// Fields of the metadata that name an end.
const END_FIELDS: [&str; 5] =
    ["eot_token_id", "eom_token_id", "fim_pad_token_id", "fim_rep_token_id", "fim_sep_token_id"];

/// Builds the tokenizer that the metadata describes.
pub(super) fn from_gguf(gguf: &Gguf) -> Result<Tokenizer, TokenizerError> {
    let name = gguf.path().display().to_string();
    let key = |field: &str| format!("tokenizer.ggml.{field}");
    let need = |field: &str| gguf.missing(&key(field));
    let model = gguf.str_of(&key("model"))?.ok_or_else(|| need("model"))?;
    let tokens = gguf.strings_of(&key("tokens"))?.ok_or_else(|| need("tokens"))?;
    let mut kinds = kinds(gguf, &name, tokens.len())?;
    let mut ends = name_ends(tokens, &mut kinds);
    for field in ["bos_token_id", "eos_token_id", "eot_token_id"] {
        let id = gguf.u64_of(&key(field))?.and_then(|id| usize::try_from(id).ok());
        // Old converters call every token ordinary, even those they name as the ends of a text.
        if let Some(id) =
            id.filter(|id| tokens.get(*id).is_some_and(|token| token.starts_with('<') && token.ends_with('>')))
            && kinds[id] == Kind::Normal
        {
            kinds[id] = Kind::Control;
        }
    }
    let (engine, identity, default_bos) = match model {
        "gpt2" => byte_level(gguf, &name, tokens, &kinds)?,
        "llama" => sentencepiece(gguf, &name, tokens, &kinds)?,
        other => {
            let what = format!("is of the kind {other:?} (tokenizer.ggml.model)");
            return Err(TokenizerError::Unsupported { name, what });
        }
    };
    let id = |field: &str| -> Result<Option<u32>, TokenizerError> {
        let Some(id) = gguf.u64_of(&key(field))? else { return Ok(None) };
        match u32::try_from(id) {
            Ok(id) if (id as usize) < tokens.len() => Ok(Some(id)),
            _ => Err(TokenizerError::Malformed {
                name: name.clone(),
                what: format!("{} is {id}, but there are {} tokens", key(field), tokens.len()),
            }),
        }
    };
    let (bos, eos) = match model {
        "llama" => (id("bos_token_id")?.or(known(tokens, 1)), id("eos_token_id")?.or(known(tokens, 2))),
        _ => (id("bos_token_id")?, id("eos_token_id")?),
    };
    for field in END_FIELDS {
        ends.extend(id(field)?);
    }
    let eos_list = eos.into_iter().chain(ends.into_iter().filter(|end| Some(*end) != eos)).collect();
    let flag = |field: &str| gguf.bool_of(&key(field));
    let frame =
        Frame { bos: flag("add_bos_token")?.unwrap_or(default_bos), eos: flag("add_eos_token")?.unwrap_or(false) };
    let text_of = |id: Option<u32>| id.and_then(|id| tokens.get(id as usize)).cloned();
    let unk = gguf.u64_of(&key("unknown_token_id"))?.and_then(|id| u32::try_from(id).ok());
    let named = [("bos_token", text_of(bos)), ("eos_token", text_of(eos)), ("unk_token", text_of(unk))];
    let named = named.into_iter().filter_map(|(variable, text)| Some((variable.to_string(), text?))).collect();
    let chat = templates(gguf)?.map(|templates| ChatTemplate::new(&name, templates, named));
    Ok(Tokenizer::assemble(Parts { name, engine, identity, bos, eos: eos_list, frame: Some(frame), chat }))
}

/// The tokens that end a text by their names, which become special tokens whatever their type is.
fn name_ends(tokens: &[String], kinds: &mut [Kind]) -> BTreeSet<u32> {
    let mut ends = BTreeMap::new();
    for ((id, token), kind) in (0u32..).zip(tokens).zip(kinds.iter_mut()) {
        let is_end = ENDS.contains(&token.as_str());
        if is_end {
            ends.insert(token.as_str(), id);
        }
        if *kind != Kind::Unknown && (is_end || MARKS.contains(&token.as_str())) {
            *kind = Kind::Control;
        }
    }
    let has = |token: &str| ends.contains_key(token);
    // Where a text has parts that end with a mark of their own, the plainer mark does not end the text.
    let is_part = (has("<|call|>") || has("<|calls|>")) && (has("<|return|>") || has("<|flush|>"));
    let other = [("<|end|>", is_part, Kind::UserDefined), ("</s>", has("<|tool_response>"), Kind::Normal)];
    for (token, is_none, kind) in other {
        if is_none && let Some(id) = ends.remove(token) {
            kinds[id as usize] = kind;
        }
    }
    ends.into_values().collect()
}

/// The chat templates: the default, else those with names.
fn templates(gguf: &Gguf) -> Result<Option<Templates>, TokenizerError> {
    if let Some(source) = gguf.str_of("tokenizer.chat_template")? {
        return Ok(Some(Templates::One(source.to_string())));
    }
    let mut named = BTreeMap::new();
    for name in gguf.strings_of("tokenizer.chat_templates")?.unwrap_or_default() {
        if let Some(source) = gguf.str_of(&format!("tokenizer.chat_template.{name}"))? {
            named.insert(name.clone(), source.to_string());
        }
    }
    Ok((!named.is_empty()).then_some(Templates::Named(named)))
}

/// The id when the vocabulary is large enough to have it.
fn known(tokens: &[String], id: u32) -> Option<u32> {
    (tokens.len() > id as usize).then_some(id)
}

fn kinds(gguf: &Gguf, name: &str, n: usize) -> Result<Vec<Kind>, TokenizerError> {
    let malformed = |what: String| TokenizerError::Malformed { name: name.to_string(), what };
    let Some(numbers) = gguf.i32s_of("tokenizer.ggml.token_type")? else { return Ok(vec![Kind::Normal; n]) };
    if numbers.len() != n {
        return Err(malformed(format!("it has {n} tokens but {} token types", numbers.len())));
    }
    // Type 0, undefined, is written by some converters for ordinary tokens.
    let kind = |number: i32| if number == 0 { Some(Kind::Normal) } else { Kind::from_number(number) };
    let unknown = |number: i32| malformed(format!("{number} is not a token type"));
    numbers.into_iter().map(|number| kind(number).ok_or_else(|| unknown(number))).collect()
}

type Built = (Engine, Sha256, bool);

fn byte_level(gguf: &Gguf, name: &str, tokens: &[String], kinds: &[Kind]) -> Result<Built, TokenizerError> {
    let malformed = |what: String| TokenizerError::Malformed { name: name.to_string(), what };
    let library = |action| move |source| TokenizerError::Library { name: name.to_string(), action, source };
    let pre = gguf.str_of("tokenizer.ggml.pre")?.unwrap_or("default");
    let rules = pretokenizer::rules(pre).ok_or_else(|| TokenizerError::Unsupported {
        name: name.to_string(),
        what: format!("cuts words by the rules {pre:?} (tokenizer.ggml.pre)"),
    })?;
    let merges = gguf.strings_of("tokenizer.ggml.merges")?;
    let merges = merges.ok_or_else(|| gguf.missing("tokenizer.ggml.merges"))?;
    let known: HashSet<&str> = tokens.iter().map(String::as_str).collect();
    let mut pairs = Vec::with_capacity(merges.len());
    for (i, merge) in merges.iter().enumerate() {
        // The first half may itself begin with a space in vocabularies that are not byte-level.
        let first = merge.chars().next().map_or(0, char::len_utf8);
        let pair = merge[first..].find(' ').map(|at| (&merge[..first + at], &merge[first + at + 1..]));
        let (a, b) = pair.ok_or_else(|| malformed(format!("merge {i} is {merge:?}, not two parts")))?;
        let whole = [a, b].concat();
        if let Some(absent) = [a, b, whole.as_str()].into_iter().find(|part| !known.contains(part)) {
            return Err(malformed(format!("merge {i} is {merge:?}, but {absent:?} is not a token")));
        }
        pairs.push((a.to_string(), b.to_string()));
    }
    let mut hash = Sha256::default();
    hash.update(b"byte-level-bpe\0");
    for (token, kind) in tokens.iter().zip(kinds) {
        hash.update(&(token.len() as u64).to_le_bytes());
        hash.update(token.as_bytes());
        hash.update(&[*kind as u8]);
    }
    for part in merges.iter().map(String::as_str).chain(rules.expressions().iter().copied()) {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    hash.update(&[u8::from(rules.ignore_merges)]);
    let vocab: Vocab = tokens.iter().cloned().zip(0u32..).collect();
    let bpe = BPE::builder().vocab_and_merges(vocab, pairs).ignore_merges(rules.ignore_merges).build();
    let mut tokenizer = tokenizers::Tokenizer::new(bpe.map_err(library("use its merges"))?);
    tokenizer.with_pre_tokenizer(Some(rules.build(name)?));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    for (kind, special) in [(Kind::Control, true), (Kind::Unknown, true), (Kind::UserDefined, false)] {
        let chosen = tokens.iter().zip(kinds).filter(|(token, k)| **k == kind && !token.is_empty());
        let added = chosen.map(|(token, _)| AddedToken::from(token.clone(), special).normalized(false));
        tokenizer.add_tokens(added.collect::<Vec<_>>()).map_err(library("use its special tokens"))?;
    }
    Ok((Engine::Library(Box::new(tokenizer)), hash, rules.add_bos))
}

fn sentencepiece(gguf: &Gguf, name: &str, tokens: &[String], kinds: &[Kind]) -> Result<Built, TokenizerError> {
    let malformed = |what: String| TokenizerError::Malformed { name: name.to_string(), what };
    let scores = gguf.f32s_of("tokenizer.ggml.scores")?;
    let scores = scores.ok_or_else(|| gguf.missing("tokenizer.ggml.scores"))?;
    if scores.len() != tokens.len() {
        return Err(malformed(format!("it has {} tokens but {} scores", tokens.len(), scores.len())));
    }
    let pieces = tokens.iter().zip(scores).zip(kinds);
    let mut pieces: Vec<Piece> =
        pieces.map(|((text, score), kind)| Piece { text: text.clone(), score, kind: *kind }).collect();
    // Without types, or with types that call every piece ordinary, bytes are known by their spelling.
    let is_byte = |piece: &Piece| piece.kind == Kind::Normal && byte_of(&piece.text).is_some();
    if !kinds.contains(&Kind::Byte) && pieces.iter().filter(|piece| is_byte(piece)).count() >= 256 {
        pieces.iter_mut().filter(|piece| is_byte(piece)).for_each(|piece| piece.kind = Kind::Byte);
    }
    let flag = |field: &str| gguf.bool_of(&format!("tokenizer.ggml.{field}"));
    let charsmap = match gguf.i32s_of("tokenizer.ggml.precompiled_charsmap")? {
        Some(bytes) => CharsMap::parse(name, &bytes.iter().map(|byte| *byte as u8).collect::<Vec<_>>())?,
        None => None,
    };
    let normalizer = Normalizer {
        charsmap,
        add_dummy_prefix: flag("add_space_prefix")?.unwrap_or(true),
        remove_extra_whitespaces: flag("remove_extra_whitespaces")?.unwrap_or(false),
        escape_whitespaces: true,
    };
    let model = SentencePiece::new(name, pieces, normalizer, Prefix::Each, " \u{2047} ".into())?;
    let mut hash = Sha256::default();
    model.hash_into(&mut hash);
    Ok((Engine::SentencePiece(Box::new(model)), hash, true))
}
