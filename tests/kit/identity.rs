//! Models by name and shape only.

use kvscope::files::ModelIdentity;

/// A model of that shape; its other values are alike everywhere.
pub fn identity(n_layers: usize, n_q_heads: usize, n_kv_heads: usize, head_dim: usize) -> ModelIdentity {
    ModelIdentity {
        name: "toy".into(),
        architecture: "LlamaForCausalLM".into(),
        fingerprint: "5e4f".repeat(16),
        tokenizer_sha256: None,
        chat_template_sha256: None,
        n_layers,
        n_q_heads,
        n_kv_heads,
        head_dim,
        rope_theta: 1e4,
        rope_frequencies: Vec::new(),
        local_rope_frequencies: Vec::new(),
        layers_without_rope: Vec::new(),
        windows: Vec::new(),
        max_positions: 8192,
    }
}
