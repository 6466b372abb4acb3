//! The real meshctl against a daemon that says what a test wants. `tests/kernel/meshctl.rs` has the real daemon.

mod changes;
mod documents;
mod failures;
mod fake;
mod graph;
mod looks;
mod terminal;
mod top;
mod ways;
