//! A prompt read once more behind itself, so that the queries of its repetition can be recorded.

use crate::model::tokenizer::AddSpecial;
use crate::model::{LogitRows, ModelError, Pass};
use crate::runtime::{RaggedCache, RuntimeError};

/// What the model is asked before the first chunk.
const REPEAT_ALL: &str = "\n\nRepeat the previous context exactly.\n\n";
/// What it is asked before every other one, followed by the last tokens of the chunk before.
const REPEAT_FROM: &str = "\n\nRepeat the part of the previous context exactly, starting with";
/// Tokens of the chunk before that say where the next one begins.
const N_LEAD_IN: usize = 8;
/// Prompt tokens that are repeated at a time.
const CHUNK_TOKENS: usize = 2048;

/// Repeats a prompt that `cache` holds whole, chunk by chunk, each at the positions behind the prompt; the cache records
/// its samples and is then as it was.
///
/// - Errors: a context that does not hold the prompt and a chunk of its repetition
pub(super) fn replay(pass: &mut Pass<'_>, prompt: &[u32], cache: &mut RaggedCache) -> Result<(), RuntimeError> {
    let max_positions = pass.model().config().max_positions;
    let tokenizer = pass.model().tokenizer()?;
    let [repeat_all, repeat_from] =
        [REPEAT_ALL, REPEAT_FROM].map(|text| tokenizer.encode(text, AddSpecial::No).map_err(ModelError::from));
    let (repeat_all, repeat_from) = (repeat_all?, repeat_from?);
    let first_position = cache.n_seen() - prompt.len();
    for (i, chunk) in prompt.chunks(CHUNK_TOKENS).enumerate() {
        let at = i * CHUNK_TOKENS;
        let mut tokens =
            if i == 0 { repeat_all.clone() } else { [&repeat_from[..], &prompt[at - N_LEAD_IN.min(at)..at]].concat() };
        let n_asking = tokens.len();
        tokens.extend_from_slice(chunk);
        let n_tokens = cache.n_seen() + tokens.len();
        if n_tokens > max_positions {
            return Err(RuntimeError::NoRoomToReplay { n_tokens, max_positions });
        }
        cache.begin_replay(first_position + at, n_asking);
        let position = cache.n_seen();
        let passed = pass.forward(&tokens, position, cache, LogitRows::None);
        cache.end_replay();
        passed?;
    }
    Ok(())
}
