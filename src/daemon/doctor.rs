//! Examining the host, on a thread beside the loop and with a kernel of its own: it takes its time, and changes nothing.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use tracing::warn;

use super::places::Places;
use crate::control::protocol::Diagnosis;
use crate::control::{Reply, protocol::Problem};
use crate::doctor;
use crate::kernel::{Kernel, Names};
use crate::mesh::Mesh;

/// At once, of whom one is served.
static PLACES: Places = Places::new(4);
/// However many ask, it is looked for one at a time.
static TURN: Mutex<()> = Mutex::new(());

/// Looks, and says what it means. `is_daemon`: this process is the daemon.
pub fn examine(kernel: &mut Kernel, mesh: &Mesh, is_daemon: bool) -> anyhow::Result<Diagnosis> {
    let surroundings = kernel.surroundings(mesh.address).context("cannot look around on this host")?;
    let inquiry = doctor::inquiry(mesh, &surroundings, is_daemon);
    let condition = kernel.condition(&inquiry, surroundings).context("cannot examine this host")?;
    Ok(doctor::diagnose(mesh, &condition))
}

/// The same for the loop's mesh; who asked may have gone by then.
pub fn examine_beside(names: Names, mesh: Arc<Mesh>, reply: Reply<Result<Diagnosis, Problem>>) {
    let Some(place) = PLACES.take() else {
        drop(reply.send(Err(Problem::busy("examinations"))));
        return;
    };
    let work = move || {
        let _place = place;
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        if reply.is_closed() {
            return;
        }
        let opened = Kernel::open(names).context("cannot open the kernel");
        let diagnosis = opened.and_then(|mut kernel| examine(&mut kernel, &mesh, true));
        let unread = |error| Problem::new(500, "the kernel cannot be read", format!("{error:#}"));
        drop(reply.send(diagnosis.map_err(unread)));
    };
    if let Err(error) = std::thread::Builder::new().name("doctor".to_owned()).spawn(work) {
        warn!("nothing is examined: there is no thread to look: {error}");
    }
}
