//! `client_address` and `mode`: whom a backend sees, and on which nodes a port is published.

use crate::mesh::{Backend, ClientAddress, Mode};
use crate::objects::{PortRange, Protocol};

use super::error::At;
use super::reader::{Section, choice, quoted};

/// What a service or a port says of it, over what it inherits.
#[derive(Clone, Copy)]
pub(super) struct Way {
    client_address: Option<At<ClientAddress>>,
    mode: Option<At<Mode>>,
}

pub(super) fn read(section: &Section<'_>, inherited: Option<&Way>) -> Way {
    let names = choice(ClientAddress::ALL.map(|one| quoted(one.name())));
    let client_address =
        section.text("client_address", names, |text| ClientAddress::ALL.into_iter().find(|one| one.name() == text));
    let names = choice(Mode::ALL.map(|one| quoted(one.name())));
    let mode = section.text("mode", names, |text| Mode::ALL.into_iter().find(|one| one.name() == text));
    Way {
        client_address: client_address.or(inherited.and_then(|way| way.client_address)),
        mode: mode.or(inherited.and_then(|way| way.mode)),
    }
}

impl Way {
    pub fn mode(&self) -> Mode {
        self.mode.map(|mode| mode.value).unwrap_or_default()
    }

    /// What stays on its node needs no other source.
    pub fn client_address(&self) -> ClientAddress {
        let default = if self.mode() == Mode::Host { ClientAddress::Preserve } else { ClientAddress::Snat };
        self.client_address.map_or(default, |given| given.value)
    }

    /// Reports what a port can't have of it.
    pub fn goes_together(&self, section: &Section<'_>, published: PortRange, backends: &[Backend]) {
        if let (Mode::Host, Some(At { value: ClientAddress::Snat, at })) = (self.mode(), self.client_address) {
            let trouble = "`client_address` is \"snat\", but `mode` \"host\" keeps it";
            section.findings.report_once(at, format!("{trouble}; \"preserve\", or `mode` \"ingress\", would do"));
        }
        if self.client_address() == ClientAddress::Snat {
            return;
        }
        let (said, at) = match (self.client_address, self.mode) {
            (Some(given), _) => ("`client_address` is \"preserve\"", given.at),
            (None, Some(mode)) => ("`mode` is \"host\"", mode.at),
            (None, None) => return,
        };
        if published.protocol == Protocol::Sctp {
            let trouble = format!("{said} for port {published}");
            section.findings.report_once(at, format!("{trouble}; tcp and udp ports only would do"));
        }
        // Answers to clients must come back by the node that each came by, and it is the leg that sees to it.
        if let Some(stranger) = backends.iter().find(|backend| backend.netns.is_none()) {
            let trouble =
                format!("{said}, but meshd does not attach backend {}, so its answers would", stranger.address);
            let remedy = match self.mode() {
                Mode::Ingress => "its `netns`, or `client_address` \"snat\", would do",
                Mode::Host => "its `netns`, or `mode` \"ingress\", would do",
            };
            section.findings.report_once(at, format!("{trouble} not find the way back; {remedy}"));
        }
    }
}
