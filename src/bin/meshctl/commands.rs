//! What each command does.

mod backend;
mod change;
mod check;
mod doctor;
mod explain;
mod file;
mod look;
pub mod near;
mod port;
mod service;

use std::io;

use clap::CommandFactory;

use super::arguments::{Arguments, Command};
use super::client::Client;
use super::failure::Failure;
use super::output::Output;
use super::{graph, pages, top};

/// Whom a command talks to: the daemon, and the user.
struct Session<'s> {
    client: Client,
    output: &'s Output,
}

pub async fn run(arguments: Arguments, output: &Output) -> Result<(), Failure> {
    let Arguments { global, command } = arguments;
    let session = Session { client: Client::new(&global.socket, global.patience), output };
    match command {
        Command::Status => look::status(&session).await,
        Command::Service(command) => service::run(&session, command).await,
        Command::Port(command) => port::run(&session, *command).await,
        Command::Backend(command) => backend::run(&session, command).await,
        Command::Plan { reload } => look::plan(&session, reload).await,
        Command::Reload(waiting) => look::reload(&session, waiting.wait()).await,
        Command::Wait { generation, timeout } => look::wait(&session, generation, timeout).await,
        Command::Explain(arguments) => explain::run(&session, arguments).await,
        Command::Check(arguments) => check::run(&session, arguments).await,
        Command::Doctor { config } => doctor::run(&session, config.as_deref()).await,
        Command::Watch => look::watch(&session).await,
        Command::Top(arguments) => top::run(session.client, output, &arguments).await,
        Command::Graph(arguments) => graph::run(&session.client, output, &arguments).await,
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "meshctl", &mut text);
            output.print(&String::from_utf8(text).map_err(io::Error::other)?)
        }
        Command::GenerateMan { directory } => pages::write(&directory),
    }
}
