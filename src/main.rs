//! The daemon's command line: load, build, run.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use clap::error::ErrorKind;

use meshd::config::{Config, DEFAULT_STATE};
use meshd::daemon::{self, Daemon};
use meshd::kernel::{probe, process};
use meshd::source::file::{self, Signature};

/// A file of 10,000 services is read in a few hundred MiB, of which a tenth is kept: glibc's allocator would keep all of it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// sysexits(3), EX_USAGE: the command line or the configuration is wrong.
const USAGE: u8 = 64;

/// A routing-mesh load balancer: every node answers on every published port.
///
/// Without another option: runs in the foreground until SIGTERM, which leaves the data plane serving
/// (see `on_stop` in the configuration). SIGHUP reads the configuration again.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    /// The configuration; config/services.toml is a commented example.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["probe", "cleanup", "public_key"])]
    config: Option<PathBuf>,

    /// Read the configuration, say what is wrong with it, and do nothing else.
    #[arg(long, group = "mode")]
    check: bool,

    /// Print what would be done to this kernel now, and do nothing.
    #[arg(long, group = "mode")]
    dry_run: bool,

    /// Say what this kernel can do, and what to do where something is missing.
    #[arg(long, group = "mode")]
    probe: bool,

    /// Remove all that is meshd's from this host, in whatever state it is, and nothing else.
    #[arg(long, group = "mode")]
    cleanup: bool,

    /// Print this node's WireGuard public key, for `[[peer]] public_key` on all nodes. The key is made if there is none, in
    /// `[node] state_dir`; of the configuration nothing else needs to be good yet.
    #[arg(long, group = "mode")]
    public_key: bool,
}

pub fn main() -> ExitCode {
    process::use_small_pages();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // To ask for help is no mistake. Nothing can be done if the terminal is gone.
            let _ = error.print();
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return if asked { ExitCode::SUCCESS } else { ExitCode::from(USAGE) };
        }
    };
    daemon::start_log();
    if arguments.public_key {
        return public_key(&arguments);
    }
    // Before the file is read: what changes from now on is seen as a change.
    let read = arguments.config.as_deref().and_then(file::signature);
    let config = match load(&arguments) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::from(USAGE);
        }
    };
    match run(&arguments, config, read) {
        Ok(code) => code,
        Err(error) => failed(&error),
    }
}

fn public_key(arguments: &Arguments) -> ExitCode {
    let state_dir = match arguments.config.as_deref().map(file::state_dir).transpose() {
        Ok(state_dir) => state_dir.unwrap_or(DEFAULT_STATE.into()),
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(USAGE);
        }
    };
    match daemon::public_key(&state_dir) {
        Ok(key) => {
            println!("{key}");
            ExitCode::SUCCESS
        }
        Err(error) => failed(&error),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("meshd: {error:#}");
    ExitCode::FAILURE
}

/// Without a file, the defaults' names: enough to probe, and to clean up what a default configuration made.
fn load(arguments: &Arguments) -> anyhow::Result<Option<Config>> {
    arguments.config.as_deref().map(file::load).transpose().map_err(anyhow::Error::from)
}

fn run(arguments: &Arguments, config: Option<Config>, read: Option<Signature>) -> anyhow::Result<ExitCode> {
    if arguments.probe {
        let report = probe::run();
        print!("{report}");
        return Ok(if report.complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    if arguments.cleanup {
        return daemon::clean_up(config.as_ref());
    }
    let config = config.context("--config is needed")?;
    if arguments.check {
        println!(
            "{} services, {} ports: good",
            config.services.len(),
            config.services.iter().map(|s| s.ports.len()).sum::<usize>()
        );
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.dry_run {
        print!("{}", daemon::dry_run(&config)?);
        return Ok(ExitCode::SUCCESS);
    }
    let path = arguments.config.clone().context("--config is needed")?;
    Daemon::start(path, config, read)?.run()
}
