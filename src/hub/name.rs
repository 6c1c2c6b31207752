//! `org/name[@revision][:file.gguf]`, checked so that its parts are safe in URLs and as file names.

use crate::hub::HubError;

/// Longest organisation, repository or revision name that is taken.
const MAX_PART: usize = 96;

/// A model on the Hugging Face hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubName {
    /// `org/name`.
    pub repo: String,
    /// Branch, tag or commit.
    pub revision: String,
    /// The one GGUF file that is meant, as a path inside the repository.
    pub file: Option<String>,
}

impl HubName {
    /// Parses a name. Without a revision, `main` is meant.
    ///
    /// - Errors: [`HubError::UnknownModel`], which says what is wrong with the name.
    pub fn parse(text: &str) -> Result<Self, HubError> {
        let unknown = |why: &'static str| HubError::UnknownModel { name: text.into(), why };
        let (left, file) = match text.split_once(':') {
            Some((left, file)) => (left, Some(file)),
            None => (text, None),
        };
        let (repo, revision) = left.split_once('@').unwrap_or((left, "main"));
        let Some((org, name)) = repo.split_once('/') else {
            return Err(unknown("no file, folder or known model has that name"));
        };
        if is_weights(name) && file.is_none() {
            return Err(unknown("there is no such file"));
        }
        if !is_part(org) || !is_part(name) {
            return Err(unknown("there is no such file or folder, and a hub name has the form org/name"));
        }
        if revision.len() > MAX_PART || !revision.split('/').all(is_part) {
            return Err(unknown("what follows @ is not a branch, tag or commit"));
        }
        match file {
            Some(file) if !is_safe_path(file) => Err(unknown("what follows : is not a path inside a repository")),
            Some(file) if !file.to_ascii_lowercase().ends_with(".gguf") => {
                Err(unknown("only a .gguf file can follow :"))
            }
            _ => Ok(Self { repo: repo.into(), revision: revision.into(), file: file.map(Into::into) }),
        }
    }
}

impl std::fmt::Display for HubName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.revision.as_str() {
            "main" => f.write_str(&self.repo),
            revision => write!(f, "{}@{revision}", self.repo),
        }
    }
}

fn is_weights(name: &str) -> bool {
    name.ends_with(".gguf") || name.ends_with(".safetensors")
}

fn is_part(part: &str) -> bool {
    !part.is_empty()
        && part.len() <= MAX_PART
        && !part.starts_with(['.', '-'])
        && !part.contains("..")
        && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// Whether a path that a stranger chose stays inside the folder it is joined to, and needs no escaping in a URL.
pub(crate) fn is_safe_path(path: &str) -> bool {
    path.len() <= 512 && path.split('/').all(|part| is_part(part) || (part.starts_with('-') && is_part(&part[1..])))
}

/// Whether a text is a git commit or blob id.
pub(crate) fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_taken_apart() {
        let name = HubName::parse("org/a.b-c_d@refs/pr/3:sub/x.Q4_0.gguf").unwrap();
        assert_eq!((name.repo.as_str(), name.revision.as_str()), ("org/a.b-c_d", "refs/pr/3"));
        assert_eq!(name.file.as_deref(), Some("sub/x.Q4_0.gguf"));
        let name = HubName::parse("org/name").unwrap();
        assert_eq!((name.revision.as_str(), name.file), ("main", None));
    }

    #[test]
    fn names_that_would_leave_the_folder_are_refused() {
        for text in [
            "plain",
            "../name",
            "org/..",
            "org/a/b",
            "/abs",
            "org/",
            "org/n@",
            "org/n@../x",
            "org/n@/x",
            "org/n:",
            "org/n:../x.gguf",
            "org/n:/x.gguf",
            "org/n:a//x.gguf",
            "org/n:x.bin",
            "org/n m",
            "org/ü",
            "models/here.gguf",
        ] {
            assert!(HubName::parse(text).is_err(), "{text}");
        }
        assert!(is_safe_path("-0001.gguf") && !is_safe_path("") && !is_safe_path("a/") && !is_safe_path("a\\b"));
    }
}
