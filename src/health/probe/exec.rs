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

use super::{Failure, Memory, failure, line, reason};
use crate::kernel::process::{self, UserIds, is_shortage};
use crate::mesh::ExecProbe;

/// Of the output, that much is kept; the rest is read, so that the program can go on, and forgotten.
const LONGEST: usize = 4 << 10;
/// For the output to end after the program did: whoever left its process group may hold it open.
const LAST_WORDS: Duration = Duration::from_millis(100);

pub(super) async fn probe(probe: &ExecProbe, to: SocketAddr, memory: &mut Memory) -> Result<(), Failure> {
    let Some((program, arguments)) = probe.command.split_first() else { return Err("no command".to_owned().into()) };
    let user = memory.take_user(&probe.user, process::user)?;
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
    let mut running = Running::new(command.spawn().map_err(|error| cannot_run(program, &error))?);
    let (status, output) = running.end().await.map_err(|error| failure(&error))?;
    verdict(status, &line(&output))?;
    memory.user = Some(user);
    Ok(())
}

impl Memory {
    /// Whom a program runs as, looked up if it is not known. It is known again once all has gone well: after a failure the
    /// name may have come to mean another.
    fn take_user(
        &mut self,
        name: &str,
        look_up: impl FnOnce(&str) -> io::Result<Option<UserIds>>,
    ) -> Result<UserIds, Failure> {
        if let Some(user) = self.user.take() {
            return Ok(user);
        }
        let found = look_up(name).map_err(|error| Failure::Unasked(format!("user {name:?}: {}", reason(&error))))?;
        found.ok_or_else(|| format!("there is no user {name:?}").into())
    }
}

fn cannot_run(program: &str, error: &io::Error) -> Failure {
    let why = format!("cannot run {program}: {}", reason(error));
    if is_shortage(error) { Failure::Unasked(why) } else { Failure::Unwell(why) }
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

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: UserIds = UserIds { uid: 0, gid: 0 };

    #[test]
    fn a_user_is_looked_up_once_and_again_after_a_failure() {
        let mut memory = Memory::default();
        let forbidden = |_: &str| -> io::Result<Option<UserIds>> { panic!("it is known") };
        assert_eq!(memory.take_user("root", |_| Ok(Some(ROOT))), Ok(ROOT));
        // Well: it is kept.
        memory.user = Some(ROOT);
        assert_eq!(memory.take_user("root", forbidden), Ok(ROOT));
        // Not well, or not to its end: it is not.
        let other = UserIds { uid: 7, gid: 7 };
        assert_eq!(memory.take_user("root", |_| Ok(Some(other))), Ok(other));
        let none = Failure::Unwell("there is no user \"root\"".to_owned());
        assert_eq!(memory.take_user("root", |_| Ok(None)), Err(none));
        let short = memory.take_user("root", |_| Err(io::Error::from_raw_os_error(24)));
        assert_eq!(short, Err(Failure::Unasked("user \"root\": too many open files".to_owned())));
    }

    /// By fork(2) and execve(2): no more processes, no memory; and what is the program's own fault.
    #[test]
    fn what_this_host_is_short_of_is_not_the_programs_fault() {
        let of = |errno: i32| cannot_run("/bin/check", &io::Error::from_raw_os_error(errno));
        let reason = "cannot run /bin/check: resource temporarily unavailable";
        assert_eq!(of(11), Failure::Unasked(reason.to_owned()));
        assert_eq!(of(12), Failure::Unasked("cannot run /bin/check: cannot allocate memory".to_owned()));
        assert_eq!(of(13), Failure::Unwell("cannot run /bin/check: permission denied".to_owned()));
    }
}
