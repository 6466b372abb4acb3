//! The commands that show and change services, their ports and their backends.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand, ValueEnum, ValueHint};
use meshd::control::protocol::{Backend, Netns, Port, PortName};

use super::Waiting;
use super::check::CheckArguments;
use super::scheduling::{SchedulingArguments, UnsetArguments};
use crate::meshctl::specs;

/// How a change is made.
#[derive(Args)]
pub struct Doing {
    /// Print what would be done to the kernel, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub waiting: Waiting,
}

/// How something is changed that is there.
#[derive(Args)]
pub struct Changing {
    /// Refuse if the service has another generation by now (`service get` shows it)
    #[arg(long, value_name = "N")]
    pub generation: Option<u64>,
    #[command(flatten)]
    pub doing: Doing,
}

#[derive(Subcommand)]
pub enum ServiceCommand {
    /// List all services
    #[command(visible_alias = "list")]
    Ls,
    /// Show one service with its ports and backends
    Get {
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
    },
    /// Add a service
    #[command(after_help = "Example:\n  meshctl service add kafka -p 20229:9092 -b 10.255.0.33,netns=kafka-1")]
    Add(ServiceAdd),
    /// Change a service
    #[command(after_help = "Example:\n  meshctl service set kafka --scheduler wrr")]
    Set(ServiceSet),
    /// Remove services
    #[command(visible_alias = "remove")]
    Rm {
        #[arg(required = true, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
        names: Vec<String>,
        #[command(flatten)]
        changing: Changing,
    },
}

#[derive(Args)]
pub struct ServiceAdd {
    /// 1 to 63 of A-Z a-z 0-9 _ . -
    #[arg(required_unless_present = "file", value_parser = NonEmptyStringValueParser::new())]
    pub name: Option<String>,

    /// A port, as PUBLISHED[:TARGET][/PROTOCOL]: 20229:9092, 53/udp, 30000-30099/udp; may be repeated
    #[arg(short, long, value_name = "PORT", required_unless_present = "file", value_parser = specs::port)]
    pub publish: Vec<Port>,

    /// A backend, as ADDRESS[,weight=N][,upper_threshold=N][,lower_threshold=N][,node=NAME][,netns=NAME][,state=STATE]; may be repeated
    #[arg(short, long, value_name = "BACKEND", value_parser = specs::backend)]
    pub backend: Vec<Backend>,

    /// The service as JSON, as `service get -o json` prints it; -: standard input
    #[arg(
        short, long, conflicts_with_all = ["publish", "backend", "SchedulingArguments", "CheckArguments"],
        value_hint = ValueHint::FilePath
    )]
    pub file: Option<PathBuf>,

    #[command(flatten)]
    pub doing: Doing,

    // The last, since their headings go on from here.
    #[command(flatten)]
    pub scheduling: Box<SchedulingArguments>,

    #[command(flatten)]
    pub check: Box<CheckArguments>,
}

#[derive(Args)]
pub struct ServiceSet {
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: String,

    /// Publish one more port; may be repeated
    #[arg(long, value_name = "PORT", value_parser = specs::port)]
    pub publish_add: Vec<Port>,

    /// Withdraw a port, such as tcp/20229; may be repeated
    #[arg(long, value_name = "PORT", value_parser = specs::port_name)]
    pub publish_rm: Vec<PortName>,

    /// Replace the whole service by this one, JSON as `service get -o json` prints it; -: standard input
    #[arg(
        short, long, conflicts_with_all = ["SchedulingArguments", "CheckArguments", "UnsetArguments", "publish_add", "publish_rm"],
        value_hint = ValueHint::FilePath
    )]
    pub file: Option<PathBuf>,

    #[command(flatten)]
    pub changing: Changing,

    #[command(flatten)]
    pub scheduling: Box<SchedulingArguments>,

    #[command(flatten)]
    pub unset: UnsetArguments,

    #[command(flatten)]
    pub check: Box<CheckArguments>,
}

