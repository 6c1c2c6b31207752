//! Settings of every architecture: what is read, what is refused, and by which name.

mod mixtures;

use super::*;
use crate::model::rope::Yarn;

fn json() -> Value {
    serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 5,
        "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 512, "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
    })
}

#[test]
fn both_styles_of_rope_settings_are_read() {
    let mut old = json();
    old["rope_theta"] = 5e5.into();
    old["rope_scaling"] = serde_json::json!({"type": "linear", "factor": 2.0});
    let config = Config::from_hf(&old).unwrap();
    assert_eq!((config.head_dim, config.group(), config.rope_theta), (8, 2, 5e5));
    assert_eq!(config.rope_scaling, RopeScaling::Linear { factor: 2.0 });
    let mut new = json();
    new["rope_parameters"] = serde_json::json!({"rope_type": "default", "rope_theta": 1e5});
    let config = Config::from_hf(&new).unwrap();
    assert_eq!((config.rope_theta, config.rope_scaling), (1e5, RopeScaling::None));
}

fn of(architecture: &str, changes: Value) -> Result<Config, ModelError> {
    let mut json = json();
    json["architectures"] = serde_json::json!([architecture]);
    for (key, value) in changes.as_object().unwrap() {
        json[key] = value.clone();
    }
    Config::from_hf(&json)
}

#[test]
fn rope_scaling_comes_before_rope_parameters() {
    let both = serde_json::json!({
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
        "rope_scaling": {"type": "linear", "factor": 4.0},
        "rope_theta": 2e4,
    });
    let config = of("LlamaForCausalLM", both).unwrap();
    assert_eq!((config.rope_theta, config.rope_scaling), (2e4, RopeScaling::Linear { factor: 4.0 }));
    let llama3 = serde_json::json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4});
    let original = |outer: Value| match of("LlamaForCausalLM", outer).unwrap().rope_scaling {
        RopeScaling::Llama3 { original_max_positions, .. } => original_max_positions,
        other => panic!("{other:?}"),
    };
    // Of the three places, the outermost comes first, and the model's own length last.
    assert_eq!(original(serde_json::json!({"rope_scaling": llama3})), 512.0);
    let outer = serde_json::json!({"rope_scaling": llama3, "original_max_position_embeddings": 64});
    assert_eq!(original(outer), 64.0);
}

#[test]
fn yarn_has_the_defaults_of_transformers() {
    let scaled = |rope: Value, max_positions: usize| {
        let mut rope = rope;
        rope["rope_type"] = "yarn".into();
        of("Qwen3ForCausalLM", serde_json::json!({"rope_scaling": rope, "max_position_embeddings": max_positions}))
    };
    let yarn = |rope: Value, max_positions: usize| match scaled(rope, max_positions).unwrap().rope_scaling {
        RopeScaling::Yarn(yarn) => yarn,
        other => panic!("{other:?}"),
    };
    let ln4 = 4f64.ln();
    let plain = yarn(serde_json::json!({"factor": 4}), 512);
    let by_default = Yarn {
        factor: 4.0,
        original_max_positions: 512.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        truncate: true,
        attention_factor: 0.1 * ln4 + 1.0,
    };
    assert_eq!(plain, by_default);
    let stated = serde_json::json!({
        "factor": null, "original_max_position_embeddings": 128, "beta_fast": 16, "beta_slow": 2, "truncate": false,
        "mscale": 0.5, "mscale_all_dim": 0.25,
    });
    let stated = yarn(stated, 512);
    assert_eq!((stated.factor, stated.original_max_positions), (4.0, 128.0));
    assert_eq!((stated.beta_fast, stated.beta_slow, stated.truncate), (16.0, 2.0, false));
    assert!((stated.attention_factor - (0.05 * ln4 + 1.0) / (0.025 * ln4 + 1.0)).abs() < 1e-12);
    let shrunk = yarn(serde_json::json!({"factor": 0.5, "mscale": 0, "mscale_all_dim": 1}), 512);
    assert_eq!(shrunk.attention_factor, 1.0);
    assert_eq!(yarn(serde_json::json!({"factor": 4, "attention_factor": 1.5}), 512).attention_factor, 1.5);
    // The context is as long as the factor makes it, or as it is stated.
    let context = |original: usize, max_positions: usize| {
        let rope = serde_json::json!({"factor": 4, "original_max_position_embeddings": original});
        scaled(rope, max_positions).unwrap().max_positions
    };
    assert_eq!((context(128, 128), context(128, 160), context(128, 600)), (512, 512, 600));
    for (rope, words) in [
        (serde_json::json!({}), "rope_scaling.factor is missing"),
        (serde_json::json!({"factor": 0}), "rope_scaling.factor"),
        (serde_json::json!({"factor": 1e12}), "longer than any model has"),
        (serde_json::json!({"factor": 4, "beta_fast": 0.5}), "below beta_slow"),
        (serde_json::json!({"factor": 4, "beta_slow": 0}), "rope_scaling.beta_slow"),
        (serde_json::json!({"factor": 4, "attention_factor": -1.0}), "rope_scaling.attention_factor"),
        (serde_json::json!({"factor": 4, "truncate": "no"}), "rope_scaling.truncate"),
        (serde_json::json!({"factor": 4, "rope_theta": 1.0}), "largest angle"),
    ] {
        let shown = rope.to_string();
        let message = scaled(rope, 512).unwrap_err().to_string();
        assert!(message.contains(words), "{shown}: {message}");
    }
    let gemma = serde_json::json!({"rope_scaling": {"rope_type": "yarn", "factor": 4}, "sliding_window": 9});
    let message = of("Gemma3ForCausalLM", gemma).unwrap_err().to_string();
    assert!(message.contains("default, linear and llama3 are supported"), "{message}");
}

