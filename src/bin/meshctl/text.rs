//! What the daemon answers, as people read it.

pub mod check;
pub mod doctor;
pub mod event;
pub mod explain;
pub mod service;
pub mod status;

/// What is wrong, in one line below another.
fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}
