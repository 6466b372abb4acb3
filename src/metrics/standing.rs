//! Whether backends that are checked serve.

use super::text::{self, Kind};
use super::traffic::Published;
use crate::objects::PortRange;

const NAME: &str = "meshd_backend_up";

/// Of one backend of one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub service: String,
    pub port: PortRange,
    pub backend: String,
    pub serves: bool,
}

pub(super) fn write(out: &mut Vec<u8>, standings: &[Standing]) {
    if !standings.is_empty() {
        text::head(out, NAME, Kind::Gauge, "Whether a backend that is checked gets clients: 1 or 0.");
    }
    for Standing { service, port, backend, serves } in standings {
        let numbers = Published(*port);
        let labels: [(&str, &dyn std::fmt::Display); 4] =
            [("backend", backend), ("port", &numbers), ("protocol", &port.protocol), ("service", service)];
        text::sample(out, NAME, &labels, u8::from(*serves));
    }
}
