//! Prompts: JSON lines, or text where the bytes begin with no brace or bracket.
#![no_main]

use kvscope::prompts::{ReadOptions, Source};
use kvscope_fuzz::folder;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let dir = folder(None);
    for name in ["p.jsonl", "p.json", "p.txt"] {
        let path = dir.join(name);
        std::fs::write(&path, bytes).unwrap();
        let _ = kvscope::prompts::read(&Source::Path(path.clone()), &ReadOptions::default());
    }
});
