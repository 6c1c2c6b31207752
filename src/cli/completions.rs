//! `kvscope completions` and `kvscope man`: generated from the command definition.

use clap_complete::Shell;

use crate::cli::failure::Result;
use crate::cli::output::emit;
use crate::cli::{Outcome, command};

/// Print completions for a shell
#[derive(Debug, clap::Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Print the man page of kvscope or of one of its commands
#[derive(Debug, clap::Args)]
pub(crate) struct ManArgs {
    /// A command, such as `capture`
    subcommand: Option<String>,
}

pub(crate) fn run(args: &CompletionsArgs) -> Result<Outcome> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command(), "kvscope", &mut text);
    emit(&String::from_utf8_lossy(&text))?;
    Ok(Outcome::Done)
}

pub(crate) fn run_man(args: &ManArgs) -> Result<Outcome> {
    let mut top = command();
    top.build();
    let chosen = match &args.subcommand {
        None => top,
        Some(name) => top.find_subcommand(name).cloned().ok_or_else(|| {
            crate::cli::failure::Usage::error(format!("there is no command {name:?}"), "see kvscope --help")
        })?,
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(chosen).render(&mut text)?;
    emit(&String::from_utf8_lossy(&text))?;
    Ok(Outcome::Done)
}
