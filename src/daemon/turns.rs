//! A backend is something else now: a line in the log, an event and a count.

use std::net::IpAddr;

use tokio::sync::broadcast;
use tracing::{info, warn};

use crate::control::protocol::{Event, PortName};
use crate::mesh::PortRange;
use crate::metrics::Metrics;

pub(super) struct Turn<'a> {
    pub service: &'a str,
    pub port: PortRange,
    pub backend: IpAddr,
    pub from: &'a str,
    pub to: &'a str,
    pub reason: &'a str,
    /// Whether an operator will want to know why.
    pub bad: bool,
}

impl Turn<'_> {
    pub fn tell(&self, events: &broadcast::Sender<Event>, metrics: &Metrics) {
        let Turn { service, from, to, reason, bad, .. } = *self;
        let (port, backend) = (PortName(self.port).to_string(), self.backend.to_string());
        if bad {
            warn!(service, port, backend, "backend is {to}, after {from}: {reason}");
        } else {
            info!(service, port, backend, "backend is {to}, after {from}: {reason}");
        }
        metrics.health_changes.with_label_values(&[to]).inc();
        let owned = str::to_owned;
        let (service, from, to, reason) = (owned(service), owned(from), owned(to), owned(reason));
        // There may be no one.
        drop(events.send(Event::Health { service, port, backend, from, to, reason }));
    }
}
