//! Errors for people: what, where, why, what to do next.

use std::error::Error;
use std::fmt::Debug;
use std::fmt::Display;
use std::io::ErrorKind;
use std::io::Write;
use std::process::ExitCode;

use crate::cli::output::Color;
use crate::cli::output::NobodyReads;
use crate::cli::output::Paint;
use crate::cli::output::say;
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

    /// The error itself and what caused it.
    fn causes(&self) -> impl Iterator<Item = &(dyn Error + 'static)> {
        let mut next: Option<&(dyn Error + 'static)> = Some(self.cause.as_ref());
        std::iter::from_fn(move || {
            let error = next?;
            next = error.source();
            Some(error)
        })
    }

    /// What the error says to do. Libraries wrap I/O errors in their own, and a full disk is a full disk.
    fn hint(&self) -> Option<String> {
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

/// Prints the error, its causes and a hint; exit code 2, or 0 when the reader of stdout has gone away.
pub(crate) fn report(failure: &Failure, color: Color) -> ExitCode {
    if failure.cause::<NobodyReads>().is_some() {
        return ExitCode::SUCCESS;
    }
    let paint = Paint::new(color);
    // A message that already says what its cause says is not said twice.
    let mut kept: Vec<String> = Vec::new();
    for line in failure.tried.iter().rev().cloned().chain(failure.causes().map(without_backtrace)) {
        if !kept.iter().any(|earlier| earlier.contains(&line)) {
            kept.push(line);
        }
    }
    for (i, line) in kept.iter().enumerate() {
        let label = if i == 0 { paint.red("error:") } else { paint.red("caused by:") };
        // One line each: no name in it can pass for an error of its own.
        say(&label, &line.replace('\n', "\\n"));
    }
    if let Some(hint) = failure.hint() {
        say(&paint.cyan("hint:"), &hint);
    }
    ExitCode::from(2)
}

/// An error's message. Libraries append their backtrace under `RUST_BACKTRACE=1`.
fn without_backtrace(error: &(dyn Error + 'static)) -> String {
    let text = error.to_string();
    text.split("\n   0: ").next().unwrap_or_default().into()
}

/// Prints help or the version on stdout, or what is wrong with the arguments on stderr: exit code 0, or 2.
pub(crate) fn of_arguments(error: &clap::Error) -> ExitCode {
    if error.use_stderr() {
        let text = error.render().to_string().replace("For more information, try", "hint: for more information, try");
        let (label, text) = text.split_once(' ').filter(|(label, _)| *label == "error:").unwrap_or(("", &text));
        say(&Paint::new(Color::Auto).red(label), text.trim_end());
        return ExitCode::from(2);
    }
    match error.print().and_then(|()| std::io::stdout().flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => report(&Failure::from(error).when("cannot write to standard output"), Color::Auto),
    }
}
