//! The lines that parts of a policy are listed in.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

use crate::policy::{Params, PolicyError};

/// A line of a table of parts; `T` is the part's trait.
pub struct Part<T: ?Sized + 'static> {
    /// Name, as typed behind `score=`, `allocation=` or `fold=`.
    pub name: &'static str,
    /// What it does, in one line.
    pub summary: &'static str,
    /// Where it comes from.
    pub source: &'static str,
    /// Builds it; gives the parameters as they were checked, too.
    pub build: fn(&mut Params) -> Result<Built<T>, PolicyError>,
}

/// A part and its parameters, as artifacts record them.
pub type Built<T> = (Box<T>, Value);

impl<T: ?Sized> fmt::Debug for Part<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Part").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A part that is its own parameters.
pub(super) fn part<P: Serialize, T: ?Sized>(part: P, boxed: fn(P) -> Box<T>) -> Result<Built<T>, PolicyError> {
    let params = serde_json::json!(part);
    Ok((boxed(part), params))
}

/// The parameters of a part that is made of two.
pub(super) fn joined(a: impl Serialize, b: impl Serialize) -> Value {
    let fields = |value: Value| value.as_object().cloned().unwrap_or_default();
    let (a, b) = (fields(serde_json::json!(a)), fields(serde_json::json!(b)));
    a.into_iter().chain(b).collect()
}

/// Builds the part of that name; `kind` says what it is in the error that lists them.
pub(super) fn build<T: ?Sized>(
    parts: &'static [Part<T>],
    kind: &str,
    name: &str,
    params: &mut Params,
) -> Result<Built<T>, PolicyError> {
    match parts.iter().find(|part| part.name == name) {
        Some(part) => (part.build)(params),
        None => {
            let names: Vec<&str> = parts.iter().map(|part| part.name).collect();
            Err(params.bad(format!("there is no {kind} {name:?}: choose one of {}", names.join(", "))))
        }
    }
}
