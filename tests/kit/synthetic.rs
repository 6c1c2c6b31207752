//! A made-up analysis and profile of any size, with uneven numbers that are always the same.

use std::path::{Path, PathBuf};

use half::f16;
use kvscope::files::{Document, InputHash, ModelIdentity, Provenance};
use kvscope::format::analysis::{
    Agreement, Analysis, DatasetAnalysis, Evidence, GapByCosine, HeadPersistence, HeadQueries, HeadSimilarity,
    HeadSparsity, Neighbours, Persistence, Placed, QueryAware, RuleError, SetOverlap, SetPlaces, StateSimilarity,
};
use kvscope::format::dump::State;
use kvscope::format::explorer::{ExploredSample, Explorer, ExplorerTensor, ExplorerWriter};
use kvscope::format::generation::{Generated, StopReason};
use kvscope::format::map::MapEntry;
use kvscope::format::profile::{CurvePoint, HeadProfile, Profile, Quality, Tried, UsedSample};
use kvscope::math::{Float, Interval};
use kvscope::merge::{Refit, Shares};
use kvscope::report::{Named, Report, ReportInput};

use super::identity::identity;

/// A number in [0, 1) that looks random and is always the same.
pub fn noise(seed: &[usize]) -> f64 {
    let mut x: u64 = 0x9e37_79b9_7f4a_7c15;
    for s in seed {
        x = (x ^ *s as u64).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x ^= x >> 29;
    }
    (x >> 11) as f64 / (1u64 << 53) as f64
}

fn smollm2(n_layers: usize, n_heads: usize) -> ModelIdentity {
    ModelIdentity {
        name: "SmolLM2-135M".into(),
        tokenizer_sha256: Some("a1b2".repeat(16)),
        ..identity(n_layers, 3 * n_heads, n_heads, 64)
    }
}

fn provenance(command: &str) -> Provenance {
    let options = serde_json::json!({ "recent": 0.17, "heavy": 0.12, "bridge": false, "states": ["k", "v"] });
    let inputs = vec![InputHash { name: "manifest.json".into(), sha256: "0c".repeat(32) }];
    Provenance::new(command, 7, options, inputs)
}

/// Share kept by a head at a threshold: falls with similarity, higher layers merge more.
fn kept(dataset: usize, layer: usize, head: usize, n_layers: usize, eps: f64) -> f64 {
    let depth = (layer as f64 + 0.5) / n_layers as f64;
    let pull = 0.25 + 0.45 * depth + 0.2 * noise(&[layer, head]) + 0.05 * noise(&[dataset, layer, head, 9]);
    let joined = pull / (1.0 + ((eps - 0.72) * 9.0).exp());
    (1.0 - joined + 0.02 * dataset as f64).clamp(0.29, 1.0)
}

