//! The tiny model with a chat template.

use std::path::Path;

use super::files::contents;
use super::fixtures::fixture;

/// Puts each message in brackets, which the tiny tokenizer can spell.
pub const BRACKETS: &str =
    "{% for m in messages %}({{ m.content | trim }}){% endfor %}{% if add_generation_prompt %}({% endif %}";

/// Writes the tiny model into a folder, with that template or without one.
pub fn write_model(folder: &Path, template: Option<&str>) {
    std::fs::create_dir_all(folder).unwrap();
    contents(&fixture("llama-gqa"))
        .into_iter()
        .for_each(|(name, bytes)| std::fs::write(folder.join(name), bytes).unwrap());
    let config = serde_json::json!({ "eos_token": "<|endoftext|>", "chat_template": template });
    std::fs::write(folder.join("tokenizer_config.json"), config.to_string()).unwrap();
}
