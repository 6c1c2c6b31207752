//! The tiny model that real runs use, and prompts that its tokenizer can spell.

use std::path::Path;

use serde_json::{Value, json};

/// Its folder.
pub const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/models/llama-gqa");

const WORDS: [&str; 7] =
    ["the ring", " and then", " in a stone", " on the shore", " another thing", " reeds", ", again."];

/// A text of `n` phrases.
pub fn words(seed: usize, n: usize) -> String {
    (0..n).map(|i| WORDS[(i * seed + i / 3) % WORDS.len()]).collect()
}

/// Texts of two data sets, each below 128 tokens with room for a few more.
pub fn texts(n: usize) -> Vec<Value> {
    let dataset = |i: usize| ["even", "odd"][i % 2];
    (0..n).map(|i| json!({ "context": words(i + 2, 14), "dataset": dataset(i), "_id": format!("row{i}") })).collect()
}

/// Writes them to `prompts.jsonl`.
pub fn write_prompts(dir: &Path, rows: &[Value]) {
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    std::fs::write(dir.join("prompts.jsonl"), lines.join("\n")).unwrap();
}
