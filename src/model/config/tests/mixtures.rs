//! Mixtures of experts, from `config.json` and from GGUF metadata.

use super::*;

fn qwen(changes: Value) -> Result<Config, ModelError> {
    let mut all = serde_json::json!({"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24});
    all.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    of("Qwen3MoeForCausalLM", all)
}

fn mixtral(changes: Value) -> Result<Config, ModelError> {
    let mut all = serde_json::json!({"num_local_experts": 6});
    all.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    of("MixtralForCausalLM", all)
}

#[test]
fn both_kinds_are_read() {
    let mixture = |expert_size: usize, renormalises: bool, dense_layers: &[usize]| {
        Some(Mixture { n_experts: 6, n_used: 2, expert_size, renormalises, dense_layers: dense_layers.into() })
    };
    let plain = qwen(serde_json::json!({"head_dim": 16})).unwrap();
    assert_eq!((plain.mixture.clone(), plain.ffn_size, plain.head_dim), (mixture(24, false, &[]), 172, 16));
    assert_eq!((0..5).filter_map(|layer| plain.mixture_of(layer)).count(), 5);
    // Without a width, heads have their share of the hidden size, unlike Qwen3's.
    assert_eq!(qwen(serde_json::json!({})).unwrap().head_dim, 8);
    let uneven = serde_json::json!({"norm_topk_prob": true, "decoder_sparse_step": 2, "mlp_only_layers": [0, 3, 9]});
    let uneven = qwen(uneven).unwrap();
    assert_eq!(uneven.mixture, mixture(24, true, &[0, 2, 3, 4]));
    assert!(uneven.mixture_of(1).is_some() && uneven.mixture_of(3).is_none());
    // As transformers 5 writes it.
    let renamed = qwen(serde_json::json!({"num_experts": null, "num_local_experts": 6, "mlp_only_layers": null}));
    assert_eq!(renamed.unwrap().mixture, plain.mixture);
    assert_eq!(
        qwen(serde_json::json!({"num_experts": 9, "num_experts_per_tok": null})).unwrap().mixture.unwrap().n_used,
        8
    );

    let plain = mixtral(serde_json::json!({"router_jitter_noise": 0.1, "router_aux_loss_coef": 0.02})).unwrap();
    assert_eq!((plain.mixture, plain.rope_theta), (mixture(172, true, &[]), 1e6));
    assert_eq!(plain.windows, vec![None; 5]);
    assert_eq!(mixtral(serde_json::json!({"sliding_window": 9})).unwrap().windows, vec![Some(9); 5]);
    let stated = serde_json::json!({"sliding_window": 9, "use_sliding_window": true, "max_window_layers": 3});
    assert_eq!(qwen(stated).unwrap().windows, vec![Some(9); 5]);
    assert_eq!(qwen(serde_json::json!({"sliding_window": 9})).unwrap().windows, vec![None; 5]);
}

#[test]
fn what_no_mixture_computes_is_named() {
    for (changes, words) in [
        (serde_json::json!({"num_experts": 0}), "num_experts is 0"),
        (serde_json::json!({"num_experts": null}), "num_experts is missing"),
        (serde_json::json!({"num_local_experts": 7}), "num_experts is 6, but num_local_experts is 7"),
        (serde_json::json!({"num_experts_per_tok": 7}), "num_experts_per_tok is 7, of 6 experts"),
        (serde_json::json!({"num_experts_per_tok": 0}), "num_experts_per_tok is 0"),
        (serde_json::json!({"moe_intermediate_size": null}), "moe_intermediate_size"),
        (serde_json::json!({"moe_intermediate_size": 0}), "moe_intermediate_size is 0"),
        (serde_json::json!({"decoder_sparse_step": 0}), "decoder_sparse_step is 0"),
        (serde_json::json!({"mlp_only_layers": [-1]}), "mlp_only_layers holds -1"),
        (serde_json::json!({"mlp_only_layers": 2}), "mlp_only_layers"),
        (serde_json::json!({"norm_topk_prob": "yes"}), "norm_topk_prob"),
        (serde_json::json!({"shared_expert_intermediate_size": 64}), "shared_expert_intermediate_size"),
        (serde_json::json!({"n_shared_experts": 1}), "n_shared_experts"),
        (serde_json::json!({"n_group": 4}), "n_group is 4"),
        (serde_json::json!({"scoring_func": "sigmoid"}), "scoring_func"),
        (serde_json::json!({"routed_scaling_factor": 2.5}), "routed_scaling_factor"),
    ] {
        let message = qwen(changes).unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    }
    let neutral = serde_json::json!({"n_group": 1, "scoring_func": "softmax", "routed_scaling_factor": 1.0, "n_shared_experts": 0});
    qwen(neutral).unwrap();
    for changes in [
        serde_json::json!({"norm_topk_prob": false}),
        serde_json::json!({"decoder_sparse_step": 2}),
        serde_json::json!({"mlp_only_layers": [1]}),
        serde_json::json!({"moe_intermediate_size": 24}),
    ] {
        let key = changes.as_object().unwrap().keys().next().unwrap().clone();
        assert!(mixtral(changes).unwrap_err().to_string().contains(&key), "{key}");
    }
    let dense = of("Qwen3ForCausalLM", serde_json::json!({"num_experts": 6})).unwrap_err();
    assert!(dense.to_string().contains("of this architecture are not supported"), "{dense}");
}

#[test]
fn gguf_files_have_them_too() {
    let experts = |n: u32, used: u32| [("expert_count", whole(n)), ("expert_used_count", whole(used))];
    let config = from_gguf("llama", &experts(6, 2), &[]).unwrap();
    let mixture = |n_used: usize, expert_size: usize| {
        Some(Mixture { n_experts: 6, n_used, expert_size, renormalises: true, dense_layers: Vec::new() })
    };
    assert_eq!((config.architecture.hf_name, config.mixture), ("MixtralForCausalLM", mixture(2, 172)));
    assert_eq!(config.rope_theta, 1e4);
    let config = from_gguf("llama", &experts(0, 0), &[]).unwrap();
    assert_eq!((config.architecture.hf_name, config.mixture), ("LlamaForCausalLM", None));
    let [count, used] = experts(6, 4);
    let width = ("expert_feed_forward_length", whole(24));
    let config = from_gguf("qwen3moe", &[count.clone(), used.clone(), width], &[]).unwrap();
    assert_eq!((config.architecture.hf_name, config.mixture), ("Qwen3MoeForCausalLM", mixture(4, 24)));
    assert_eq!(from_gguf("qwen3moe", &[count.clone(), used.clone()], &[]).unwrap().mixture, mixture(4, 43));
    for (name, more, words) in [
        ("qwen3moe", vec![], "qwen3moe.expert_count is missing"),
        ("qwen3moe", vec![count.clone()], "qwen3moe.expert_used_count is missing"),
        ("llama", experts(6, 7).into(), "llama.expert_used_count is 7, of 6 experts"),
        ("qwen3", experts(6, 2).into(), "qwen3.expert_count is 6"),
        ("llama", vec![count.clone(), used.clone(), ("expert_gating_func", whole(2))], "expert_gating_func is 2"),
        ("llama", vec![count.clone(), used.clone(), ("expert_weights_scale", real(2.5))], "expert_weights_scale"),
        ("llama", vec![count.clone(), used.clone(), ("expert_weights_norm", flag(false))], "expert_weights_norm"),
        ("llama", vec![count, used, ("expert_shared_count", whole(1))], "expert_shared_count is 1"),
    ] {
        let message = from_gguf(name, &more, &[]).unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    }
}
