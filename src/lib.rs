//! meshd: a routing-mesh load balancer for Linux. A client connects to any node at a published port and
//! reaches a healthy backend wherever it runs.
//!
//! ```text
//! text ──► Config ──► Mesh ──► Objects (wanted) ─┐
//!                                                ├─► diff ──► Plan ──► apply ──► kernel
//! kernel ──────────► observe ─► Objects (seen) ──┘
//! ```
//!
//! - [`config`] reads text and says what is wrong with it, with line and column.
//! - [`mesh`] is what the operator means: services, published ports, backends.
//! - [`dataplane`] is a pure function from a mesh to the [`objects`] that the kernel has to hold.
//! - [`plan`] is the difference between the objects seen and those wanted, as ordered steps.
//! - [`change`] is that difference for what changed alone, without a look at the kernel.
//! - [`kernel`] observes objects and applies steps. It alone talks to the kernel.
//! - [`health`] asks backends whether they can serve; [`share`] makes of that who gets how
//!   many clients, and [`drain`] gives those that leave the time they need.
//! - [`source`] is where intent comes from, the file and the control socket; [`control`] is that socket.
//! - [`explain`] takes the way of one packet, and says what is missing on it; [`check`] tries all that is published.
//! - [`doctor`] says what is wrong with the host, or may be.
//! - [`daemon`] is the loop around all that, the only owner of a kernel; [`metrics`] tells what happened.
//!
//! Wanted and seen are the same type. So teardown is the difference to nothing, a dry run is a printed
//! plan, and adopting what a crashed daemon left behind is no special case.
//!
//! `change`, `check`, `config`, `mesh`, `dataplane`, `doctor`, `drain`, `explain`, `objects`, `plan` and `share` are pure: no clock, no file, no socket, no log.
//! `tests/layers.rs` holds the house to that.

#![forbid(unsafe_code)]

pub mod change;
pub mod check;
pub mod config;
pub mod control;
pub mod daemon;
pub mod dataplane;
pub mod doctor;
pub mod drain;
pub mod explain;
pub mod health;
pub mod kernel;
pub mod mesh;
pub mod metrics;
pub mod objects;
pub mod plan;
pub mod share;
pub mod source;
