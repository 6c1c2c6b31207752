//! KVMerger's arithmetic beside a second implementation in plain f64 loops, written from the method's text alone.

mod kit {
    pub mod config;
    pub mod noise;
    pub mod property;
    pub mod slots;
}

use kit::config::shape;
use kit::noise::noise;
use kit::property::property_cases;
use kit::slots::contents;
use kvscope::math::{Float, Rows};
use kvscope::merge::{
    Kernel, MergeError, MergeRule, Sigma, SlotStates, ValueRule, links, pivot, protect, set_weights, sets_above,
    sets_for_budget,
};
use kvscope::model::{AttnMass, ChunkStates, KvStore};
use kvscope::policy::{HeadView, parse};
use kvscope::runtime::{Budget, Compression, RaggedCache, RuntimeError};
use proptest::prelude::*;

/// The second implementation. Keys are rows of small integers, so that cosines can be compared without rounding.
mod reference {
    use std::cmp::Ordering;

    /// cos(a, b) as sign · cos² = numerator / denominator; `None` when a key is zero.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Cosine {
        numerator: i64,
        denominator: i64,
    }

    impl Cosine {
        pub fn of(a: &[i64], b: &[i64]) -> Option<Self> {
            let product = |a: &[i64], b: &[i64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<i64>();
            let (ab, denominator) = (product(a, b), product(a, a) * product(b, b));
            (denominator > 0).then_some(Self { numerator: ab * ab.abs(), denominator })
        }

        pub fn compare(self, other: Self) -> Ordering {
            (self.numerator * other.denominator).cmp(&(other.numerator * self.denominator))
        }

        /// Whether it is above n / d.
        pub fn is_above(self, n: i64, d: i64) -> bool {
            self.compare(Self { numerator: n * n.abs(), denominator: d * d }) == Ordering::Greater
        }
    }

    /// Step 1: the last `n_recent`, then one after the other the heaviest that is left.
    pub fn protected(mass: &[f32], n_recent: usize, n_heavy: usize) -> Vec<bool> {
        let n = mass.len();
        let mut protected: Vec<bool> = (0..n).map(|i| i + n_recent >= n).collect();
        for _ in 0..n_heavy {
            let mut best: Option<usize> = None;
            for i in 0..n {
                if !protected[i] && best.is_none_or(|b| mass[i] > mass[b]) {
                    best = Some(i);
                }
            }
            if let Some(best) = best {
                protected[best] = true;
            }
        }
        protected
    }

    /// Neighbours that may be joined, as (earlier, later, cosine).
    pub fn neighbours(keys: &[Vec<i64>], protected: &[bool], bridge: bool) -> Vec<(usize, usize, Cosine)> {
        let mut found = Vec::new();
        for later in 0..keys.len() {
            if protected[later] {
                continue;
            }
            let mut earlier = later;
            while earlier > 0 {
                earlier -= 1;
                if !protected[earlier] {
                    if let Some(cosine) = Cosine::of(&keys[earlier], &keys[later]) {
                        found.push((earlier, later, cosine));
                    }
                    break;
                }
                if !bridge {
                    break;
                }
            }
        }
        found
    }

    /// Sets that follow from the pairs that are joined.
    pub fn sets(n: usize, protected: &[bool], joined: &[(usize, usize)]) -> Vec<Vec<u32>> {
        let mut sets: Vec<Vec<u32>> = Vec::new();
        for i in (0..n).filter(|i| !protected[*i]) {
            match sets.last_mut() {
                Some(set) if joined.contains(&(*set.last().unwrap() as usize, i)) => set.push(i as u32),
                _ => sets.push(vec![i as u32]),
            }
        }
        sets
    }

    /// Step 2 with a threshold of n / d.
    pub fn sets_above(keys: &[Vec<i64>], protected: &[bool], bridge: bool, n: i64, d: i64) -> Vec<Vec<u32>> {
        let joined: Vec<(usize, usize)> = neighbours(keys, protected, bridge)
            .into_iter()
            .filter(|(_, _, cosine)| cosine.is_above(n, d))
            .map(|(a, b, _)| (a, b))
            .collect();
        sets(keys.len(), protected, &joined)
    }

    /// Step 9: one join at a time, of the most similar pair left, the earlier of equals; `None` when pairs run out.
    pub fn sets_of(keys: &[Vec<i64>], protected: &[bool], bridge: bool, n_sets: usize) -> Option<Vec<Vec<u32>>> {
        let mut left = neighbours(keys, protected, bridge);
        let mut joined = Vec::new();
        loop {
            let found = sets(keys.len(), protected, &joined);
            if found.len() <= n_sets {
                return Some(found);
            }
            let mut best = 0;
            for i in 1..left.len() {
                if left[i].2.compare(left[best].2) == Ordering::Greater {
                    best = i;
                }
            }
            if left.is_empty() {
                return None;
            }
            let (a, b, _) = left.remove(best);
            joined.push((a, b));
        }
    }

    /// Step 3, as an index into the set.
    pub fn pivot(set: &[u32], mass: &[f32]) -> usize {
        let largest = set.iter().map(|i| mass[*i as usize]).fold(f32::NEG_INFINITY, f32::max);
        set.iter().position(|i| mass[*i as usize] == largest).unwrap()
    }

    /// Steps 4 to 7: weights of keys and values, and the logit's bias.
    pub fn weights(
        keys: &[Vec<f64>],
        set: &[u32],
        mass: &[f32],
        kernel: &str,
        sigma: &str,
        rule: &str,
    ) -> (Vec<f64>, Vec<f64>, f64) {
        let n = set.len();
        let p = pivot(set, mass);
        let a: Vec<f64> = set.iter().map(|i| f64::from(mass[*i as usize])).collect();
        let only_pivot: Vec<f64> = (0..n).map(|i| f64::from(u8::from(i == p))).collect();
        if n == 1 || kernel == "pivot" {
            return (only_pivot.clone(), only_pivot, 0.0);
        }
        let distance = |i: usize| -> f64 {
            let (x, y) = (&keys[set[p] as usize], &keys[set[i] as usize]);
            x.iter().zip(y).map(|(x, y)| (x - y) * (x - y)).sum::<f64>().sqrt()
        };
        let sigma: f64 = match sigma {
            "distance" => (0..n).map(distance).sum::<f64>() / (2f64.sqrt() * n as f64),
            "printed" => (0..n).map(|_| 1.0).sum::<f64>() / (2f64.sqrt() * n as f64),
            fixed => fixed.strip_prefix("fixed:").unwrap().parse().unwrap(),
        };
        let shared = |x: Vec<f64>| -> Vec<f64> {
            let total: f64 = x.iter().sum();
            x.iter().map(|x| x / total).collect()
        };
        let gaussian = |i: usize| {
            // Where all keys are the pivot's, sigma by distance is 0 and the limit of the kernel is 1.
            if distance(i) == 0.0 { 1.0 } else { (-distance(i).powi(2) / (2.0 * sigma * sigma)).exp() }
        };
        let no_mass = a.iter().all(|a| *a == 0.0);
        let w = shared(match kernel {
            "gaussian" | "key-fixed" => (0..n).map(gaussian).collect(),
            "attention" if !no_mass => a.clone(),
            "attention" | "uniform" => vec![1.0; n],
            other => panic!("{other}"),
        });
        let log_count = (n as f64).ln();
        let (value, bias) = match rule {
            "paper" => (w.iter().map(|w| w * n as f64).collect(), 0.0),
            "convex" => (w.clone(), 0.0),
            "log-count" => (w.clone(), log_count),
            "mass" if no_mass => (vec![1.0 / n as f64; n], log_count),
            "mass" => (shared(a.clone()), (a.iter().sum::<f64>() / a[p]).ln().min(log_count)),
            other => panic!("{other}"),
        };
        (if kernel == "key-fixed" { only_pivot } else { w }, value, bias)
    }

    /// Σ w · row.
    pub fn mixed(rows: &[Vec<f64>], set: &[u32], weights: &[f64]) -> Vec<f64> {
        let mut sum = vec![0.0; rows[0].len()];
        for (i, w) in set.iter().zip(weights) {
            for (sum, x) in sum.iter_mut().zip(&rows[*i as usize]) {
                *sum += w * x;
            }
        }
        sum
    }
}

