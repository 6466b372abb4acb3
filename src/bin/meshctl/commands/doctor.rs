//! `meshctl doctor`.

use std::path::Path;
use std::time::Duration;

use hyper::Method;
use meshd::control::protocol::Diagnosis;
use meshd::daemon;
use meshd::source::file;

use super::Session;
use crate::meshctl::failure::Failure;
use crate::meshctl::text;

/// For nodes that do not answer, and modules that are loaded.
const PATIENCE: Duration = Duration::from_secs(60);

/// Fails if there is a fault.
pub async fn run(session: &Session<'_>, config: Option<&Path>) -> Result<(), Failure> {
    let diagnosis = match config {
        Some(file) => alone(file)?,
        None => asked(session).await?,
    };
    session.output.show(&diagnosis, text::doctor::diagnosis)?;
    if diagnosis.good { Ok(()) } else { Err(Failure::refused(text::doctor::faults(&diagnosis))) }
}

async fn asked(session: &Session<'_>) -> Result<Diagnosis, Failure> {
    let answer = session.client.ask(Method::GET, "/v1/doctor", None, PATIENCE).await;
    answer.map_err(|failure| failure.without_daemon("--config FILE looks for what that file would need"))
}

/// Whether or not a daemon runs.
fn alone(path: &Path) -> Result<Diagnosis, Failure> {
    let config = file::load(path).map_err(|error| Failure::usage(error.to_string()))?;
    daemon::doctor(&config).map_err(|error| Failure::refused(format!("{error:#}")))
}
