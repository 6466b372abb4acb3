//! What Prometheus is told. Names and labels are described in the README.

mod exposition;
mod listener;
mod occupancy;
mod process;
mod standing;
mod text;
mod traffic;

use prometheus::core::Collector;
use prometheus::{
    Encoder, Error, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder,
};

pub use exposition::{CHUNK, Exposition};
pub use listener::{Limits, serve};
pub use standing::Standing;
pub use traffic::Traffic;

use crate::kernel::occupancy::Occupancy;
use crate::plan::Step;

/// Seconds.
const PROGRAMMING: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1., 2.5, 5., 10., 30., 60.];
/// Seconds.
const REQUESTS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1., 2.5, 5., 10.];

/// What the daemon counts of itself. Clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    pub services: IntGauge,
    pub ports: IntGauge,
    pub backends: IntGauge,
    /// Number of the last change of what is wanted that was accepted.
    pub generation_wanted: IntGauge,
    /// Number of the last change that the kernel holds.
    pub generation_programmed: IntGauge,
    /// Seconds from an accepted change until the kernel holds it.
    pub programming: Histogram,
    /// Steps by outcome: `done` or `failed`.
    pub steps: IntCounterVec,
    /// Looks at the kernel by outcome: `clean` (nothing to do), `changed`, `failed` (some step).
    pub reconciles: IntCounterVec,
    /// Seconds since 1970.
    pub last_success: Gauge,
    /// Seconds.
    pub last_duration: Gauge,
    /// Steps that nobody asked for: someone else changed what is ours. By [`Step::kind`].
    pub drift_found: IntCounterVec,
    /// Those of them that were done. By [`Step::kind`].
    pub drift_repaired: IntCounterVec,
    pub drift_contested: IntGauge,
    /// Times that a backend's standing changed, by what it then was.
    pub health_changes: IntCounterVec,
    /// Times the configuration was read again, by outcome: `accepted` or `refused`.
    pub reloads: IntCounterVec,
    /// 1 or 0.
    pub last_reload_success: IntGauge,
    /// Seconds since 1970; 0 until the first reload.
    pub last_reload_time: Gauge,
    /// Seconds, of the last reload.
    pub last_reload_duration: Gauge,
    /// By method, route (its pattern, not the path that was asked for) and status code.
    pub control_requests: IntCounterVec,
    /// Seconds, by route.
    pub control_durations: HistogramVec,
    /// Open now.
    pub control_connections: IntGauge,
    /// Turned away, as there were too many already.
    pub control_refused: IntCounter,
    /// Scrapes that could not read the kernel.
    pub scrape_failures: IntCounter,
}

