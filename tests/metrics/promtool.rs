//! What Prometheus's own tool has to say of the text, and of the dashboard's expressions.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use super::dashboard::{dashboard, expressions};
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

/// What it said: nothing, if all is well.
#[track_caller]
fn said(promtool: std::io::Result<Output>) -> String {
    let Output { status, stdout, stderr } = promtool.expect("promtool runs");
    let said = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(status.success(), "{status}\n{said}");
    said
}

#[test]
fn promtool_has_no_complaint() {
    let Some(programs) = programs() else { return };
    let mut command = Command::new(format!("{programs}/promtool"));
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = command.spawn().unwrap();
    promtool.stdin.take().unwrap().write_all(text(everything()).as_bytes()).unwrap();
    assert_eq!(said(promtool.wait_with_output()), "");
}

/// As rules, with Grafana's variables filled in: then promtool reads them.
#[test]
fn the_dashboard_s_expressions_are_promql() {
    let Some(programs) = programs() else { return };
    let dashboard = dashboard();
    let all = expressions(&dashboard).into_iter().filter(|expression| !expression.starts_with("label_values("));
    let rules = all.enumerate().map(|(number, expression)| {
        let expression = expression.replace("$__rate_interval", "1m");
        json!({ "record": format!("panel:{number}"), "expr": expression })
    });
    let rules: Vec<Value> = rules.collect();
    let file = std::env::temp_dir().join(format!("meshd-rules-{}.json", std::process::id()));
    std::fs::write(&file, json!({ "groups": [{ "name": "dashboard", "rules": rules }] }).to_string()).unwrap();
    let said = said(Command::new(format!("{programs}/promtool")).args(["check", "rules"]).arg(&file).output());
    std::fs::remove_file(&file).unwrap();
    assert!(said.contains(&format!("SUCCESS: {} rules found", rules.len())), "{said}");
}
