//! meshctl, as an operator types it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use super::Lab;

fn program() -> PathBuf {
    match std::env::var_os("MESHD_BIN_DIR") {
        Some(directory) => Path::new(&directory).join("meshctl"),
        None => env!("CARGO_BIN_EXE_meshctl").into(),
    }
}

/// What it said, and how it ended.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Said {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Said { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
    }
}

impl Lab {
    /// A line after `meshctl`, its words divided by blanks; it may fail.
    pub fn try_meshctl(&self, line: &str) -> Said {
        self.node.output(self.command(line).stdin(Stdio::null())).into()
    }

    /// A line that must succeed; answers what it printed.
    pub fn meshctl(&self, line: &str) -> String {
        let said = self.try_meshctl(line);
        assert_eq!(said.code, Some(0), "meshctl {line}: {said:?}");
        said.out
    }

    /// The same with `-o json`.
    pub fn meshctl_json(&self, line: &str) -> Value {
        let text = self.meshctl(&format!("{line} -o json"));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("meshctl {line}: {error}\n{text}"))
    }

    /// The line as a user who is nobody.
    pub fn meshctl_as_nobody(&self, line: &str) -> Said {
        let program = program().display().to_string();
        let socket = self.socket().display().to_string();
        let line = format!("setpriv --reuid 65534 --regid 65534 --clear-groups {program} --socket {socket} {line}");
        self.node.try_run(&line).into()
    }

    /// It runs on; what it prints can be had when it has ended.
    pub fn meshctl_beside(&self, line: &str) -> Child {
        let mut command = self.command(line);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.node.within(|| command.spawn()).expect("meshctl starts")
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(program());
        command.env("MESHCTL_SOCKET", self.socket()).args(line.split_whitespace());
        command
    }
}
