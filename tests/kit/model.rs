//! Reference models, loaded.

use kvscope::model::Model;

use super::fixtures::fixture;

/// A reference model by the name of its folder or GGUF file.
pub fn model(name: &str) -> Model {
    Model::load(&fixture(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}