#[derive(Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one, as long as the command runs")]
pub enum PortCommand {
    /// Publish one more port
    #[command(after_help = "Example:\n  meshctl port add kafka 20230:9092/tcp")]
    Add {
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        service: String,
        /// PUBLISHED[:TARGET][/PROTOCOL]: 20229:9092, 53/udp, 30000-30099/udp
        #[arg(value_parser = specs::port)]
        port: Port,
        /// A backend of this port's own, as ADDRESS[,weight=N][,upper_threshold=N][,lower_threshold=N][,node=NAME][,netns=NAME][,state=STATE]; may be repeated
        #[arg(short, long, value_name = "BACKEND", value_parser = specs::backend)]
        backend: Vec<Backend>,
        #[command(flatten)]
        changing: Changing,
        #[command(flatten)]
        scheduling: Box<SchedulingArguments>,
        #[command(flatten)]
        check: Box<CheckArguments>,
    },
    /// Change a port
    #[command(after_help = "Example:\n  meshctl port set kafka tcp/20229 --scheduler lc")]
    Set {
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        service: String,
        /// Such as tcp/20229 or udp/30000-30099
        #[arg(value_parser = specs::port_name)]
        port: PortName,
        /// The backends' port
        #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
        target: Option<u16>,
        /// The port's own backends from now on, as ADDRESS[,weight=N][,upper_threshold=N][,lower_threshold=N][,node=NAME][,netns=NAME][,state=STATE]; may be repeated
        #[arg(short, long, value_name = "BACKEND", value_parser = specs::backend)]
        backend: Vec<Backend>,
        /// No backends of its own any more, but the service's
        #[arg(long, conflicts_with = "backend")]
        service_backends: bool,
        #[command(flatten)]
        changing: Changing,
        #[command(flatten)]
        scheduling: Box<SchedulingArguments>,
        #[command(flatten)]
        unset: UnsetArguments,
        #[command(flatten)]
        check: Box<CheckArguments>,
    },
    /// Withdraw ports
    #[command(after_help = "Example:\n  meshctl port rm kafka tcp/20229")]
    #[command(visible_alias = "remove")]
    Rm {
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        service: String,
        #[arg(required = true, value_name = "PORT", value_parser = specs::port_name)]
        ports: Vec<PortName>,
        #[command(flatten)]
        changing: Changing,
    },
}

#[derive(Subcommand)]
pub enum BackendCommand {
    /// Add a backend
    #[command(after_help = "Example:\n  meshctl backend add kafka 10.255.0.33 --weight 2 --netns kafka-1")]
    Add {
        #[command(flatten)]
        list: List,
        address: IpAddr,
        #[command(flatten)]
        values: BackendValues,
        #[command(flatten)]
        changing: Changing,
    },
    /// Change a backend
    #[command(after_help = "Example:\n  meshctl backend set kafka 10.255.0.33 --weight 5")]
    Set {
        #[command(flatten)]
        list: List,
        address: IpAddr,
        #[command(flatten)]
        values: BackendValues,
        /// Back to the default; may be repeated
        #[arg(long, value_name = "KEY", value_enum)]
        unset: Vec<BackendKey>,
        #[command(flatten)]
        changing: Changing,
    },
    /// Give backends no new connections; those that they have go on
    #[command(
        after_help = "Examples:\n  meshctl backend drain kafka 10.255.0.33\n  meshctl backend drain kafka 10.255.0.33 --undo"
    )]
    Drain {
        #[command(flatten)]
        list: List,
        #[arg(required = true, value_name = "ADDRESS")]
        addresses: Vec<IpAddr>,
        /// Enable them again
        #[arg(long)]
        undo: bool,
        /// Disable them: connections end at once
        #[arg(long, conflicts_with = "undo")]
        now: bool,
        #[command(flatten)]
        changing: Changing,
    },
    /// Remove backends
    #[command(visible_alias = "remove")]
    Rm {
        #[command(flatten)]
        list: List,
        #[arg(required = true, value_name = "ADDRESS")]
        addresses: Vec<IpAddr>,
        /// End their connections at once; else they have `drain` to end by themselves
        #[arg(long)]
        now: bool,
        #[command(flatten)]
        changing: Changing,
    },
}

/// Whose backends.
#[derive(Args)]
pub struct List {
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub service: String,
    /// Those of that port alone, such as tcp/20229, which has its own (`port set --backend`)
    #[arg(long, value_name = "PORT", value_parser = specs::port_name)]
    pub port: Option<PortName>,
}

#[derive(Args)]
pub struct BackendValues {
    /// 0 to 65535; 0: no new connections
    #[arg(short, long, value_name = "N", value_parser = specs::weight)]
    pub weight: Option<u32>,
    /// At that many connections, open and lately closed, it gets no more; 0: no cap
    #[arg(short = 'x', long, visible_alias = "u-threshold", value_name = "N", value_parser = specs::threshold)]
    pub upper_threshold: Option<u32>,
    /// Below that many it gets some again; 0: three quarters of the upper one
    #[arg(short = 'y', long, visible_alias = "l-threshold", value_name = "N", value_parser = specs::threshold)]
    pub lower_threshold: Option<u32>,
    /// The peer that it is on; else it is this node's
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub node: Option<String>,
    /// The namespace that meshd attaches to the overlay: a name, a path or a process's number
    #[arg(long, value_name = "NAME", value_parser = specs::netns)]
    pub netns: Option<Netns>,
    /// enabled, drain (no new connections) or disabled (none at all)
    #[arg(long, value_parser = specs::STATES, hide_possible_values = true)]
    pub state: Option<String>,
    /// It gets clients only while others cannot take them
    #[arg(long)]
    pub backup: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BackendKey {
    Weight,
    UpperThreshold,
    LowerThreshold,
    Node,
    Netns,
    State,
    Backup,
}