fn dataset(
    index: usize,
    name: &str,
    n_layers: usize,
    n_heads: usize,
    lags: &[usize],
    eps_grid: &[f32],
) -> DatasetAnalysis {
    let all = || (0..n_layers).flat_map(move |l| (0..n_heads).map(move |h| (l, h)));
    let similarity = State::VECTORS
        .into_iter()
        .enumerate()
        .map(|(s, state)| {
            let base = [0.62, 0.74, 0.21][s];
            let mean = |l: usize, h: usize| {
                base + 0.25 * ((l as f64 + 1.0) / n_layers as f64 - 0.5)
                    + 0.2 * (noise(&[s, l, h]) - 0.5)
                    + 0.02 * index as f64
            };
            let heads = all()
                .map(|(layer, kv_head)| {
                    let m = mean(layer, kv_head).clamp(-1.0, 1.0);
                    HeadSimilarity {
                        layer,
                        kv_head,
                        neighbours: Neighbours {
                            n: 900 + 37 * index,
                            mean: Some(m),
                            quantiles: Some([m - 0.3, m - 0.1, m + 0.01, m + 0.1, (m + 0.2).min(1.0)]),
                        },
                        locality: lags
                            .iter()
                            .map(|lag| Some(m * (0.55 + 0.45 / (*lag as f64).powf(0.4 + 0.1 * s as f64))))
                            .collect(),
                        share_above: eps_grid
                            .iter()
                            .map(|eps| Some(1.0 / (1.0 + ((f64::from(*eps) - m) * 9.0).exp())))
                            .collect(),
                        effective_rank: Some(8.0 + 40.0 * noise(&[s, layer, kv_head, 5])),
                        effective_rank_centred: Some(12.0 + 44.0 * noise(&[s, layer, kv_head, 5])),
                    }
                })
                .collect();
            let histogram = (0..40)
                .map(|b| {
                    let x = -1.0 + (b as f64 + 0.5) / 20.0;
                    let z = (x - base - 0.03 * index as f64) / 0.19;
                    (12_000.0 * (-0.5 * z * z).exp() * if x > 0.98 { 0.3 } else { 1.0 }) as u64
                })
                .collect();
            StateSimilarity { state, histogram, heads }
        })
        .collect();
    let sparsity: Vec<HeadSparsity> = all()
        .map(|(layer, kv_head)| {
            let kept: Vec<f64> =
                eps_grid.iter().map(|e| kept(index, layer, kv_head, n_layers, f64::from(*e))).collect();
            HeadSparsity {
                layer,
                kv_head,
                set_ratio: kept.iter().map(|k| Some(((k - 0.29) / 0.71).max(0.01))).collect(),
                kept_fraction: kept.iter().map(|k| Some(*k)).collect(),
                largest_set: kept.iter().map(|k| (30.0 * (1.0 - k)) as usize + 1).collect(),
                sizes: (0..9)
                    .map(|bin| (400.0 / (1.0 + bin as f64).powf(1.4 + noise(&[layer, kv_head]))) as u64)
                    .collect(),
            }
        })
        .collect();
    let placed = |seed: usize, n: u64| Placed {
        free: 900 * n,
        merged: (900.0 * n as f64 * (0.2 + 0.6 * noise(&[index, seed, 77]))) as u64,
    };
    let queries = all()
        .map(|(layer, kv_head)| {
            let gap = 0.4 + 1.3 * noise(&[layer, kv_head, 31]) + 0.1 * index as f64;
            let error = |budget: f64, rule: usize| (1.0 - budget) * [0.5, 0.3, 0.2, 0.21, 0.26][rule];
            HeadQueries {
                layer,
                kv_head,
                gap: Some(gap),
                gap_quantiles: Some([0.3, 0.6, 0.9, 1.2, 1.9].map(|q| q * gap)),
                cosine_predicts: Some(-0.2 - 0.7 * noise(&[layer, kv_head, 32])),
                errors: BUDGETS
                    .iter()
                    .map(|b| (0..5).map(|r| Some(error(*b, r) * (0.7 + noise(&[layer, kv_head, r])))).collect())
                    .collect(),
            }
        })
        .collect();
    let around = |placed: Placed| {
        let estimate = placed.share()?;
        Some(Interval { estimate, low: Some(0.95 * estimate), high: Some(estimate.midpoint(1.0)), n: 3 })
    };
    DatasetAnalysis {
        dataset: name.into(),
        n_samples: 3 + 2 * index,
        n_tokens: 2711 + 1009 * index,
        similarity,
        sparsity_other_bridge: sparsity.clone(),
        sparsity,
        places: Some(SetPlaces {
            positions: (0..10).map(|bin| placed(bin, 40)).collect(),
            classes: [300, 30, 60, 25, 2].iter().enumerate().map(|(class, n)| placed(class + 20, *n)).collect(),
            position_shares: (0..10).map(|bin| around(placed(bin, 40))).collect(),
            class_shares: Vec::new(),
        }),
        queries,
        gap_by_cosine: Some(gap_by_cosine(index)),
    }
}

/// Gaps that fall with the cosine, about a centre.
fn gap_by_cosine(dataset: usize) -> GapByCosine {
    let gap_edges: Vec<f64> = (-12..=12).map(|sixth| 10f64.powf(f64::from(sixth) / 6.0)).collect();
    let pairs = |cosine: usize, gap: usize| {
        let centre = 20.0 - 0.2 * cosine as f64;
        let z = (gap as f64 - centre) / 2.5;
        (3000.0 * (cosine as f64 / 40.0).powi(3) * (-0.5 * z * z).exp()) as u64 + dataset as u64
    };
    let pairs = (0..40).map(|cosine| (0..=gap_edges.len()).map(|gap| pairs(cosine, gap)).collect()).collect();
    GapByCosine { gap_edges, pairs }
}

