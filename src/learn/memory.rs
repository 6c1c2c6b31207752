//! How much memory learning takes, told beforehand.

use crate::learn::reading::CHUNK_TOKENS;
use crate::merge::Repetition;
use crate::model::Model;

/// The program itself, its threads' stacks and packing buffers, the tokenizer, and what the allocator keeps.
const OVERHEAD_BYTES: u64 = 64 << 20;

/// Bytes at the peak of learning from samples of up to so many tokens.
///
/// The sums grow with the square of the model's width, and not with the samples.
pub fn memory_needed(model: &Model, n_tokens: usize) -> u64 {
    let c = model.config();
    let (q_width, kv_width) = (c.n_q_heads * c.head_dim, c.n_kv_heads * c.head_dim);
    let bytes = |values: usize| 4 * values as u64;
    let square = |width: usize| 8 * (width * width) as u64;
    let sums = c.n_layers as u64 * square(c.hidden_size + c.n_kv_heads);
    // A layer's system and its factor, on every thread.
    let systems = 2 * (rayon::current_num_threads().min(c.n_layers)) as u64 * square(c.hidden_size);
    let n_repeated = n_tokens.min(Repetition::default().chunk);
    let cache = bytes(c.n_layers * (2 * kv_width * (n_tokens + n_repeated) + 2 * c.n_kv_heads * n_tokens));
    let chunk = n_repeated.max(n_tokens.min(CHUNK_TOKENS));
    let widths = 5 * c.hidden_size + 4 * q_width + 5 * kv_width + c.ffn_activations();
    let activations = bytes(chunk * widths + n_tokens * c.hidden_size);
    model.weight_bytes() + sums + systems.max(cache + activations) + OVERHEAD_BYTES
}
