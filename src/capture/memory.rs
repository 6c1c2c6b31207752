//! How much memory a capture takes, told beforehand, and the memory that there is.

use crate::capture::{CaptureError, CaptureOptions};
use crate::format::dump::State;
use crate::model::Model;

/// Chunks that a memory limit chooses among, largest first; smaller ones make slow products.
const CHUNKS: [usize; 6] = [2048, 1024, 512, 256, 128, 64];
/// Query tokens of one attention block, as the model works.
const BLOCK_TOKENS: usize = 64;
/// The program itself, its threads' stacks and packing buffers, the tokenizer, and what the allocator keeps.
const OVERHEAD_BYTES: u64 = 64 << 20;

/// Bytes at the peak of a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryEstimate {
    pub weights: u64,
    /// States held: one layer's, or all layers' keys and values where tokens are generated.
    pub states: u64,
    /// The residual stream of all tokens, and one chunk's activations and attention scores.
    pub activations: u64,
    /// What does not depend on the sample.
    pub overhead: u64,
}

impl MemoryEstimate {
    pub fn total(&self) -> u64 {
        self.weights + self.states + self.activations + self.overhead
    }
}

/// Estimates the peak while a prompt of `n_prompt_tokens` is captured.
///
/// Every term grows linearly with the tokens: states and the residual stream by their size, scores by one row of a block
/// per thread, block masses by the blocks of a chunk. Only a prompt that passes in one chunk has T / 64 rows of masses.
pub fn memory_estimate(model: &Model, options: &CaptureOptions, n_prompt_tokens: usize) -> MemoryEstimate {
    let c = model.config();
    let n_tokens = n_prompt_tokens + options.decode_tokens;
    let chunk = match options.chunk_tokens {
        0 => n_prompt_tokens,
        chunk => chunk.min(n_prompt_tokens),
    };
    let (q_width, kv_width) = (c.n_q_heads * c.head_dim, c.n_kv_heads * c.head_dim);
    let mass = options.states.contains(&State::Mass);
    let pre_rope = options.states.contains(&State::KPreRope);
    // The mass of all queries and of the window: kept, and the chunk's own to be added.
    let masses = if mass { 2 * c.n_kv_heads * n_tokens } else { 0 };
    let queries = if options.states.contains(&State::Q) { options.queries_of(n_tokens) * q_width } else { 0 };
    let layer = n_tokens * kv_width * (2 + usize::from(pre_rope)) + queries + masses;
    let n_held = if options.decode_tokens > 0 { c.n_layers } else { 1 };
    let attention = chunk * (c.hidden_size + 4 * q_width + (3 + usize::from(pre_rope)) * kv_width)
        + rayon::current_num_threads() * BLOCK_TOKENS * (q_width / kv_width.max(1)) * n_prompt_tokens
        + masses * (1 + chunk.div_ceil(BLOCK_TOKENS));
    // Rounded to 16 bits, with 8 bytes for every 32: nine sixteenths of f32.
    let rounded = chunk * c.hidden_size.max(q_width).max(c.ffn_size) * 9 / 16;
    let feed_forward = chunk * (2 * c.hidden_size + c.ffn_activations());
    // Not the larger of the two: what attention has freed the allocator seldom has in one piece for the other.
    let activations = n_prompt_tokens * c.hidden_size + attention + feed_forward + rounded + c.vocab_size;
    let bytes = |values: usize| 4 * values as u64;
    MemoryEstimate {
        weights: model.weight_bytes(),
        states: bytes(n_held * layer),
        activations: bytes(activations),
        overhead: OVERHEAD_BYTES,
    }
}

/// The tokens per chunk with which prompts of up to `n_prompt_tokens` stay below `limit`.
///
/// A chunk that the options name is kept; else the largest that fits is taken.
///
/// - Errors: [`CaptureError::Memory`] when none fits
pub(super) fn fitting_chunk(
    model: &Model,
    options: &CaptureOptions,
    n_prompt_tokens: usize,
    limit: u64,
) -> Result<usize, CaptureError> {
    let with =
        |chunk_tokens| memory_estimate(model, &CaptureOptions { chunk_tokens, ..options.clone() }, n_prompt_tokens);
    let candidates = match options.chunk_tokens {
        0 => CHUNKS.as_slice(),
        _ => std::slice::from_ref(&options.chunk_tokens),
    };
    if let Some(chunk) = candidates.iter().find(|chunk| with(**chunk).total() <= limit) {
        return Ok(*chunk);
    }
    let chunk_tokens = candidates[candidates.len() - 1];
    let n_tokens = n_prompt_tokens + options.decode_tokens;
    Err(CaptureError::Memory { limit, n_tokens, chunk_tokens, needed: with(chunk_tokens) })
}

/// Bytes of memory that the machine, or the control group that the process is in, has; `None` where it does not tell.
pub fn memory_of_machine() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
    let total = line.split_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(1024)?;
    let group = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let limit = group.and_then(|text| text.trim().parse::<u64>().ok());
    Some(limit.map_or(total, |limit| limit.min(total)))
}
