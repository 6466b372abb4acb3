//! What Prometheus's own tool has to say of the text.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use super::made_up::{everything, text};

/// The directory that has promtool; `None`, and a word about it, where there is none.
fn programs() -> Option<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/prometheus");
    let output = Command::new(script).stdin(Stdio::null()).output().expect("scripts/prometheus runs");
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        assert!(std::env::var_os("CI").is_none(), "{why}");
        println!("skipped: {why}");
        return None;
    }
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[test]
fn promtool_has_no_complaint() {
    let Some(programs) = programs() else { return };
    let mut command = Command::new(format!("{programs}/promtool"));
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = command.spawn().unwrap();
    promtool.stdin.take().unwrap().write_all(text(everything()).as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success() && said.is_empty(), "{}\n{said}", output.status);
}
