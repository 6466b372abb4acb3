//! The command line. Help, man pages and completions are made of this, too.

pub mod changes;
pub mod check;
pub mod scheduling;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use meshd::config::DEFAULT_SOCKET;

use super::failure::MEANINGS;
use super::specs;

use changes::{BackendCommand, PortCommand, ServiceCommand};

/// Looks at a running meshd, and changes what it serves.
///
/// A service is the configuration file's or the socket's. The file's change by a reload only; the socket's are
/// kept on disk by meshd, and survive its restarts.
///
/// A change is done when the kernel holds it: the command waits for that (see --timeout and --no-wait).
#[derive(Parser)]
#[command(
    name = "meshctl",
    version,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = exit_codes()
)]
pub struct Arguments {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// meshd's control socket
    #[arg(
        long, global = true, value_name = "PATH", env = "MESHCTL_SOCKET", hide_env_values = true,
        default_value = DEFAULT_SOCKET, value_hint = ValueHint::FilePath
    )]
    pub socket: PathBuf,

    /// Tables for people, JSON for programs; the reason of a failure is JSON then, too, on standard error
    #[arg(short, long, global = true, value_name = "FORMAT", value_enum, default_value_t)]
    pub output: Format,

    /// Colours; auto: on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t)]
    pub color: Color,

    /// How long the daemon may take for an answer, beyond what it was asked to wait
    #[arg(long, global = true, hide = true, value_parser = specs::seconds, default_value = "10")]
    pub patience: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    #[default]
    Table,
    Json,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Color {
    #[default]
    Auto,
    Always,
    Never,
}

#[derive(Subcommand)]
pub enum Command {
    /// Show how meshd is
    Status,

    /// Services: list, show, add, change, remove
    #[command(subcommand, arg_required_else_help = true, visible_alias = "services")]
    Service(ServiceCommand),

    /// A service's published ports: add, change, remove
    #[command(subcommand, arg_required_else_help = true)]
    Port(Box<PortCommand>),

    /// A service's backends: add, change, drain, remove
    #[command(subcommand, arg_required_else_help = true)]
    Backend(BackendCommand),

    /// Print what meshd would do to the kernel now, as meshd --dry-run does
    Plan {
        /// What a reload of the configuration file would do
        #[arg(long)]
        reload: bool,
    },

    /// Read the configuration file again, as SIGHUP does, and say what is wrong with it
    Reload(Waiting),

    /// Wait until the kernel holds a generation
    Wait {
        /// Default: the newest one
        generation: Option<u64>,
        /// Seconds, at most 300
        #[arg(long, value_name = "SECONDS", value_parser = specs::seconds, default_value = "30")]
        timeout: Duration,
    },

    /// Print what happens, a line for each event, until the daemon stops
    Watch,

    /// Show rates per port and backend
    ///
    /// Keys: q quits, s sorts by another column, the arrows and Page Up, Page Down, Home and End scroll, the space
    /// bar holds the numbers still. A rate is over the last four seconds, since the kernel adds up its counters
    /// every two.
    Top(TopArguments),

    /// Print a shell's completions
    #[command(after_help = "Example:\n  source <(meshctl completions bash)")]
    #[command(alias = "generate-completions")]
    Completions { shell: clap_complete::Shell },

    /// Write the man pages
    #[command(hide = true)]
    GenerateMan {
        #[arg(value_hint = ValueHint::DirPath)]
        directory: PathBuf,
    },
}

/// How long to wait for the kernel.
#[derive(Args)]
pub struct Waiting {
    /// Do not wait until the kernel holds the change
    #[arg(long, conflicts_with = "timeout")]
    pub no_wait: bool,

    /// How many seconds to wait for the kernel, at most 300
    #[arg(long, value_name = "SECONDS", value_parser = specs::seconds, default_value = "30")]
    pub timeout: Duration,
}

impl Waiting {
    /// `None`: not at all.
    pub fn wait(&self) -> Option<Duration> {
        (!self.no_wait).then_some(self.timeout)
    }
}

#[derive(Args)]
pub struct TopArguments {
    /// Between two looks
    #[arg(long, value_name = "SECONDS", value_parser = interval, default_value = "1s")]
    pub interval: Duration,

    /// What comes first
    #[arg(long, value_enum, default_value_t)]
    pub sort: Sort,

    /// Print one table of the rates, over two seconds at least, and end; needs no terminal
    #[arg(long)]
    pub once: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Sort {
    #[default]
    Conn,
    Bytes,
    Name,
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = specs::seconds(text)?;
    if interval.is_zero() { Err("more than 0 would do, such as 1s".to_owned()) } else { Ok(interval) }
}

fn exit_codes() -> String {
    let line = |(code, meaning): &(_, &str)| format!("  {:<3} {meaning}", *code as u8);
    let lines: Vec<String> = MEANINGS.iter().map(line).collect();
    format!("Exit codes:\n{}", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Arguments;

    #[test]
    fn the_definitions_go_together() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn help_has_the_exit_codes() {
        let help = Arguments::command().render_long_help().to_string();
        assert!(help.contains("  69  no meshd answers at the socket\n"), "{help}");
    }
}
