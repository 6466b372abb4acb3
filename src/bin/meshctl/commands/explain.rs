//! `meshctl explain`.

use std::path::Path;
use std::time::Duration;

use hyper::Method;
use meshd::config::Config;
use meshd::control::protocol::{ExplainQuery, Explanation};
use meshd::daemon;
use meshd::source::file;

use super::Session;
use super::change::query;
use crate::meshctl::arguments::ExplainArguments;
use crate::meshctl::client::segment;
use crate::meshctl::failure::Failure;
use crate::meshctl::text;

/// For backends and nodes that do not answer.
const PATIENCE: Duration = Duration::from_secs(30);

pub async fn run(session: &Session<'_>, arguments: ExplainArguments) -> Result<(), Failure> {
    let explanation = match &arguments.config {
        Some(file) => alone(file, &arguments)?,
        None => asked(session, &arguments).await?,
    };
    session.output.show(&explanation, text::explain::explanation)?;
    match &explanation.broken {
        None if explanation.good => Ok(()),
        Some(hop) => Err(Failure::refused(text::explain::broken(hop))),
        None => Err(Failure::refused("nothing is known of that port")),
    }
}

async fn asked(session: &Session<'_>, arguments: &ExplainArguments) -> Result<Explanation, Failure> {
    let ExplainArguments { port: (number, _), from, node, .. } = arguments;
    let query = query([
        arguments.protocol().map(|protocol| format!("protocol={protocol}")),
        from.map(|from| format!("from={}", segment(&from.to_string()))),
        node.as_ref().map(|node| format!("node={}", segment(node))),
    ]);
    let answer = session.client.ask(Method::GET, &format!("/v1/explain/{number}{query}"), None, PATIENCE).await;
    answer.map_err(|failure| failure.without_daemon("--config FILE reads the kernel and that file"))
}

/// Reads the kernel and the file, whether or not a daemon runs.
fn alone(path: &Path, arguments: &ExplainArguments) -> Result<Explanation, Failure> {
    let config: Config = file::load(path).map_err(|error| Failure::usage(error.to_string()))?;
    let question = ExplainQuery {
        protocol: arguments.protocol().map(str::to_owned),
        from: arguments.from.map(|from| from.to_string()),
        node: arguments.node.clone(),
    };
    let (number, _) = arguments.port;
    let asked = question.asked(number).map_err(Failure::usage)?;
    daemon::explain(&config, &asked).map_err(|error| Failure::refused(format!("{error:#}")))
}
