//! What Prometheus gets, without a kernel: the text of made-up counters, the listener that sends it, and the
//! dashboard and the README that name what is in it.

mod dashboard;
mod format;
mod listener;
mod made_up;
mod pieces;
mod promtool;
mod properties;
mod readme;
