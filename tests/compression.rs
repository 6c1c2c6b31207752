//! When a cache is compressed: once after a prefill that many compressions share, between the parts of a prompt, in decode.

mod kit {
    pub mod config;
    pub mod demo;
    pub mod fixtures;
    pub mod layer;
    pub mod model;
    pub mod noise;
    pub mod slots;
    pub mod tokens;
}

use kit::config::shape;
use kit::demo::demo_model;
use kit::layer::Layer;
use kit::model::model;
use kit::slots::contents;
use kit::tokens::reference_tokens;
use kvscope::hint::Hint;
use kvscope::math::Float;
use kvscope::model::{AttnMass, Config, KvStore, LogitRows, Model, Pass};
use kvscope::policy;
use kvscope::policy::{POLICIES, Scope, SlotExtras, SlotLayout};
use kvscope::runtime::{Budget, Compression, RaggedCache, RuntimeError, prefill};

fn compression(spec: &str, kept_fraction: f64) -> Compression {
    Compression::parse(spec, Budget::KeptFraction(kept_fraction)).unwrap_or_else(|error| panic!("{spec}: {error}"))
}

/// Logits after each of some further tokens.
fn decode(model: &Model, cache: &mut RaggedCache, tokens: &[u32]) -> Vec<Vec<f32>> {
    let step = |token: &u32| model.forward(&[*token], cache.n_seen(), cache, LogitRows::Last).unwrap();
    tokens.iter().map(step).collect()
}

#[test]
fn one_prefill_serves_every_compression() {
    let (model, prompt) = (model("llama-gqa"), reference_tokens("llama-gqa"));
    let (prompt, continuation) = prompt.split_at(40);
    let names = POLICIES.iter().filter(|entry| !entry.needs_weights()).map(|entry| entry.name);
    let specs: Vec<&str> = names
        .chain([
            "restkv:from=replay,queries=20+refit:from=replay",
            "kvmerger:variant=mass,bridge=true",
            "evict:eps=0.3",
            "h2o+refit:recent=3",
        ])
        .collect();
    for kind in Float::ALL {
        for chunk_tokens in [0, 7] {
            let wanted: Vec<Compression> =
                specs.iter().flat_map(|spec| [0.5, 0.77].map(|kept| compression(spec, kept))).collect();
            let mut whole = RaggedCache::recording(model.config(), kind, &wanted).unwrap();
            let logits = prefill(&mut Pass::new(&model), prompt, &mut whole, chunk_tokens).unwrap();
            for compression in &wanted {
                // In decode there are no queries to look at.
                let in_decode = (!compression.policy.needs().prompt_only()).then_some(Some(3));
                for decode_slack in std::iter::once(None).chain(in_decode) {
                    let compression = Compression { decode_slack, ..compression.clone() };
                    let what = format!("{}, {:?}, {kind:?}", compression.name, compression.budget);
                    let mut copy = whole.compressed(&compression).unwrap_or_else(|error| panic!("{what}: {error}"));
                    let mut direct = RaggedCache::new(model.config(), kind, Some(compression));
                    assert_eq!(
                        prefill(&mut Pass::new(&model), prompt, &mut direct, chunk_tokens).unwrap(),
                        logits,
                        "{what}"
                    );
                    assert_eq!(contents(&copy, model.config()), contents(&direct, model.config()), "{what}");
                    assert_eq!((copy.counters(), copy.bytes()), (direct.counters(), direct.bytes()), "{what}");
                    let expected = decode(&model, &mut direct, continuation);
                    assert_eq!(decode(&model, &mut copy, continuation), expected, "{what}");
                    assert_eq!(copy.bytes(), direct.bytes(), "{what}");
                }
            }
            // The recording itself stays whole.
            assert_eq!(whole.n_slots(), 40 * model.config().n_layers * model.config().n_kv_heads);
        }
    }
}

