//! JSON documents with a schema id `name/version`, checked before anything else is parsed.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::files::{FileError, read_limited, read_own, write_atomic};

/// A JSON file of ours. The serialised form must carry `"schema": "NAME/VERSION"` ([`Document::schema_id`]).
pub trait Document: Serialize + DeserializeOwned {
    /// Schema name, such as `kvscope.dump`.
    const NAME: &'static str;
    /// Raised when an older reader would misread the file; fields that may be ignored do not raise it.
    const VERSION: u32;
    /// Larger files are refused unread.
    const MAX_BYTES: u64 = 1 << 30;

    /// The text of the `schema` field.
    fn schema_id() -> String {
        format!("{}/{}", Self::NAME, Self::VERSION)
    }
}

/// Reads a document, refusing other schemas and newer versions by name.
pub fn read_json<T: Document>(path: &Path) -> Result<T, FileError> {
    parse_json(&read_limited(path, T::NAME, T::MAX_BYTES)?, path)
}

/// As [`read_json`], from a file in a folder of ours, where a link has no place.
pub fn read_own_json<T: Document>(path: &Path) -> Result<T, FileError> {
    parse_json(&read_own(path, T::NAME, T::MAX_BYTES)?, path)
}

/// As [`read_json`], from bytes already in memory; `path` is for messages.
pub fn parse_json<T: Document>(text: &[u8], path: &Path) -> Result<T, FileError> {
    let json = |source| FileError::Json { path: path.into(), expected: T::NAME, source };
    let wrong = |found: String| FileError::WrongSchema { path: path.into(), expected: T::NAME, found };
    // The schema is read on its own first, so that a newer file is called "too new" and not "bad JSON".
    let head: Head = serde_json::from_slice(text).map_err(json)?;
    let schema = head.schema.ok_or_else(|| wrong("no schema id".into()))?;
    match version_of::<T>(&schema) {
        None => Err(wrong(format!("schema {schema:?}"))),
        Some(found) if found > T::VERSION => {
            Err(FileError::TooNew { path: path.into(), schema: T::NAME, found, known: T::VERSION })
        }
        Some(_) => serde_json::from_slice(text).map_err(json),
    }
}

/// Whether `path` is free for a document: nothing is there, or a document of the same kind.
///
/// - Errors: a file of another kind, which is not ours to replace
pub fn check_replaceable<T: Document>(path: &Path) -> Result<(), FileError> {
    if path.symlink_metadata().is_err() {
        return Ok(());
    }
    let text = read_own(path, T::NAME, T::MAX_BYTES)?;
    let is_ours = serde_json::from_slice::<Head>(&text).ok().and_then(|head| version_of::<T>(&head.schema?)).is_some();
    if is_ours { Ok(()) } else { Err(FileError::Foreign { path: path.into(), expected: T::NAME }) }
}

/// The schema id of a document of any kind; `None` where there is none to be read.
pub fn parse_head(text: &[u8]) -> Option<String> {
    serde_json::from_slice::<Head>(text).ok()?.schema
}

#[derive(serde::Deserialize)]
struct Head {
    schema: Option<String>,
}

/// The version that a schema id names, if it is of that kind of document.
fn version_of<T: Document>(schema: &str) -> Option<u32> {
    schema.strip_prefix(T::NAME)?.strip_prefix('/')?.parse().ok()
}

/// Writes a document: indented, sorted as declared, one trailing newline, in one step.
pub fn write_json<T: Document>(path: &Path, document: &T) -> Result<(), FileError> {
    let mut text = serde_json::to_vec_pretty(document).map_err(|source| FileError::Json {
        path: path.into(),
        expected: T::NAME,
        source,
    })?;
    text.push(b'\n');
    write_atomic(path, &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Serialize, serde::Deserialize, Debug, PartialEq)]
    struct Toy {
        schema: String,
        n: Option<f64>,
    }

    impl Document for Toy {
        const NAME: &'static str = "kvscope.toy";
        const VERSION: u32 = 2;
    }

    fn parse(text: &str) -> Result<Toy, FileError> {
        parse_json(text.as_bytes(), Path::new("toy.json"))
    }

    #[test]
    fn schema_is_checked_before_the_fields() {
        assert_eq!(parse(r#"{"schema":"kvscope.toy/2","n":null}"#).unwrap().n, None);
        assert!(parse(r#"{"schema":"kvscope.toy/1","n":1.5,"extra":0}"#).is_ok());
        let error = parse(r#"{"schema":"kvscope.toy/3","n":"not a number"}"#).unwrap_err().to_string();
        assert!(error.contains("version 3") && error.contains("up to version 2"), "{error}");
        assert!(matches!(parse(r#"{"schema":"kvscope.toys/1"}"#), Err(FileError::WrongSchema { .. })));
        assert!(matches!(parse(r#"{"n":1}"#), Err(FileError::WrongSchema { .. })));
        assert!(matches!(parse(r#"{"schema":"kvscope.toy/2","n":"x"}"#), Err(FileError::Json { .. })));
    }
}
