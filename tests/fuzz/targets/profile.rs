//! A profile: read, checked, solved for another budget.
#![no_main]

use kvscope::files::{InputHash, read_json};
use kvscope::format::profile::Profile;
use kvscope::tune::TuneOptions;
use kvscope_fuzz::folder;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let path = folder(None).join("x.profile.json");
    std::fs::write(&path, bytes).unwrap();
    let Ok(profile) = read_json::<Profile>(&path) else { return };
    if profile.check().is_ok() {
        let source = InputHash { name: "x".into(), sha256: String::new() };
        let _ = kvscope::tune::resolve(&profile, source, &TuneOptions { budgets: vec![0.4], ..TuneOptions::default() });
    }
});