fn persistence(n_layers: usize, n_heads: usize, names: &[&str]) -> Persistence {
    let heads = (0..n_layers).flat_map(|l| (0..n_heads).map(move |h| (l, h)));
    let heads = heads.map(|(layer, kv_head)| {
        let mean = ((kept(0, layer, kv_head, n_layers, 0.75) - 0.29) / 0.71).max(0.01);
        let deviation = 0.08 * noise(&[layer, kv_head, 40]);
        let persistent = deviation <= 0.05;
        let interval = Interval { estimate: mean, low: Some(0.9 * mean), high: Some((1.1 * mean).min(1.0)), n: 12 };
        HeadPersistence {
            layer,
            kv_head,
            mean,
            interval: Some(interval),
            deviation,
            persistent,
            test: None,
            length_slope: None,
        }
    });
    let evidence = Evidence {
        eps: 0.75,
        datasets: names.iter().map(|name| name.to_string()).collect(),
        n_samples: 12,
        variance: None,
        icc_absolute: None,
        icc_consistency: None,
        kendall_w: None,
        mean_spearman: None,
        persistent_share: None,
        lowest_head_p: None,
        rank_null: None,
        dataset_test: None,
        split_half: None,
        length: None,
        heads: heads.collect(),
        by_eps: Vec::new(),
    };
    let verdict = "Sparsity is mostly a property of the model.".to_string();
    Persistence { tolerance: 0.05, verdict, left_out: Vec::new(), evidence: Some(evidence) }
}

const BUDGETS: [f64; 3] = [0.2, 0.5, 0.8];
const RULES: [&str; 5] = ["paper", "convex", "log-count", "mass", "evict"];

fn query_aware() -> QueryAware {
    let error = |budget: f64, rule: usize| {
        let estimate = (1.0 - budget) * [0.6, 0.36, 0.24, 0.25, 0.31][rule];
        let interval = |x: f64| Some(Interval { estimate: x, low: Some(x - 0.02), high: Some(x + 0.03), n: 12 });
        RuleError {
            budget,
            rule: RULES[rule].into(),
            error: interval(estimate),
            against_evict: interval(estimate - (1.0 - budget) * 0.31),
            unreachable: if budget < 0.3 { 7 } else { 0 },
        }
    };
    QueryAware {
        budgets: BUDGETS.to_vec(),
        rules: RULES.map(str::to_string).to_vec(),
        errors: BUDGETS.iter().flat_map(|b| (0..5).map(move |r| error(*b, r))).collect(),
        cosine_predicts: Some(Interval { estimate: -0.55, low: Some(-0.6), high: Some(-0.5), n: 12 }),
        verdict: "The cosine of neighbouring keys ranks how interchangeable they are with a correlation of -0.55."
            .into(),
    }
}

