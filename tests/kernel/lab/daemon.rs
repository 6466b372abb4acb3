//! meshd as systemd would hold it: started, told to reload, stopped, and heard on its notification socket.

use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Config, Place};

/// For anything that meshd is asked to do, on a busy machine with an emulated kernel.
const DEADLINE: Duration = Duration::from_secs(60);

/// The program under test.
pub fn program() -> PathBuf {
    match std::env::var_os("MESHD_BIN_DIR") {
        Some(directory) => Path::new(&directory).join("meshd"),
        None => env!("CARGO_BIN_EXE_meshd").into(),
    }
}

/// The same, built with faults: scripts/test does that.
pub fn faulty() -> Command {
    let program = program().with_file_name("meshd-faults");
    assert!(program.exists(), "no {}: cargo build --features faults --bin meshd-faults", program.display());
    Command::new(program)
}

/// A running meshd. It is killed when it is dropped; then what it made stays.
pub struct Meshd {
    child: Child,
    notifications: UnixDatagram,
    config_file: PathBuf,
    log_file: PathBuf,
}

impl Meshd {
    pub(super) fn spawn(node: &Place, config_file: &Path, directory: &Path) -> Meshd {
        Meshd::spawn_as(Command::new(program()), node, config_file, directory)
    }

    pub(super) fn spawn_as(mut command: Command, node: &Place, config_file: &Path, directory: &Path) -> Meshd {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let run = NEXT.fetch_add(1, Ordering::Relaxed);
        let socket = directory.join(format!("notify-{run}"));
        let log_file = directory.join(format!("log-{run}"));
        let notifications = UnixDatagram::bind(&socket).expect("a notification socket");
        notifications.set_read_timeout(Some(Duration::from_millis(100))).expect("a time to receive");
        let log = File::create(&log_file).expect("a log file");
        command.arg("--config").arg(config_file).env("NOTIFY_SOCKET", &socket).env("RUST_LOG", "debug");
        command.stdin(Stdio::null()).stderr(log);
        let child = node.within(|| command.spawn()).expect("meshd starts");
        Meshd { child, notifications, config_file: config_file.to_owned(), log_file }
    }

    pub fn wait_until_ready(&mut self) {
        self.wait_for("READY=1");
    }

    /// Writes the configuration, sends SIGHUP and waits until meshd has done with it, accepted or not.
    pub fn reload(&mut self, config: &Config) {
        fs::write(&self.config_file, config.to_string()).expect("cannot write the configuration");
        self.signal(Signal::SIGHUP);
        self.wait_for("RELOADING=1");
        self.wait_for("READY=1");
    }

    /// SIGTERM.
    pub fn stop(mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait()
    }

    pub fn kill9(mut self) {
        self.signal(Signal::SIGKILL);
        assert_eq!(self.wait().signal(), Some(9));
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is our child")
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                return status;
            }
            assert!(Instant::now() < deadline, "meshd does not end");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What it said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log_file).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("it is our child");
    }

    fn wait_for(&mut self, state: &str) {
        let deadline = Instant::now() + DEADLINE;
        let mut datagram = [0; 1024];
        loop {
            if let Ok(length) = self.notifications.recv(&mut datagram) {
                if String::from_utf8_lossy(&datagram[..length]).lines().any(|line| line == state) {
                    return;
                }
            }
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                panic!("meshd ended before it said {state}: {status}\n{}", self.log());
            }
            assert!(Instant::now() < deadline, "meshd does not say {state}");
        }
    }
}

impl Drop for Meshd {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            println!("--- meshd's configuration ({})", self.config_file.display());
            println!("{}", fs::read_to_string(&self.config_file).unwrap_or_default());
            println!("--- meshd's log\n{}---", self.log());
        }
    }
}
