//! A dump's manifest beside good samples.
#![no_main]

use kvscope::format::dump::Dump;
use kvscope_fuzz::{folder, made};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let dir = folder(Some(&made("dump")));
    std::fs::write(dir.join("manifest.json"), bytes).unwrap();
    let Ok(dump) = Dump::open(dir) else { return };
    for index in 0..dump.manifest().samples.len().min(4) {
        kvscope::format::dump::sample_faults(&dump, index);
    }
});
