//! Making the kernel what is wanted, and saying so once.

use std::time::{Duration, Instant};

use anyhow::Context;
use tracing::{debug, error, info};

use crate::kernel::{self, Errno, Kernel};
use crate::mesh::Mesh;
use crate::metrics::Metrics;
use crate::objects::{LinkKind, Mark, Objects};
use crate::plan::{self, Plan, Step};

/// Plans longer than that are logged as their number, their steps only at `debug`.
const SPELLED_OUT: usize = 50;
/// Between two looks at a kernel that is as wanted.
const PACE: Duration = Duration::from_secs(10);
/// A look takes no more than this share of the time: with many ports looks are further apart.
const SHARE: u32 = 50;
/// After a failure the next look comes after the first of these, and then after twice as long, up to the second.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);
/// Removing everything may need another look, where one thing held another.
const PASSES: usize = 3;

/// What is remembered from one look to the next.
#[derive(Debug, Default)]
pub struct Reconciler {
    /// What failed last time, so that the same is not said again and again.
    failures: Vec<String>,
    /// How often in a row something failed.
    tries: u32,
    changed: bool,
    took: Duration,
}

impl Reconciler {
    /// Looks at the kernel and does what is missing.
    pub fn converge(
        &mut self,
        kernel: &mut Kernel,
        wanted: &Objects,
        mesh: &Mesh,
        metrics: &Metrics,
    ) -> anyhow::Result<()> {
        let seen = kernel.observe(wanted).context("cannot read what the kernel holds")?;
        let plan = plan::diff(&seen, wanted);
        self.changed = !plan.is_empty();
        announce(&plan);
        let failures = carry_out(kernel, &plan, mesh);
        metrics.steps.with_label_values(&["failed"]).inc_by(failures.len() as u64);
        metrics.steps.with_label_values(&["done"]).inc_by((plan.steps.len() - failures.len()) as u64);
        self.remember(failures);
        Ok(())
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

    /// The look itself failed.
    pub fn failed(&mut self) {
        self.tries += 1;
        self.changed = false;
    }

    pub fn is_failing(&self) -> bool {
        self.tries > 0
    }

    pub fn changed(&self) -> bool {
        self.changed
    }

    pub fn took(&mut self, time: Duration) {
        self.took = time;
    }

    /// How long until the next look.
    fn pause(&self) -> Duration {
        if self.tries == 0 {
            return PACE.max(self.took * SHARE);
        }
        let doubled = FIRST_RETRY * 2u32.saturating_pow((self.tries - 1).min(10));
        doubled.min(LAST_RETRY)
    }
}

/// When to look next.
pub struct Pace {
    looked: Instant,
}

impl Pace {
    pub fn new(now: Instant) -> Pace {
        Pace { looked: now }
    }

    pub fn looked(&mut self, now: Instant) {
        self.looked = now;
    }

    pub fn next(&self, reconciler: &Reconciler) -> Instant {
        self.looked + reconciler.pause()
    }
}

fn announce(plan: &Plan) {
    if plan.steps.len() > SPELLED_OUT {
        info!(steps = plan.steps.len(), "changing the kernel");
        plan.steps.iter().for_each(|step| debug!("{step}"));
    } else {
        plan.steps.iter().for_each(|step| info!("{step}"));
    }
}

/// Does the steps; one line for each that failed, with what to do where that is known.
fn carry_out(kernel: &mut Kernel, plan: &Plan, mesh: &Mesh) -> Vec<String> {
    let outcomes = kernel.apply(&plan.steps);
    let names = mesh.names();
    let failed = plan.steps.iter().zip(outcomes).filter_map(|(step, outcome)| Some((step, outcome.err()?)));
    failed
        .map(|(step, error)| {
            let service = mark_of(step).and_then(|mark| names.get(&mark)).map(|name| format!(" (service {name})"));
            let first_line = step.to_string().lines().next().unwrap_or_default().to_owned();
            let hint = hint(step, &error).map(|hint| format!("; {hint}")).unwrap_or_default();
            format!("cannot {first_line}{}: {:#}{hint}", service.unwrap_or_default(), anyhow::Error::from(error))
        })
        .collect()
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
        Step::EditMap { remove, add, .. } => add.iter().chain(remove).map(|(port, _)| port.mark()).next(),
        _ => None,
    }
}

/// Removes all that is ours; the number of steps that failed in the end.
pub fn remove_all(kernel: &mut Kernel) -> anyhow::Result<usize> {
    let nothing = Objects::default();
    let mut failed = 0;
    for _ in 0..PASSES {
        let seen = kernel.observe(&nothing).context("cannot read what the kernel holds")?;
        let plan = plan::diff(&seen, &nothing);
        if plan.is_empty() {
            return Ok(0);
        }
        announce(&plan);
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
