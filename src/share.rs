//! Which of a port's backends get new clients now, and how large a share: by what is known of who is well.
//!
//! The rule, without clock or kernel. Who gets none for now has weight 0: whoever is with it stays. Each family is decided by
//! itself, as it is to IPVS.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::mesh::{Backend, BackendState, Family, Key, Mark, Mesh, Port, Prefer, Service};

/// A weight rises in so many steps.
const STEPS: u32 = 10;
/// ipvsadm's limit.
const HEAVIEST: u32 = 65535;

/// Ports whose backups help now.
pub type Helped = BTreeSet<(Mark, Family)>;

/// What is known of backends.
pub trait Health {
    /// Whether one can serve.
    fn serves(&self, key: &Key) -> bool;
    /// How long it has been up, if it came up and was not simply there.
    fn up_for(&self, key: &Key) -> Option<Duration>;
}

/// What was decided.
pub struct Shares {
    /// With the weights that backends have now.
    pub mesh: Arc<Mesh>,
    /// How long that holds if nobody's health changes; `None`: for ever.
    pub lasts: Option<Duration>,
}

/// Decides for all ports. `helped` is what was decided last, and is moved on.
pub fn shares(mesh: &Arc<Mesh>, health: &impl Health, helped: &mut Helped) -> Shares {
    let before = std::mem::take(helped);
    if !mesh.services.iter().any(|service| concerns(service)) {
        return Shares { mesh: mesh.clone(), lasts: None };
    }
    let mut shared = mesh.as_ref().clone();
    let mut lasts: Option<Duration> = None;
    let concerned = shared.services.iter_mut().filter(|service| concerns(service));
    for port in concerned.flat_map(|service| &mut Arc::make_mut(service).ports).filter(|port| is_concerned(port)) {
        for family in Family::ALL {
            let place = (port.mark(), family);
            let mut candidates = candidates(mesh, port, family, health);
            if helps(port, &candidates, before.contains(&place)) {
                helped.insert(place);
            } else {
                candidates.iter_mut().filter(|one| one.backup).for_each(Candidate::rest);
            }
            prefer(port.spread.prefer, &mut candidates);
            let until = rise(port.spread.slow_start, &mut candidates);
            lasts = lasts.into_iter().chain(until).min();
            for Candidate { place, share, .. } in candidates {
                port.backends[place].weight = share;
            }
        }
    }
    Shares { mesh: Arc::new(shared), lasts }
}

/// Whether there is anything to decide for that service.
pub fn concerns(service: &Service) -> bool {
    service.ports.iter().any(is_concerned)
}

fn is_concerned(port: &Port) -> bool {
    let spread = &port.spread;
    spread.prefer != Prefer::Any || !spread.slow_start.is_zero() || port.backends.iter().any(|backend| backend.backup)
}

/// One that the operator lets serve.
struct Candidate {
    /// In the list of the port's backends.
    place: usize,
    weight: u32,
    backup: bool,
    local: bool,
    well: bool,
    up_for: Option<Duration>,
    /// Its weight, as it will be.
    share: u32,
}

impl Candidate {
    fn rest(&mut self) {
        self.share = 0;
    }

    fn works(&self) -> bool {
        self.well && self.share > 0
    }
}

fn candidates(mesh: &Mesh, port: &Port, family: Family, health: &impl Health) -> Vec<Candidate> {
    let mark = port.mark();
    let enabled = |backend: &Backend| backend.state == BackendState::Enabled && backend.weight > 0;
    let here = |backend: &Backend| mesh.sends_to(port, backend) && Family::of(&backend.address) == family;
    let all = port.backends.iter().enumerate().filter(|(_, backend)| enabled(backend) && here(backend));
    all.map(|(place, backend)| Candidate {
        place,
        weight: backend.weight,
        backup: backend.backup,
        local: mesh.is_local(backend),
        well: health.serves(&(mark, backend.address)),
        up_for: health.up_for(&(mark, backend.address)),
        share: backend.weight,
    })
    .collect()
}

/// Whether backups are to help; `before`: whether they did.
fn helps(port: &Port, candidates: &[Candidate], before: bool) -> bool {
    let others = || candidates.iter().filter(|one| !one.backup);
    let all: u64 = others().map(|one| u64::from(one.weight)).sum();
    let up: u64 = others().filter(|one| one.well).map(|one| u64::from(one.weight)).sum();
    let quorum = port.spread.quorum;
    let more = if before && quorum.percent > 0 { quorum.hysteresis } else { 0 };
    let needed = u64::from(quorum.percent.saturating_add(more).min(100));
    up == 0 || up * 100 < all * needed
}

fn prefer(prefer: Prefer, candidates: &mut [Candidate]) {
    // A backup that helps is no reason for others to rest, unless it is alone with its kind.
    let only_backups = !candidates.iter().any(|one| !one.backup && one.works());
    let counts = |one: &Candidate| one.local && one.works() && (only_backups || !one.backup);
    if prefer == Prefer::Local && candidates.iter().any(counts) {
        candidates.iter_mut().filter(|one| !one.local).for_each(Candidate::rest);
    }
}

/// Lowers the shares of those that have just come up; how long until the next of them rises.
fn rise(slow_start: Duration, candidates: &mut [Candidate]) -> Option<Duration> {
    let step = slow_start / STEPS;
    if step.is_zero() {
        return None;
    }
    let steps = |one: &Candidate| {
        let up_for = one.up_for.filter(|_| one.works())?;
        let passed = u32::try_from(up_for.as_nanos() / step.as_nanos()).unwrap_or(STEPS);
        (passed + 1 < STEPS).then(|| (passed + 1, (passed + 1) * step - up_for))
    };
    let rising: Vec<Option<(u32, Duration)>> = candidates.iter().map(steps).collect();
    let soonest = rising.iter().flatten().map(|(_, left)| *left).min()?;
    // A weight of 1 has no tenth: for the time being all are ten times as heavy.
    let fits = candidates.iter().all(|one| one.share.saturating_mul(STEPS) <= HEAVIEST);
    for (one, rising) in candidates.iter_mut().zip(rising) {
        let tenths = rising.map_or(STEPS, |(passed, _)| passed);
        one.share = match one.share {
            0 => 0,
            share if fits => share * tenths,
            share => (share * tenths / STEPS).max(1),
        };
    }
    Some(soonest)
}
