//! Making the kernel what is wanted, and saying so once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tracing::{debug, error, info, warn};

use super::quarrel::{News, Quarrel};
use crate::change::{self, Change};
use crate::dataplane::{self, Stayer};
use crate::kernel::ipvs::connections::Place;
use crate::kernel::{self, Errno, Kernel};
use crate::mesh::{Dataplane, Mesh, Port};
use crate::metrics::Metrics;
use crate::objects::{FLOWS, LinkKind, Mark, Objects, Opening, Surroundings};
use crate::plan::{self, Plan, Step};

/// Plans longer than that are logged as their number, their steps only at `debug`.
const SPELLED_OUT: usize = 50;
/// Between two looks at a kernel that is as wanted.
const PACE: Duration = Duration::from_secs(5);
/// A look takes no more than this share of the time: with many ports looks are further apart.
const SHARE: u32 = 50;
/// The same while the kernel keeps telling of changes.
const HURRIED_SHARE: u32 = 4;
/// So many looks in a row only glance at IPVS (see [`kernel::ipvs::listing`]); the next one sees thresholds and flags, too.
const GLANCES: u32 = 3;
/// Changes come in swarms: a word of one is followed at once, those after it so long after the look.
const SETTLE: Duration = Duration::from_millis(200);
/// So long the chain of a firewall that has ceased to drop is kept open.
const LINGER: Duration = Duration::from_secs(15);
/// After a failure the next look comes after the first of these, and then after twice as long, up to the second.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);
/// Removing everything may need another look, where one thing held another.
const PASSES: usize = 3;

/// What is remembered from one look to the next.
#[derive(Debug, Default)]
pub struct Reconciler {
    started: bool,
    /// What failed last time, so that the same is not said again and again.
    failures: Vec<String>,
    /// The steps that failed.
    unfinished: Vec<Step>,
    /// Those of them that nobody had asked for.
    drifting: Vec<Step>,
    /// How often in a row something failed.
    tries: u32,
    /// The last look, without what was done about it.
    took: Duration,
    /// What the kernel holds, as far as we know: nothing, where something failed.
    held: Option<Held>,
    /// Chains of others that drop what nobody accepts, when last seen.
    drops: BTreeSet<Opening>,
    /// Those that did so not long ago, and when last.
    dropped: BTreeMap<Opening, Instant>,
    /// The host's links, when last seen.
    uplinks: Option<BTreeSet<String>>,
    /// Looks in a row that were not close.
    glances: u32,
    /// Changes since the last look may have left something that nobody needs.
    left: bool,
    quarrel: Quarrel,
    /// Who has connections by the data plane that does not balance any more, and until when they may go on.
    outgoing: BTreeMap<Stayer, Instant>,
    /// The one that does.
    dataplane: Dataplane,
    /// All that is not as wanted is what someone undoes every time: when it is mended again.
    waits: Option<Instant>,
}

/// What the last look or change came to.
#[derive(Debug)]
struct Held {
    mesh: Arc<Mesh>,
    surroundings: Surroundings,
    frame: Objects,
}

/// What is wanted, and what is there.
#[derive(Debug)]
pub struct Compared {
    pub surroundings: Surroundings,
    pub wanted: Objects,
    pub seen: Objects,
}

/// What a look came to.
#[derive(Debug, Default)]
pub struct Report {
    /// One line for each step that failed.
    pub failures: Vec<String>,
    /// The kernel could not be read, for that reason: nothing was done.
    pub blind: Option<String>,
    /// Those that were done.
    pub steps: usize,
    /// Those of them that mended what others had changed.
    pub mended: Vec<String>,
    pub took: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Clean,
    Changed,
    /// Some step, or the look itself.
    Failed,
}

impl Outcome {
    fn label(self) -> &'static str {
        match self {
            Outcome::Clean => "clean",
            Outcome::Changed => "changed",
            Outcome::Failed => "failed",
        }
    }
}

