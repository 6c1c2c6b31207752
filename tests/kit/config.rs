//! Configurations that no weights belong to.

use kvscope::model::{ARCHITECTURES, Bias, Config, Multipliers, RopeScaling};

/// A configuration for stores that are fed by hand.
pub fn shape(n_layers: usize, n_q_heads: usize, n_kv_heads: usize, head_dim: usize) -> Config {
    Config {
        architecture: ARCHITECTURES[0],
        hidden_size: n_q_heads * head_dim,
        ffn_size: 4,
        mixture: None,
        n_layers,
        n_q_heads,
        n_kv_heads,
        head_dim,
        rotary_dim: head_dim,
        vocab_size: 2,
        rms_norm_eps: 1e-5,
        rope_theta: 1e4,
        rope_scaling: RopeScaling::None,
        local_rope: None,
        multipliers: Multipliers::NONE,
        unrotated: Vec::new(),
        query_scalar: head_dim as f64,
        max_positions: 1 << 20,
        windows: vec![None; n_layers],
        tied_output: true,
        qkv_bias: Bias::None,
        o_bias: Bias::None,
        mlp_bias: Bias::None,
        output_bias: Bias::None,
    }
}