const KERNELS: [(&str, Kernel); 5] = [
    ("gaussian", Kernel::Gaussian),
    ("uniform", Kernel::Uniform),
    ("attention", Kernel::Attention),
    ("pivot", Kernel::Pivot),
    ("key-fixed", Kernel::KeyFixed),
];
const SIGMAS: [(&str, Sigma); 4] = [
    ("distance", Sigma::Distance),
    ("printed", Sigma::Printed),
    ("fixed:5", Sigma::Fixed(5.0)),
    ("fixed:0.75", Sigma::Fixed(0.75)),
];
const RULES: [(&str, ValueRule); 4] = [
    ("paper", ValueRule::Paper),
    ("convex", ValueRule::Convex),
    ("log-count", ValueRule::LogCount),
    ("mass", ValueRule::Mass),
];

/// One head: keys of small integers (zero keys, duplicates and equal cosines are common), masses with ties, any values.
#[derive(Clone, Debug)]
struct Head {
    keys: Vec<Vec<i64>>,
    values: Vec<Vec<f32>>,
    mass: Vec<f32>,
}

impl Head {
    fn n(&self) -> usize {
        self.mass.len()
    }

    fn head_dim(&self) -> usize {
        self.keys[0].len()
    }

    fn flat_keys(&self) -> Vec<f32> {
        self.keys.concat().iter().map(|x| *x as f32).collect()
    }

