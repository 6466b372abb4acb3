//! Explaining a way: the loop looks at the kernel, and a thread beside it asks for single packets, which takes its time.

use std::collections::BTreeMap;

use anyhow::Context;
use tracing::warn;

use super::places::{Place, Places};
use super::reconcile::{Compared, Reconciler};
use crate::control::protocol::Explanation;
use crate::control::{Reply, protocol::Problem};
use crate::dataplane::{encapsulation, overlay_mtu};
use crate::explain::{self, Asked, Known, Serves};
use crate::kernel::Kernel;
use crate::kernel::ask::Asker;
use crate::mesh::{Key, Mesh};

/// At once. Each holds what the kernel has of all ports, and up to 64 threads.
pub static PLACES: Places = Places::new(4);
/// A question may lead to another; no way has more turns.
const ROUNDS: usize = 5;

/// What can be known by one look at the kernel.
pub fn look(
    reconciler: &mut Reconciler,
    kernel: &mut Kernel,
    mesh: &Mesh,
    standings: BTreeMap<Key, (bool, String)>,
) -> anyhow::Result<(Known, Asker)> {
    let Compared { surroundings, wanted, seen } = reconciler.compare(kernel, mesh)?;
    let counters = kernel.counters().context("cannot read the counters")?;
    let serves = counters.into_iter().map(|(key, service)| {
        let one = |(place, of): (_, crate::kernel::ipvs::DestinationCounters)| {
            (place, Serves { active: of.active, inactive: of.inactive })
        };
        (key, service.destinations.into_iter().map(one).collect())
    });
    let known = Known {
        uplinks: surroundings.uplinks.clone(),
        overlay_mtu: overlay_mtu(mesh, &surroundings),
        encapsulation: encapsulation(mesh),
        mesh: mesh.clone(),
        wanted,
        seen,
        serves: serves.collect(),
        standings,
    };
    Ok((known, kernel.asker().context("cannot open the namespaces")?))
}

/// Asks until nothing is left to be asked, or `goes_on` says that nobody waits for it, and says what it comes to.
pub fn finish(known: &Known, asker: &Asker, asked: &Asked, goes_on: impl Fn() -> bool) -> Explanation {
    let mut replies = BTreeMap::new();
    for _ in 0..ROUNDS {
        let questions = explain::questions(known, asked, &replies);
        if questions.is_empty() || !goes_on() {
            break;
        }
        replies.extend(asker.ask(&questions));
    }
    explain::explain(known, asked, &replies)
}

/// The same, on a thread of its own; who asked may have gone by then.
pub fn finish_beside(
    (known, asker): (Known, Asker),
    asked: Asked,
    place: Place,
    reply: Reply<Result<Explanation, Problem>>,
) {
    let work = move || {
        let _place = place;
        let explanation = finish(&known, &asker, &asked, || !reply.is_closed());
        drop(reply.send(Ok(explanation)));
    };
    if let Err(error) = std::thread::Builder::new().name("explain".to_owned()).spawn(work) {
        warn!("nothing is explained: there is no thread to ask: {error}");
    }
}
