//! meshctl: what an operator says to meshd, and what it answers.
//!
//! `arguments` is the command line, of which help, man pages and completions are made; `commands` does what it
//! says, by way of `client`. What is printed is made by pure functions and goes out through `output` alone.

/// The files beside this one, in the folder of that name.
mod meshctl {
    pub mod arguments;
    pub mod client;
    pub mod commands;
    pub mod escape;
    pub mod events;
    pub mod failure;
    pub mod graph;
    pub mod output;
    pub mod pages;
    pub mod specs;
    pub mod table;
    pub mod text;
    pub mod top;
}

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use meshctl::arguments::Arguments;
use meshctl::commands;
use meshctl::failure::{Code, Failure};
use meshctl::output::Output;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // To ask for help is no mistake. Nothing can be done if the terminal is gone.
            let _ = error.print();
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return if asked { Code::Done } else { Code::Usage }.into();
        }
    };
    let output = Output::new(&arguments.global);
    match run(arguments, &output) {
        Ok(()) => Code::Done.into(),
        Err(failure) => {
            output.complain(&failure);
            failure.code.into()
        }
    }
}

fn run(arguments: Arguments, output: &Output) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(commands::run(arguments, output));
    // Nothing that is still under way is worth waiting for.
    runtime.shutdown_background();
    result
}
