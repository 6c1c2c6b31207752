//! One line in LongBench's schema.

use serde::Deserialize;
use serde_json::Value;

/// Fields of a record. Unknown fields are ignored, since other benchmarks add theirs.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Record {
    #[serde(default)]
    pub(crate) context: Option<String>,
    #[serde(default)]
    pub(crate) input: Option<String>,
    #[serde(default)]
    pub(crate) answers: Option<Answers>,
    #[serde(default)]
    pub(crate) all_classes: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) language: Option<String>,
    #[serde(default)]
    pub(crate) length: Option<u64>,
    #[serde(default)]
    pub(crate) dataset: Option<String>,
    #[serde(default, rename = "_id")]
    pub(crate) id: Option<Id>,
}

/// LongBench has a list; a single text, as some conversions write, is taken as a list of one.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "`answers` is neither a list of strings nor a string")]
pub(crate) enum Answers {
    Many(Vec<String>),
    One(String),
}

/// LongBench has text; other files count.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "`_id` is neither a string nor an integer")]
pub(crate) enum Id {
    Text(String),
    Number(i64),
}

impl Record {
    /// Parses a line.
    pub(crate) fn parse(line: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(line)
    }

    /// Whether there is anything to read.
    pub(crate) fn has_text(&self) -> bool {
        [&self.context, &self.input].into_iter().flatten().any(|text| !text.trim().is_empty())
    }

    /// Reference answers.
    pub(crate) fn take_answers(&mut self) -> Vec<String> {
        match self.answers.take() {
            Some(Answers::Many(answers)) => answers,
            Some(Answers::One(answer)) => vec![answer],
            None => Vec::new(),
        }
    }

    /// The record's own id.
    pub(crate) fn take_id(&mut self) -> Option<String> {
        match self.id.take()? {
            Id::Text(id) => Some(id).filter(|id| !id.trim().is_empty()),
            Id::Number(id) => Some(id.to_string()),
        }
    }
}

/// Names of the fields of a line that is a JSON object.
pub(crate) fn field_names(line: &str) -> Vec<String> {
    match serde_json::from_str(line) {
        Ok(Value::Object(fields)) => fields.keys().cloned().collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_ids_are_taken_in_both_forms() {
        let mut record = Record::parse(r#"{"context": "c", "answers": ["a", "b"], "_id": "x", "more": [1]}"#).unwrap();
        assert_eq!((record.take_answers(), record.take_id()), (vec!["a".into(), "b".into()], Some("x".into())));
        let mut record = Record::parse(r#"{"input": "i", "answers": "a", "_id": 7, "all_classes": null}"#).unwrap();
        assert_eq!((record.take_answers(), record.take_id()), (vec!["a".into()], Some("7".into())));
        let error = Record::parse(r#"{"answers": [1]}"#).unwrap_err().to_string();
        assert!(error.contains("`answers`"), "{error}");
    }

    #[test]
    fn white_space_is_no_text() {
        assert!(!Record::parse(r#"{"context": " \n", "input": ""}"#).unwrap().has_text());
        assert!(Record::parse(r#"{"context": "", "input": "?"}"#).unwrap().has_text());
    }
}
