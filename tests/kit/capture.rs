//! Captures.

use kvscope::capture::CaptureOptions;
use kvscope::format::dump::State;
use kvscope::math::Float;
use kvscope::model::Model;

/// Everything of a prompt, in f32.
pub fn everything(model: &Model) -> CaptureOptions {
    CaptureOptions {
        states: State::ALL.into_iter().collect(),
        layers: (0..model.config().n_layers).collect(),
        kv_heads: None,
        dtype: Float::F32,
        n_queries: None,
        window_tokens: 32,
        chunk_tokens: 0,
        decode_tokens: 0,
        chat_template: false,
        seed: 0,
        memory_limit: None,
    }
}
