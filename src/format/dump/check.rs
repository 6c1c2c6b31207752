//! Whether a dump is what its manifest says and what a model can have produced.

use std::path::Path;

use crate::format::dump::{Dump, DumpError, State};

/// Faults of the dump in a folder, each in words that name the file; empty when there is none.
pub fn faults(dir: &Path) -> Vec<String> {
    match Dump::open(dir) {
        Ok(dump) => (0..dump.manifest().samples.len()).flat_map(|index| sample_faults(&dump, index)).collect(),
        Err(error) => vec![error.to_string()],
    }
}

/// Faults of sample `index`, each in words that name its file; empty when there is none.
///
/// Checks its digest, names, types and shapes, that numbers are finite, token ids and query positions possible, and the
/// masses those of attention. Readers refuse the same faults, but stop at the first.
///
/// - Memory: one head at a time
pub fn sample_faults(dump: &Dump, index: usize) -> Vec<String> {
    let mut faults = Vec::new();
    let mut add = |result: Result<(), DumpError>| faults.extend(result.err().map(|error| error.to_string()));
    let sample = match dump.sample(index) {
        Ok(sample) => sample,
        Err(error) => {
            add(Err(error));
            return faults;
        }
    };
    add(sample.check_digest());
    add(sample.token_ids().map(drop));
    add(sample.token_texts().map(drop));
    let manifest = dump.manifest();
    let mut room = Vec::new();
    for layer in &manifest.layers {
        for state in &manifest.states {
            for head in manifest.held_heads(*state) {
                if *state == State::Mass {
                    add(sample.check_whole_mass(*layer, head));
                } else {
                    add(sample.vectors_into(*layer, *state, head..head + 1, &mut room).map(drop));
                }
            }
        }
    }
    faults
}
