//! A GGUF file: reader, configuration, weights and tokenizer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let path = kvscope_fuzz::folder(None).join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    kvscope_fuzz::use_model(&path);
});
