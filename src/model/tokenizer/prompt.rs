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
    /// the chat format the text does, and the frame stays, with the role and the text of every earlier message.
    ///
    /// - Errors: no template, one that refuses the text, or one that is longer than `most` by itself; earlier messages without the
    ///   chat format
    pub fn prompt(
        &self,
        earlier: &[(String, String)],
        text: &str,
        chat: bool,
        most: usize,
    ) -> Result<PromptTokens, TokenizerError> {
        let whole = if chat { self.framed(earlier, text)? } else { self.plain(earlier, text)? };
        let n_tokens_full = whole.len();
        let tokens = match n_tokens_full <= most {
            true => whole,
            false if chat => self.framed_within(earlier, text, n_tokens_full, most)?,
            false => middle_truncate(&whole, most),
        };
        Ok(PromptTokens { tokens, n_tokens_full })
    }

    fn plain(&self, earlier: &[(String, String)], text: &str) -> Result<Vec<u32>, TokenizerError> {
        match earlier.len() {
            0 => self.encode(text, AddSpecial::Yes),
            n => Err(TokenizerError::MessagesWithoutTemplate { n_messages: n + 1 }),
        }
    }

    fn framed(&self, earlier: &[(String, String)], text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.encode(&self.apply_chat(&messages(earlier, text), true)?, AddSpecial::No)
    }

    /// A text in its frame, which have `n_tokens_full` tokens, with so much of the text that both have `most`.
    fn framed_within(
        &self,
        earlier: &[(String, String)],
        text: &str,
        n_tokens_full: usize,
        most: usize,
    ) -> Result<Vec<u32>, TokenizerError> {
        let text = self.encode(text, AddSpecial::No)?;
        let mut room = most.saturating_sub(n_tokens_full.saturating_sub(text.len()));
        loop {
            let kept = middle_truncate(&text, room);
            let (head, tail) = kept.split_at(kept.len() / 2);
            let part = |ids: &[u32]| self.decode(ids, SkipSpecial::Yes);
            let cut = self.framed(earlier, &(part(head)? + &part(tail)?))?;
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
    /// - Errors: no template, or one that refuses or changes the text; earlier messages without the chat format
    pub fn open_prompt(
        &self,
        earlier: &[(String, String)],
        text: &str,
        chat: bool,
    ) -> Result<Vec<u32>, TokenizerError> {
        if !chat {
            return self.plain(earlier, text);
        }
        let framed = self.apply_chat(&messages(earlier, text), false)?;
        // Templates strip messages.
        let text = text.trim();
        let end = framed.rfind(text).ok_or(TokenizerError::TemplateChanges)? + text.len();
        self.encode(&framed[..end], AddSpecial::No)
    }
}

/// The messages of a chat, the user's text last.
fn messages(earlier: &[(String, String)], text: &str) -> Vec<Message> {
    let earlier = earlier.iter().map(|(role, content)| Message::new(role, content));
    earlier.chain([Message::new("user", text)]).collect()
}