impl Reconciler {
    /// Looks at the kernel, does what is missing, and tells the log and the metrics.
    /// `asked`: something else is wanted since the last look, so what is to be done is no one's fault.
    pub fn reconcile(&mut self, kernel: &mut Kernel, mesh: &Arc<Mesh>, metrics: &Metrics, asked: bool) -> Report {
        let start = Instant::now();
        let (outcome, mut report) = self.converge(kernel, mesh, metrics, asked).unwrap_or_else(|error| {
            let failure = format!("cannot compare the kernel with what is wanted: {error:#}");
            error!("{failure}");
            self.tries += 1;
            (Outcome::Failed, Report { blind: Some(failure), ..Report::default() })
        });
        report.took = start.elapsed();
        metrics.last_duration.set(report.took.as_secs_f64());
        metrics.reconciles.with_label_values(&[outcome.label()]).inc();
        if outcome != Outcome::Failed {
            metrics.last_success.set(unix_time());
        }
        report
    }

    /// What would be done for that mesh now.
    pub fn plan(&mut self, kernel: &mut Kernel, mesh: &Mesh) -> anyhow::Result<Plan> {
        let Compared { wanted, seen, .. } = self.compare(kernel, mesh)?;
        Ok(plan::diff(&seen, &wanted))
    }

    /// What is wanted for that mesh now, and what the kernel has of it.
    pub fn compare(&mut self, kernel: &mut Kernel, mesh: &Mesh) -> anyhow::Result<Compared> {
        let surroundings = self.look_around(kernel, mesh)?;
        let mut wanted = dataplane::objects(mesh, &surroundings);
        let seen = kernel.observe(&wanted, true).context("cannot read what the kernel holds")?;
        let (_, staying) = self.stay(kernel, mesh, &seen, &wanted);
        dataplane::keep(mesh, &seen, &staying, &mut wanted);
        self.keep_open(&seen, &mut wanted, mesh, Instant::now());
        Ok(Compared { surroundings, wanted, seen })
    }

    /// Does what has changed since the last look or change, without a look. `None`: that takes one.
    pub fn change(&mut self, kernel: &mut Kernel, mesh: &Arc<Mesh>, metrics: &Metrics) -> Option<Report> {
        let start = Instant::now();
        let held = self.held.as_mut().filter(|_| self.unfinished.is_empty())?;
        let Change { plan, leaves } = change::plan(&held.mesh, mesh, &held.surroundings, &held.frame)?;
        held.mesh = mesh.clone();
        self.left |= leaves;
        if plan.is_empty() {
            return Some(Report { took: start.elapsed(), ..Report::default() });
        }
        announce(&plan, &[], &[]);
        let (failed, report) = self.carry_out(kernel, &plan, mesh, metrics, Vec::new());
        let outcome = if failed { Outcome::Failed } else { Outcome::Changed };
        metrics.reconciles.with_label_values(&[outcome.label()]).inc();
        Some(Report { took: start.elapsed(), ..report })
    }

