//! A dump's sample, with a manifest that vouches for it.
#![no_main]

use kvscope::format::dump::Dump;
use kvscope::files::sha256_bytes;
use kvscope_fuzz::{folder, made};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let dir = folder(Some(&made("dump")));
    let path = dir.join("manifest.json");
    let mut manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let entry = &mut manifest["samples"][0];
    entry["bytes"] = bytes.len().into();
    entry["sha256"] = sha256_bytes(bytes).into();
    std::fs::write(dir.join(entry["file"].as_str().unwrap()), bytes).unwrap();
    std::fs::write(&path, manifest.to_string()).unwrap();
    let dump = Dump::open(dir).unwrap();
    kvscope::format::dump::sample_faults(&dump, 0);
});
