//! Tokenizers from Hugging Face folders and from SentencePiece models.

use std::collections::HashMap;
use std::path::Path;

use crate::files::{FileError, Sha256};
use crate::model::tokenizer::library::Library;
use crate::model::tokenizer::normalizer::{CharsMap, Normalizer};
use crate::model::tokenizer::protobuf::{ModelFile, read_model};
use crate::model::tokenizer::sentencepiece::{Kind, Piece, Prefix, SentencePiece, Strips};
use crate::model::tokenizer::settings::{Added, Own, Settings, Tokens, read};
use crate::model::tokenizer::{ChatTemplate, Engine, Frame, Parts, Tokenizer, TokenizerError};

/// Largest vocabulary file that is read, in bytes; the largest known ones have 40 MB.
const MAX_VOCABULARY_BYTES: u64 = 256 << 20;
/// Tokens that a folder may add behind the vocabulary of its tokenizer.model.
const MAX_ADDED: usize = 1 << 16;

pub(super) fn from_folder(folder: &Path) -> Result<Tokenizer, TokenizerError> {
    let settings = Settings::read(folder)?;
    let path = folder.join("tokenizer.json");
    if let Some(bytes) = read(&path, "tokenizer.json", MAX_VOCABULARY_BYTES)? {
        return from_json(&path, &bytes, &settings);
    }
    let path = folder.join("tokenizer.model");
    match read(&path, "tokenizer.model", MAX_VOCABULARY_BYTES)? {
        Some(bytes) => from_model(&bytes, &path.display().to_string(), Some(&settings)),
        None => Err(TokenizerError::NoTokenizer(folder.display().to_string())),
    }
}

pub(super) fn from_sentencepiece(bytes: &[u8], name: &str) -> Result<Tokenizer, TokenizerError> {
    from_model(bytes, name, None)
}

fn from_json(path: &Path, bytes: &[u8], settings: &Settings) -> Result<Tokenizer, TokenizerError> {
    let name = path.display().to_string();
    let json = |source| FileError::Json { path: path.to_path_buf(), expected: "tokenizer.json", source };
    let library = Library::check(&name, serde_json::from_slice(bytes).map_err(json)?)?;
    let tokens = settings.tokens(&library.own)?;
    let mut identity = Sha256::default();
    let tokenizer = library.build(&tokens.added, &mut identity)?;
    let id_of = |token: &str| tokenizer.token_to_id(token);
    let (bos, eos) = (settings.bos(&tokens, id_of)?, settings.eos(&tokens, id_of)?);
    let chat = chat(&name, settings, tokens)?;
    let engine = Engine::Library(Box::new(tokenizer));
    Ok(Tokenizer::assemble(Parts { name, engine, identity, bos, eos, frame: None, chat }))
}

fn chat(name: &str, settings: &Settings, tokens: Tokens) -> Result<Option<ChatTemplate>, TokenizerError> {
    Ok(settings.templates()?.map(|templates| ChatTemplate::new(name, templates, tokens.named)))
}

fn from_model(bytes: &[u8], name: &str, settings: Option<&Settings>) -> Result<Tokenizer, TokenizerError> {
    let ModelFile { mut pieces, trainer, normalizer } = read_model(name, bytes)?;
    let normalizer = Normalizer {
        charsmap: CharsMap::parse(name, &normalizer.charsmap)?,
        add_dummy_prefix: normalizer.add_dummy_prefix(),
        remove_extra_whitespaces: normalizer.remove_extra_whitespaces(),
        escape_whitespaces: normalizer.escape_whitespaces(),
    };
    let tokens = settings.map(|settings| settings.tokens(&Own::default())).transpose()?;
    let added = tokens.as_ref().map(|tokens| tokens.added.as_slice()).unwrap_or_default();
    let n_own = pieces.len();
    let strips = add_tokens(name, added, &mut pieces)?;
    let flag = |key: &str| settings.and_then(|settings| settings.flag(key));
    let prefix = if settings.is_some() && flag("legacy").unwrap_or(true) { Prefix::Each } else { Prefix::First };
    let unknown = trainer.unk_surface().to_string();
    let model = SentencePiece::new(name, pieces, normalizer, prefix, unknown)?.with_added(n_own, strips);
    let id_of = |token: &str| model.id_of(token);
    let (mut bos, mut eos, mut template) = (None, Vec::new(), None);
    if let Some((settings, tokens)) = settings.zip(tokens) {
        (bos, eos) = (settings.bos(&tokens, id_of)?, settings.eos(&tokens, id_of)?);
        template = chat(name, settings, tokens)?;
    }
    if bos.is_none() {
        bos = control(&model, trainer.bos_piece());
    }
    if eos.is_empty() {
        eos.extend(control(&model, trainer.eos_piece()));
    }
    let frame = Frame { bos: flag("add_bos_token").unwrap_or(true), eos: flag("add_eos_token").unwrap_or(false) };
    let mut identity = Sha256::default();
    model.hash_into(&mut identity);
    let engine = Engine::SentencePiece(Box::new(model));
    let name = name.to_string();
    Ok(Tokenizer::assemble(Parts { name, engine, identity, bos, eos, frame: Some(frame), chat: template }))
}

/// Adds the tokens of the folder to the pieces: those that are pieces already become whole, the others stand behind. Gives
/// the ids of all with the blanks that they take in.
fn add_tokens(name: &str, added: &[Added], pieces: &mut Vec<Piece>) -> Result<Vec<(u32, Strips)>, TokenizerError> {
    let malformed = |what: String| TokenizerError::Malformed { name: name.to_string(), what };
    let n = pieces.len();
    let mut ids: HashMap<String, usize> =
        pieces.iter().enumerate().map(|(id, piece)| (piece.text.clone(), id)).collect();
    let mut out = Vec::new();
    for token in added.iter().filter(|token| !token.content.is_empty()) {
        let text = &token.content;
        if token.single_word {
            let what = format!("takes the added token {text:?} as a word of its own only (single_word)");
            return Err(TokenizerError::Unsupported { name: name.to_string(), what });
        }
        let found = ids.get(text).copied();
        let id = match (found, token.id) {
            (Some(id), None) => id,
            (Some(id), Some(stated)) if stated == id as u64 => id,
            (None, None) => pieces.len(),
            (None, Some(stated)) if stated >= n as u64 => {
                let id = usize::try_from(stated).ok().filter(|id| *id < n + MAX_ADDED);
                id.ok_or_else(|| malformed(format!("added token {text:?} lies far behind the vocabulary")))?
            }
            (_, Some(stated)) => {
                let got = found.or(usize::try_from(stated).ok()).unwrap_or_default();
                let there = &pieces[got].text;
                return Err(malformed(format!(
                    "token {text:?} is to have the id {stated}, but piece {got} is {there:?}"
                )));
            }
        };
        if id >= pieces.len() {
            pieces.resize(id + 1, Piece { text: String::new(), score: 0.0, kind: Kind::Unused });
        }
        let kind = match pieces[id].kind {
            // Both have a use beside that of a token.
            kind @ (Kind::Unknown | Kind::Byte) => kind,
            _ if token.special => Kind::Control,
            _ => Kind::UserDefined,
        };
        pieces[id] = Piece { text: text.clone(), score: pieces[id].score, kind };
        ids.insert(text.clone(), id);
        out.push((id as u32, Strips { left: token.lstrip, right: token.rstrip }));
    }
    Ok(out)
}

/// The id of a piece that is a control piece.
fn control(model: &SentencePiece, text: &str) -> Option<u32> {
    model.id_of(text).filter(|id| model.piece(*id).is_some_and(|piece| piece.kind == Kind::Control))
}
