//! What the page's explorer shows: read, checked, and packed into a page where it is sound.
#![no_main]

use kvscope::files::{read_json, sha256_bytes};
use kvscope::format::analysis::Analysis;
use kvscope::format::explorer;
use kvscope_fuzz::{folder, made};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let good = made("report");
    let dir = folder(Some(&good));
    std::fs::write(dir.join(explorer::FILE), bytes).unwrap();
    let Ok(analysis) = read_json::<Analysis>(&good.join("analysis.json")) else { return };
    let Some(mut file) = analysis.explorer else { return };
    // A file that is not the one that was written would be refused for that alone.
    file.sha256 = sha256_bytes(bytes);
    explorer::fault(&dir, &file);
    let Ok(read) = explorer::ExplorerFile::read(&dir, &file) else { return };
    for tensor in read.explorer.tensors() {
        assert!(read.bytes(tensor).is_some());
    }
});
