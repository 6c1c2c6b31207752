//! What is told of tokens, so that who reads a dump needs no tokenizer: their texts, and classes of a vocabulary.

use crate::format::dump::TokenClass;
use crate::model::tokenizer::{SkipSpecial, Tokenizer, TokenizerError};

/// One letter of [`TokenClass`] for every id of the vocabulary.
pub(super) fn token_classes(tokenizer: &Tokenizer) -> String {
    (0..tokenizer.vocab_size() as u32).map(|id| class_of(tokenizer, id).letter()).collect()
}

/// The text that every token adds to those before it, special ones by their names. A character of several tokens is the last
/// one's; together the texts are the whole text.
pub(super) fn token_texts(tokenizer: &Tokenizer, tokens: &[u32]) -> Result<Vec<String>, TokenizerError> {
    let mut stream = tokenizer.stream(SkipSpecial::No);
    let mut texts = tokens.iter().map(|token| stream.push(*token)).collect::<Result<Vec<String>, _>>()?;
    let rest = stream.finish()?;
    texts.last_mut().into_iter().for_each(|last| last.push_str(&rest));
    Ok(texts)
}

fn class_of(tokenizer: &Tokenizer, id: u32) -> TokenClass {
    let Some(text) = tokenizer.token_text(id) else { return TokenClass::Other };
    if text.trim().is_empty() {
        return TokenClass::of_text(&text);
    }
    // Special tokens decode to nothing, and bytes that are no text to a replacement character.
    tokenizer.decode(&[id], SkipSpecial::Yes).map_or(TokenClass::Other, |decoded| TokenClass::of_text(&decoded))
}
