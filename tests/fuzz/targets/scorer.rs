//! Learned weights: read, checked, and used where they are sound.
#![no_main]

use kvscope::format::scorer::Scorer;
use kvscope::math::Rows;
use kvscope_fuzz::folder;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let path = folder(None).join("weights.safetensors");
    std::fs::write(&path, bytes).unwrap();
    let Ok(scorer) = Scorer::read(&path) else { return };
    let input = vec![1.0; scorer.learning.hidden_size];
    scorer.predict(0, Rows::new(&input, input.len()));
});
