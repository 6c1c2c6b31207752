//! Options of all commands.

use clap::{Args, ValueEnum};

use crate::cli::numbers;

/// When to colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Options of all commands.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Print the result as JSON
    #[arg(long, global = true, display_order = 900)]
    pub json: bool,
    /// Print results and errors only
    #[arg(long, short, global = true, display_order = 901)]
    pub quiet: bool,
    /// Print whole verdicts and more of what happens (-vv: everything)
    #[arg(long, short, global = true, action = clap::ArgAction::Count, display_order = 902)]
    pub verbose: u8,
    /// Colour messages
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN", display_order = 903)]
    pub color: Color,
    /// Threads to compute with [default: one per core]
    #[arg(long, global = true, value_name = "N", value_parser = numbers::threads, display_order = 904)]
    pub threads: Option<usize>,
}
