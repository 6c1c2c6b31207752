//! Files that stand in the repository.

use std::path::{Path, PathBuf};

/// A reference model, or a file beside them, by its name.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(name)
}
