//! `tokenizer.json`, or `tokenizer.model` where the bytes are no JSON.
#![no_main]

use kvscope::model::tokenizer::{AddSpecial, SkipSpecial, Tokenizer};
use kvscope_fuzz::{TEXT, folder};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let dir = folder(None);
    let is_json = bytes.first() == Some(&b'{');
    let (name, other) =
        if is_json { ("tokenizer.json", "tokenizer.model") } else { ("tokenizer.model", "tokenizer.json") };
    let _ = std::fs::remove_file(dir.join(other));
    std::fs::write(dir.join(name), bytes).unwrap();
    let Ok(tokenizer) = Tokenizer::from_hf_folder(dir) else { return };
    if let Ok(tokens) = tokenizer.encode(TEXT, AddSpecial::Yes) {
        let _ = tokenizer.decode(&tokens, SkipSpecial::No);
    }
});