#[test]
fn what_was_not_recorded_is_refused() {
    let (model, prompt) = (model("llama-gqa"), reference_tokens("llama-gqa"));
    let record = |specs: &[&str]| {
        let wanted: Vec<Compression> = specs.iter().map(|spec| compression(spec, 0.5)).collect();
        RaggedCache::recording(model.config(), Float::F32, &wanted)
    };
    assert!(matches!(record(&["snapkv", "h2o", "snapkv:window=8"]), Err(RuntimeError::DifferentWindows(32, 8))));
    let mut whole = record(&["streaming", "snapkv"]).unwrap();
    prefill(&mut Pass::new(&model), &prompt, &mut whole, 0).unwrap();
    let refused = |cache: &RaggedCache, compression: &Compression| {
        let error = cache.compressed(compression).unwrap_err();
        assert!(matches!(error, RuntimeError::NotRecorded { .. }) && error.hint().is_some(), "{error}");
    };
    refused(&whole, &compression("h2o", 0.5));
    refused(&whole, &compression("snapkv:window=8", 0.5));
    refused(&whole, &compression("restkv", 0.5));
    refused(&whole, &Compression { every_tokens: Some(16), ..compression("streaming", 0.5) });
    refused(&whole.compressed(&compression("streaming", 0.5)).unwrap(), &compression("streaming", 0.2));
    let whole_again = whole.compressed(&compression("snapkv", 0.5)).unwrap();
    assert_eq!(whole_again.kept_fraction(), Some(0.5));
    // Tokens behind the prompt were attended to by nobody that was recorded.
    decode(&model, &mut whole, &[5]);
    refused(&whole, &compression("snapkv", 0.5));
    // The same queries, and the projections that nobody asked for.
    let mut whole = record(&["restkv"]).unwrap();
    prefill(&mut Pass::new(&model), &prompt, &mut whole, 0).unwrap();
    whole.compressed(&compression("restkv", 0.5)).unwrap();
    let behind = compression("restkv:after=true", 0.5);
    assert!(whole.compressed(&behind).unwrap_err().to_string().contains("output projections"));
    whole.set_projections(model.projections().unwrap().clone());
    whole.compressed(&behind).unwrap();
}

/// Passes tokens at the next positions through a cache that no model stands behind; every head gets attention of its own.
fn pass(cache: &mut RaggedCache, config: &Config, n_tokens: usize) -> Result<(), RuntimeError> {
    let first_position = cache.n_seen();
    for l in 0..config.n_layers {
        let seed = (first_position * 7 + l) as u64;
        let layer = Layer::new(config, n_tokens, seed);
        let chunk = layer.chunk(l, first_position);
        cache.append(&chunk).unwrap();
        let masses = layer.masses(cache, l);
        cache.attended(&chunk, masses)?;
    }
    Ok(())
}

/// Every policy and some of their variants.
const SPECS: [&str; 19] = [
    "adakv:window=8",
    "cam",
    "cam:base=h2o,merge=4",
    "evict",
    "full",
    "h2o",
    "h2o:allocation=model",
    "h2o:fold=nearest",
    "keydiff",
    "kvmerger",
    "kvmerger:allocation=layer,variant=log-count",
    "kvmerger:bridge=true,kernel=attention,variant=mass",
    "kvmerger:kernel=uniform,variant=convex",
    "kvmerger:variant=mass",
    "kvmerger:variant=paper",
    "pyramidkv:window=8",
    "random",
    "snapkv:window=8",
    "streaming",
];

/// Slots that `n` of `n_seen` tokens may take: the share, rounded up.
fn share(kept_fraction: f64, n_seen: usize) -> usize {
    ((kept_fraction * n_seen as f64).ceil() as usize).max(1)
}

