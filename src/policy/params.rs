//! `key=value,key=value` parameters, shared out among the parts of a policy through serde.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::policy::PolicyError;

/// Parameters as typed, with numbers and booleans recognised, and which of them some part has read.
#[derive(Clone, Debug)]
pub struct Params {
    policy: &'static str,
    values: Map<String, Value>,
    /// Keys that the parts know.
    known: Vec<String>,
}

impl Params {
    /// Splits `text`; an empty text means all defaults.
    pub fn parse(policy: &'static str, text: &str) -> Result<Self, PolicyError> {
        let mut values = Map::new();
        for pair in text.split(',').filter(|pair| !pair.trim().is_empty()) {
            let bad = |what: String| PolicyError::BadParameter { policy, what };
            let (key, value) = pair.split_once('=').ok_or_else(|| bad(format!("{pair:?} has no value")))?;
            let (key, value) = (key.trim(), value.trim());
            let parsed = match serde_json::from_str::<Value>(value) {
                Ok(literal @ (Value::Number(_) | Value::Bool(_))) => literal,
                _ => Value::String(value.into()),
            };
            if values.insert(key.into(), parsed).is_some() {
                return Err(bad(format!("{key} is given twice")));
            }
        }
        Ok(Self { policy, values, known: Vec::new() })
    }

    /// Adds what is not typed.
    pub(super) fn or(&mut self, other: &Self) {
        for (key, value) in &other.values {
            self.values.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }

    /// Takes out a parameter that is a word.
    pub(super) fn take_word(&mut self, key: &str) -> Result<Option<String>, PolicyError> {
        match self.values.remove(key) {
            None => Ok(None),
            Some(Value::String(word)) => Ok(Some(word)),
            Some(other) => Err(self.bad(format!("{key} is a name, not {other}"))),
        }
    }

    /// The parameters that `T` has, over its defaults; wrong types are refused by `T`'s own rules. Others may read the same ones.
    pub fn read<T: Serialize + DeserializeOwned + Default>(&mut self) -> Result<T, PolicyError> {
        let Ok(Value::Object(mut fields)) = serde_json::to_value(T::default()) else {
            return Ok(T::default());
        };
        for (key, field) in &mut fields {
            self.known.push(key.clone());
            if let Some(typed) = self.values.get(key) {
                *field = typed.clone();
            }
        }
        serde_json::from_value(Value::Object(fields)).map_err(|e| {
            // Serde's word for a choice is also the name of a parameter.
            self.bad(e.to_string().replace("unknown variant", "unknown value"))
        })
    }

    /// Refuses what no part has read.
    pub fn finish(mut self) -> Result<(), PolicyError> {
        let Some(unknown) = self.values.keys().find(|key| !self.known.contains(key)) else { return Ok(()) };
        self.known.sort();
        self.known.dedup();
        let known =
            if self.known.is_empty() { "it has none".into() } else { format!("it has {}", self.known.join(", ")) };
        Err(self.bad(format!("there is no parameter {unknown}: {known}")))
    }

    /// The policy that they are of.
    pub(super) fn policy(&self) -> &'static str {
        self.policy
    }

    /// An error about these parameters.
    pub fn bad(&self, what: impl Into<String>) -> PolicyError {
        PolicyError::BadParameter { policy: self.policy, what: what.into() }
    }
}
