//! Task templates: how a record's `context` and `input` become one text.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::files::{InputHash, read_limited, sha256_bytes};
use crate::prompts::PromptError;
use crate::prompts::record::explain;
use crate::prompts::text::{decode, file_name};

/// Names under which template files are found near the data: LongBench's, and one for further datasets.
pub(crate) const TEMPLATE_FILES: &[&str] = &["dataset2prompt.json", "prompts.json"];

/// A template file above this size is not one.
const MAX_TEMPLATE_BYTES: u64 = 16 << 20;

/// The template that a dataset got.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TemplateUse {
    /// The dataset.
    pub dataset: String,
    /// File that has the template; `None`: none was found, and context and input are joined by an empty line.
    pub file: Option<InputHash>,
    /// The template's own name, which may stand for a family of datasets.
    pub key: Option<String>,
}

/// Template files, in the order they are searched.
#[derive(Debug, Default)]
pub(crate) struct Templates(Vec<Table>);

#[derive(Debug)]
struct Table {
    path: PathBuf,
    hash: InputHash,
    texts: BTreeMap<String, String>,
}

/// A template that was found.
pub(crate) struct Found<'a> {
    pub(crate) path: &'a Path,
    pub(crate) hash: &'a InputHash,
    pub(crate) key: &'a str,
    pub(crate) text: &'a str,
}

impl Templates {
    /// Adds a file. Every template in it must have a place for the text.
    pub(crate) fn add(&mut self, path: &Path) -> Result<(), PromptError> {
        let bytes = read_limited(path, "template", MAX_TEMPLATE_BYTES)?;
        let text = decode(&bytes, &path.display().to_string())?;
        let texts: BTreeMap<String, String> = serde_json::from_str(text)
            .map_err(|json| PromptError::TemplateFile { path: path.into(), what: explain(&json, text) })?;
        if let Some((dataset, _)) =
            texts.iter().find(|(_, text)| !text.contains("{context}") && !text.contains("{input}"))
        {
            return Err(PromptError::Template { path: path.into(), dataset: dataset.clone() });
        }
        self.0.push(Table {
            path: path.into(),
            hash: InputHash { name: file_name(path), sha256: sha256_bytes(&bytes) },
            texts,
        });
        Ok(())
    }

    /// The dataset's own template; else, for LongBench-E's `NAME_e`, that of `NAME`; else the longest family name that the
    /// dataset's name begins with, followed by `_` or `-` (`ruler` for `ruler_vt`). An earlier file wins among equals.
    pub(crate) fn find(&self, dataset: &str) -> Option<Found<'_>> {
        let exact = |name: &str| {
            self.0.iter().find_map(|Table { path, hash, texts }| {
                texts.get_key_value(name).map(|(key, text)| Found { path, hash, key, text })
            })
        };
        let family = || {
            let stems = dataset.char_indices().filter(|(_, c)| matches!(c, '_' | '-')).map(|(at, _)| &dataset[..at]);
            stems.collect::<Vec<_>>().into_iter().rev().find_map(exact)
        };
        exact(dataset).or_else(|| dataset.strip_suffix("_e").and_then(exact)).or_else(family)
    }
}

/// A record's text, and where its context ends: in bytes, where the input or words of the template stand behind it and the
/// input does not stand before it, too.
pub(crate) type Rendered = (String, Option<usize>);

/// Puts both texts into their places. The texts themselves are not searched for places, and other braces stay.
pub(crate) fn render(template: &str, context: &str, input: &str) -> Rendered {
    let mut text = String::with_capacity(template.len() + context.len() + input.len());
    let (mut context_end, mut is_asked) = (None, false);
    let mut rest = template;
    while let Some(at) = rest.find('{') {
        text.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("{context}") {
            text.push_str(context);
            context_end = Some(text.len()).filter(|_| !is_asked && !context.is_empty());
            rest = after;
        } else if let Some(after) = rest.strip_prefix("{input}") {
            text.push_str(input);
            is_asked |= !input.trim().is_empty();
            rest = after;
        } else {
            text.push('{');
            rest = &rest[1..];
        }
    }
    text.push_str(rest);
    let context_end = context_end.filter(|end| !text[*end..].trim().is_empty());
    (text, context_end)
}

/// Joins both texts by an empty line, where no template is known.
pub(crate) fn join(context: &str, input: &str) -> Rendered {
    match (context.is_empty(), input.is_empty()) {
        (false, false) => (format!("{context}\n\n{input}"), Some(context.len()).filter(|_| !input.trim().is_empty())),
        _ => (format!("{context}{input}"), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_inside_the_texts_are_left_alone() {
        let expected = ("A <{input}> B ? {x} {{".to_string(), Some(11));
        assert_eq!(render("A {context} B {input} {x} {{", "<{input}>", "?"), expected);
        assert_eq!(render("{input}{input}", "", "ä"), ("ää".into(), None));
        assert_eq!(join("c", "i"), ("c\n\ni".into(), Some(1)));
        assert_eq!((join("", "i"), join("c", "")), (("i".into(), None), ("c".into(), None)));
    }

    #[test]
    fn a_context_ends_where_nothing_was_asked_before_and_something_is_behind() {
        let end = |template: &str, context: &str, input: &str| render(template, context, input).1;
        assert_eq!(end("{context} Sum up.", "abc", ""), Some(3));
        assert_eq!(end("Q: {input} {context} A:", "abc", "?"), None);
        assert_eq!(end("{input}{context} A:", "abc", " "), Some(4));
        assert_eq!(end("{context}\n", "abc", "?"), None);
        assert_eq!(end("{context} {input} {context} go", "ab", "?"), None);
    }

    #[test]
    fn own_template_then_e_then_longest_family() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("a.json"), dir.path().join("b.json"));
        std::fs::write(&first, r#"{"ruler": "1 {context}", "hotpotqa": "2 {input}", "x_e": "3 {input}"}"#).unwrap();
        std::fs::write(&second, r#"{"ruler_niah": "4 {context}", "ruler": "5 {context}", "x": "6 {input}"}"#).unwrap();
        let mut templates = Templates::default();
        templates.add(&first).unwrap();
        templates.add(&second).unwrap();
        let start = |dataset: &str| templates.find(dataset).map(|found| found.text[..1].to_string());
        let cases = [
            ("ruler", Some("1")),
            ("ruler_vt", Some("1")),
            ("ruler_niah_single_1", Some("4")),
            ("hotpotqa_e", Some("2")),
            ("x_e", Some("3")),
            ("x-y", Some("6")),
            ("rulers", None),
            ("hot", None),
        ];
        for (dataset, expected) in cases {
            assert_eq!(start(dataset).as_deref(), expected, "{dataset}");
        }
    }

    #[test]
    fn templates_without_a_place_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.json");
        for (text, part) in [(r#"{"d": "{question}"}"#, "\"d\""), (r#"["x"]"#, "table"), (r#"{"d": 1}"#, "table")] {
            std::fs::write(&path, text).unwrap();
            let error = Templates::default().add(&path).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
