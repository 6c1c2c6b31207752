//! The demo model; a test that needs it fails where it is not in the cache.

use std::path::PathBuf;

use kvscope::hub::{HubSettings, resolve};

/// Its file.
pub fn demo_model() -> PathBuf {
    resolve("smollm2-135m", &HubSettings::from_env()).unwrap_or_else(|error| {
        panic!("this test needs the demo model, run `kvscope pull smollm2-135m` first: {error}")
    })
}
