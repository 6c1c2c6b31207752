//! What every policy of the table must hold to, on every shape and storage type, and the baselines' selections beside
//! second implementations.

mod kit {
    pub mod config;
    pub mod layer;
    pub mod noise;
    pub mod property;
    pub mod slots;
    pub mod stored;
}

use std::collections::BTreeMap;
use std::sync::Arc;

use kit::config::shape;
use kit::layer::Layer;
use kit::noise::noise;
use kit::property::property_cases;
use kit::slots::contents;
use kit::stored::stored_as;
use kvscope::hint::Hint;
use kvscope::math::{Float, Projections, Rows};
use kvscope::merge::{HeadPlan, MergeError};
use kvscope::model::{AttnMass, Config, KvStore};
use kvscope::policy::{HeadView, POLICIES, Policy, PolicyEntry, Scope, parse};
use kvscope::runtime::{Budget, Compression, RaggedCache, RuntimeError};
use proptest::prelude::*;

/// What each policy is tried with beside its defaults.
const VARIANTS: &[&str] = &[
    "adakv:window=3,safeguard=0.5",
    "cam:base=h2o,merge=4",
    "cam:sinks=0,seed=3",
    "expected:eps=0.01,sinks=2,span=20",
    "evict:bridge=true",
    "evict:eps=0.5",
    "h2o:recent=0",
    "h2o:recent=1",
    "h2o:allocation=layer",
    "h2o:allocation=model,safeguard=0.3",
    "h2o:fold=cam,merge=3",
    "h2o:fold=nearest",
    "h2o:recent=0,tau=0.3,last=3",
    "keydiff:recent=0.2",
    "kvmerger:allocation=layer",
    "kvmerger:bridge=true,heavy=0.1",
    "kvmerger:eps=0.75",
    "kvmerger:kernel=attention,variant=mass",
    "kvmerger:kernel=key-fixed,variant=convex",
    "kvmerger:kernel=pivot",
    "kvmerger:kernel=uniform,variant=log-count",
    "kvmerger:recent=0,heavy=0",
    "kvmerger:sigma=fixed:5",
    "kvmerger:sigma=printed",
    "matching:queries=10,over=mean",
    "matching:last=3,first=1,span=7",
    "pursuit:queries=10,step=1",
    "pyramidkv:beta=3",
    "random:seed=7",
    "random:allocation=model",
    "snapkv:fold=nearest,eps=0.5,variant=convex,kernel=gaussian",
    "snapkv:fold=massfold",
    "snapkv:fold=sets,bridge=true",
    "restkv:after=true,queries=50",
    "restkv:recent=0.3,seed=5",
    "snapkv:window=3,pool=1",
    "streaming:sinks=0",
    "streaming:sinks=20",
];

/// GQA with groups of two, and as many KV heads as query heads.
const HEADS: [(usize, usize); 2] = [(4, 2), (3, 3)];
const LENGTHS: [usize; 4] = [1, 2, 5, 300];
/// Shares of which none, some and all are whole numbers of slots at those lengths.
const FRACTIONS: [f64; 3] = [0.3623, 0.5, 0.8];

/// All but those that need a model to repeat the prompt, or weights that were learned for it.
fn every_spec() -> Vec<&'static str> {
    let named = POLICIES.iter().filter(|entry| !entry.needs_weights()).map(|entry| entry.name);
    named.chain(VARIANTS.iter().copied()).filter(|spec| !needs_replay(spec)).collect()
}

fn needs_replay(spec: &str) -> bool {
    policy(spec).needs().replay()
}

fn policy(spec: &str) -> Box<dyn Policy> {
    parse(spec).unwrap_or_else(|error| panic!("{spec}: {error}")).1
}

/// Output projections that are alike in all heads and weigh every number of an output more than the one before.
fn projections(n_q_heads: usize, head_dim: usize) -> Arc<Projections> {
    let gram = |at: usize| if at.is_multiple_of(head_dim + 1) { 1.0 + at as f32 } else { 0.0 };
    let grams = (0..n_q_heads).flat_map(|_| (0..head_dim * head_dim).map(gram)).collect();
    Arc::new(Projections::new(grams, head_dim))
}