    fn real_keys(&self) -> Vec<Vec<f64>> {
        self.keys.iter().map(|key| key.iter().map(|x| *x as f64).collect()).collect()
    }

    fn real_values(&self) -> Vec<Vec<f64>> {
        self.values.iter().map(|value| value.iter().map(|x| f64::from(*x)).collect()).collect()
    }
}

fn heads() -> impl Strategy<Value = Head> {
    (1usize..=60, prop::sample::select(vec![(2usize, 2i64), (3, 2), (8, 1)])).prop_flat_map(|(n, (head_dim, limit))| {
        let key = prop::collection::vec(-limit..=limit, head_dim);
        // Runs of the same key are what merging is about; a uniform draw would hardly make any.
        let keys = prop::collection::vec((key, prop::bool::weighted(0.3)), n).prop_map(|drawn| {
            let mut keys: Vec<Vec<i64>> = Vec::new();
            for (key, repeat) in drawn {
                let last = keys.last().cloned();
                keys.push(if repeat { last.unwrap_or(key) } else { key });
            }
            keys
        });
        let values = prop::collection::vec(prop::collection::vec(-9f32..9.0, head_dim), n);
        let one_mass = prop_oneof![1 => Just(0f32), 3 => (1u8..4).prop_map(f32::from), 3 => 0f32..5.0];
        let mass = prop_oneof![
            8 => prop::collection::vec(one_mass, n),
            1 => Just(vec![0f32; n]),
        ];
        (keys, values, mass).prop_map(|(keys, values, mass)| Head { keys, values, mass })
    })
}

fn close(found: f32, expected: f64, largest: f64) -> bool {
    (f64::from(found) - expected).abs() <= 2e-6 * largest.max(1.0)
}

