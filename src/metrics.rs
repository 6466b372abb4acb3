//! What Prometheus is told. Names and labels are described in the README.

mod listener;
mod traffic;

use prometheus::{Encoder, Gauge, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

pub use listener::serve;
pub use traffic::Traffic;

/// What the daemon counts of itself.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    pub services: IntGauge,
    pub ports: IntGauge,
    pub backends: IntGauge,
    /// Steps by outcome: `done` or `failed`.
    pub steps: IntCounterVec,
    /// Looks at the kernel by outcome: `clean` (nothing to do), `changed`, `failed` (some step).
    pub reconciles: IntCounterVec,
    /// Seconds since 1970.
    pub last_success: Gauge,
    /// Seconds.
    pub last_duration: Gauge,
    /// Times the configuration was read again, by outcome: `accepted` or `refused`.
    pub reloads: IntCounterVec,
    pub last_reload_success: IntGauge,
    /// Scrapes that could not read the kernel.
    pub scrape_failures: IntCounter,
}

impl Metrics {
    /// # Errors
    /// Never in practice: two metrics of one name, or an invalid name, in this file.
    pub fn new() -> Result<Metrics, prometheus::Error> {
        let outcomes = |name, help| IntCounterVec::new(Opts::new(name, help), &["result"]);
        let metrics = Metrics {
            registry: Registry::new(),
            services: IntGauge::new("meshd_services", "Services that are configured.")?,
            ports: IntGauge::new("meshd_ports", "Published ports that are configured; a range counts once.")?,
            backends: IntGauge::new("meshd_backends", "Backends of all ports that are configured.")?,
            steps: outcomes("meshd_plan_steps_total", "Steps done to the kernel.")?,
            reconciles: outcomes("meshd_reconciles_total", "Comparisons of the kernel with what is wanted.")?,
            last_success: Gauge::new(
                "meshd_reconcile_last_success_timestamp_seconds",
                "When the kernel was last seen, or made, to be as wanted.",
            )?,
            last_duration: Gauge::new(
                "meshd_reconcile_duration_seconds",
                "Time that the last comparison and its steps took.",
            )?,
            reloads: outcomes("meshd_config_reloads_total", "Times the configuration was read again.")?,
            last_reload_success: IntGauge::new(
                "meshd_config_last_reload_success",
                "Whether the last reload was accepted.",
            )?,
            scrape_failures: IntCounter::new("meshd_scrape_failures_total", "Scrapes that could not read the kernel.")?,
        };
        let build = IntGaugeVec::new(Opts::new("meshd_build_info", "Which meshd this is; always 1."), &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let all: [Box<dyn prometheus::core::Collector>; 11] = [
            Box::new(build),
            Box::new(metrics.services.clone()),
            Box::new(metrics.ports.clone()),
            Box::new(metrics.backends.clone()),
            Box::new(metrics.steps.clone()),
            Box::new(metrics.reconciles.clone()),
            Box::new(metrics.last_success.clone()),
            Box::new(metrics.last_duration.clone()),
            Box::new(metrics.reloads.clone()),
            Box::new(metrics.last_reload_success.clone()),
            Box::new(metrics.scrape_failures.clone()),
        ];
        for collector in all {
            metrics.registry.register(collector)?;
        }
        // A series that is there from the start shows its first increase.
        for outcome in ["done", "failed"] {
            metrics.steps.with_label_values(&[outcome]);
        }
        for outcome in ["clean", "changed", "failed"] {
            metrics.reconciles.with_label_values(&[outcome]);
        }
        for outcome in ["accepted", "refused"] {
            metrics.reloads.with_label_values(&[outcome]);
        }
        metrics.last_reload_success.set(1);
        Ok(metrics)
    }

    /// All of it in Prometheus's text format, with the traffic as it was read for this scrape.
    pub fn render(&self, traffic: &Traffic) -> Result<String, prometheus::Error> {
        let mut families = self.registry.gather();
        families.extend(traffic.collect()?);
        let mut text = Vec::new();
        TextEncoder::new().encode(&families, &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}