fn is_cam(spec: &str) -> bool {
    policy(spec).params()["fold"] == "cam"
}

fn pivots(plan: &HeadPlan) -> Vec<u32> {
    plan.slots.iter().map(|slot| slot.pivot).collect()
}

/// A prompt through a compressed cache; the layers go in as one chunk each.
fn compressed(
    config: &Config,
    kind: Float,
    spec: &str,
    kept_fraction: f64,
    layers: &[Layer],
) -> Result<RaggedCache, RuntimeError> {
    let compression = Compression::parse(spec, Budget::KeptFraction(kept_fraction)).unwrap();
    let mut cache = RaggedCache::new(config, kind, Some(compression));
    if cache.wants_projections() {
        cache.set_projections(projections(config.n_layers * config.n_q_heads, config.head_dim));
    }
    cache.begin_prompt(layers[0].n_tokens);
    for (i, layer) in layers.iter().enumerate() {
        let chunk = layer.chunk(i, 0);
        cache.append(&chunk).unwrap();
        let masses = layer.masses(&cache, i);
        cache.attended(&chunk, masses)?;
    }
    match cache.end_prompt() {
        // A threshold may find nothing alike among a few tokens.
        Err(RuntimeError::NothingCompressed { .. }) if policy(spec).sets_own_size() && layers[0].n_tokens <= 5 => {}
        ended => ended?,
    }
    Ok(cache)
}

