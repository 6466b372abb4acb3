//! `graph`: how the mesh is drawn.

use clap::{Args, ValueEnum};

#[derive(Args)]
pub struct GraphArguments {
    /// How it is drawn
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: Drawing,

    /// This service only; may be given several times
    #[arg(long = "service", value_name = "NAME")]
    pub services: Vec<String>,

    /// Do not wait two seconds for rates
    #[arg(long)]
    pub no_rates: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Drawing {
    /// A tree, for terminals
    #[default]
    Text,
    /// Graphviz: meshctl graph --format dot | dot -Tsvg
    Dot,
    /// A picture by itself, for browsers
    Svg,
}