#[test]
fn parts_and_decode_stay_within_the_budget_and_account_for_every_token() {
    const SLACK: usize = 5;
    // Those that look at queries act on a whole prompt only.
    let named = POLICIES.iter().filter(|entry| !entry.needs_weights());
    for entry in named.filter(|entry| !policy::parse(entry.name).unwrap().1.needs().prompt_only()) {
        assert!(SPECS.iter().any(|spec| spec.split(':').next() == Some(entry.name)), "{} is missing", entry.name);
    }
    for spec in SPECS {
        for (n_q_heads, n_kv_heads, kind) in [(4, 2, Float::F16), (3, 3, Float::F32)] {
            let config = shape(2, n_q_heads, n_kv_heads, 8);
            for n_prompt in [1, 2, 100] {
                let kept_fraction = 0.35;
                let what = format!("{spec}, {kind:?}, {n_prompt}");
                let compression = Compression {
                    every_tokens: Some(30),
                    decode_slack: Some(SLACK),
                    ..compression(spec, kept_fraction)
                };
                let mut cache = RaggedCache::new(&config, kind, Some(compression));
                let check = |cache: &RaggedCache, slack: usize| {
                    let counters = cache.counters();
                    let n_seen = cache.n_seen();
                    assert_eq!(counters.seen, n_seen * 2 * n_kv_heads, "{what}");
                    assert_eq!(counters.kept, cache.n_slots(), "{what}");
                    assert_eq!(counters.kept + counters.merged + counters.evicted, counters.seen, "{what}");
                    let mut stood_for = 0;
                    // Heads that share a budget keep to it together.
                    let shares = policy::parse(spec).unwrap().1.scope() != Scope::Head;
                    let most = share(kept_fraction, n_seen) + slack;
                    assert!(spec == "full" || cache.n_slots() <= 2 * n_kv_heads * most, "{what}: {n_seen}");
                    let finite = |x: &[f32]| x.iter().all(|x| x.is_finite());
                    assert!(contents(cache, &config).iter().all(|head| finite(&head.1) && finite(&head.2)), "{what}");
                    for layer in 0..2 {
                        for (h, head) in cache.heads(layer).into_iter().enumerate() {
                            let n = head.positions.len();
                            assert!(spec == "full" || shares || n <= most, "{what}: {n} of {n_seen}");
                            assert!(head.positions.windows(2).all(|w| w[0] < w[1]), "{what}");
                            // Half of one slot, as H2O's recent ones are, is none.
                            let has_newest = n == 1 || head.positions[n - 1] as usize + 1 == n_seen;
                            // Only keys decide: the newest token is one of many.
                            assert!(has_newest || spec == "keydiff", "{what}");
                            let counts = cache.counts(layer, h);
                            assert!(counts.iter().all(|count| *count >= 1), "{what}");
                            stood_for += counts.iter().sum::<u32>() as usize;
                            // Attention by count never exceeds that of the tokens.
                            for (bias, count) in head.logit_bias.into_iter().flatten().zip(&counts) {
                                assert!(*bias <= (*count as f32).ln() + 1e-5, "{what}: {bias} of {count}");
                            }
                        }
                    }
                    if spec.starts_with("kvmerger") {
                        assert_eq!((stood_for, counters.evicted), (counters.seen, 0), "{what}");
                    } else if !spec.starts_with("cam") && !spec.contains("nearest") {
                        assert_eq!((stood_for, counters.merged), (counters.seen - counters.evicted, 0), "{what}");
                    }
                };
                cache.begin_prompt(n_prompt);
                while let Some(left) = cache.part_left().filter(|left| *left > 0) {
                    pass(&mut cache, &config, left.min(16)).unwrap_or_else(|error| panic!("{what}: {error}"));
                    check(&cache, 30);
                }
                cache.end_prompt().unwrap_or_else(|error| panic!("{what}: {error}"));
                check(&cache, 0);
                let mut most = 0;
                for _ in 0..120 {
                    pass(&mut cache, &config, 1).unwrap_or_else(|error| panic!("{what}: {error}"));
                    check(&cache, SLACK);
                    most =
                        most.max(cache.n_slots().saturating_sub(2 * n_kv_heads * share(kept_fraction, cache.n_seen())));
                }
                assert!(spec == "full" || most > 0, "{what}: the slack was never used");
            }
        }
    }
}