/// Runs `check` on every policy, head layout, storage type, length and share that can be met.
fn for_every_case(mut check: impl FnMut(&'static str, &Config, Float, f64, &[Layer])) {
    for spec in every_spec() {
        for (n_q_heads, n_kv_heads) in HEADS {
            let config = shape(2, n_q_heads, n_kv_heads, 8);
            for n_tokens in LENGTHS {
                let layers: Vec<Layer> = (0..2).map(|i| Layer::new(&config, n_tokens, 100 * i + 7)).collect();
                for kind in Float::ALL {
                    for kept_fraction in FRACTIONS {
                        check(spec, &config, kind, kept_fraction, &layers);
                    }
                }
            }
        }
    }
}

#[test]
fn every_policy_of_the_table_has_a_variant_here() {
    // `full` has no parameters.
    let has_some = |entry: &&PolicyEntry| entry.name != "full" && !entry.needs_weights();
    for entry in POLICIES.iter().filter(has_some).filter(|entry| !needs_replay(entry.name)) {
        let prefix = format!("{}:", entry.name);
        assert!(VARIANTS.iter().any(|spec| spec.starts_with(&prefix)), "{} is tried with defaults only", entry.name);
    }
}

#[test]
fn caches_meet_the_budget_and_account_for_every_token() {
    let mut met: BTreeMap<(&str, usize), usize> = BTreeMap::new();
    for_every_case(|spec, config, kind, kept_fraction, layers| {
        let n_tokens = layers[0].n_tokens;
        let what = format!("{spec}, {kind:?}, {n_tokens} tokens, {kept_fraction}");
        let n_heads = config.n_layers * config.n_kv_heads;
        let cache = match compressed(config, kind, spec, kept_fraction, layers) {
            Ok(cache) => cache,
            // Shares that were asked for are kept to, even where five tokens cannot be cut that way.
            Err(error @ RuntimeError::Unmeetable { .. }) => {
                assert!(n_tokens == 5 && spec == "kvmerger:bridge=true,heavy=0.1", "{what}: {error}");
                return;
            }
            Err(error) => panic!("{what}: {error}"),
        };
        *met.entry((spec, n_tokens)).or_default() += 1;
        let counters = cache.counters();
        assert_eq!(counters.seen, n_tokens * n_heads, "{what}");
        assert_eq!(counters.kept + counters.merged + counters.evicted, counters.seen, "{what}");
        assert_eq!(counters.kept, cache.n_slots(), "{what}");
        let exact = kept_fraction * (n_tokens * n_heads) as f64;
        if spec == "full" {
            assert_eq!(cache.n_slots(), n_tokens * n_heads, "{what}");
        } else if !policy(spec).sets_own_size() && kept_fraction * n_tokens as f64 >= 1.0 {
            assert!((cache.n_slots() as f64 - exact).abs() <= 0.5 + 1e-6, "{what}: {} slots", cache.n_slots());
        }
        for (h, (positions, keys, values, bias, counts)) in contents(&cache, config).into_iter().enumerate() {
            let n = positions.len();
            assert!(n >= 1 && n <= n_tokens, "{what}");
            assert!(positions.windows(2).all(|w| w[0] < w[1]) && (positions[n - 1] as usize) < n_tokens, "{what}");
            assert_eq!((keys.len(), values.len(), bias.len(), counts.len()), (n * 8, n * 8, n, n), "{what}");
            assert!(keys.iter().chain(&values).chain(&bias).all(|x| x.is_finite()), "{what}");
            let is_equal = policy(spec).scope() == Scope::Head;
            if is_equal && !policy(spec).sets_own_size() && kept_fraction * n_tokens as f64 >= 1.0 {
                let share = kept_fraction * n_tokens as f64;
                assert!((n as f64 - share).abs() < 1.0 || n == 1, "{what}: head {h} keeps {n}");
            }
            // Slots of one token are that token, as its storage type rounds it.
            let layer = &layers[h / config.n_kv_heads];
            for (slot, position) in positions.iter().enumerate().filter(|(slot, _)| counts[*slot] == 1) {
                let at = (*position as usize * config.n_kv_heads + h % config.n_kv_heads) * 8;
                for d in 0..8 {
                    assert_eq!(keys[slot * 8 + d], stored_as(kind, layer.k[at + d]), "{what}");
                    // CaM adds to the values of tokens that stay single.
                    if !is_cam(spec) {
                        assert_eq!(values[slot * 8 + d], stored_as(kind, layer.v[at + d]), "{what}");
                    }
                }
            }
        }
    });
    // Every policy runs on every length, whatever the share, unless it was told what to protect.
    for spec in every_spec() {
        for n_tokens in LENGTHS {
            let all = Float::ALL.len() * FRACTIONS.len() * HEADS.len();
            let met = met.get(&(spec, n_tokens)).copied().unwrap_or(0);
            assert!(
                met == all || (n_tokens == 5 && spec == "kvmerger:bridge=true,heavy=0.1"),
                "{spec}, {n_tokens}: {met}"
            );
        }
    }
}

#[test]
fn heads_without_direction_mass_or_difference_have_an_answer() {
    type Change = fn(&mut Layer);
    let changes: [(&str, Change); 4] = [
        ("zero keys", |layer| layer.k.fill(0.0)),
        ("equal keys", |layer| layer.k.fill(0.5)),
        ("zero mass", |layer| {
            layer.mass.all.iter_mut().chain(&mut layer.mass.window).for_each(|mass| mass.fill(0.0));
        }),
        ("zero values", |layer| layer.v.fill(0.0)),
    ];
    let config = shape(1, 4, 2, 8);
    for spec in every_spec().into_iter().filter(|spec| *spec != "full" && !policy(spec).sets_own_size()) {
        for (what, change) in changes {
            for n_tokens in [1, 2, 7, 40] {
                let mut layer = Layer::new(&config, n_tokens, 5);
                change(&mut layer);
                // One slot a head, some, and everything.
                for kept_fraction in [1e-9, 0.5, 1.0] {
                    let found = compressed(&config, Float::F32, spec, kept_fraction, std::slice::from_ref(&layer));
                    let what = format!("{spec}, {what}, {n_tokens} tokens, {kept_fraction}");
                    match found {
                        Ok(cache) => {
                            let wanted = ((kept_fraction * n_tokens as f64).round() as usize).max(1);
                            let n = cache.n_slots();
                            assert!(n.abs_diff(2 * wanted) <= 1, "{what}: {n}");
                            for (_, keys, values, bias, _) in contents(&cache, &config) {
                                assert!(keys.iter().chain(&values).chain(&bias).all(|x| x.is_finite()), "{what}");
                            }
                        }
                        // Told, with what to change: tokens that are protected or unlike cannot make so few slots.
                        Err(error @ RuntimeError::Unmeetable { .. }) => assert!(error.hint().is_some(), "{what}"),
                        Err(error) => panic!("{what}: {error}"),
                    }
                }
            }
        }
    }
}

#[test]
fn equal_input_gives_equal_caches() {
    for_every_case(|spec, config, kind, kept_fraction, layers| {
        let run = || compressed(config, kind, spec, kept_fraction, layers).ok().map(|cache| contents(&cache, config));
        assert_eq!(run(), run(), "{spec}, {kind:?}, {kept_fraction}");
    });
}

/// The same with KV head h in the place of `order`'s h-th entry.
fn permuted(layer: &Layer, order: &[usize]) -> Layer {
    // Query heads move with the KV head that they read.
    let heads = |x: &[f32]| -> Vec<f32> {
        let of_head = x.len() / layer.n_tokens / order.len();
        x.chunks_exact(order.len() * of_head)
            .flat_map(|row| order.iter().flat_map(|h| row[h * of_head..][..of_head].to_vec()))
            .collect()
    };
    let masses = |x: &[Vec<f32>]| order.iter().map(|h| x[*h].clone()).collect();
    Layer {
        head_dim: layer.head_dim,
        n_tokens: layer.n_tokens,
        q: heads(&layer.q),
        k: heads(&layer.k),
        v: heads(&layer.v),
        inputs: layer.inputs.clone(),
        hidden_size: layer.hidden_size,
        mass: AttnMass { all: masses(&layer.mass.all), window: masses(&layer.mass.window) },
    }
}

#[test]
fn heads_permuted_in_come_permuted_out() {
    for spec in every_spec() {
        for (n_q_heads, order) in [(4, vec![1usize, 0]), (3, vec![2, 0, 1])] {
            let config = shape(1, n_q_heads, order.len(), 8);
            let layer = Layer::new(&config, 300, 5);
            // Half of 300 is whole, so that every head has the same budget.
            let plain = compressed(&config, Float::F32, spec, 0.5, std::slice::from_ref(&layer)).unwrap();
            let moved = compressed(&config, Float::F32, spec, 0.5, &[permuted(&layer, &order)]).unwrap();
            let (plain, moved) = (contents(&plain, &config), contents(&moved, &config));
            for (to, from) in order.iter().enumerate() {
                if spec == "random:allocation=model" {
                    // Which head keeps more is chance too.
                } else if spec.starts_with("random") {
                    // A random choice belongs to the place of the head, not to what it holds.
                    assert_eq!(moved[to].0, plain[to].0, "{spec}");
                } else if is_cam(spec) {
                    // Who goes does not hang on chance, only who receives a value.
                    assert_eq!((&moved[to].0, &moved[to].1), (&plain[*from].0, &plain[*from].1), "{spec}");
                } else {
                    assert_eq!(moved[to], plain[*from], "{spec}, head {from} in the place of {to}");
                }
            }
        }
    }
}

#[test]
fn what_a_policy_needs_is_all_that_it_reads() {
    for spec in every_spec() {
        let policy = policy(spec);
        let needs = policy.needs();
        for n in LENGTHS {
            let (keys, mass, window) = (noise(n * 8, 3), noise(n, 4), noise(n, 5));
            let (values, queries) = (noise(n * 8, 6), noise(20 * 8, 7));
            let projections = projections(2, 8);
            let everything = HeadView {
                layer: 1,
                kv_head: 1,
                n_kv_heads: 3,
                group: 2,
                mass: &mass,
                mass_window: &window,
                repetition: &mass,
                projection: Some(projections.of_kv_head(0, 2)),
                values: Rows::new(&values, 8),
                queries: Rows::new(&queries, 8),
                ..HeadView::new(Rows::new(&keys, 8))
            };
            let none = Rows::new(&[], 8);
            let asked = HeadView {
                mass: if needs.mass { &mass } else { &[] },
                mass_window: if needs.mass_window.is_some() { &window } else { &[] },
                repetition: if needs.repetition.is_some() { &mass } else { &[] },
                projection: everything.projection.filter(|_| needs.projection),
                values: if needs.queries.is_some() { everything.values } else { none },
                queries: if needs.queries.is_some() { everything.queries } else { none },
                ..everything
            };
            for budget in [1, n.div_ceil(3), n.div_ceil(2), n, n + 9] {
                let plan = policy.plan(&asked, budget);
                assert_eq!(plan, policy.plan(&everything, budget), "{spec}");
                match plan {
                    Ok(plan) => {
                        assert_eq!(plan.check(n), Ok(()), "{spec}: {budget} of {n}");
                        if spec == "full" || (budget >= n && !policy.sets_own_size()) {
                            assert_eq!(plan, HeadPlan::identity(n), "{spec}: {budget} of {n}");
                        } else if !policy.sets_own_size() {
                            assert_eq!(plan.slots.len(), budget, "{spec}: {budget} of {n}");
                        }
                    }
                    Err(MergeError::ProtectedExceedBudget { protected, budget_tokens }) => {
                        assert!(protected > budget_tokens && budget_tokens == budget, "{spec}");
                    }
                    Err(MergeError::BudgetUnreachable { reachable, budget_tokens }) => {
                        assert!(reachable > budget_tokens && budget_tokens == budget, "{spec}");
                    }
                    Err(other) => panic!("{spec}: {other}"),
                }
            }
        }
    }
}

#[test]
fn parameters_survive_their_json_and_rebuild_the_policy() {
    for spec in every_spec() {
        let (entry, policy) = parse(spec).unwrap();
        let params = policy.params();
        let text = serde_json::to_string(&params).unwrap();
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), params, "{spec}");
        // Written as key=value again, the parameters build the same policy.
        let plain = |value: &serde_json::Value| value.to_string().trim_matches('"').to_string();
        let pairs = params.as_object().unwrap().iter().filter(|(_, value)| !value.is_null() && spec != "full");
        let pairs: Vec<String> = pairs.map(|(key, value)| format!("{key}={}", plain(value))).collect();
        let again = self::policy(&format!("{}:{}", entry.name, pairs.join(",")));
        assert_eq!(again.params(), params, "{spec}");
        assert_eq!((again.needs(), again.sets_own_size()), (policy.needs(), policy.sets_own_size()), "{spec}");
        let (keys, mass) = (noise(120 * 8, 3), noise(120, 4));
        let rows = Rows::new(&keys, 8);
        let view = HeadView { mass: &mass, mass_window: &mass, values: rows, queries: rows, ..HeadView::new(rows) };
        assert_eq!(again.plan(&view, 60), policy.plan(&view, 60), "{spec}");
    }
}