    fn converge(
        &mut self,
        kernel: &mut Kernel,
        mesh: &Arc<Mesh>,
        metrics: &Metrics,
        asked: bool,
    ) -> anyhow::Result<(Outcome, Report)> {
        let start = Instant::now();
        self.held = None;
        self.waits = None;
        let surroundings = self.look_around(kernel, mesh)?;
        let mut wanted = dataplane::objects(mesh, &surroundings);
        let closely = asked || !self.started || !self.unfinished.is_empty() || self.glances >= GLANCES;
        self.glances = if closely { 0 } else { self.glances + 1 };
        let seen = kernel.observe(&wanted, closely).context("cannot read what the kernel holds")?;
        let switching = self.switch(kernel, mesh, &seen, &mut wanted);
        self.keep_open(&seen, &mut wanted, mesh, start);
        let mut plan = plan::diff(&seen, &wanted);
        plan.hold_no_more(&self.unfinished);
        self.waits = if asked { None } else { self.quarrel.waits(&plan, SETTLE, PACE).filter(|until| *until > start) };
        if self.waits.is_some() {
            // There is nothing else to do.
            self.took = start.elapsed();
            return Ok((Outcome::Clean, Report::default()));
        }
        // Without what is then done: that comes once, and the kernel may have modules to load for it.
        self.took = start.elapsed();
        announce(&plan, &self.unfinished, &self.quarrel.steps());
        let outcome = if plan.is_empty() { Outcome::Clean } else { Outcome::Changed };
        let left = std::mem::take(&mut self.left);
        let moved = self.uplinks.replace(surroundings.uplinks.clone()).is_some_and(|past| past != surroundings.uplinks);
        let drift = self.drift(&plan, metrics, |step| {
            // What is a port's own goes with it, and is never left. Links of the host's come and go.
            asked
                || switching
                || left && !matches!(step.kind(), "service" | "backend" | "port")
                || moved && is_of_flows(step)
        });
        self.take_over_later(&mut plan, &wanted);
        // While two data planes are there, it takes a look to know what is to be done.
        let settled = self.outgoing.is_empty();
        self.held = settled.then(|| Held { mesh: mesh.clone(), surroundings, frame: change::frame(wanted) });
        let (failed, report) = self.carry_out(kernel, &plan, mesh, metrics, drift);
        Ok((if failed { Outcome::Failed } else { outcome }, report))
    }

    /// Has connections of the data plane before go on; whether that has changed.
    fn switch(&mut self, kernel: &mut Kernel, mesh: &Mesh, seen: &Objects, wanted: &mut Objects) -> bool {
        if std::mem::replace(&mut self.dataplane, mesh.dataplane) != mesh.dataplane {
            // They are others now, or the same by another one.
            self.outgoing.clear();
        }
        let (outgoing, staying) = self.stay(kernel, mesh, seen, wanted);
        dataplane::keep(mesh, seen, &staying, wanted);
        let before = std::mem::replace(&mut self.outgoing, outgoing);
        let (now, other) = (mesh.dataplane, mesh.dataplane.other());
        match (before.is_empty(), self.outgoing.is_empty()) {
            (true, false) => {
                info!("{now} balances now; connections that {other} has go on, as those of drained backends do")
            }
            (false, true) => info!("connections that {other} had are over"),
            _ => {}
        }
        !before.is_empty() || !self.outgoing.is_empty()
    }

    /// Who has connections by the data plane before, and until when they may go on; and those of them who still may.
    fn stay(
        &self,
        kernel: &mut Kernel,
        mesh: &Mesh,
        seen: &Objects,
        wanted: &Objects,
    ) -> (BTreeMap<Stayer, Instant>, BTreeSet<Stayer>) {
        let all = dataplane::outgoing(mesh, seen, wanted);
        if all.is_empty() {
            return Default::default();
        }
        let now = Instant::now();
        let ports: BTreeMap<Mark, &Port> = mesh.ports().map(|port| (port.mark(), port)).collect();
        let place = |(key, place): &Stayer| {
            let port = ports.get(&key.mark)?;
            Some(Place { published: port.published, address: place.address, port: port.target })
        };
        let places: BTreeSet<Place> = all.iter().filter_map(place).collect();
        let open = match mesh.dataplane {
            Dataplane::Ipvs => kernel.open_by_nftables(&places),
            Dataplane::Nftables => kernel.open_by_ipvs(&places),
        };
        let open = open.unwrap_or_else(|error| {
            warn!("cannot tell which connections are open: {error}");
            BTreeMap::new()
        });
        let (mut outgoing, mut staying) = (BTreeMap::new(), BTreeSet::new());
        for stayer in all {
            let known = self.outgoing.get(&stayer).copied();
            // Until the new plane balances, who has none may get one.
            let over = known.is_some() && place(&stayer).and_then(|place| open.get(&place)) == Some(&Some(0));
            let grace = ports.get(&stayer.0.mark).map(|port| port.grace()).unwrap_or_default();
            // Whose time is over is known as long as it is there: it may take more than one try to have it go.
            let until = *outgoing.entry(stayer).or_insert(known.unwrap_or(now + grace));
            if !over && until > now {
                staying.insert(stayer);
            }
        }
        (outgoing, staying)
    }

