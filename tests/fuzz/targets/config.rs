//! `config.json` beside good weights; what begins with `{"weight_map"` is an index of shards.
#![no_main]

use kvscope_fuzz::{fixture, folder};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let is_index = bytes.windows(12).any(|part| part == b"\"weight_map\"");
    let dir = folder(Some(&fixture("llama-sharded")));
    let (name, good) = if is_index {
        ("model.safetensors.index.json", "config.json")
    } else {
        ("config.json", "model.safetensors.index.json")
    };
    kvscope_fuzz::restore(&fixture("llama-sharded").join(good), &dir.join(good));
    std::fs::write(dir.join(name), bytes).unwrap();
    kvscope_fuzz::use_model(dir);
});
