//! A program of the operator's, which asks in its own way.

use std::env;
use std::io;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::time;

use super::{line, reason};
use crate::kernel::process;
use crate::mesh::ExecProbe;

/// Of the output, that much is kept; the rest is read, so that the program can go on, and forgotten.
const LONGEST: usize = 4 << 10;
/// For the output to end after the program did: whoever left its process group may hold it open.
const LAST_WORDS: Duration = Duration::from_millis(100);

pub(super) async fn probe(probe: &ExecProbe, to: SocketAddr) -> Result<(), String> {
    let Some((program, arguments)) = probe.command.split_first() else { return Err("no command".to_owned()) };
    let Some(user) = process::user(&probe.user) else { return Err(format!("there is no user {:?}", probe.user)) };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("MESHD_ADDRESS", to.ip().to_string())
        .env("MESHD_PORT", to.port().to_string())
        .current_dir("/")
        // With its user's own group and no others, as keepalived's scripts: so does the standard library as root.
        .uid(user.uid)
        .gid(user.gid)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Reaps it, too. Its children are reaped by whom they are left to.
        .kill_on_drop(true);
    if let Some(path) = env::var_os("PATH") {
        command.env("PATH", path);
    }
    let mut running =
        Running::new(command.spawn().map_err(|error| format!("cannot run {program}: {}", reason(&error)))?);
    let (status, output) = running.end().await.map_err(|error| reason(&error))?;
    verdict(status, &line(&output))
}

fn verdict(status: ExitStatus, line: &str) -> Result<(), String> {
    let what = match (status.code(), status.signal()) {
        (Some(0), _) => return Ok(()),
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "no exit code".to_owned(),
    };
    Err(if line.is_empty() { what } else { format!("{what}: {line}") })
}

/// A program, and the process group that it leads, which goes with the value.
#[derive(Debug)]
struct Running {
    child: Child,
    /// `None`: it is gone, and the number may be another's.
    group: Option<u32>,
}

impl Running {
    fn new(child: Child) -> Running {
        let group = child.id();
        Running { child, group }
    }

    /// Waits for the program's end; what it left in its group ends then, too.
    async fn end(&mut self) -> io::Result<(ExitStatus, Vec<u8>)> {
        let mut output = Vec::new();
        let (stdout, stderr) = (self.child.stdout.take(), self.child.stderr.take());
        let status = {
            let mut reading = pin!(read(stdout, stderr, &mut output));
            let mut read = false;
            let status = loop {
                tokio::select! {
                    status = self.child.wait() => break status,
                    () = &mut reading, if !read => read = true,
                }
            };
            self.kill();
            if !read {
                let _ = time::timeout(LAST_WORDS, reading).await;
            }
            status?
        };
        Ok((status, output))
    }

    fn kill(&mut self) {
        if let Some(group) = self.group.take() {
            process::kill_group(group);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Until both have ended.
async fn read(stdout: Option<ChildStdout>, stderr: Option<ChildStderr>, output: &mut Vec<u8>) {
    let (Some(mut stdout), Some(mut stderr)) = (stdout, stderr) else { return };
    let (mut first, mut second) = ([0; 1024], [0; 1024]);
    let (mut out, mut err) = (true, true);
    while out || err {
        let piece: &[u8] = tokio::select! {
            length = stdout.read(&mut first), if out => {
                let length = length.unwrap_or(0);
                out = length > 0;
                &first[..length]
            }
            length = stderr.read(&mut second), if err => {
                let length = length.unwrap_or(0);
                err = length > 0;
                &second[..length]
            }
        };
        output.extend_from_slice(&piece[..piece.len().min(LONGEST - output.len())]);
    }
}