    /// What the data plane before still has to do, in a line.
    pub fn outgoing(&self, mesh: &Mesh) -> Option<String> {
        let last = self.outgoing.values().max()?.saturating_duration_since(Instant::now()).as_secs();
        let (now, other) = (mesh.dataplane, mesh.dataplane.other());
        let backends = self.outgoing.len();
        Some(format!(
            "{now} balances now; {other} keeps the connections of backends ({backends}) that it has, {last} s at most"
        ))
    }

    fn look_around(&mut self, kernel: &mut Kernel, mesh: &Mesh) -> anyhow::Result<Surroundings> {
        let surroundings = kernel.surroundings(mesh.address).context("cannot look around on this host")?;
        self.drops.clone_from(&surroundings.forward_drops);
        Ok(surroundings)
    }

    /// A firewall that is loaded anew drops nothing for a moment: what was opened stays, so that clients pass when it drops again.
    fn keep_open(&mut self, seen: &Objects, wanted: &mut Objects, mesh: &Mesh, now: Instant) {
        self.dropped.extend(self.drops.iter().map(|chain| (chain.clone(), now)));
        self.dropped.retain(|_, last| mesh.gateway.open_forward && now.duration_since(*last) < LINGER);
        wanted.openings.extend(seen.openings.iter().filter(|chain| self.dropped.contains_key(chain)).cloned());
    }

    /// Does the steps; `drift`: those of them that nobody asked for. Whether any failed.
    fn carry_out(
        &mut self,
        kernel: &mut Kernel,
        plan: &Plan,
        mesh: &Mesh,
        metrics: &Metrics,
        drift: Vec<Step>,
    ) -> (bool, Report) {
        let (unfinished, failures): (Vec<Step>, Vec<String>) = carry_out(kernel, plan, mesh).into_iter().unzip();
        if let Err(error) = kernel.forget_strays() {
            debug!("clients of slots that are closed are forgotten later: {:#}", anyhow::Error::from(error));
        }
        self.unfinished = unfinished;
        metrics.steps.with_label_values(&["failed"]).inc_by(failures.len() as u64);
        let steps = plan.steps.len() - failures.len();
        metrics.steps.with_label_values(&["done"]).inc_by(steps as u64);
        let (drifting, mended): (Vec<Step>, Vec<Step>) =
            drift.into_iter().partition(|step| self.unfinished.contains(step));
        self.drifting = drifting;
        mended.iter().for_each(|step| metrics.drift_repaired.with_label_values(&[step.kind()]).inc());
        self.watch_quarrel(plan, &mended, metrics);
        let mended = mended.iter().map(first_line).collect();
        self.remember(failures.clone());
        let failed = !failures.is_empty();
        if failed {
            self.held = None;
        }
        (failed, Report { failures, steps, mended, ..Report::default() })
    }

    /// The steps that nobody asked for. Each is counted once, however often it is tried.
    fn drift(&self, plan: &Plan, metrics: &Metrics, excused: impl Fn(&Step) -> bool) -> Vec<Step> {
        let is_drift = |step: &&Step| self.drifting.contains(step) || !excused(step) && !self.unfinished.contains(step);
        let drift: Vec<Step> = plan.steps.iter().filter(is_drift).cloned().collect();
        let news = drift.iter().filter(|step| !self.drifting.contains(step));
        news.for_each(|step| metrics.drift_found.with_label_values(&[step.kind()]).inc());
        drift
    }