impl Metrics {
    /// # Errors
    /// Never in practice: two metrics of one name, or an invalid name, in this file.
    pub fn new() -> Result<Metrics, Error> {
        let all = Registered::default();
        let build = all.gauges("meshd_build_info", "Which meshd this is; always 1.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let metrics = Metrics {
            services: all.whole("meshd_services", "Services that are configured.")?,
            ports: all.whole("meshd_ports", "Published ports that are configured; a range counts once.")?,
            backends: all.whole("meshd_backends", "Backends of all ports that are configured.")?,
            generation_wanted: all.whole("meshd_generation_wanted", "Number of the last change that was accepted.")?,
            generation_programmed: all
                .whole("meshd_generation_programmed", "Number of the last change that the kernel holds.")?,
            programming: all.add(Histogram::with_opts(
                HistogramOpts::new(
                    "meshd_programming_duration_seconds",
                    "Time from an accepted change until the kernel holds it.",
                )
                .buckets(PROGRAMMING.to_vec()),
            ))?,
            steps: all.counters("meshd_plan_steps_total", "Steps done to the kernel.", &["result"])?,
            reconciles: all.counters(
                "meshd_reconciles_total",
                "Comparisons of the kernel with what is wanted.",
                &["result"],
            )?,
            last_success: all.gauge(
                "meshd_reconcile_last_success_timestamp_seconds",
                "When the kernel was last seen, or made, to be as wanted.",
            )?,
            last_duration: all
                .gauge("meshd_reconcile_duration_seconds", "Time that the last comparison and its steps took.")?,
            drift_found: all.counters(
                "meshd_drift_found_total",
                "Differences to what is wanted that others made, by the kind of thing.",
                &["kind"],
            )?,
            drift_repaired: all.counters(
                "meshd_drift_repaired_total",
                "Differences of others' making that were mended, by the kind of thing.",
                &["kind"],
            )?,
            drift_contested: all.whole(
                "meshd_drift_contested",
                "Differences that someone makes again every time that they are mended.",
            )?,
            health_changes: all.counters(
                "meshd_health_changes_total",
                "Times that the checks of a backend said something else of it, by what it then was.",
                &["to"],
            )?,
            reloads: all.counters(
                "meshd_config_reloads_total",
                "Times the configuration was read again.",
                &["result"],
            )?,
            last_reload_success: all
                .whole("meshd_config_last_reload_success", "Whether the last reload was accepted.")?,
            last_reload_time: all.gauge(
                "meshd_config_last_reload_timestamp_seconds",
                "When the configuration was last read again; 0: not since the start.",
            )?,
            last_reload_duration: all.gauge(
                "meshd_config_reload_duration_seconds",
                "Time that the last reload took, until the kernel held it.",
            )?,
            control_requests: all.counters(
                "meshd_control_requests_total",
                "Requests on the control socket.",
                &["method", "route", "code"],
            )?,
            control_durations: all.add(HistogramVec::new(
                HistogramOpts::new(
                    "meshd_control_request_duration_seconds",
                    "Time from a request on the control socket to its answer.",
                )
                .buckets(REQUESTS.to_vec()),
                &["route"],
            ))?,
            control_connections: all
                .whole("meshd_control_connections", "Connections to the control socket that are open.")?,
            control_refused: all.counter(
                "meshd_control_connections_refused_total",
                "Connections to the control socket that were turned away, as there were too many.",
            )?,
            scrape_failures: all.counter("meshd_scrape_failures_total", "Scrapes that could not read the kernel.")?,
            registry: all.registry,
        };
        metrics.begin();
        Ok(metrics)
    }

    /// A series that is there from the start shows its first increase.
    fn begin(&self) {
        let start = |counters: &IntCounterVec, values: &[&str]| {
            for value in values {
                counters.with_label_values(&[*value]);
            }
        };
        start(&self.steps, &["done", "failed"]);
        start(&self.reconciles, &["clean", "changed", "failed"]);
        start(&self.reloads, &["accepted", "refused"]);
        start(&self.health_changes, &["up", "failing", "down"]);
        start(&self.drift_found, Step::KINDS);
        start(&self.drift_repaired, Step::KINDS);
        self.last_reload_success.set(1);
    }

    /// All of it in Prometheus's text format, with what was read from the kernel for this scrape.
    ///
    /// # Errors
    /// Never in practice: a family that the library's encoder refuses.
    pub fn exposition(
        &self,
        traffic: Traffic,
        occupancy: &Occupancy,
        handshakes: &[(String, u64)],
        standings: &[Standing],
    ) -> Result<Exposition, Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        occupancy::write(&mut text, occupancy, traffic.connections);
        occupancy::write_handshakes(&mut text, handshakes);
        standing::write(&mut text, standings);
        process::write(&mut text);
        Ok(Exposition::new(text, traffic))
    }
}

/// What is made is registered.
#[derive(Default)]
struct Registered {
    registry: Registry,
}

impl Registered {
    fn add<T: Collector + Clone + 'static>(&self, made: Result<T, Error>) -> Result<T, Error> {
        let made = made?;
        self.registry.register(Box::new(made.clone()))?;
        Ok(made)
    }

    fn whole(&self, name: &str, help: &str) -> Result<IntGauge, Error> {
        self.add(IntGauge::new(name, help))
    }

    fn gauge(&self, name: &str, help: &str) -> Result<Gauge, Error> {
        self.add(Gauge::new(name, help))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, Error> {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, Error> {
        self.add(IntCounter::new(name, help))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, Error> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }
}
