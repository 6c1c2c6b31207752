//! How the program ends: what it says last, and its exit code.

use std::error::Error;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use crate::cli::common::Color;
use crate::cli::failure::Failure;
use crate::cli::output::{NobodyReads, Paint, say};

/// Prints the error, its causes and a hint; exit code 2, or 0 when the reader of stdout has gone away.
pub(crate) fn report(failure: &Failure, color: Color) -> ExitCode {
    if failure.cause::<NobodyReads>().is_some() {
        return ExitCode::SUCCESS;
    }
    let paint = Paint::new(color);
    // A message that already says what its cause says is not said twice.
    let mut kept: Vec<String> = Vec::new();
    for line in failure.tried().iter().rev().cloned().chain(failure.causes().map(without_backtrace)) {
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
