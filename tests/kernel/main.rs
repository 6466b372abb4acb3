//! meshd on a real kernel, with real traffic. `lab.rs` says how.
//!
//! Tests with `smoke` in their names run on every kernel, the others on the first one of `scripts/test`.

mod attach;
mod balance;
mod bodies;
mod caps;
mod clashes;
mod cleanup;
mod closed;
mod control;
mod control_changes;
mod control_events;
mod control_limits;
mod control_many;
mod crash;
mod drain;
mod elsewhere;
mod encryption;
mod foreign;
mod forward;
mod health;
mod lab;
mod look;
mod meshctl;
mod metrics;
mod nodes;
mod openapi;
mod paths;
mod ports;
mod preserve;
mod prometheus;
mod publish;
mod reload;
mod repair;
mod replaced;
mod restart;
mod schedulers;
mod scrapes;
mod second;
mod segments;
mod spread;
mod takeover;
mod usage;
mod ways;