#[test]
fn dynamic_rope_is_the_plain_one_as_far_as_it_goes() {
    let dynamic = serde_json::json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}});
    let config = of("LlamaForCausalLM", dynamic).unwrap();
    assert_eq!(config.rope(), of("LlamaForCausalLM", serde_json::json!({})).unwrap().rope());
    config.check_length(512).unwrap();
    let message = config.check_length(513).unwrap_err().to_string();
    assert!(
        message.starts_with("513 tokens exceed the model's context of 512, beyond which dynamic RoPE"),
        "{message}"
    );
    let shrinking = serde_json::json!({"rope_scaling": {"type": "dynamic", "factor": 0.5}});
    assert!(of("LlamaForCausalLM", shrinking).unwrap_err().to_string().contains("at least 1"));
}

#[test]
fn windows_are_those_of_each_class() {
    let windows = |architecture: &str, changes: Value| of(architecture, changes).map(|config| config.windows);
    let all = |window: Option<usize>| vec![window; 5];
    let (llama, mistral, qwen) = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen3ForCausalLM");
    let stated = serde_json::json!({"sliding_window": 9, "use_sliding_window": true});
    assert_eq!(windows(llama, stated.clone()).unwrap(), all(None));
    assert_eq!(windows(mistral, serde_json::json!({})).unwrap(), all(Some(4096)));
    assert_eq!(windows(mistral, serde_json::json!({"sliding_window": null})).unwrap(), all(None));
    assert_eq!(windows(mistral, stated).unwrap(), all(Some(9)));
    let kinds = ["full_attention", "sliding_attention", "full_attention", "full_attention", "sliding_attention"];
    let by_kind = vec![None, Some(9), None, None, Some(9)];
    let ministral = serde_json::json!({"sliding_window": 9, "layer_types": kinds});
    assert_eq!(windows(mistral, ministral).unwrap(), by_kind);
    assert_eq!(windows(qwen, serde_json::json!({"sliding_window": 9, "max_window_layers": 3})).unwrap(), all(None));
    let from_layer = serde_json::json!({"sliding_window": 9, "use_sliding_window": true, "max_window_layers": 3});
    assert_eq!(windows(qwen, from_layer).unwrap(), [None, None, None, Some(9), Some(9)]);
    let first = serde_json::json!({"use_sliding_window": true, "max_window_layers": 4});
    assert_eq!(windows(qwen, first).unwrap()[4], Some(4096));
    let listed = serde_json::json!({"sliding_window": 9, "use_sliding_window": true, "layer_types": kinds});
    assert_eq!(windows(qwen, listed).unwrap(), by_kind);
    for (changes, words) in [
        (serde_json::json!({"layer_types": kinds}), "no sliding_window is in force"),
        (serde_json::json!({"layer_types": ["full_attention"]}), "1 entries for 5 layers"),
        (serde_json::json!({"layer_types": vec!["chunked_attention"; 5]}), "chunked_attention"),
        (serde_json::json!({"use_sliding_window": true, "sliding_window": 0}), "is 0"),
        (serde_json::json!({"use_sliding_window": "yes"}), "use_sliding_window"),
    ] {
        let message = windows(qwen, changes).unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn gemma_is_read_in_both_styles() {
    let gemma = |changes: Value| {
        let mut json = json();
        json["architectures"] = serde_json::json!(["Gemma3ForCausalLM"]);
        let object = json.as_object_mut().unwrap();
        object.remove("tie_word_embeddings");
        object.insert("num_hidden_layers".into(), 7.into());
        object.insert("sliding_window".into(), 9.into());
        object.extend(changes.as_object().unwrap().clone());
        Config::from_hf(&json)
    };
    let by_default = gemma(serde_json::json!({"hidden_activation": "gelu_pytorch_tanh"})).unwrap();
    assert_eq!((by_default.head_dim, by_default.query_scalar, by_default.tied_output), (256, 256.0, true));
    assert_eq!((by_default.rope_theta, by_default.local_rope.clone()), (1e6, Some((1e4, RopeScaling::None))));
    let windowed = |window: Option<usize>, full: &[usize]| -> Vec<Option<usize>> {
        (0..7).map(|layer| window.filter(|_| !full.contains(&layer))).collect()
    };
    assert_eq!(by_default.windows, windowed(Some(9), &[5]));
    let scaled = RopeScaling::Linear { factor: 8.0 };
    let older = gemma(serde_json::json!({
        "rope_theta": 5e5, "rope_local_base_freq": 2e3, "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "sliding_window_pattern": 3, "query_pre_attn_scalar": 168, "tie_word_embeddings": false,
    }));
    let older = older.unwrap();
    assert_eq!(older.windows, windowed(Some(9), &[2, 5]));
    let newer = gemma(serde_json::json!({
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5},
            "sliding_attention": {"rope_type": "default", "rope_theta": 2e3},
        },
        "_sliding_window_pattern": 6, "query_pre_attn_scalar": 168, "tie_word_embeddings": false,
        "layer_types": (1..=7).map(|i| if i % 3 == 0 { "full_attention" } else { "sliding_attention" }).collect::<Vec<_>>(),
    }));
    assert_eq!(newer.unwrap(), older);
    assert_eq!((older.rope_theta, older.rope_scaling), (5e5, scaled));
    assert!((older.query_scalar, older.tied_output) == (168.0, false));
    for (changes, words) in [
        (serde_json::json!({"final_logit_softcapping": 30.0}), "final_logit_softcapping"),
        (serde_json::json!({"attn_logit_softcapping": 50.0}), "attn_logit_softcapping"),
        (serde_json::json!({"hidden_activation": "silu"}), "hidden_activation"),
        (serde_json::json!({"use_bidirectional_attention": true}), "use_bidirectional_attention"),
        (serde_json::json!({"sliding_window": null}), "sliding_window"),
        (serde_json::json!({"sliding_window_pattern": 0}), "sliding_window_pattern"),
        (serde_json::json!({"sliding_window_pattern": "6"}), "sliding_window_pattern"),
        (serde_json::json!({"query_pre_attn_scalar": 0}), "query_pre_attn_scalar"),
        (serde_json::json!({"rope_parameters": {"rope_type": "default"}}), "full_attention and sliding_attention"),
        (serde_json::json!({"rope_local_base_freq": 0}), "rope_local_base_freq"),
        (serde_json::json!({"layer_types": vec!["chunked_attention"; 7]}), "chunked_attention"),
        (serde_json::json!({"model_type": "gemma3"}), "model_type"),
    ] {
        let message = gemma(changes).unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn granite_multiplies() {
    let granite = |changes: Value| of("GraniteForCausalLM", changes);
    let plain = granite(serde_json::json!({})).unwrap();
    assert_eq!((plain.multipliers, plain.query_scalar), (Multipliers::NONE, 1.0));
    let stated = serde_json::json!({
        "embedding_multiplier": 12, "residual_multiplier": 0.25, "attention_multiplier": 0.125, "logits_scaling": 8.0,
    });
    let config = granite(stated.clone()).unwrap();
    assert_eq!(config.multipliers, Multipliers { embedding: 12.0, residual: 0.25, logits_divisor: 8.0 });
    // D is 8: products of 8 numbers times 1/8 are those times a factor over the root of 8.
    assert!((config.query_factor() - 8f32.sqrt() / 8.0).abs() < 1e-6);
    for key in ["embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling"] {
        for value in [serde_json::json!(0), serde_json::json!(-2.0), serde_json::json!("1")] {
            let message = granite(serde_json::json!({key: value})).unwrap_err().to_string();
            assert!(message.contains(key), "{message}");
        }
        let elsewhere = of("LlamaForCausalLM", serde_json::json!({key: stated[key]}));
        assert!(elsewhere.unwrap_err().to_string().contains(key));
    }
}

#[test]
fn phi_turns_a_part_of_each_head_by_longrope() {
    let phi = |changes: Value| of("Phi3ForCausalLM", changes);
    let plain = phi(serde_json::json!({"hidden_size": 64})).unwrap();
    assert_eq!((plain.rotary_dim, plain.windows.clone(), plain.max_positions), (8, vec![None; 5], 512));
    let long = |kind: &str, more: Value| {
        let mut rope = serde_json::json!({"type": kind, "short_factor": [1, 1.5, 2], "long_factor": [3, 3, 3]});
        rope.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        phi(serde_json::json!({
            "rope_scaling": rope, "original_max_position_embeddings": 128, "partial_rotary_factor": 0.75, "sliding_window": 64,
        }))
    };
    let config = long("longrope", serde_json::json!({})).unwrap();
    let attention_factor = (1.0 + 4f64.ln() / 128f64.ln()).sqrt();
    let scaling = RopeScaling::LongRope { short: vec![1.0, 1.5, 2.0], original_max_positions: 128, attention_factor };
    assert_eq!((config.rotary_dim, config.max_positions, &config.rope_scaling), (6, 128, &scaling));
    assert_eq!(config.windows, vec![Some(64); 5]);
    assert_eq!(
        config.rope().frequencies(),
        [1.0, (1e4f64.powf(-1.0 / 3.0) / 1.5) as f32, (1e4f64.powf(-2.0 / 3.0) / 2.0) as f32]
    );
    assert_eq!(long("su", serde_json::json!({})).unwrap(), config);
    let message = config.check_length(129).unwrap_err().to_string();
    assert!(message.contains("beyond which LongRoPE has other frequencies"), "{message}");
    for (more, words) in [
        (serde_json::json!({"short_factor": [1, 1]}), "2 factors where 3 are needed"),
        (serde_json::json!({"short_factor": [1, 0, 1]}), "holds 0"),
        (serde_json::json!({"short_factor": null}), "short_factor is missing"),
        (serde_json::json!({"partial_rotary_factor": 1.5}), "makes 12 of a head's 8"),
        (serde_json::json!({"partial_rotary_factor": 0.4}), "makes 3 of a head's 8"),
        (serde_json::json!({"attention_factor": 0}), "attention_factor"),
        (serde_json::json!({"rope_type": "llama3"}), "default and longrope"),
    ] {
        let message = long("longrope", more).unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn layers_without_rope_are_listed_or_every_fourth() {
    let smollm = |changes: Value| of("SmolLM3ForCausalLM", changes);
    let plain = smollm(serde_json::json!({"rope_scaling": null})).unwrap();
    assert_eq!((plain.unrotated, plain.windows, plain.rope_theta), (vec![3], vec![None; 5], 2e6));
    let every_second = smollm(serde_json::json!({"no_rope_layer_interval": 2})).unwrap();
    assert_eq!(every_second.unrotated, [1, 3]);
    let listed = serde_json::json!({
        "no_rope_layers": [0, 1, 1, 0, 1, 0], "use_sliding_window": true, "sliding_window": 9,
    });
    let listed = smollm(listed).unwrap();
    assert_eq!(listed.unrotated, [0, 3]);
    assert_eq!(listed.windows, [Some(9), None, None, Some(9), None]);
    let turns: Vec<usize> = (0..5).map(|layer| listed.ropes().of(layer).frequencies().len()).collect();
    assert_eq!(turns, [0, 4, 4, 0, 4]);
    for (changes, words) in [
        (serde_json::json!({"no_rope_layers": [1]}), "1 entries for 5 layers"),
        (serde_json::json!({"no_rope_layers": [1, 1, 2, 0, 1]}), "holds 2"),
        (serde_json::json!({"no_rope_layers": 4}), "no_rope_layers"),
        (serde_json::json!({"no_rope_layer_interval": 0}), "every 0th"),
        (serde_json::json!({"layer_types": vec!["sliding_attention"; 5]}), "no sliding_window is in force"),
    ] {
        let message = smollm(changes).unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    }
    let elsewhere = of("LlamaForCausalLM", serde_json::json!({"no_rope_layers": [1, 1, 1, 0, 1]}));
    assert!(elsewhere.unwrap_err().to_string().contains("no_rope_layers"));
}

#[test]
fn defaults_are_those_of_each_class() {
    let heads = |architecture: &str, kv: Option<Value>| {
        let mut json = json();
        json["architectures"] = serde_json::json!([architecture]);
        json["num_attention_heads"] = 32.into();
        let json = json.as_object_mut().unwrap();
        json.remove("num_key_value_heads");
        json.extend(kv.map(|value| ("num_key_value_heads".to_string(), value)));
        Config::from_hf(&Value::Object(json.clone())).map(|config| (config.n_kv_heads, config.head_dim)).unwrap()
    };
    assert_eq!(heads("LlamaForCausalLM", None), (32, 2));
    assert_eq!(heads("MistralForCausalLM", None), (8, 2));
    assert_eq!(heads("MistralForCausalLM", Some(Value::Null)), (32, 2));
    assert_eq!(heads("Qwen3ForCausalLM", None), (32, 128));
    assert_eq!(heads("Olmo2ForCausalLM", None), (32, 2));
    let eps = |architecture: &str| {
        let mut json = json();
        json["architectures"] = serde_json::json!([architecture]);
        json.as_object_mut().unwrap().remove("rms_norm_eps");
        Config::from_hf(&json).unwrap().rms_norm_eps
    };
    assert_eq!((eps("LlamaForCausalLM"), eps("Olmo2ForCausalLM")), (1e-6, 1e-5));
    let biases = |architecture: &str| {
        let config = of(architecture, serde_json::json!({"attention_bias": true, "mlp_bias": true})).unwrap();
        (config.qkv_bias, config.o_bias, config.mlp_bias)
    };
    let (none, required) = (Bias::None, Bias::Required);
    assert_eq!(biases("LlamaForCausalLM"), (required, required, required));
    assert_eq!(biases("Qwen3ForCausalLM"), (required, required, none));
    assert_eq!(biases("Qwen2ForCausalLM"), (required, none, none));
    assert_eq!(biases("MistralForCausalLM"), (none, none, none));
}

#[test]
fn numbers_without_sense_are_named() {
    let llama3 = |low: f64, high: f64, factor: f64| {
        serde_json::json!({"rope_scaling": {
            "rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
            "original_max_position_embeddings": 64,
        }})
    };
    for (changes, words) in [
        (serde_json::json!({"rope_theta": 0.0}), "rope_theta"),
        (serde_json::json!({"rope_theta": -1}), "rope_theta"),
        (serde_json::json!({"rope_theta": 1e-300}), "largest angle"),
        (serde_json::json!({"rope_theta": "1e6"}), "rope_theta"),
        (serde_json::json!({"rms_norm_eps": -1e-6}), "rms_norm_eps"),
        (serde_json::json!({"rms_norm_eps": null}), "rms_norm_eps"),
        (serde_json::json!({"head_dim": 7}), "even number"),
        (serde_json::json!({"head_dim": 8.0}), "head_dim"),
        (serde_json::json!({"tie_word_embeddings": 1}), "tie_word_embeddings"),
        (serde_json::json!({"attention_bias": "true"}), "attention_bias"),
        (serde_json::json!({"architectures": "LlamaForCausalLM"}), "architectures"),
        (serde_json::json!({"model_type": "granite"}), "model_type"),
        (serde_json::json!({"rope_scaling": "llama3"}), "rope_scaling"),
        (serde_json::json!({"rope_scaling": {"type": "linear"}}), "rope_scaling.factor is missing"),
        (serde_json::json!({"rope_scaling": {"type": "linear", "factor": 0}}), "rope_scaling.factor"),
        (serde_json::json!({"rope_scaling": {"rope_type": 3}}), "rope_scaling.rope_type"),
        (serde_json::json!({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}), "differs by layer"),
        (serde_json::json!({"rope_parameters": {"partial_rotary_factor": 0.5}}), "partial_rotary_factor"),
        (llama3(4.0, 4.0, 8.0), "high_freq_factor"),
        (llama3(1.0, 4.0, 0.0), "rope_scaling.factor"),
    ] {
        let shown = changes.to_string();
        let message = of("LlamaForCausalLM", changes).unwrap_err().to_string();
        assert!(message.contains(words), "{shown}: {message}");
    }
}

#[test]
fn what_cannot_be_run_is_named() {
    let with = |key: &str, value: Value| {
        let mut json = json();
        json[key] = value;
        Config::from_hf(&json).unwrap_err().to_string()
    };
    assert!(with("architectures", serde_json::json!(["MambaForCausalLM"])).contains("MambaForCausalLM"));
    let vision = with("architectures", serde_json::json!(["Gemma3ForConditionalGeneration"]));
    assert!(vision.contains("Gemma3ForConditionalGeneration\", a model that reads more than text"), "{vision}");
    assert!(with("hidden_act", "gelu".into()).contains("gelu"));
    assert!(with("num_key_value_heads", 3.into()).contains("does not divide"));
    assert!(with("num_hidden_layers", 0.into()).contains("num_hidden_layers"));
    assert!(with("num_hidden_layers", 1_000_000.into()).contains("no model has"));
    assert!(with("rope_scaling", serde_json::json!({"rope_type": "su", "factor": 4.0})).contains("yarn and dynamic"));
    let mut missing = json();
    missing.as_object_mut().unwrap().remove("vocab_size");
    assert!(Config::from_hf(&missing).unwrap_err().to_string().contains("vocab_size"));
}

/// A value of a GGUF file's metadata: its kind and its bytes.
#[derive(Clone)]
struct Held(u32, Vec<u8>);

fn whole(n: u32) -> Held {
    Held(4, n.to_le_bytes().to_vec())
}

fn real(x: f32) -> Held {
    Held(6, x.to_le_bytes().to_vec())
}

fn flag(is_on: bool) -> Held {
    Held(7, vec![is_on.into()])
}

fn text(s: &str) -> Held {
    Held(8, [&(s.len() as u64).to_le_bytes()[..], s.as_bytes()].concat())
}

/// The settings of a GGUF file with an embedding, vectors of ones by their names and lengths, and more metadata.
fn from_gguf(name: &str, more: &[(&str, Held)], vectors: &[(&str, u64)]) -> Result<Config, ModelError> {
    let sizes = [
        ("context_length", whole(512)),
        ("embedding_length", whole(64)),
        ("block_count", whole(5)),
        ("feed_forward_length", whole(172)),
        ("attention.head_count", whole(8)),
        ("attention.head_count_kv", whole(4)),
        ("attention.layer_norm_rms_epsilon", real(1e-5)),
    ];
    let of_model = sizes.iter().chain(more).map(|(suffix, held)| (format!("{name}.{suffix}"), held.clone()));
    let keys: Vec<(String, Held)> =
        std::iter::once(("general.architecture".to_string(), text(name))).chain(of_model).collect();
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend((1 + vectors.len() as u64).to_le_bytes());
    bytes.extend((keys.len() as u64).to_le_bytes());
    for (key, Held(kind, value)) in keys {
        bytes.extend(text(&key).1);
        bytes.extend(kind.to_le_bytes());
        bytes.extend(value);
    }
    let mut data = Vec::new();
    for (tensor, dims) in
        std::iter::once(("token_embd.weight", vec![64, 2])).chain(vectors.iter().map(|(name, n)| (*name, vec![*n])))
    {
        bytes.extend(text(tensor).1);
        bytes.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|dim: &u64| bytes.extend(dim.to_le_bytes()));
        bytes.extend(0u32.to_le_bytes());
        bytes.extend((data.len() as u64).to_le_bytes());
        data.extend(vec![1f32.to_le_bytes(); dims.iter().product::<u64>() as usize].concat());
        data.resize(data.len().next_multiple_of(32), 0);
    }
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    bytes.extend(data);
    Config::from_gguf(&Gguf::from_bytes(std::path::Path::new("model.gguf"), bytes)?)
}

#[test]
fn gguf_files_state_what_folders_do() {
    let yarn = [
        ("rope.scaling.type", text("yarn")),
        ("rope.scaling.factor", real(4.0)),
        ("rope.scaling.original_context_length", whole(256)),
        ("rope.scaling.attn_factor", real(1.5)),
        ("rope.scaling.yarn_beta_fast", real(16.0)),
    ];
    let config = from_gguf("llama", &yarn, &[]).unwrap();
    let RopeScaling::Yarn(yarn) = config.rope_scaling else { panic!("{:?}", config.rope_scaling) };
    assert_eq!((yarn.factor, yarn.original_max_positions, yarn.beta_fast, yarn.beta_slow), (4.0, 256.0, 16.0, 1.0));
    assert!(yarn.truncate && (yarn.attention_factor - 1.5 * (0.1 * 4f64.ln() + 1.0)).abs() < 1e-12);
    assert_eq!(config.max_positions, 1024);

    let granite = [
        ("embedding_scale", real(12.0)),
        ("residual_scale", real(0.25)),
        ("logit_scale", real(8.0)),
        ("attention.scale", real(0.125)),
        ("rope.scaling.finetuned", flag(true)),
    ];
    let config = from_gguf("granite", &granite, &[]).unwrap();
    let multipliers = Multipliers { embedding: 12.0, residual: 0.25, logits_divisor: 8.0 };
    assert_eq!((config.multipliers, config.query_scalar), (multipliers, 64.0));
    let config = from_gguf("granite", &[("attention.scale", real(0.0))], &[]).unwrap();
    assert_eq!((config.multipliers, config.query_scalar), (Multipliers::NONE, 8.0));

    let smollm = from_gguf("smollm3", &[], &[]).unwrap();
    assert_eq!((smollm.unrotated, smollm.windows), (vec![3], vec![None; 5]));
    from_gguf("llama", &[("rope.scaling.finetuned", flag(false))], &[]).unwrap();

    let phi = [
        ("rope.dimension_count", whole(6)),
        ("rope.scaling.original_context_length", whole(128)),
        ("rope.scaling.attn_factor", real(1.25)),
        ("attention.sliding_window", whole(0)),
    ];
    let factors = [(ROPE_FACTORS[0], 3), (ROPE_FACTORS[1], 3)];
    let config = from_gguf("phi3", &phi, &factors).unwrap();
    let scaling = RopeScaling::LongRope { short: vec![1.0; 3], original_max_positions: 128, attention_factor: 1.25 };
    assert_eq!((config.rotary_dim, config.max_positions, config.rope_scaling), (6, 128, scaling));
    assert_eq!(config.windows, vec![None; 5]);
}

#[test]
fn gguf_files_with_other_settings_are_refused_by_their_keys() {
    let yarn = || ("rope.scaling.type", text("yarn"));
    let longrope = || ("rope.scaling.type", text("longrope"));
    let factor = |x: f32| ("rope.scaling.factor", real(x));
    let refused = |name: &str, more: &[(&str, Held)], vectors: &[(&str, u64)], words: &str| {
        let message = from_gguf(name, more, vectors).unwrap_err().to_string();
        assert!(message.contains(words), "{name}: {message}");
    };
    refused("llama", &[yarn()], &[], "llama.rope.scaling.factor is missing");
    refused("llama", &[yarn(), factor(4.0)], &[(ROPE_FREQS, 4)], "not supported beside it");
    refused("llama", &[yarn(), factor(-1.0)], &[], "llama.rope.scaling.factor is -1");
    let fast = ("rope.scaling.yarn_beta_fast", real(0.5));
    refused("llama", &[yarn(), factor(4.0), fast], &[], "llama.rope.scaling.yarn_beta_fast");
    refused("llama", &[("rope.scaling.attn_factor", real(1.5))], &[], "not supported without yarn");
    refused("llama", &[("rope.scaling.yarn_log_multiplier", real(0.5))], &[], "yarn_log_multiplier");
    refused("llama", &[longrope()], &[], "none, linear, yarn and the llama3 factors");
    refused("llama", &[("residual_scale", real(0.5))], &[], "llama.residual_scale");
    refused("gemma3", &[yarn(), factor(4.0)], &[], "none and linear");
    refused("granite", &[("rope.scaling.finetuned", flag(false))], &[], "granite.rope.scaling.finetuned");
    refused("granite", &[("residual_scale", real(-1.0))], &[], "granite.residual_scale is -1");
    for name in ["granite", "olmo2", "smollm3"] {
        refused(name, &[("attention.sliding_window", whole(9))], &[], "with a window");
    }
    refused("phi3", &[longrope()], &[], "no tensor rope_factors_short.weight");
    refused("phi3", &[("rope.dimension_count", whole(6))], &[(ROPE_FACTORS[0], 4)], "4 factors where 3 are needed");
    refused("llama", &[("rope.dimension_count", whole(6))], &[], "rope.dimension_count is 6");
}
