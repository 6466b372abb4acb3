//! Trying all that is published, on threads beside the loop, which only says what there is.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;
use tracing::warn;

use super::places::{Place, Places};
use crate::check::{Pair, checked, pairs};
use crate::control::protocol::{CheckEvent, CheckQuery};
use crate::kernel::Kernel;
use crate::kernel::ask::Asker;
use crate::mesh::Mesh;
use crate::objects::Netns;

/// At once, each with up to 64 threads.
pub static PLACES: Places = Places::new(2);
/// Who takes nothing for so long listens no more.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(20);

/// All pairs, and who tries them.
pub fn look(kernel: &mut Kernel, mesh: &Mesh, asked: &CheckQuery) -> anyhow::Result<(Vec<Pair>, Asker)> {
    let held = kernel.links().host_addresses().context("cannot list the addresses of the host")?;
    // The gateway's own are no one's business.
    let gateway = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => mesh.gateway.subnet.contains(ip),
        IpAddr::V6(ip) => mesh.gateway.subnet6.contains(ip) || ip.is_unicast_link_local(),
    };
    let addresses: BTreeSet<IpAddr> = held.iter().map(|network| network.ip()).filter(|ip| !gateway(*ip)).collect();
    Ok((pairs(mesh, &addresses, asked), kernel.asker().context("cannot open the namespaces")?))
}

/// Tries them, and tells of each; until all are tried, or nobody listens any more.
pub fn start(pairs: Vec<Pair>, asker: Asker, place: Place, listener: Sender<CheckEvent>) {
    let work = move || {
        let _place = place;
        let tell = |event| tell(&listener, event);
        let tell = &tell;
        if !tell(CheckEvent::Begun { pairs: pairs.len() }) {
            return;
        }
        for from in [Netns::Host, Netns::Sandbox] {
            let some: Vec<&Pair> = pairs.iter().filter(|pair| pair.from == from).collect();
            let targets: Vec<_> = some.iter().map(|pair| (pair.protocol, pair.to)).collect();
            let each = |number: usize, outcome: Option<_>| {
                some.get(number).is_none_or(|pair| tell(CheckEvent::Checked(checked(pair, outcome.as_ref()))))
            };
            if let Err(error) = asker.connect_to_all(from, &targets, &each) {
                tell(CheckEvent::Failed { reason: format!("nothing can be tried from the {from}: {error}") });
                return;
            }
        }
        tell(CheckEvent::Done {});
    };
    if let Err(error) = std::thread::Builder::new().name("check".to_owned()).spawn(work) {
        warn!("nothing is tried: there is no thread for it: {error}");
    }
}

/// Whether it was told; a listener that is slow is waited for, but not without end.
fn tell(listener: &Sender<CheckEvent>, mut event: CheckEvent) -> bool {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        event = match listener.try_send(event) {
            Ok(()) => return true,
            Err(TrySendError::Closed(_)) => return false,
            Err(TrySendError::Full(event)) => event,
        };
        std::thread::sleep(PAUSE);
    }
    false
}
