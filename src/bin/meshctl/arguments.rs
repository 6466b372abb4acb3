//! The command line. Help, man pages and completions are made of this, too.

pub mod changes;
pub mod check;
pub mod graph;
pub mod scheduling;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use meshd::config::DEFAULT_SOCKET;

use super::failure::MEANINGS;
use super::specs;

use changes::{BackendCommand, PortCommand, ServiceCommand};
use graph::GraphArguments;

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

    /// Show the way of a packet hop by hop, as the kernel has it now, and name the first that is broken
    ///
    /// From the client by the published port, its mark and its balancing to each backend, and back: what is wanted there, what
    /// there is, and a command of other tools that shows it. Nothing is changed; each backend is asked for a connection. The exit code
    /// is 0 only if every hop to every backend holds.
    Explain(ExplainArguments),

    /// Connect to all that is published, and to every backend, and show which of them answer
    ///
    /// By every address of this node to every published port, and from the sandbox to every backend. The exit code is 0 only if all
    /// answer; of UDP only that nobody refuses can be told. For cron, and for a look after a change.
    Check(CheckArguments),

    /// Say what is wrong with this host, or may be, why it matters, and what mends it
    ///
    /// The kernel's features and versions with known faults, kernel parameters, the underlay's MTU, offloads, clashes of subnets and
    /// ports, other firewalls, room in tables, timeouts, clock and limits. What is well is told, too. Nothing is changed (modules
    /// that are tried may be loaded); other nodes are sent echo requests. The exit code is 0 only if there is no fault.
    /// What `sysctl -w` sets is kept by a line in a file of /etc/sysctl.d.
    Doctor {
        /// Ask no daemon: look for what that configuration file needs
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        config: Option<PathBuf>,
    },

    /// Print what happens, a line for each event, until the daemon stops
    Watch,

    /// Show rates per port and backend
    ///
    /// Keys: q quits, s sorts by another column, the arrows and Page Up, Page Down, Home and End scroll, the space
    /// bar holds the numbers still. A rate is over the last four seconds, since the kernel adds up its counters
    /// every two.
    Top(TopArguments),

    /// Draw the mesh: clients, published ports, the sandbox, the overlay, and backends by their nodes, with rates
    ///
    /// In text, ports that have the same backends stand above them together, with their rates in sum; -o json, dot
    /// and svg have each port's. A drained or disabled backend, or one of weight 0, is grey and dashed in dot and
    /// svg; "out" is one that the kernel does not have, such as one that is down. A backend that names neither a
    /// node nor a namespace is on the overlay or routed: that cannot be told.
    #[command(after_help = "Example:\n  meshctl graph --format svg >mesh.svg")]
    Graph(GraphArguments),

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
pub struct ExplainArguments {
    /// A published port: 20229, or tcp/20229
    #[arg(value_parser = specs::published_port)]
    pub port: (u16, Option<&'static str>),

    /// The client's address: whether it may come, and its way back
    #[arg(long, value_name = "ADDRESS")]
    pub from: Option<IpAddr>,

    /// tcp, udp or sctp; without: each that is published there
    #[arg(long, value_parser = ["tcp", "udp", "sctp"])]
    pub protocol: Option<String>,

    /// Only to the backends on that node
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,

    /// Ask no daemon: compare the kernel with that configuration file, and take every backend to be up
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
}

impl ExplainArguments {
    pub fn protocol(&self) -> Option<&str> {
        self.protocol.as_deref().or(self.port.1)
    }
}

#[derive(Args)]
pub struct CheckArguments {
    /// Also by the other nodes' addresses
    #[arg(long)]
    pub all_nodes: bool,

    /// Only that service
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
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