/// Second implementations of the baselines' selections; masses are whole numbers, so that no rounding decides.
mod reference {
    /// Takes the best of `from` one after the other; the first of equals.
    fn best(score: &[u64], from: std::ops::Range<usize>, n: usize) -> Vec<usize> {
        let mut taken: Vec<usize> = Vec::new();
        for _ in 0..n {
            let mut chosen: Option<usize> = None;
            for i in from.clone() {
                if !taken.contains(&i) && chosen.is_none_or(|c| score[i] > score[c]) {
                    chosen = Some(i);
                }
            }
            taken.extend(chosen);
        }
        taken
    }

    fn sorted(mut kept: Vec<usize>) -> Vec<u32> {
        kept.sort_unstable();
        kept.into_iter().map(|i| i as u32).collect()
    }

    /// The last share of the budget, and the rest of it by accumulated attention.
    pub fn h2o(mass: &[u64], budget: usize, recent_percent: usize) -> Vec<u32> {
        let (n, recent) = (mass.len(), budget * recent_percent / 100);
        let mut kept = best(mass, 0..n - recent, budget - recent);
        kept.extend(n - recent..n);
        sorted(kept)
    }

    /// The last window, and the rest by the window's attention, summed over neighbours that are no window tokens.
    pub fn snapkv(mass: &[u64], budget: usize, window: usize, pool: usize) -> Vec<u32> {
        let n = mass.len();
        let window = window.min(budget);
        let older = n - window;
        let mut score = vec![0; older];
        for (i, score) in score.iter_mut().enumerate() {
            for (j, mass) in mass.iter().enumerate().take(older) {
                if i.abs_diff(j) <= pool / 2 {
                    *score += mass;
                }
            }
        }
        let mut kept = best(&score, 0..older, budget - window);
        kept.extend(older..n);
        sorted(kept)
    }