proptest! {
    #![proptest_config(property_cases(400))]

    #[test]
    fn protected_tokens_are_the_recent_and_then_the_heaviest(head in heads(), recent in 0usize..70, heavy in 0usize..70) {
        prop_assert_eq!(protect(&head.mass, recent, heavy), reference::protected(&head.mass, recent, heavy));
    }

    #[test]
    fn sets_above_a_threshold(
        head in heads(), recent in 0usize..9, heavy in 0usize..9, bridge: bool, quarters in -4i64..=4,
    ) {
        let protected = protect(&head.mass, recent, heavy);
        let (tokens, found) = links(Rows::new(&head.flat_keys(), head.head_dim()), &protected, bridge);
        let sets = sets_above(tokens, &found, quarters as f32 / 4.0);
        let expected = reference::sets_above(&head.keys, &protected, bridge, quarters, 4);
        prop_assert_eq!(sets.iter().map(<[u32]>::to_vec).collect::<Vec<_>>(), expected);
        prop_assert!(sets.lowest_joined.is_none_or(|lowest| lowest > quarters as f32 / 4.0));
    }

    #[test]
    fn sets_that_meet_a_budget(
        head in heads(), recent in 0usize..9, heavy in 0usize..9, bridge: bool, n_sets in 0usize..60,
    ) {
        let protected = protect(&head.mass, recent, heavy);
        let n_protected = protected.iter().filter(|p| **p).count();
        let (tokens, found) = links(Rows::new(&head.flat_keys(), head.head_dim()), &protected, bridge);
        let n_tokens = tokens.len();
        let sets = sets_for_budget(tokens, &found, n_sets, n_protected);
        match reference::sets_of(&head.keys, &protected, bridge, n_sets) {
            Some(expected) => {
                let sets = sets.unwrap();
                prop_assert_eq!(sets.sets.len(), n_sets.min(n_tokens));
                prop_assert_eq!(sets.iter().map(<[u32]>::to_vec).collect::<Vec<_>>(), expected);
            }
            None => {
                let reachable = n_protected + n_tokens - reference::neighbours(&head.keys, &protected, bridge).len();
                let budget_tokens = n_protected + n_sets;
                prop_assert_eq!(sets, Err(MergeError::BudgetUnreachable { reachable, budget_tokens }));
            }
        }
    }

    #[test]
    fn weights_of_every_kernel_sigma_and_value_rule(head in heads(), start in 0usize..60, len in 1usize..20) {
        let start = start % head.n();
        let set: Vec<u32> = (start..(start + len).min(head.n())).map(|i| i as u32).collect();
        prop_assert_eq!(pivot(&set, &head.mass), reference::pivot(&set, &head.mass));
        for (kernel_name, kernel) in KERNELS {
            for (sigma_name, sigma) in SIGMAS {
                for (rule_name, rule) in RULES {
                    let keys = head.flat_keys();
                    let slots = SlotStates::new(Rows::new(&keys, head.head_dim()), &head.mass);
                    let how = MergeRule { kernel, sigma, variant: rule };
                    let found = set_weights(slots, &set, pivot(&set, &head.mass), &how);
                    let (key, value, bias) = reference::weights(
                        &head.real_keys(), &set, &head.mass, kernel_name, sigma_name, rule_name,
                    );
                    let what = format!("{kernel_name} {sigma_name} {rule_name}: {found:?}");
                    for (found, expected) in found.key.iter().zip(&key).chain(found.value.iter().zip(&value)) {
                        prop_assert!(close(*found, *expected, set.len() as f64), "{what} but {expected}");
                    }
                    prop_assert_eq!((found.key.len(), found.value.len()), (set.len(), set.len()));
                    prop_assert!(close(found.logit_bias, bias, 1.0), "{what} but {bias}");
                    prop_assert!(close(found.key.iter().sum::<f32>(), 1.0, 1.0), "{what}");
                }
            }
        }
    }

    #[test]
    fn real_keys_join_as_in_double_precision(
        seed: u64, n in 1usize..=60, head_dim in prop::sample::select(vec![2usize, 3, 8, 65]), eps in -1f32..1.0,
        n_sets in 1usize..60, bridge: bool,
    ) {
        let keys = noise(n * head_dim, seed);
        let protected = protect(&noise(n, seed ^ 1), n / 9, n / 7);
        let key = |i: usize| keys[i * head_dim..][..head_dim].iter().map(|x| f64::from(*x)).collect::<Vec<f64>>();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
        // Pairs by the same rule as above, with unit keys in the place of those that matter here.
        let ones = vec![vec![1i64]; n];
        let mut pairs: Vec<(f64, usize, usize)> = reference::neighbours(&ones, &protected, bridge)
            .into_iter()
            .map(|(a, b, _)| {
                let (x, y) = (key(a), key(b));
                (dot(&x, &y) / (dot(&x, &x) * dot(&y, &y)).sqrt(), a, b)
            })
            .collect();
        pairs.sort_by(|a, b| b.0.total_cmp(&a.0));
        // Where rounding may decide, either order is right.
        prop_assume!(pairs.windows(2).all(|w| w[0].0 - w[1].0 > 1e-6));
        prop_assume!(pairs.iter().all(|pair| (pair.0 - f64::from(eps)).abs() > 1e-6));
        let joined = |n: usize| -> Vec<Vec<u32>> {
            let pairs: Vec<(usize, usize)> = pairs[..n].iter().map(|(_, a, b)| (*a, *b)).collect();
            reference::sets(protected.len(), &protected, &pairs)
        };
        let (tokens, found) = links(Rows::new(&keys, head_dim), &protected, bridge);
        let above = pairs.iter().filter(|pair| pair.0 > f64::from(eps)).count();
        let sets = sets_above(tokens.clone(), &found, eps);
        prop_assert_eq!(sets.iter().map(<[u32]>::to_vec).collect::<Vec<_>>(), joined(above));
        let to_join = tokens.len().saturating_sub(n_sets);
        let sets = sets_for_budget(tokens, &found, n_sets, 0);
        prop_assert_eq!(sets.is_ok(), to_join <= pairs.len());
        if let Ok(sets) = sets {
            prop_assert_eq!(sets.iter().map(<[u32]>::to_vec).collect::<Vec<_>>(), joined(to_join));
        }
    }

    #[test]
    fn a_compressed_head_holds_what_the_text_says(
        head in heads(),
        (kernel, sigma, rule) in (0usize..5, 0usize..4, 0usize..4),
        (recent, heavy) in (0usize..6, 0usize..6),
        bridge: bool,
        eps_quarters in prop::option::of(-4i64..=4),
        kept in 1usize..60,
    ) {
        let n = head.n();
        let shares = [recent, heavy].map(|x| x as f64 / 20.0);
        let [n_recent, n_heavy] = shares.map(|share| (n as f64 * share).round() as usize);
        let n_heavy = n_heavy.min(n - n_recent);
        let kept = kept.min(n);
        let (kernel, sigma, rule) = (KERNELS[kernel].0, SIGMAS[sigma].0, RULES[rule].0);
        let mut spec = format!(
            "kvmerger:kernel={kernel},sigma={sigma},variant={rule},bridge={bridge},recent={},heavy={}",
            shares[0], shares[1],
        );
        if let Some(quarters) = eps_quarters {
            spec += &format!(",eps={}", quarters as f64 / 4.0);
        }
        let protected = reference::protected(&head.mass, n_recent, n_heavy);
        let n_protected = n_recent + n_heavy;
        let expected = match eps_quarters {
            Some(quarters) => Some(reference::sets_above(&head.keys, &protected, bridge, quarters, 4)),
            None if kept == n => Some((0..n).map(|i| vec![i as u32]).collect()),
            None if n_protected > kept => None,
            None => reference::sets_of(&head.keys, &protected, bridge, kept - n_protected),
        };
        let policy = parse(&spec).unwrap().1;
        let (keys, values) = (head.flat_keys(), head.values.concat());
        let [k, v, none] = [&keys[..], &values, &[]].map(|x| Rows::new(x, head.head_dim()));
        let view = HeadView { mass: &head.mass, ..HeadView::new(k) };
        let plan = policy.plan(&view, kept);
        prop_assert_eq!(plan.is_ok(), expected.is_some(), "{}", &spec);
        let config = shape(1, 1, 1, head.head_dim());
        let compression = Compression::new(spec.clone(), policy, Budget::KeptFraction(kept as f64 / n as f64));
        let mut cache = RaggedCache::new(&config, Float::F32, Some(compression));
        let chunk = ChunkStates { layer: 0, first_position: 0, n_tokens: n, q: none, k, k_pre_rope: none, v, inputs: none };
        cache.begin_prompt(n);
        cache.append(&chunk).unwrap();
        let applied = cache.attended(&chunk, AttnMass { all: vec![head.mass.clone()], window: vec![] });
        let (Some(expected), Ok(plan)) = (expected, plan) else {
            let error = applied.unwrap_err();
            prop_assert!(matches!(error, RuntimeError::Unmeetable { .. }), "{error}");
            return Ok(());
        };
        applied.unwrap();

        // Slots of the text: protected tokens as they are and one per set, by the pivot's position.
        let whole = eps_quarters.is_none() && kept == n;
        let mut slots: Vec<Vec<u32>> = expected;
        if !whole {
            slots.extend((0..n as u32).filter(|i| protected[*i as usize]).map(|i| vec![i]));
        }
        slots.sort_by_key(|set| set[reference::pivot(set, &head.mass)]);
        prop_assert_eq!(plan.check(n), Ok(()));
        prop_assert_eq!(plan.slots.len(), slots.len());
        if eps_quarters.is_none() {
            prop_assert_eq!(plan.slots.len(), kept);
        }
        let (real_keys, real_values) = (head.real_keys(), head.real_values());
        let (positions, stored_keys, stored_values, biases, counts) = contents(&cache, &config).remove(0);
        prop_assert_eq!(positions.len(), slots.len());
        let mut represented = 0;
        for (i, set) in slots.iter().enumerate() {
            let p = reference::pivot(set, &head.mass);
            prop_assert_eq!(positions[i], set[p]);
            let (wk, wv, bias) = reference::weights(&real_keys, set, &head.mass, kernel, sigma, rule);
            let largest = 9.0 * set.len() as f64;
            let (key, value) =
                (reference::mixed(&real_keys, set, &wk), reference::mixed(&real_values, set, &wv));
            let at = i * head.head_dim();
            for d in 0..head.head_dim() {
                prop_assert!(close(stored_keys[at + d], key[d], largest), "{}, slot {i}: key", &spec);
                prop_assert!(close(stored_values[at + d], value[d], largest), "{}, slot {i}: value", &spec);
                if rule != "paper" {
                    let of_set = || set.iter().map(|t| real_values[*t as usize][d]);
                    let (low, high) = (of_set().fold(f64::MAX, f64::min), of_set().fold(f64::MIN, f64::max));
                    let x = f64::from(stored_values[at + d]);
                    prop_assert!(x > low - 1e-5 && x < high + 1e-5, "{}, slot {i}: {x} in {low} to {high}", &spec);
                }
            }
            prop_assert!(close(biases[i], bias, 1.0), "{}, slot {i}: bias", &spec);
            if set.len() == 1 {
                // Kept tokens are kept bit for bit.
                prop_assert_eq!(&stored_keys[at..][..head.head_dim()], k.row(set[0] as usize));
                prop_assert_eq!(&stored_values[at..][..head.head_dim()], &head.values[set[0] as usize][..]);
            }
            // A member of no weight in key and value is gone: it is not counted as merged.
            let count = wk.iter().zip(&wv).filter(|(k, v)| (**k as f32, **v as f32) != (0.0, 0.0)).count();
            let counted = counts[i] as usize;
            prop_assert!(counted.abs_diff(count) <= wk.iter().filter(|w| **w > 0.0 && **w < 1e-30).count());
            represented += counted;
        }
        let counters = cache.counters();
        prop_assert_eq!(counters.kept, slots.len());
        prop_assert_eq!(counters.kept + counters.merged + counters.evicted, n);
        prop_assert_eq!(counters.evicted, n - represented);
    }
}

