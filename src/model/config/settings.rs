//! Typed reading of `config.json`: a setting of another type is an error that names it, never a default.

use serde_json::{Map, Value};

use crate::model::ModelError;

/// An object of settings.
#[derive(Clone, Copy)]
pub(super) struct Settings<'a> {
    json: &'a Map<String, Value>,
    /// Name of the object inside the file, with a dot behind it; empty for the whole.
    at: &'a str,
}

impl<'a> Settings<'a> {
    pub(super) fn of(json: &'a Value, at: &'a str) -> Result<Self, ModelError> {
        match json.as_object() {
            Some(json) => Ok(Self { json, at }),
            None => {
                let name = if at.is_empty() { "config.json" } else { at.trim_end_matches('.') };
                Err(ModelError::config(name, format!("is {}, not an object", shown(json))))
            }
        }
    }

    /// An error about one setting.
    pub(super) fn error(&self, key: &str, what: impl Into<String>) -> ModelError {
        ModelError::config(&format!("{}{key}", self.at), what)
    }

    /// An error about a setting that changes what is computed.
    pub(super) fn foreign(&self, key: &str, what: impl Into<String>, hint: &'static str) -> ModelError {
        ModelError::foreign(&format!("{}{key}", self.at), what, hint)
    }

    fn wrong(&self, key: &str, value: &Value, expected: &str) -> ModelError {
        self.error(key, format!("is {}, not {expected}", shown(value)))
    }

    /// The value as it is; null too.
    pub(super) fn raw(&self, key: &str) -> Option<&'a Value> {
        self.json.get(key)
    }

    /// The value, unless it is absent or null.
    pub(super) fn value(&self, key: &str) -> Option<&'a Value> {
        self.raw(key).filter(|value| !value.is_null())
    }

    /// All values.
    pub(super) fn values(&self) -> impl Iterator<Item = (&'a String, &'a Value)> {
        self.json.iter()
    }

    /// A whole number that must be there.
    pub(super) fn count(&self, key: &str) -> Result<usize, ModelError> {
        match self.raw(key) {
            None => Err(self.error(key, "is missing")),
            Some(value) => self.count_of(key, value),
        }
    }

    /// A whole number; `None` when it is absent or null.
    pub(super) fn optional_count(&self, key: &str) -> Result<Option<usize>, ModelError> {
        self.value(key).map(|value| self.count_of(key, value)).transpose()
    }

    fn count_of(&self, key: &str, value: &Value) -> Result<usize, ModelError> {
        let count = value.as_u64().and_then(|count| usize::try_from(count).ok());
        count.ok_or_else(|| self.wrong(key, value, "a whole number of at least 0"))
    }

    /// A number that must be there.
    pub(super) fn real(&self, key: &str) -> Result<f64, ModelError> {
        match self.raw(key) {
            None => Err(self.error(key, "is missing")),
            Some(value) => self.real_of(key, value),
        }
    }

    /// A number; null is none.
    pub(super) fn real_or(&self, key: &str, default: f64) -> Result<f64, ModelError> {
        self.raw(key).map_or(Ok(default), |value| self.real_of(key, value))
    }

    fn real_of(&self, key: &str, value: &Value) -> Result<f64, ModelError> {
        value.as_f64().filter(|x| x.is_finite()).ok_or_else(|| self.wrong(key, value, "a number"))
    }

    /// A truth value; false when it is absent or null.
    pub(super) fn flag(&self, key: &str) -> Result<bool, ModelError> {
        match self.value(key) {
            None => Ok(false),
            Some(value) => value.as_bool().ok_or_else(|| self.wrong(key, value, "true or false")),
        }
    }

    /// A text; `None` when it is absent or null.
    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, ModelError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.wrong(key, value, "a text"))
    }

    /// An array; `None` when it is absent or null.
    pub(super) fn list(&self, key: &str) -> Result<Option<&'a [Value]>, ModelError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        value.as_array().map(|list| Some(list.as_slice())).ok_or_else(|| self.wrong(key, value, "a list"))
    }

    /// An object, unless it is absent, null or empty.
    pub(super) fn object(&self, key: &str, at: &'a str) -> Result<Option<Settings<'a>>, ModelError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        Ok(Some(Settings::of(value, at)?).filter(|object| !object.json.is_empty()))
    }
}

/// A value in a message, at a length that fits there.
pub(super) fn shown(value: &Value) -> String {
    const MOST: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_type_is_an_error_and_never_a_default() {
        let json = serde_json::json!({
            "count": 3, "text": "3", "real": 3.0, "negative": -3, "null": null, "flag": true, "list": [1], "empty": {},
            "object": {"a": 1},
        });
        let settings = Settings::of(&json, "").unwrap();
        assert_eq!(settings.count("count").unwrap(), 3);
        for key in ["text", "real", "negative", "null", "flag", "list", "absent"] {
            assert!(settings.count(key).unwrap_err().to_string().contains(key), "{key}");
        }
        assert_eq!(settings.optional_count("null").unwrap(), None);
        assert!(settings.optional_count("real").is_err());
        assert_eq!((settings.real("real").unwrap(), settings.real("count").unwrap()), (3.0, 3.0));
        assert_eq!(settings.real_or("absent", 2.0).unwrap(), 2.0);
        for key in ["text", "null", "flag"] {
            assert!(settings.real_or(key, 2.0).is_err(), "{key}");
        }
        assert!(settings.flag("flag").unwrap() && !settings.flag("null").unwrap() && settings.flag("count").is_err());
        assert!(settings.text("text").unwrap() == Some("3") && settings.text("list").is_err());
        assert!(settings.list("list").unwrap().is_some() && settings.list("text").is_err());
        assert!(settings.object("empty", "empty.").unwrap().is_none() && settings.object("text", "text.").is_err());
        let inner = settings.object("object", "object.").unwrap().unwrap();
        assert_eq!(inner.error("a", "is bad").to_string(), "the model's setting object.a is bad");
    }

    #[test]
    fn long_values_are_cut_in_messages() {
        assert_eq!(shown(&Value::from("é".repeat(500))).chars().count(), 63);
    }
}
