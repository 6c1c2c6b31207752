//! Errors for people: what, where, why, what to do next.

use std::error::Error;
use std::fmt::{Debug, Display};

use crate::hint::Hint;

/// What a command returns.
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// Why a command could not run: what was tried, what went wrong, and what to do next. Every error with a [`Hint`] becomes one.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What was tried, the widest last.
    tried: Vec<String>,
    cause: Box<dyn Error + Send + Sync>,
    hint: Option<String>,
}

impl<E: Hint + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { tried: Vec::new(), hint: error.hint(), cause: Box::new(error) }
    }
}

impl Failure {
    /// The error, with what was tried when it came.
    pub(crate) fn when(mut self, what: impl Into<String>) -> Self {
        self.tried.push(what.into());
        self
    }

    /// The error itself, if it is of that type.
    pub(crate) fn cause<E: Error + 'static>(&self) -> Option<&E> {
        self.cause.downcast_ref()
    }

    /// What was tried, the widest last.
    pub(super) fn tried(&self) -> &[String] {
        &self.tried
    }

    /// The error itself and what caused it.
    pub(super) fn causes(&self) -> impl Iterator<Item = &(dyn Error + 'static)> {
        let mut next: Option<&(dyn Error + 'static)> = Some(self.cause.as_ref());
        std::iter::from_fn(move || {
            let error = next?;
            next = error.source();
            Some(error)
        })
    }

    /// What the error says to do. Libraries wrap I/O errors in their own, and a full disk is a full disk.
    pub(super) fn hint(&self) -> Option<String> {
        let io = |error: &(dyn Error + 'static)| error.downcast_ref::<std::io::Error>()?.hint();
        self.hint.clone().or_else(|| self.causes().find_map(io))
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.tried.last() {
            Some(what) => f.write_str(what),
            None => Display::fmt(&self.cause, f),
        }
    }
}

/// Says what was tried when an error came.
pub(crate) trait Context<T> {
    /// As [`Context::with_context`], with a text that costs nothing.
    fn context(self, what: &str) -> Result<T>;

    /// The error, with what was tried before it.
    fn with_context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Failure>> Context<T> for Result<T, E> {
    fn context(self, what: &str) -> Result<T> {
        self.with_context(|| what.into())
    }

    fn with_context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| error.into().when(what()))
    }
}

impl Hint for ctrlc::Error {}
impl Hint for rayon::ThreadPoolBuildError {}
impl Hint for safetensors::SafeTensorError {}

/// An error of the command line itself, with what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Usage {
    message: String,
    hint: String,
}

impl Usage {
    pub(crate) fn error(message: impl Into<String>, hint: impl Into<String>) -> Failure {
        Self { message: message.into(), hint: hint.into() }.into()
    }
}

impl Hint for Usage {
    fn hint(&self) -> Option<String> {
        Some(self.hint.clone())
    }
}