    fn watch_quarrel(&mut self, plan: &Plan, mended: &[Step], metrics: &Metrics) {
        let contested = self.quarrel.steps();
        // Where something else is wanted, too, what others changed is not told from that: but this is known.
        let is_known =
            |step: &&Step| contested.contains(step) && !mended.contains(step) && !self.unfinished.contains(step);
        let fought = plan.steps.iter().filter(is_known).chain(mended);
        let news = self.quarrel.note(fought, self.pause(), Instant::now());
        let steps = self.quarrel.steps();
        metrics.drift_contested.set(steps.len() as i64);
        match (news, steps.first()) {
            (Some(News::Begun), Some(first)) => warn!(
                rounds = self.quarrel.rounds(),
                "someone undoes what is mended, every time: {}{}; it is mended again and again, more and more slowly. Who else \
                 manages that here? (`nft monitor`, `ip monitor all`)",
                first_line(first),
                if steps.len() > 1 { ", and more" } else { "" }
            ),
            (Some(News::Over), _) => info!("nobody undoes any more what is mended"),
            _ => {}
        }
    }

    /// A take-over leaves nothing that could be seen. So those that failed are tried again, and at the start all
    /// are done: the one before us may have ended between a port's publishing and its take-over.
    fn take_over_later(&mut self, plan: &mut Plan, wanted: &Objects) {
        let is_take_over = |step: &Step| matches!(step, Step::TakeOver { .. });
        let due = if self.started {
            self.unfinished.iter().filter(|step| is_take_over(step)).cloned().collect()
        } else {
            plan.steps.retain(|step| !is_take_over(step));
            plan::take_overs(wanted)
        };
        plan.steps.extend(due);
        self.started = true;
    }

    fn remember(&mut self, failures: Vec<String>) {
        if failures.is_empty() {
            if self.tries > 0 {
                info!("all is as wanted again");
            }
            self.tries = 0;
        } else {
            self.tries += 1;
            let news = failures.iter().filter(|failure| !self.failures.contains(failure));
            let told = news.take(SPELLED_OUT).inspect(|failure| error!("{failure}")).count();
            if failures.len() > told {
                debug!(failed = failures.len(), tries = self.tries, "failed again");
            }
        }
        self.failures = failures;
    }

    /// What failed may have become possible: the backoff begins anew.
    pub fn try_again_soon(&mut self) {
        self.tries = self.tries.min(1);
    }

    /// Of each thing that someone undoes as often as it is mended, a line.
    pub fn contested(&self) -> Vec<String> {
        self.quarrel.steps().iter().map(first_line).collect()
    }

    /// Chains of others that drop what nobody accepts.
    pub fn drops(&self) -> &BTreeSet<Opening> {
        &self.drops
    }

    /// What the look cost besides.
    pub fn also_took(&mut self, took: Duration) {
        self.took += took;
    }

    /// How long until the next look.
    pub fn pause(&self) -> Duration {
        if self.tries == 0 {
            // Connections of the data plane before end by the moment.
            let share = if self.outgoing.is_empty() { SHARE } else { HURRIED_SHARE };
            return PACE.max(self.took * share);
        }
        let doubled = FIRST_RETRY * 2u32.saturating_pow((self.tries - 1).min(10));
        doubled.min(LAST_RETRY)
    }
}

/// When to look next.
pub struct Pace {
    looked: Instant,
    /// When the kernel told of a change, first since the last look.
    told: Option<Instant>,
    /// When it was known what is to be done, first since the last look.
    asked: Option<Instant>,
}

impl Pace {
    pub fn new(now: Instant) -> Pace {
        Pace { looked: now, told: None, asked: None }
    }

    pub fn looked(&mut self, now: Instant) {
        *self = Pace::new(now);
    }

    /// What was known that it is to be done is done.
    pub fn done(&mut self) {
        self.asked = None;
    }

