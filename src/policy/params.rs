//! `key=value,key=value` parameters, read into a policy's own struct through serde.

use serde::de::DeserializeOwned;
use serde_json::Map;
use serde_json::Value;

use crate::policy::PolicyError;

/// Parameters as typed, with numbers and booleans recognised.
#[derive(Clone, Debug)]
pub struct Params {
    policy: &'static str,
    values: Map<String, Value>,
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
        Ok(Self { policy, values })
    }

    /// The parameters as `T`; unknown keys and wrong types are refused by `T`'s own rules.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, PolicyError> {
        serde_json::from_value(Value::Object(self.values.clone())).map_err(|e| self.bad(e.to_string()))
    }

    /// An error about these parameters.
    pub fn bad(&self, what: impl Into<String>) -> PolicyError {
        PolicyError::BadParameter { policy: self.policy, what: what.into() }
    }
}
