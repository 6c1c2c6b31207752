//! A prompt in tokens: in the model's chat format or as it is, and without its middle where it is too long.

use crate::model::tokenizer::truncate::middle_truncate;
use crate::model::tokenizer::{AddSpecial, Message, SkipSpecial, Tokenizer, TokenizerError};

/// A prompt in tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptTokens {
    /// What the model reads.
    pub tokens: Vec<u32>,
    /// Tokens of the whole prompt, before it was cut.
    pub n_tokens_full: usize,
}

impl PromptTokens {
    /// Whether the prompt lost its middle.
    pub fn is_cut(&self) -> bool {
        self.tokens.len() < self.n_tokens_full
    }
}

impl Tokenizer {
    /// Whether prompts stand in the model's chat format: where it has one, unless they are to be given as they are.
    pub fn uses_chat(&self, raw: bool) -> bool {
        !raw && self.chat_template().is_some()
    }

    /// A prompt of at most `most` tokens, as a user's message in the chat format or as it is. A longer one loses its middle; in
    /// the chat format the text does, and the frame stays.
    ///
    /// - Errors: no template, one that refuses the text, or one that is longer than `most` by itself
    pub fn prompt(&self, text: &str, chat: bool, most: usize) -> Result<PromptTokens, TokenizerError> {
        let whole = if chat { self.framed(text)? } else { self.encode(text, AddSpecial::Yes)? };
        let n_tokens_full = whole.len();
        let tokens = match n_tokens_full <= most {
            true => whole,
            false if chat => self.framed_within(text, n_tokens_full, most)?,
            false => middle_truncate(&whole, most),
        };
        Ok(PromptTokens { tokens, n_tokens_full })
    }

    fn framed(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.encode(&self.apply_chat(&[Message::new("user", text)], true)?, AddSpecial::No)
    }

    /// A text in its frame, which have `n_tokens_full` tokens, with so much of the text that both have `most`.
    fn framed_within(&self, text: &str, n_tokens_full: usize, most: usize) -> Result<Vec<u32>, TokenizerError> {
        let text = self.encode(text, AddSpecial::No)?;
        let mut room = most.saturating_sub(n_tokens_full.saturating_sub(text.len()));
        loop {
            let kept = middle_truncate(&text, room);
            let (head, tail) = kept.split_at(kept.len() / 2);
            let part = |ids: &[u32]| self.decode(ids, SkipSpecial::Yes);
            let cut = self.framed(&(part(head)? + &part(tail)?))?;
            // Where the parts meet, a text may have more tokens than they had.
            let excess = cut.len().saturating_sub(most);
            if excess == 0 {
                return Ok(cut);
            }
            if room == 0 {
                return Err(TokenizerError::TemplateTooLong { n_tokens: cut.len(), most });
            }
            room = room.saturating_sub(excess);
        }
    }

    /// A text that goes on: as [`Tokenizer::prompt`], without what the chat format puts behind a message.
    ///
    /// - Errors: no template, or one that refuses or changes the text
    pub fn open_prompt(&self, text: &str, chat: bool) -> Result<Vec<u32>, TokenizerError> {
        if !chat {
            return self.encode(text, AddSpecial::Yes);
        }
        let framed = self.apply_chat(&[Message::new("user", text)], false)?;
        // Templates strip messages.
        let text = text.trim();
        let end = framed.rfind(text).ok_or(TokenizerError::TemplateChanges)? + text.len();
        self.encode(&framed[..end], AddSpecial::No)
    }
}
