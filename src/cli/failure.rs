//! Errors for people: what, where, why, what to do next.

use std::io::ErrorKind;
use std::io::Write;
use std::process::ExitCode;

use crate::analyze::AnalyzeError;
use crate::capture::CaptureError;
use crate::cli::output::Color;
use crate::cli::output::NobodyReads;
use crate::cli::output::Style;
use crate::cli::output::say;
use crate::eval::EvalError;
use crate::files::FileError;
use crate::files::io_hint;
use crate::format::dump::DumpError;
use crate::format::join::JoinError;
use crate::format::profile::ProfileError;
use crate::hub::HubError;
use crate::model::ModelError;
use crate::model::gguf::GgufError;
use crate::policy::PolicyError;
use crate::prompts::PromptError;
use crate::report::ReportError;
use crate::runtime::RuntimeError;
use crate::tune::TuneError;

/// An error of the command line itself, with what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Usage {
    message: String,
    hint: String,
}

impl Usage {
    pub(crate) fn error(message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
        Self { message: message.into(), hint: hint.into() }.into()
    }
}

/// Prints the error, its causes and a hint; exit code 2, or 0 when the reader of stdout has gone away.
pub(crate) fn report(error: &anyhow::Error, color: Color) -> ExitCode {
    if error.is::<NobodyReads>() {
        return ExitCode::SUCCESS;
    }
    let style = Style::stderr(color);
    // A message that already says what its cause says is not said twice.
    let mut kept: Vec<String> = Vec::new();
    for line in error.chain().map(without_backtrace) {
        if !kept.iter().any(|earlier| earlier.contains(&line)) {
            kept.push(line);
        }
    }
    for (i, line) in kept.iter().enumerate() {
        let label = if i == 0 { style.red("error:") } else { style.red("caused by:") };
        // One line each: no name in it can pass for an error of its own.
        say(&label, &line.replace('\n', "\\n"));
    }
    if let Some(hint) = hint(error) {
        say(&style.cyan("hint:"), &hint);
    }
    ExitCode::from(2)
}

/// An error's message. Libraries append their backtrace under `RUST_BACKTRACE=1`.
fn without_backtrace(error: &(dyn std::error::Error + 'static)) -> String {
    let text = error.to_string();
    text.split("\n   0: ").next().unwrap_or_default().into()
}

/// Prints help or the version on stdout, or what is wrong with the arguments on stderr: exit code 0, or 2.
pub(crate) fn of_arguments(error: &clap::Error) -> ExitCode {
    if error.use_stderr() {
        let text = error.render().to_string().replace("For more information, try", "hint: for more information, try");
        let (label, text) = text.split_once(' ').filter(|(label, _)| *label == "error:").unwrap_or(("", &text));
        say(&Style::stderr(Color::Auto).red(label), text.trim_end());
        return ExitCode::from(2);
    }
    match error.print().and_then(|()| std::io::stdout().flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => report(&anyhow::Error::new(error).context("cannot write to standard output"), Color::Auto),
    }
}

/// The hint of the first error in the chain that has one.
fn hint(error: &anyhow::Error) -> Option<String> {
    macro_rules! of {
        ($($kind:ty),+) => {
            |e: &(dyn std::error::Error + 'static)| None$(.or_else(|| e.downcast_ref::<$kind>()?.hint()))+
        };
    }
    let find = of!(
        AnalyzeError,
        CaptureError,
        DumpError,
        EvalError,
        FileError,
        GgufError,
        HubError,
        JoinError,
        ModelError,
        PolicyError,
        ProfileError,
        PromptError,
        ReportError,
        RuntimeError,
        TuneError
    );
    let own = |e: &(dyn std::error::Error + 'static)| {
        e.downcast_ref::<Usage>().map(|usage| usage.hint.clone()).or_else(|| find(e))
    };
    // Libraries wrap I/O errors in their own; a full disk is a full disk.
    let io = |e: &(dyn std::error::Error + 'static)| io_hint(e.downcast_ref::<std::io::Error>()?.kind());
    error.chain().find_map(own).or_else(|| error.chain().find_map(io))
}
