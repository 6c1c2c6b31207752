//! What the references were computed for.

use safetensors::SafeTensors;

use super::fixtures::fixture;

/// The tokens that a model's reference was computed for.
pub fn reference_tokens(name: &str) -> Vec<u32> {
    let bytes = std::fs::read(fixture(name).join("reference.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let ids = file.tensor("token_ids").unwrap();
    ids.data().as_chunks().0.iter().map(|id| i64::from_le_bytes(*id) as u32).collect()
}