    /// Whether the kernel told of a change since the last look, and another look takes no more than its share of the time.
    pub fn may_see(&self, reconciler: &Reconciler, now: Instant) -> bool {
        self.told.is_some() && self.looked + reconciler.took * HURRIED_SHARE <= now
    }

    /// Whether it is time to look, whatever else there is to do.
    pub fn is_due(&self, reconciler: &Reconciler, now: Instant) -> bool {
        Pace { asked: None, ..*self }.next(reconciler) <= now
    }

    /// There is something to see.
    pub fn hurry(&mut self, now: Instant) {
        self.told.get_or_insert(now);
    }

    /// There is something to do, and nothing more to wait for.
    pub fn at_once(&mut self, now: Instant) {
        self.asked.get_or_insert(now);
    }

    pub fn next(&self, reconciler: &Reconciler) -> Instant {
        let in_turn = self.looked + reconciler.pause();
        // However often it is told: a look takes no more than its share of the time.
        let apart = SETTLE.max(reconciler.took * HURRIED_SHARE);
        let soon = self.told.map(|told| told.max(self.looked + apart));
        let at_once = self.asked.map(|asked| asked.max(self.looked + reconciler.took));
        [Some(in_turn), soon, at_once, reconciler.waits].into_iter().flatten().min().unwrap_or(in_turn)
    }
}

fn is_of_flows(step: &Step) -> bool {
    match step {
        Step::AddFlows { .. } | Step::DeleteFlows { .. } => true,
        Step::SetChain { name, .. } | Step::DeleteChain { name, .. } => name == FLOWS,
        _ => false,
    }
}

/// Says what will be done. What failed last time and is tried again is no news, nor what someone undoes every time.
fn announce(plan: &Plan, unfinished: &[Step], contested: &[Step]) {
    if plan.steps.len() > SPELLED_OUT && plan.steps.len() > unfinished.len() {
        info!(steps = plan.steps.len(), "changing the kernel");
    }
    for step in &plan.steps {
        if plan.steps.len() > SPELLED_OUT || unfinished.contains(step) || contested.contains(step) {
            debug!("{step}");
        } else {
            info!("{step}");
        }
    }
}

/// Does the steps; those that failed, each with one line that says why, and what to do where that is known.
fn carry_out(kernel: &mut Kernel, plan: &Plan, mesh: &Mesh) -> Vec<(Step, String)> {
    let outcomes = kernel.apply(&plan.steps);
    if outcomes.iter().all(Result::is_ok) {
        return Vec::new();
    }
    let names = mesh.names();
    let failed = plan.steps.iter().zip(outcomes).filter_map(|(step, outcome)| Some((step, outcome.err()?)));
    failed
        .map(|(step, error)| {
            let service = mark_of(step).and_then(|mark| names.get(&mark)).map(|name| format!(" (service {name})"));
            let first_line = first_line(step);
            let hint = hint(step, &error).map(|hint| format!("; {hint}")).unwrap_or_default();
            let line =
                format!("cannot {first_line}{}: {:#}{hint}", service.unwrap_or_default(), anyhow::Error::from(error));
            (step.clone(), line)
        })
        .collect()
}

/// A chain's step lists its rules, too.
fn first_line(step: &Step) -> String {
    step.to_string().lines().next().unwrap_or_default().to_owned()
}

pub fn unix_time() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// What an operator can do about it, where that is known.
fn hint(step: &Step, error: &kernel::Error) -> Option<String> {
    match (step, error.errno()?) {
        (Step::OpenForward(opening), Errno::EPERM) => Some(format!(
            "the table has an owner that lets no one else in: tell that to accept what {} forwards, or set [gateway] open_forward = false",
            opening.chain
        )),
        (Step::AddLink { link, .. }, Errno::EEXIST) => match link.kind {
            LinkKind::Vxlan { vni, port, .. } => Some(format!(
                "VXLAN identifier {vni} on port {port} is taken on this host: choose another [ingress] vni"
            )),
            _ => None,
        },
        _ => None,
    }
}