pub fn analysis(n_layers: usize, n_heads: usize, names: &[&str]) -> Analysis {
    let lags = vec![1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256];
    let eps_grid: Vec<f32> = (0..11).map(|i| 0.5 + 0.05 * i as f32).collect();
    let datasets: Vec<_> =
        names.iter().enumerate().map(|(i, name)| dataset(i, name, n_layers, n_heads, &lags, &eps_grid)).collect();
    let kept_fraction = datasets
        .iter()
        .map(|d| {
            let values: Vec<f64> = d.sparsity.iter().map(|h| h.kept_fraction[5].unwrap()).collect();
            let estimate = values.iter().sum::<f64>() / values.len() as f64;
            let half = 0.04 / (d.n_samples as f64).sqrt();
            Some(Interval { estimate, low: Some(estimate - half), high: Some(estimate + 1.3 * half), n: d.n_samples })
        })
        .collect();
    let mut agreement = Vec::new();
    for (i, a) in names.iter().enumerate() {
        for (j, b) in names.iter().enumerate().skip(i + 1) {
            let rho = 1.0 - 0.11 * (j - i) as f64 - 0.05 * i as f64;
            agreement.push(Agreement { a: a.to_string(), b: b.to_string(), spearman: Some(rho) });
        }
    }
    Analysis {
        table: None,
        explorer: None,
        not_explored: Vec::new(),
        same_texts: Vec::new(),
        schema: Analysis::schema_id(),
        provenance: provenance("analyze"),
        model: smollm2(n_layers, n_heads),
        layers: (0..n_layers).collect(),
        lags,
        eps_grid,
        reference_eps: 5,
        shares: Shares { recent: 0.17, heavy: 0.12 },
        bridge: false,
        datasets,
        kept_fraction,
        agreement_verdict: Some("The data sets agree on which heads are compressible.".into()),
        agreement,
        persistence: Some(persistence(n_layers, n_heads, names)),
        set_size_bins: vec![1, 2, 3, 4, 5, 9, 17, 33, 65],
        set_overlap: Some(SetOverlap {
            dice: (0..n_layers)
                .map(|a| {
                    (0..n_layers)
                        .map(|b| Some(0.3 + 0.4 * noise(&[a.min(b), a.max(b), 8]) / (1.0 + 0.1 * a.abs_diff(b) as f64)))
                        .collect()
                })
                .collect(),
            chance: vec![vec![Some(0.31); n_layers]; n_layers],
        }),
        queries: Some(query_aware()),
        maps: Vec::new(),
    }
}

pub fn profile(n_layers: usize, n_heads: usize) -> Profile {
    let interval =
        |estimate: f64, half: f64, n| Interval { estimate, low: Some(estimate - half), high: Some(estimate + half), n };
    let quality = |rule: &str, a: f64, b: Option<f64>| Quality {
        rule: rule.into(),
        calibration: interval(a, 0.008, 8),
        held_out: b.map(|b| interval(b, 0.014, 4)),
    };
    let sample = |i: usize| UsedSample {
        dataset: "news".into(),
        id: format!("{i}"),
        sha256: "77".repeat(32),
        n_tokens: Some(700 + i),
        kept_fraction: Some(0.49 + 0.004 * i as f64),
    };
    Profile {
        schema: Profile::schema_id(),
        provenance: provenance("tune"),
        model: smollm2(n_layers, n_heads),
        chat_template: Some(false),
        settings: ["h2o", "kvmerger:variant=log-count", "kvmerger:variant=mass"].map(String::from).to_vec(),
        beside: None,
        refit: Some(Refit::default()),
        measure: "layer".into(),
        search: "hull".into(),
        min_share: 0.25,
        tried: vec![Tried {
            search: "hull".into(),
            refitted: false,
            evicting: false,
            cross_validated: Some(0.8),
            kl: None,
        }],
        target_kept_fraction: 0.5,
        budget_unit: "slots".into(),
        calibration_kept_fraction: interval(0.497, 0.01, 8),
        held_out_kept_fraction: Some(interval(0.512, 0.02, 4)),
        quality: vec![
            quality("tuned", 0.097, Some(0.098)),
            quality("tuned, evicting", 0.126, Some(0.133)),
            quality("h2o", 0.142, Some(0.151)),
            quality("kvmerger:variant=log-count", 0.231, Some(0.244)),
            quality("kvmerger:variant=mass", 0.088, None),
        ],
        held_out_kl: Vec::new(),
        verdict: "At 50 % of the slots, log-count merging errs 19 % less than evicting the same tokens.".into(),
        calibration: (0..8).map(sample).collect(),
        held_out: (8..12).map(sample).collect(),
        heads: (0..n_layers)
            .flat_map(|l| (0..n_heads).map(move |h| (l, h)))
            .map(|(layer, kv_head)| HeadProfile {
                loss_weight: None,
                layer,
                kv_head,
                setting: (layer + kv_head) % 3,
                eps: ((layer + kv_head) % 3 > 0).then_some((0.55 + 0.35 * noise(&[layer, kv_head, 3])) as f32),
                kept_fraction: kept(0, layer, kv_head, n_layers, 0.7),
                curve: [0.1, 0.2, 0.5, 0.8]
                    .map(|size: f64| CurvePoint {
                        eps: None,
                        kept_fraction: size,
                        errors: [0.1, 0.15, 0.2]
                            .map(|error| Some((error * (1.0 - size) * (0.5 + noise(&[layer, kv_head, 8]))) as f32))
                            .to_vec(),
                        utility_fraction: Some(size),
                    })
                    .to_vec(),
            })
            .collect(),
    }
}