#[test]
fn a_budget_of_everything_is_never_compressed() {
    let config = shape(2, 4, 2, 8);
    let run = |compression: Option<Compression>| {
        let mut cache = RaggedCache::new(&config, Float::F32, compression);
        cache.begin_prompt(40);
        (0..4).for_each(|_| pass(&mut cache, &config, 10).unwrap());
        cache.end_prompt().unwrap();
        (0..30).for_each(|_| pass(&mut cache, &config, 1).unwrap());
        contents(&cache, &config)
    };
    let whole = run(None);
    for spec in SPECS {
        for budget in [Budget::KeptFraction(1.0), Budget::Tokens(70), Budget::PerHead([1.0; 4].into())] {
            let parsed = Compression::parse(spec, budget).unwrap();
            let compression = Compression { every_tokens: Some(10), decode_slack: Some(0), ..parsed };
            assert_eq!(run(Some(compression)), whole, "{spec}");
        }
    }
}

#[test]
fn budgets_in_tokens_and_per_head_are_met_head_by_head() {
    let config = shape(2, 4, 2, 8);
    let slots = |budget: Budget, n_new: usize| -> Result<Vec<usize>, RuntimeError> {
        let compression = Compression { decode_slack: Some(0), ..Compression::parse("h2o", budget).unwrap() };
        let mut cache = RaggedCache::new(&config, Float::F32, Some(compression));
        cache.begin_prompt(60);
        pass(&mut cache, &config, 60)?;
        cache.end_prompt()?;
        (0..n_new).for_each(|_| pass(&mut cache, &config, 1).unwrap());
        Ok((0..2)
            .flat_map(|l| cache.heads(l).into_iter().map(|head| head.positions.len()).collect::<Vec<_>>())
            .collect())
    };
    assert_eq!(slots(Budget::Tokens(17), 0).unwrap(), [17; 4]);
    assert_eq!(slots(Budget::Tokens(17), 25).unwrap(), [17; 4]);
    let uneven = Budget::PerHead([0.1, 0.5, 0.25, 1.0].into());
    assert_eq!(slots(uneven.clone(), 0).unwrap(), [6, 30, 15, 60]);
    assert_eq!(slots(uneven, 20).unwrap(), [8, 40, 20, 80]);
    assert!(matches!(slots(Budget::Tokens(0), 0), Err(RuntimeError::NoSlots)));
    assert!(matches!(
        slots(Budget::PerHead([0.5; 3].into()), 0),
        Err(RuntimeError::OtherHeads { found: 3, expected: 4 })
    ));
    assert!(matches!(slots(Budget::PerHead([0.5, 0.5, 1.5, 0.5].into()), 0), Err(RuntimeError::BadKeptFraction(_))));
}

