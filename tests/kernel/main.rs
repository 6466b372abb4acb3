//! meshd on a real kernel, with real traffic. `lab.rs` says how.
//!
//! Tests with `smoke` in their names run on every kernel, the others on the first one of `scripts/test`.

mod balance;
mod bodies;
mod closed;
mod elsewhere;
mod forward;
mod lab;
mod look;
mod metrics;
mod ports;
mod schedulers;
mod takeover;
mod ways;