/// Writes a pyramid of a made-up text's cosines, with one token that has none, and lists it in the analysis.
pub fn add_map(analysis: &mut Analysis, dir: &Path, n: usize, (layer, kv_head): (usize, usize), state: State) {
    let topic = |i: usize| (noise(&[i / 37, layer]) * 5.0) as usize;
    let cosine = |i: usize, j: usize| -> f64 {
        if i == 5 || j == 5 {
            return f64::NAN;
        }
        let (a, b) = (i.min(j), i.max(j));
        let near = 0.6 * (-((b - a) as f64) / 40.0).exp();
        let same = if topic(a) == topic(b) { 0.25 } else { 0.0 };
        if a == b { 1.0 } else { (0.2 + near + same + 0.08 * noise(&[a, b, kv_head])).min(1.0) }
    };
    let mut level: Vec<f64> = (0..n * n).map(|at| cosine(at / n, at % n)).collect();
    let (mut side, mut data) = (n, Vec::new());
    loop {
        let bytes: Vec<u8> = level.iter().flat_map(|v| f16::from_f64(*v).to_le_bytes()).collect();
        data.push((side, bytes));
        if side <= 64 {
            break;
        }
        let half = side.div_ceil(2);
        level = (0..half * half)
            .map(|at| {
                let (i, j) = (2 * (at / half), 2 * (at % half));
                let cells: Vec<f64> = [(i, j), (i, j + 1), (i + 1, j), (i + 1, j + 1)]
                    .into_iter()
                    .filter(|(i, j)| *i < side && *j < side)
                    .map(|(i, j)| level[i * side + j])
                    .collect();
                cells.iter().sum::<f64>() / cells.len() as f64
            })
            .collect();
        side = half;
    }
    let file = format!("map-{}.safetensors", analysis.maps.len());
    let views: Vec<_> = data
        .iter()
        .enumerate()
        .map(|(i, (side, bytes))| {
            let shape = vec![*side, *side];
            let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F16, shape, bytes).unwrap();
            (format!("level.{i}"), view)
        })
        .collect();
    std::fs::write(dir.join(&file), safetensors::serialize(views, None).unwrap()).unwrap();
    analysis.maps.push(MapEntry {
        file,
        dataset: analysis.datasets[0].dataset.clone(),
        id: "17".into(),
        state,
        layer,
        kv_head,
        first_token: 0,
        n_tokens: n,
        n_levels: data.len(),
        sha256: None,
    });
}

/// An analysis with at most one profile and one generation.
#[derive(Clone)]
pub struct Input {
    pub analysis: Analysis,
    pub analysis_dir: PathBuf,
    pub profile: Option<Profile>,
    pub generation: Option<Generated>,
    pub page_bytes: usize,
}

/// What was read from a file of that name.
pub fn named<T>(name: &str, content: T) -> Named<T> {
    Named { name: name.into(), content }
}

impl Input {
    pub fn report(&self) -> Report {
        let Self { analysis, analysis_dir, profile, generation, page_bytes } = self.clone();
        Report {
            analysis: Some(ReportInput { analysis, analysis_dir }),
            profiles: profile.into_iter().map(|profile| named("toy.profile.json", profile)).collect(),
            generations: generation.into_iter().map(|generation| named("generate.json", generation)).collect(),
            page_bytes,
            ..Report::default()
        }
    }
}

