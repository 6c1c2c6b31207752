//! Memory of the process, in a binary of its own: other tests' allocations would be counted too.
//!
//! Without the test harness, so that it runs on the main thread as the program does: glibc gives back the end of the main
//! thread's arena only, and the harness would run it on another one.

mod common;

use common::Layer;
use common::shape;
use kvscope::model::AttnMass;
use kvscope::model::KvStore;
use kvscope::runtime::Budget;
use kvscope::runtime::CacheType;
use kvscope::runtime::Compression;
use kvscope::runtime::RaggedCache;
use kvscope::runtime::release_freed_memory;
use kvscope::runtime::resident_bytes;

fn main() {
    if cfg!(not(all(target_os = "linux", target_env = "gnu"))) {
        println!("not run: this system does not tell a process' memory, or keeps what is freed");
        return;
    }
    a_smaller_cache_is_a_smaller_process();
    println!("test a_smaller_cache_is_a_smaller_process ... ok");
}

fn a_smaller_cache_is_a_smaller_process() {
    const CHUNK: usize = 512;
    const N_CHUNKS: usize = 24;
    let config = shape(4, 4, 4, 128);
    let n_tokens = CHUNK * N_CHUNKS;
    let layer = Layer::new(&config, CHUNK, 3);
    let empty = resident_bytes().unwrap();
    for (spec, kind, kept_fraction) in [
        ("h2o", CacheType::F32, 0.25),
        ("kvmerger:variant=log-count", CacheType::F32, 0.5),
        ("snapkv", CacheType::F16, 0.35),
    ] {
        let compression = Compression::parse(spec, Budget::KeptFraction(kept_fraction)).unwrap();
        let mut cache = RaggedCache::new(&config, kind, Some(compression));
        cache.begin_prompt(n_tokens);
        for i in 0..N_CHUNKS {
            for l in 0..config.n_layers {
                let chunk = layer.chunk(l, i * CHUNK);
                cache.append(&chunk).unwrap();
                // The prompt's last chunk is left to the loop below, so that the whole cache is seen first.
                if i + 1 < N_CHUNKS {
                    cache.attended(&chunk, masses(&layer, &cache, (i + 1) * CHUNK)).unwrap();
                }
            }
        }
        release_freed_memory();
        let (full, full_resident) = (cache.bytes(), resident_bytes().unwrap());
        assert!(full > if kind == CacheType::F32 { 200_000_000 } else { 100_000_000 }, "{full}");
        for l in 0..config.n_layers {
            let chunk = layer.chunk(l, n_tokens - CHUNK);
            cache.attended(&chunk, masses(&layer, &cache, n_tokens)).unwrap();
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

/// Masses for all slots so far.
fn masses(layer: &Layer, cache: &RaggedCache, n_slots: usize) -> AttnMass {
    let mut mass = layer.wanted_mass(cache.needs());
    for head in mass.all.iter_mut().chain(&mut mass.window) {
        *head = head.iter().copied().cycle().take(n_slots).collect();
    }
    mass
}
