//! An evaluation's document, or its rows where the bytes are not one.
#![no_main]

use kvscope_fuzz::{folder, made};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let good = made("eval");
    let dir = folder(Some(&good));
    let is_document = bytes.windows(15).any(|part| part == b"\"kvscope.eval/1");
    let (name, other) = if is_document { ("eval.json", "rows.jsonl") } else { ("rows.jsonl", "eval.json") };
    kvscope_fuzz::restore(&good.join(other), &dir.join(other));
    std::fs::write(dir.join(name), bytes).unwrap();
    kvscope::format::evaluation::faults(dir);
});