pub fn input(n_layers: usize, n_heads: usize, names: &[&str], dir: &Path) -> Input {
    let mut analysis = analysis(n_layers, n_heads, names);
    add_map(&mut analysis, dir, 301, (n_layers - 1, n_heads - 1), State::K);
    add_map(&mut analysis, dir, 150, (0, 0), State::KPreRope);
    let generation = Generated {
        schema: Generated::schema_id(),
        model: analysis.model.clone(),
        policy: "toy".into(),
        params: None,
        prompt: Some("What is it about?".into()),
        text: "of tides and of the moon".into(),
        token_texts: None,
        stop: StopReason::MaxNewTokens,
        chat_template: Some(false),
        prompt_tokens: 200,
        new_tokens: 20,
        seen_tokens: 219,
        cache_bytes: 11_534_336,
        full_cache_bytes: 23_068_672,
        kept_fraction: Some(0.5),
        prompt_cache_bytes: 11_534_336,
        prompt_kept_fraction: Some(0.5),
        counters: None,
        counters_by_layer: None,
        prefill_secs: 1.0,
        prompt_compress_secs: 0.1,
        compress_secs: 0.1,
        decode_secs: 1.1,
        decode_tokens_per_sec: Some(17.25),
        process_bytes_grown: None,
        compared: None,
    };
    Input {
        analysis,
        analysis_dir: dir.into(),
        profile: Some(profile(n_layers, n_heads)),
        generation: Some(generation),
        page_bytes: Report::PAGE_BYTES,
    }
}

/// Takes values away in every way that files can lack them.
pub fn with_gaps(mut input: Input) -> Input {
    let analysis = &mut input.analysis;
    analysis.datasets[0].sparsity.retain(|h| h.layer != 11);
    analysis.datasets[1].sparsity.clear();
    analysis.kept_fraction[1] = None;
    analysis.kept_fraction[2] = Some(Interval { estimate: 0.61, low: None, high: None, n: 1 });
    analysis.agreement[0].spearman = None;
    for dataset in &mut analysis.datasets {
        dataset.similarity[0].heads.retain(|h| (h.layer, h.kv_head) != (3, 1));
        for head in &mut dataset.similarity[1].heads {
            head.locality[13..].fill(None);
            head.locality[4] = Some(f64::NAN);
            if head.layer == 7 {
                head.neighbours.mean = Some(f64::INFINITY);
            }
        }
        for head in &mut dataset.sparsity {
            head.set_ratio[3] = Some(f64::NAN);
            head.kept_fraction[3] = None;
        }
    }
    analysis.datasets[2].similarity[2].histogram.fill(0);
    if let Some(profile) = &mut input.profile {
        profile.heads[4].kept_fraction = f64::NAN;
        profile.quality[2].calibration.estimate = f64::NAN;
        profile.held_out_kept_fraction = None;
    }
    input
}

/// Adds what an explorer shows of a sample of `n_tokens` of the first data set: texts, merging sets of every head, keys of the first.
pub fn add_explorer(analysis: &mut Analysis, dir: &Path, n_tokens: usize, texts: &dyn Fn(usize) -> String) {
    let model = &analysis.model;
    let heads: Vec<[usize; 2]> = analysis.layers.iter().flat_map(|l| (0..model.n_kv_heads).map(|h| [*l, h])).collect();
    let sample = ExploredSample {
        dataset: analysis.datasets[0].dataset.clone(),
        id: "17".into(),
        n_tokens,
        token_texts: Some((0..n_tokens).map(texts).collect()),
        dtype: Float::F16,
        n_queries: 0,
        states: vec![State::K],
        shown: heads[..2].to_vec(),
        heads,
        orders: Vec::new(),
    };
    let explorer = Explorer { schema: Explorer::schema_id(), model: model.clone(), samples: vec![sample] };
    let mut writer = ExplorerWriter::create(dir, &explorer).unwrap();
    for tensor in explorer.tensors() {
        let n: usize = explorer.spec(tensor).shape.iter().product();
        let numbers: Vec<f32> = (0..n).map(|i| noise(&[n, i]) as f32).collect();
        match tensor {
            ExplorerTensor::Highest(..) => writer.blocks(tensor, &vec![200; n]).unwrap(),
            _ => writer.numbers(tensor, &numbers).unwrap(),
        }
    }
    analysis.explorer = Some(writer.finish().unwrap());
}
