//! The program as a user runs it, and how a run must end.

use std::path::Path;
use std::process::{Command, Output};

/// Longest line that an error may have.
const LONGEST_LINE: usize = 2000;

/// The program in a folder, with a cache of its own there.
pub fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvscope"));
    command.args(args).current_dir(dir).env("KVSCOPE_CACHE", dir.join("cache")).env("RUST_BACKTRACE", "1");
    command
}

/// Runs it.
pub fn kvscope(dir: &Path, args: &[&str]) -> Output {
    command(dir, args).output().unwrap()
}

/// What is wrong with the end of a run: its code, the words that it must have, its manners. A failure (2) has nothing on
/// stdout and one line of an error; whatever fails says what to do next; nothing that a terminal would act on; no panic.
pub fn fault(output: &Output, code: i32, words: &[&str]) -> Option<String> {
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let told = format!("{stdout}{stderr}");
    let errors = stderr.lines().filter(|line| line.starts_with("error:")).count();
    let what = if output.status.code() != Some(code) {
        format!("exit code {:?} where {code} is due", output.status.code())
    } else if let Some(word) = words.iter().find(|word| !told.contains(*word)) {
        format!("{word:?} is not said")
    } else if errors != usize::from(code == 2) {
        format!("{errors} errors")
    } else if code != 0 && !told.lines().any(|line| line.starts_with("hint:")) {
        "no hint".into()
    } else if code == 2 && !stdout.is_empty() {
        "something on stdout".into()
    } else if code != 0 && told.lines().any(|line| line.len() > LONGEST_LINE) {
        return Some(format!("a line has more than {LONGEST_LINE} bytes"));
    } else if told.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
        "control characters".into()
    } else if ["panicked", "RUST_BACKTRACE", "stack backtrace", "candle_core::"].iter().any(|bad| told.contains(bad)) {
        "a panic or a trace".into()
    } else {
        return None;
    };
    Some(format!("{what}: {}", told.trim()))
}

/// Holds a run to that; what it wrote to stdout.
#[track_caller]
pub fn ends(output: &Output, code: i32, words: &[&str]) -> String {
    if let Some(fault) = fault(output, code, words) {
        panic!("{fault}");
    }
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A run that succeeds.
#[track_caller]
pub fn done(output: Output) -> String {
    ends(&output, 0, &[])
}
