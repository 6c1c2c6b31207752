//! Metadata values of a GGUF file and typed access to them.

use crate::model::gguf::{Gguf, GgufError};

/// A metadata value. Integers are widened to 64 bits and f32 to f64, which loses nothing.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// Unsigned integer of 8 to 64 bits.
    U64(u64),
    /// Signed integer of 8 to 64 bits.
    I64(i64),
    /// Number of 32 or 64 bits.
    F64(f64),
    /// Truth value.
    Bool(bool),
    /// Text.
    String(String),
    /// Text, or an array of texts, that is not UTF-8; an error only where it is asked for.
    NotUtf8,
    /// Array of unsigned integers.
    U64s(Vec<u64>),
    /// Array of signed integers.
    I64s(Vec<i64>),
    /// Array of numbers.
    F64s(Vec<f64>),
    /// Array of truth values.
    Bools(Vec<bool>),
    /// Array of texts.
    Strings(Vec<String>),
    /// Array of arrays.
    Arrays(Vec<Value>),
}

impl Value {
    /// What kind of value this is, as a noun phrase for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NotUtf8 => "text that is not UTF-8",
            Self::U64(_) => "an unsigned integer",
            Self::I64(_) => "a signed integer",
            Self::F64(_) => "a number with fraction",
            Self::Bool(_) => "a truth value",
            Self::String(_) => "a text",
            Self::U64s(_) => "an array of unsigned integers",
            Self::I64s(_) => "an array of signed integers",
            Self::F64s(_) => "an array of numbers",
            Self::Bools(_) => "an array of truth values",
            Self::Strings(_) => "an array of texts",
            Self::Arrays(_) => "an array of arrays",
        }
    }
}

/// Typed access: `Ok(None)` when the key is absent, an error naming the key when it holds another type.
impl Gguf {
    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.metadata.get(key) else { return Ok(None) };
        match convert(value) {
            Some(converted) => Ok(Some(converted)),
            None => Err(GgufError::WrongType {
                path: self.path.clone(),
                key: key.to_string(),
                expected,
                found: value.kind(),
            }),
        }
    }

    /// The error for a key that this file must have and has not.
    pub fn missing(&self, key: &str) -> GgufError {
        GgufError::MissingKey { path: self.path.clone(), key: key.to_string() }
    }

    /// A non-negative integer, however it is stored.
    pub fn u64_of(&self, key: &str) -> Result<Option<u64>, GgufError> {
        self.typed(key, "an integer of at least 0", |value| match value {
            Value::U64(n) => Some(*n),
            Value::I64(n) => u64::try_from(*n).ok(),
            _ => None,
        })
    }

    /// A number; integers are converted.
    pub fn f64_of(&self, key: &str) -> Result<Option<f64>, GgufError> {
        self.typed(key, "a number", |value| match value {
            Value::F64(x) => Some(*x),
            Value::U64(n) => Some(*n as f64),
            Value::I64(n) => Some(*n as f64),
            _ => None,
        })
    }

    /// A truth value.
    pub fn bool_of(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.typed(key, "a truth value", |value| match value {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        })
    }

    /// A text.
    pub fn str_of(&self, key: &str) -> Result<Option<&str>, GgufError> {
        self.typed(key, "a text", |value| match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// An array of texts.
    pub fn strings_of(&self, key: &str) -> Result<Option<&[String]>, GgufError> {
        self.typed(key, "an array of texts", |value| match value {
            Value::Strings(texts) => Some(texts.as_slice()),
            _ => None,
        })
    }

    /// An array of numbers, rounded to f32.
    pub fn f32s_of(&self, key: &str) -> Result<Option<Vec<f32>>, GgufError> {
        self.typed(key, "an array of numbers", |value| match value {
            Value::F64s(numbers) => Some(numbers.iter().map(|x| *x as f32).collect()),
            _ => None,
        })
    }

    /// An array of integers that fit i32.
    pub fn i32s_of(&self, key: &str) -> Result<Option<Vec<i32>>, GgufError> {
        self.typed(key, "an array of 32-bit integers", integers)
    }

    /// An array of integers that fit u32.
    pub fn u32s_of(&self, key: &str) -> Result<Option<Vec<u32>>, GgufError> {
        self.typed(key, "an array of non-negative 32-bit integers", integers)
    }
}

/// An array of integers that all fit.
fn integers<T: TryFrom<i64> + TryFrom<u64>>(value: &Value) -> Option<Vec<T>> {
    match value {
        Value::I64s(numbers) => numbers.iter().map(|n| T::try_from(*n).ok()).collect(),
        Value::U64s(numbers) => numbers.iter().map(|n| T::try_from(*n).ok()).collect(),
        _ => None,
    }
}
