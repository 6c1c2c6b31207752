//! The command line: one file per subcommand. The only module that chooses paths and touches environment and streams.

mod analysis;
mod analyze;
mod bench;
mod blocks;
mod capture;
mod chat;
mod common;
mod comparison;
mod completions;
mod compression;
mod demo;
mod eval;
mod exit;
mod failure;
mod generate;
mod inputs;
mod inspect;
mod join;
mod learn;
mod names;
mod numbers;
mod options;
mod output;
mod pull;
mod report;
mod serve;
mod session;
mod show;
mod table;
mod tune;
mod verify;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::cli::common::Common;

/// Measure how compressible a language model's KV cache is, and compress it.
#[derive(Debug, Parser)]
#[command(name = "kvscope", version, max_term_width = 100, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Args),
    Pull(pull::Args),
    Capture(capture::Args),
    // As it was called before; scripts go on.
    #[command(alias = "merge")]
    Join(join::Args),
    Analyze(analyze::Args),
    Tune(tune::Args),
    Learn(learn::Args),
    Report(report::Args),
    Generate(generate::Args),
    Bench(bench::Args),
    Eval(eval::Args),
    Inspect(inspect::Args),
    Show(show::Args),
    Verify(verify::Args),
    Completions(completions::CompletionsArgs),
    Man(completions::ManArgs),
}

/// How a command ended, short of failing to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Done.
    Done,
    /// Done, but a stated target was not met.
    GateNotMet,
}

/// The clap command, for parsing, completions, man pages and the test that reads the README.
pub fn command() -> clap::Command {
    // A number below zero is the value of its option, and told what is wrong with it.
    let with_signs = |arg: clap::Arg| {
        let takes_value = arg.get_action().takes_values() && !arg.is_positional();
        if takes_value { arg.allow_negative_numbers(true) } else { arg }
    };
    Cli::command().mut_args(with_signs).mut_subcommands(move |command| command.mut_args(with_signs))
}

fn parse() -> Result<Cli, clap::Error> {
    let matches = command().try_get_matches()?;
    Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command()))
}

/// Parses the arguments, runs the command, reports an error; returns the exit code 0, 1 or 2.
pub fn main() -> ExitCode {
    let cli = match parse() {
        Ok(cli) => cli,
        Err(error) => return exit::of_arguments(&error),
    };
    let common = &cli.common;
    if let Err(error) = options::set_up(common) {
        return exit::report(&error, common.color);
    }
    let result = match &cli.command {
        Command::Demo(args) => demo::run(args, common),
        Command::Pull(args) => pull::run(args, common),
        Command::Capture(args) => capture::run(args, common),
        Command::Join(args) => join::run(args, common),
        Command::Analyze(args) => analyze::run(args, common),
        Command::Report(args) => report::run(args, common),
        Command::Tune(args) => tune::run(args, common),
        Command::Learn(args) => learn::run(args, common),
        Command::Generate(args) => generate::run(args, common),
        Command::Eval(args) => eval::run(args, common),
        Command::Bench(args) => bench::run(args, common),
        Command::Inspect(args) => inspect::run(args, common),
        Command::Show(args) => show::run(args, common),
        Command::Verify(args) => verify::run(args, common),
        Command::Completions(args) => completions::run(args),
        Command::Man(args) => completions::run_man(args),
    };
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::GateNotMet) => ExitCode::from(1),
        Err(error) => exit::report(&error, common.color),
    }
}