#[test]
fn the_reference_itself_by_hand() {
    // cos((1,1), (1,0)) = 0.707; cos((1,0), (2,0)) = 1; (0,0) has no direction.
    let keys = vec![vec![1, 1], vec![1, 0], vec![2, 0], vec![0, 0], vec![0, 1]];
    let free = [false; 5];
    assert_eq!(reference::sets_above(&keys, &free, false, 3, 4), [vec![0], vec![1, 2], vec![3], vec![4]]);
    assert_eq!(reference::sets_above(&keys, &free, false, 1, 2), [vec![0, 1, 2], vec![3], vec![4]]);
    assert_eq!(reference::sets_of(&keys, &free, false, 4).unwrap(), [vec![0], vec![1, 2], vec![3], vec![4]]);
    assert_eq!(reference::sets_of(&keys, &free, false, 2), None);
    assert_eq!(reference::protected(&[1.0, 5.0, 5.0, 0.0, 9.0], 1, 1), [false, true, false, false, true]);
    // Distances 0, 1 and 1 from the pivot (1, 0): sigma = 2 / (3 √2), 2 sigma² = 4/9.
    let real = [[1.0, 1.0], [1.0, 0.0], [2.0, 0.0]].map(Vec::from);
    let (w, v, _) = reference::weights(&real, &[0, 1, 2], &[0.0, 1.0, 0.5], "gaussian", "distance", "paper");
    let g = (-9f64 / 4.0).exp();
    assert!((w[1] - 1.0 / (1.0 + 2.0 * g)).abs() < 1e-12 && (v[0] - 3.0 * g / (1.0 + 2.0 * g)).abs() < 1e-12);
}