#[test]
fn h2o_scores_accumulate_through_decode_and_go_with_their_token() {
    // A second bookkeeping of one head: (position, score); masses are whole numbers, so that no rounding decides.
    const BUDGET: usize = 12;
    const SLACK: usize = 3;
    let config = shape(1, 2, 1, 4);
    let mut compression = Compression::parse("h2o", Budget::Tokens(BUDGET)).unwrap();
    compression.decode_slack = Some(SLACK);
    let mut cache = RaggedCache::new(&config, Float::F32, Some(compression));
    let mut kept: Vec<(u32, u64)> = Vec::new();
    let drop_to_budget = |kept: &mut Vec<(u32, u64)>| {
        while kept.len() > BUDGET {
            // The later one of the lightest among all but the last half of the budget.
            let older = kept.len() - BUDGET / 2;
            let least = kept[..older].iter().map(|(_, score)| *score).min().unwrap();
            let at = kept[..older].iter().rposition(|(_, score)| *score == least).unwrap();
            kept.remove(at);
        }
    };
    let mut random = 12345u64;
    let mut drawn = |n: usize| -> Vec<u64> {
        (0..n)
            .map(|_| {
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                random >> 61
            })
            .collect()
    };
    cache.begin_prompt(30);
    for (n_tokens, is_prompt) in [(30, true)].into_iter().chain([(1, false); 60]) {
        let first = cache.n_seen();
        let layer = Layer::new(&config, n_tokens, first as u64);
        let chunk = layer.chunk(0, first);
        cache.append(&chunk).unwrap();
        kept.extend((first..first + n_tokens).map(|position| (position as u32, 0)));
        let mass = drawn(kept.len());
        kept.iter_mut().zip(&mass).for_each(|((_, score), mass)| *score += mass);
        assert!(cache.needs().mass);
        let all = vec![mass.iter().map(|x| *x as f32).collect()];
        cache.attended(&chunk, AttnMass { all, window: Vec::new() }).unwrap();
        if is_prompt {
            cache.end_prompt().unwrap();
        }
        if is_prompt || kept.len() > BUDGET + SLACK {
            drop_to_budget(&mut kept);
        }
        let positions: Vec<u32> = kept.iter().map(|(position, _)| *position).collect();
        assert_eq!(cache.heads(0)[0].positions, positions, "after {} tokens", cache.n_seen());
    }
}

#[test]
fn a_compressed_cache_takes_what_the_layout_of_its_slots_says() {
    let (model, prompt) = (model("llama-gqa"), reference_tokens("llama-gqa"));
    for element in Float::ALL {
        for entry in POLICIES.iter().filter(|entry| entry.name != "full" && !entry.needs_weights()) {
            let entry = entry.name;
            for spec in [entry.to_string(), format!("{entry}+refit"), format!("{entry}+refit:mass=false")] {
                let compression = compression(&spec, 0.4);
                let (head_dim, extras) = (model.config().head_dim, compression.policy.slot_extras());
                let bytes = |extras| SlotLayout { element, head_dim, extras }.bytes();
                let mut cache = RaggedCache::new(model.config(), element, Some(compression));
                prefill(&mut Pass::new(&model), &prompt[..40], &mut cache, 0).unwrap();
                assert_eq!(cache.bytes(), (cache.n_slots() * bytes(extras)) as u64, "{spec}, {element}");
                let n_whole = cache.counters().seen;
                assert_eq!(cache.full_bytes(), (n_whole * bytes(SlotExtras::default())) as u64, "{spec}, {element}");
            }
        }
    }
}

#[test]
fn two_thousand_decode_steps_stay_within_their_byte_budget() {
    const KEPT: f64 = 0.35;
    const SLACK: usize = 32;
    let config = shape(1, 2, 2, 64);
    for (spec, kind) in [
        ("h2o", Float::F32),
        ("h2o", Float::F16),
        ("kvmerger:variant=mass", Float::F32),
        ("kvmerger:variant=log-count", Float::F16),
        ("snapkv", Float::F16),
        ("streaming", Float::F16),
    ] {
        let compression = Compression { decode_slack: Some(SLACK), ..compression(spec, KEPT) };
        let mut cache = RaggedCache::new(&config, kind, Some(compression));
        cache.begin_prompt(500);
        pass(&mut cache, &config, 500).unwrap();
        cache.end_prompt().unwrap();
        let mut worst = 0f64;
        for _ in 0..2000 {
            pass(&mut cache, &config, 1).unwrap();
            let per_token = cache.full_bytes() as f64 / cache.n_seen() as f64;
            let allowed = KEPT * cache.full_bytes() as f64 + SLACK as f64 * per_token;
            worst = worst.max(cache.bytes() as f64 / allowed - 1.0);
            // And no less than what the slots take.
            assert!(cache.bytes() as f64 >= per_token * cache.n_slots() as f64 / 2.0);
        }
        println!("{spec} {kind:?}: at most {:+.2} % over", 100.0 * worst);
        assert!(worst <= 0.05, "{spec}, {kind:?}: {:+.2} %", 100.0 * worst);
    }
}