    /// The first tokens and the last ones; the last one always.
    pub fn streaming(n: usize, budget: usize, sinks: usize) -> Vec<u32> {
        let mut kept = Vec::new();
        for i in 0..n {
            if kept.len() < sinks && kept.len() + 1 < budget {
                kept.push(i);
            }
        }
        let missing = budget - kept.len();
        kept.extend(n - missing..n);
        sorted(kept)
    }
}

proptest! {
    #![proptest_config(property_cases(400))]

    #[test]
    fn baselines_select_as_their_papers_say(
        mass in prop::collection::vec(prop_oneof![0u64..4, 0u64..5000], 1..200),
        share in 0.0f64..1.0,
        recent_percent in prop::sample::select(vec![0usize, 25, 50, 75, 100]),
        window in 1usize..50,
        half_pool in 0usize..5,
        sinks in 0usize..9,
    ) {
        let n = mass.len();
        let budget = ((n as f64 * share) as usize).max(1);
        let (keys, masses) = (vec![0f32; n], mass.iter().map(|x| *x as f32).collect::<Vec<f32>>());
        let plan = |spec: &str, mass: &[f32], mass_window: &[f32]| {
            let view = HeadView { mass, mass_window, ..HeadView::new(Rows::new(&keys, 1)) };
            pivots(&policy(spec).plan(&view, budget).unwrap())
        };
        prop_assert_eq!(
            plan(&format!("h2o:recent={}", recent_percent as f64 / 100.0), &masses, &[]),
            reference::h2o(&mass, budget, recent_percent)
        );
        prop_assert_eq!(plan("h2o", &masses, &[]), reference::h2o(&mass, budget, 50));
        let pool = 2 * half_pool + 1;
        prop_assert_eq!(
            plan(&format!("snapkv:window={window},pool={pool}"), &[], &masses),
            reference::snapkv(&mass, budget, window, pool)
        );
        prop_assert_eq!(plan("snapkv", &[], &masses), reference::snapkv(&mass, budget, 32, 5));
        prop_assert_eq!(plan(&format!("streaming:sinks={sinks}"), &[], &[]), reference::streaming(n, budget, sinks));
        prop_assert_eq!(plan("streaming", &[], &[]), reference::streaming(n, budget, 4));
        // Random: no reference can say which, but the recent share of KVMerger is in, and seeds and heads differ.
        let random = plan("random", &[], &[]);
        prop_assert_eq!(random.len(), budget);
        prop_assert_eq!(random.last().copied(), Some(n as u32 - 1));
    }
}

#[test]
fn random_choices_differ_between_seeds_heads_and_layers() {
    let keys = vec![0f32; 300];
    let choice = |spec: &str, layer: usize, kv_head: usize| {
        let view = HeadView { layer, kv_head, n_kv_heads: 2, ..HeadView::new(Rows::new(&keys, 1)) };
        pivots(&policy(spec).plan(&view, 100).unwrap())
    };
    let first = choice("random", 0, 0);
    for other in [choice("random:seed=1", 0, 0), choice("random", 0, 1), choice("random", 1, 0)] {
        assert_ne!(first, other);
    }
    assert_eq!(first, choice("random:seed=0", 0, 0));
}
