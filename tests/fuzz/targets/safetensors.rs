//! Weights as safetensors beside a good configuration.
#![no_main]

use kvscope_fuzz::{fixture, folder};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let dir = folder(Some(&fixture("llama-gqa")));
    std::fs::write(dir.join("model.safetensors"), bytes).unwrap();
    kvscope_fuzz::use_model(dir);
});
