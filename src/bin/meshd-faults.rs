//! meshd with faults made on purpose (see `kernel::fault`): for tests.

#[path = "../main.rs"]
mod daemon;

fn main() -> std::process::ExitCode {
    daemon::main()
}