fn mark_of(step: &Step) -> Option<Mark> {
    match step {
        Step::AddService { key, .. } | Step::SetService { key, .. } | Step::DeleteService(key) => Some(key.mark),
        Step::AddDestination { service, .. }
        | Step::SetDestination { service, .. }
        | Step::DeleteDestination { service, .. } => Some(service.mark),
        Step::EditBalance { key, .. } | Step::DropBackend { key, .. } => Some(key.mark),
        Step::EditMap { remove, add, .. } => add.iter().chain(remove).map(|(port, _)| port.mark()).next(),
        _ => None,
    }
}

/// Removes all that is ours; the number of steps that failed in the end.
pub fn remove_all(kernel: &mut Kernel) -> anyhow::Result<usize> {
    let nothing = Objects::default();
    let mut failed = 0;
    for _ in 0..PASSES {
        let seen = kernel.observe(&nothing, true).context("cannot read what the kernel holds")?;
        let plan = plan::diff(&seen, &nothing);
        if plan.is_empty() {
            return Ok(0);
        }
        announce(&plan, &[], &[]);
        let outcomes = kernel.apply(&plan.steps);
        failed = 0;
        for (step, outcome) in plan.steps.iter().zip(outcomes) {
            if let Err(error) = outcome {
                error!("cannot {step}: {:#}", anyhow::Error::from(error));
                failed += 1;
            }
        }
        if failed == 0 {
            return Ok(0);
        }
    }
    Ok(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failing(reconciler: &mut Reconciler, times: u32) {
        (0..times).for_each(|_| reconciler.remember(vec!["cannot add link".to_owned()]));
    }

    #[test]
    fn a_failure_is_retried_with_backoff_and_success_ends_it() {
        let mut reconciler = Reconciler::default();
        assert_eq!(reconciler.pause(), PACE);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            failing(&mut reconciler, 1);
            pauses.push(reconciler.pause().as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        failing(&mut reconciler, 1000);
        assert_eq!(reconciler.pause(), LAST_RETRY);
        reconciler.try_again_soon();
        assert_eq!(reconciler.pause(), FIRST_RETRY);
        reconciler.remember(Vec::new());
        assert_eq!(reconciler.pause(), PACE);
    }

    #[test]
    fn looks_that_take_long_are_further_apart() {
        let reconciler = Reconciler { took: Duration::from_secs(2), ..Reconciler::default() };
        assert_eq!(reconciler.pause(), Duration::from_secs(100));
    }

    #[test]
    fn a_word_of_a_change_brings_the_look_forward_once() {
        let mut reconciler = Reconciler::default();
        let start = Instant::now();
        let mut pace = Pace::new(start);
        assert_eq!(pace.next(&reconciler), start + PACE);
        let told = start + Duration::from_secs(1);
        pace.hurry(told);
        pace.hurry(told + Duration::from_secs(5));
        assert_eq!(pace.next(&reconciler), told);
        // Words without end do not make looks without end.
        pace.looked(told);
        pace.hurry(told);
        assert_eq!(pace.next(&reconciler), told + SETTLE);
        reconciler.took = Duration::from_secs(2);
        assert_eq!(pace.next(&reconciler), told + Duration::from_secs(8));
        // What waits for its turn has it.
        reconciler.waits = Some(told + Duration::from_secs(3));
        assert_eq!(pace.next(&reconciler), told + Duration::from_secs(3));
        reconciler.waits = None;
        pace = Pace::new(start);
        reconciler.took = Duration::from_secs(2);
        // What is known to be needed takes no more than half of it.
        pace.at_once(told);
        pace.at_once(told + Duration::from_secs(3));
        assert_eq!(pace.next(&reconciler), start + Duration::from_secs(2));
        pace.looked(start + Duration::from_secs(8));
        assert_eq!(pace.next(&reconciler), start + Duration::from_secs(108));
    }
}