#[test]
#[ignore = "needs the demo model: kvscope pull smollm2-135m"]
fn demo_model_writes_two_thousand_tokens_within_its_byte_budget() {
    const KEPT: f64 = 0.35;
    const SLACK: usize = 32;
    let model = Model::load(&demo_model()).unwrap();
    let text = kvscope::prompts::demo().iter().map(|prompt| prompt.text.as_str()).collect::<Vec<_>>().join("\n");
    let prompt = model.tokenizer().unwrap().encode(&text, kvscope::model::tokenizer::AddSpecial::Yes).unwrap();
    let prompt = &prompt[..1500];
    for spec in ["h2o", "kvmerger:variant=mass+refit"] {
        let compression = Compression { decode_slack: Some(SLACK), ..compression(spec, KEPT) };
        let mut cache = RaggedCache::new(model.config(), Float::F16, Some(compression));
        let mut logits = prefill(&mut Pass::new(&model), prompt, &mut cache, 512).unwrap();
        let mut worst = f64::MIN;
        for _ in 0..2000 {
            let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
            logits = model.forward(&[best as u32], cache.n_seen(), &mut cache, LogitRows::Last).unwrap();
            let allowed = KEPT + SLACK as f64 / cache.n_seen() as f64;
            worst = worst.max(cache.bytes() as f64 / (allowed * cache.full_bytes() as f64) - 1.0);
        }
        println!("{spec}: {} of {} bytes, at most {:+.2} % over", cache.bytes(), cache.full_bytes(), 100.0 * worst);
        assert_eq!(cache.n_seen(), 3500);
        assert!(worst <= 0.05, "{spec}: {worst}");
    }
}

#[test]
fn a_refit_changes_values_and_masses_of_what_is_not_recent_only() {
    let (model, prompt) = (model("llama-gqa"), reference_tokens("llama-gqa"));
    let plain = compression("evict", 0.35);
    let refitted = compression("evict+refit:recent=4,span=16", 0.35);
    let values_only = compression("evict+refit:recent=4,span=16,mass=false", 0.35);
    let mut whole = RaggedCache::recording(model.config(), Float::F32, [&plain, &refitted, &values_only]).unwrap();
    prefill(&mut Pass::new(&model), &prompt, &mut whole, 0).unwrap();
    let of = |compression| contents(&whole.compressed(compression).unwrap(), model.config());
    let d = model.config().head_dim;
    for ((a, both), values) in of(&plain).iter().zip(&of(&refitted)).zip(&of(&values_only)) {
        let n = a.0.len();
        assert_eq!((&a.0, &a.1, &a.3, &a.4), (&values.0, &values.1, &values.3, &values.4));
        assert_eq!((&a.0, &a.1, &a.4), (&both.0, &both.1, &both.4));
        assert!(both.3[..n - 4].iter().all(|bias| *bias != 0.0));
        assert_eq!(both.3[n - 4..], [0.0; 4], "recent masses stay");
        for new in [both, values] {
            assert_ne!(a.2, new.2);
            assert_eq!(a.2[(n - 4) * d..], new.2[(n - 4) * d..], "recent values stay");
        }
    }
    let other = compression("evict+refit:seed=1,queries=5", 0.35);
    assert!(matches!(whole.compressed(&other), Err(RuntimeError::NotRecorded { .. })));
    // One prefill records any number of samples.
    let mut both = RaggedCache::recording(model.config(), Float::F32, [&refitted, &other]).unwrap();
    prefill(&mut Pass::new(&model), &prompt, &mut both, 0).unwrap();
    assert_eq!(contents(&both.compressed(&refitted).unwrap(), model.config()), of(&refitted));
    both.compressed(&other).unwrap();
}
