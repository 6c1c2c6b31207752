//! A prompt read once more behind itself, so that the queries of its repetition can be recorded.

use crate::merge::Weighing;
use crate::model::tokenizer::AddSpecial;
use crate::model::{LogitRows, ModelError, Pass};
use crate::runtime::{RaggedCache, RuntimeError};

/// What the model is asked before the first chunk.
const REPEAT_ALL: &str = "\n\nRepeat the previous context exactly.";
/// What it is asked before every other one, followed by the last tokens of the chunk before.
const REPEAT_FROM: &str = "\n\nRepeat the part of the previous context exactly, starting with";
/// What stands between that and the chunk, in tokens of its own.
const BEFORE_CHUNK: &str = "\n";
/// Tokens of the chunk before that say where the next one begins.
const N_LEAD_IN: usize = 8;
/// Repeats a prompt that `cache` holds whole, `chunk_tokens` at a time, each at the positions behind the prompt; the cache
/// records what it needs and is then as it was.
///
/// - Errors: a context that holds no token behind the prompt and what asks for its repetition
pub(super) fn replay(
    pass: &mut Pass<'_>,
    prompt: &[u32],
    cache: &mut RaggedCache,
    chunk_tokens: usize,
) -> Result<(), RuntimeError> {
    let max_positions = pass.model().config().max_positions;
    let tokenizer = pass.model().tokenizer()?;
    let encode = |text| tokenizer.encode(text, AddSpecial::No).map_err(ModelError::from);
    let (all, from, before_chunk) = (encode(REPEAT_ALL)?, encode(REPEAT_FROM)?, encode(BEFORE_CHUNK)?);
    let first_position = cache.n_seen() - prompt.len();
    let mut at = 0;
    while at < prompt.len() {
        let lead_in = &prompt[at.saturating_sub(N_LEAD_IN)..at];
        let question = if at == 0 { &all } else { &from };
        let asking = [question, lead_in, &before_chunk].concat();
        let n_before = cache.n_seen() + asking.len();
        if n_before >= max_positions {
            return Err(RuntimeError::NoRoomToReplay { n_tokens: n_before + 1, max_positions });
        }
        let end = prompt.len().min(at + chunk_tokens.min(max_positions - n_before));
        cache.check_sees_back(n_before + end - at)?;
        cache.begin_replay(first_position + at, asking.len(), chunk_tokens);
        let (tokens, position) = ([&asking, &prompt[at..end]].concat(), cache.n_seen());
        let passed = if cache.repeats_by(chunk_tokens, Weighing::Gradient) {
            pass.forward_and_back(&tokens, position, cache)
        } else {
            pass.forward(&tokens, position, cache, LogitRows::None).map(|_| ())
        };
        cache.end_replay();
        passed?;
        at = end;
    }
    Ok(())
}
