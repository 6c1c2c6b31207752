//! Memory of the process, in a binary of its own: other tests' allocations would be counted too.
//!
//! Without the test harness, so that it runs on the main thread as the program does: glibc gives back the end of the main
//! thread's arena only, and the harness would run it on another one. `cargo test --release --test memory -- --ignored` measures
//! the demo model.

mod kit {
    pub mod config;
    pub mod demo;
    pub mod layer;
    pub mod noise;
}

use kit::config::shape;
use kit::demo::demo_model;
use kit::layer::Layer;
use kvscope::files::resident_bytes;
use kvscope::math::Float;
use kvscope::model::{KvStore, Model, Pass};
use kvscope::runtime::{Budget, Compression, RaggedCache, prefill, release_freed_memory, start_threads};

fn main() {
    if cfg!(not(all(target_os = "linux", target_env = "gnu"))) {
        println!("not run: this system does not tell a process' memory, or keeps what is freed");
        return;
    }
    start_threads(None).unwrap();
    let wants = |flag: &str| std::env::args().any(|arg| arg == flag);
    if wants("--ignored") || wants("--include-ignored") {
        demo_model_peaks_fall_by_what_compression_between_parts_saves();
        println!("test demo_model_peaks_fall_by_what_compression_between_parts_saves ... ok");
    }
    if !wants("--ignored") {
        a_smaller_cache_is_a_smaller_process();
        println!("test a_smaller_cache_is_a_smaller_process ... ok");
    }
}

fn demo_model_peaks_fall_by_what_compression_between_parts_saves() {
    const PART: usize = 512;
    let model = Model::load(&demo_model()).unwrap();
    let n_tokens = model.config().max_positions;
    let prompt: Vec<u32> = (0..n_tokens).map(|i| ((i * 7919 + 13) % model.config().vocab_size) as u32).collect();
    let kind = Float::F16;
    let run = |compression: Option<Compression>| {
        release_freed_memory();
        let base = resident_bytes().unwrap();
        std::fs::write("/proc/self/clear_refs", "5").unwrap();
        let mut cache = RaggedCache::new(model.config(), kind, compression);
        prefill(&mut Pass::new(&model), &prompt, &mut cache, PART).unwrap();
        (cache.bytes() as f64, peak_bytes() - base as f64)
    };
    let (full, full_peak) = run(None);
    let one_part = full * PART as f64 / n_tokens as f64;
    for spec in ["h2o", "kvmerger:variant=log-count"] {
        let compression = Compression::parse(spec, Budget::KeptFraction(0.35)).unwrap();
        let (small, peak) = run(Some(Compression { every_tokens: Some(PART), ..compression }));
        println!(
            "{spec}, {kind:?}, {n_tokens} tokens: cache {:.1} MB to {:.1} MB; peak {:.1} MB to {:.1} MB",
            full / 1e6,
            small / 1e6,
            full_peak / 1e6,
            peak / 1e6,
        );
        // The last part is whole until it is compressed; two layers' keys are unpacked meanwhile.
        let fell = full_peak - peak;
        assert!(fell >= full - small - one_part - 12e6, "{spec}: {fell} of {} bytes saved", full - small);
    }
}

/// The most resident bytes since `/proc/self/clear_refs` was written to.
fn peak_bytes() -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    1024.0 * line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap()
}

fn a_smaller_cache_is_a_smaller_process() {
    const CHUNK: usize = 512;
    const N_CHUNKS: usize = 24;
    let config = shape(4, 4, 4, 128);
    let n_tokens = CHUNK * N_CHUNKS;
    let layer = Layer::new(&config, CHUNK, 3);
    let empty = resident_bytes().unwrap();
    for (spec, kind, kept_fraction) in
        [("h2o", Float::F32, 0.25), ("kvmerger:variant=log-count", Float::F32, 0.5), ("snapkv", Float::F16, 0.35)]
    {
        let compression = Compression::parse(spec, Budget::KeptFraction(kept_fraction)).unwrap();
        let mut cache = RaggedCache::new(&config, kind, Some(compression));
        cache.begin_prompt(n_tokens);
        for i in 0..N_CHUNKS {
            for l in 0..config.n_layers {
                let chunk = layer.chunk(l, i * CHUNK);
                cache.append(&chunk).unwrap();
                // The prompt's last chunk is left to the loop below, so that the whole cache is seen first.
                if i + 1 < N_CHUNKS {
                    let masses = layer.masses(&cache, l);
                    cache.attended(&chunk, masses).unwrap();
                }
            }
        }
        release_freed_memory();
        let (full, full_resident) = (cache.bytes(), resident_bytes().unwrap());
        assert!(full > if kind == Float::F32 { 200_000_000 } else { 100_000_000 }, "{full}");
        for l in 0..config.n_layers {
            let chunk = layer.chunk(l, n_tokens - CHUNK);
            let masses = layer.masses(&cache, l);
            cache.attended(&chunk, masses).unwrap();
        }
        cache.end_prompt().unwrap();
        let (small, small_resident) = (cache.bytes(), resident_bytes().unwrap());
        let (saved, fell) = ((full - small) as f64, full_resident as f64 - small_resident as f64);
        println!(
            "{spec}: cache {:.1} MB to {:.1} MB; process {:.1} MB to {:.1} MB",
            full as f64 / 1e6,
            small as f64 / 1e6,
            full_resident as f64 / 1e6,
            small_resident as f64 / 1e6,
        );
        // A few megabytes stay in the arenas of the worker threads.
        assert!((fell / saved - 1.0).abs() < 0.15, "{spec}: {saved} bytes saved, {fell} given back");
        // What the process holds for the cache is what the cache says it holds.
        let held = small_resident as f64 - empty as f64;
        assert!((held - small as f64).abs() < 0.1 * full as f64, "{spec}: {small} bytes stored, {held} held");
        drop(cache);
    }
}
