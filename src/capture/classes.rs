//! Classes of a vocabulary's tokens.

use crate::format::dump::TokenClass;
use crate::model::tokenizer::{SkipSpecial, Tokenizer};

/// One letter of [`TokenClass`] for every id of the vocabulary.
pub(super) fn token_classes(tokenizer: &Tokenizer) -> String {
    (0..tokenizer.vocab_size() as u32).map(|id| class_of(tokenizer, id).letter()).collect()
}

fn class_of(tokenizer: &Tokenizer, id: u32) -> TokenClass {
    let Some(text) = tokenizer.token_text(id) else { return TokenClass::Other };
    if text.trim().is_empty() {
        return TokenClass::of_text(&text);
    }
    // Special tokens decode to nothing, and bytes that are no text to a replacement character.
    tokenizer.decode(&[id], SkipSpecial::Yes).map_or(TokenClass::Other, |decoded| TokenClass::of_text(&decoded))
}
