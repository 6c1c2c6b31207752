//! An analysis, or one of its maps where the bytes are no JSON: checked, and drawn.
#![no_main]

use kvscope::format::analysis::Analysis;
use kvscope::files::read_json;
use kvscope_fuzz::{folder, made};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let good = made("report");
    let dir = folder(Some(&good));
    let path = dir.join("analysis.json");
    if bytes.first() == Some(&b'{') {
        std::fs::write(&path, bytes).unwrap();
    } else {
        kvscope_fuzz::restore(&good.join("analysis.json"), &path);
    }
    let Ok(analysis) = read_json::<Analysis>(&path) else { return };
    if bytes.first() != Some(&b'{') {
        std::fs::create_dir_all(dir.join("maps")).unwrap();
        for map in &analysis.maps {
            std::fs::write(dir.join(&map.file), bytes).unwrap();
        }
    }
    kvscope::format::analysis::faults(&path);
});
