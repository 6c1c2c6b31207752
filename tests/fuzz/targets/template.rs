//! A chat template, or `tokenizer_config.json` where the bytes begin with a brace and a quote.
#![no_main]

use kvscope::model::tokenizer::{Message, Tokenizer};
use kvscope_fuzz::{fixture, folder};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let good = fixture("llama-gqa");
    let dir = folder(Some(&good));
    if bytes.starts_with(b"{\"") {
        let _ = std::fs::remove_file(dir.join("chat_template.jinja"));
        std::fs::write(dir.join("tokenizer_config.json"), bytes).unwrap();
    } else {
        kvscope_fuzz::restore(&good.join("tokenizer_config.json"), &dir.join("tokenizer_config.json"));
        std::fs::write(dir.join("chat_template.jinja"), bytes).unwrap();
    }
    let Ok(tokenizer) = Tokenizer::from_hf_folder(dir) else { return };
    let talk = [Message::new("system", "Be brief."), Message::new("user", "Hello"), Message::new("assistant", "Hi")];
    let _ = tokenizer.apply_chat(&talk, true);
});
