//! Text of a growing list of tokens, given out as soon as it is final.

use crate::model::tokenizer::{SkipSpecial, Tokenizer, TokenizerError};

/// Tokens after which text is given out even if it does not end a character: no character is spelled in so many.
const MAX_PENDING: usize = 256;

/// Turns token ids into text one at a time, never giving out half a character.
///
/// The pieces of text together are what [`Tokenizer::decode`] gives for all ids at once.
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    skip: SkipSpecial,
    /// Ids whose text is out but which decide how the next ones are spaced, then those that are pending.
    window: Vec<u32>,
    n_context: usize,
    /// Bytes of the text of `window` that are out.
    emitted: usize,
}

impl<'a> TextStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, skip: SkipSpecial) -> Self {
        Self { tokenizer, skip, window: Vec::new(), n_context: 0, emitted: 0 }
    }

    /// Adds a token and returns the text that is now final, possibly none.
    ///
    /// Errors: the tokenizer library cannot decode.
    pub fn push(&mut self, id: u32) -> Result<String, TokenizerError> {
        self.window.push(id);
        let text = self.tokenizer.decode(&self.window, self.skip)?;
        let complete = !text.ends_with(char::REPLACEMENT_CHARACTER);
        let forced = self.window.len() - self.n_context >= MAX_PENDING;
        // What ends in a replacement character may still become a character when more bytes arrive.
        let end = if forced { text.len() } else { text.trim_end_matches(char::REPLACEMENT_CHARACTER).len() };
        let new = text.get(self.emitted..end).unwrap_or_default().to_string();
        self.emitted = self.emitted.max(end);
        if complete || forced {
            // Ids that have no text by themselves cannot tell how the next ones are spaced.
            let alone = self.tokenizer.decode(&self.window[self.n_context..], self.skip)?;
            if !alone.is_empty() || forced {
                self.window.drain(..self.n_context);
                self.n_context = self.window.len();
                self.emitted = alone.len();
            }
        }
        Ok(new)
    }

    /// The text that was held back, with replacement characters for bytes that never became a character.
    ///
    /// Errors: as [`TextStream::push`].
    pub fn finish(self) -> Result<String, TokenizerError> {
        let text = self.tokenizer.decode(&self.window, self.skip)?;
        Ok(text.get(self.emitted..).unwrap_or_default().to_string())
    }
}
