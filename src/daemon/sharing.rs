//! Who gets how many of the clients, from one look to the next: the rule of [`share`] with a clock and a memory.

use std::sync::Arc;
use std::time::Instant;

use super::checks::Checks;
use crate::mesh::Mesh;
use crate::share::{self, Helped};

#[derive(Default)]
pub(super) struct Sharing {
    helped: Helped,
    decided: Option<Decided>,
}

/// For that mesh, with what was known of its backends then.
struct Decided {
    of: Arc<Mesh>,
    version: u64,
    mesh: Arc<Mesh>,
    until: Option<Instant>,
}

impl Decided {
    fn holds(&self, mesh: &Arc<Mesh>, checks: &Checks) -> bool {
        let lasts = self.until.is_none_or(|until| Instant::now() < until);
        Arc::ptr_eq(&self.of, mesh) && self.version == checks.version() && lasts
    }

    /// Whether there was nothing to decide.
    fn is_without_choice(&self) -> bool {
        Arc::ptr_eq(&self.of, &self.mesh)
    }
}

impl Sharing {
    /// The mesh with the weights that its backends have now.
    pub fn of(&mut self, mesh: &Arc<Mesh>, checks: &Checks) -> Arc<Mesh> {
        if let Some(decided) = self.decided.as_ref().filter(|decided| decided.holds(mesh, checks)) {
            return decided.mesh.clone();
        }
        if let Some(before) = self.decided.take()
            && before.is_without_choice()
            && mesh.differing(&before.of).is_some_and(|of| !of.new.iter().any(|service| share::concerns(service)))
        {
            let decided = Decided { of: mesh.clone(), version: checks.version(), mesh: mesh.clone(), until: None };
            return self.decided.insert(decided).mesh.clone();
        }
        let shares = share::shares(mesh, checks, &mut self.helped);
        let until = shares.lasts.map(|lasts| Instant::now() + lasts);
        let decided = Decided { of: mesh.clone(), version: checks.version(), mesh: shares.mesh, until };
        self.decided.insert(decided).mesh.clone()
    }

    /// As [`of`](Sharing::of), but nothing follows from it.
    pub fn preview(&self, mesh: &Arc<Mesh>, checks: &Checks) -> Arc<Mesh> {
        match &self.decided {
            Some(decided) if decided.holds(mesh, checks) => decided.mesh.clone(),
            _ => share::shares(mesh, checks, &mut self.helped.clone()).mesh,
        }
    }

    /// When to decide again, though nothing else changes.
    pub fn due(&self) -> Option<Instant> {
        self.decided.as_ref()?.until
    }

    /// Has it decided again at the next look, if it is time; whether it is.
    pub fn lapse(&mut self, now: Instant) -> bool {
        let is_due = self.due().is_some_and(|due| due <= now);
        if is_due {
            self.decided = None;
        }
        is_due
    }
}
