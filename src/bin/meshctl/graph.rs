//! `meshctl graph`: the mesh as people draw it, from the clients at the left to the backends at the right.

mod dot;
mod json;
mod model;
mod svg;
mod text;
#[cfg(test)]
mod wellformed;

use meshd::control::protocol::{Entry, Services, Status};

use super::arguments::graph::{Drawing, GraphArguments};
use super::client::Client;
use super::commands::near;
use super::failure::Failure;
use super::output::Output;
use super::top::once::{LEAST, measure};
use model::Graph;

pub async fn run(client: &Client, output: &Output, arguments: &GraphArguments) -> Result<(), Failure> {
    if output.is_json() && arguments.format != Drawing::Text {
        return Err(Failure::usage("--format and -o json are two answers; one of them would do"));
    }
    let status: Status = client.get("/v1/status").await?;
    let services: Services = client.get("/v1/services").await?;
    let services = chosen(&services.services, &arguments.services)?;
    let rates = measure(client, (!arguments.no_rates).then_some(LEAST)).await;
    let rates = rates.unwrap_or_else(|failure| {
        // The picture is worth having without them.
        output.complain(&Failure { detail: format!("no rates: {failure}"), ..failure });
        Vec::new()
    });
    let graph = Graph::new(&status, &services, &rates);
    match arguments.format {
        Drawing::Text => output.show(&json::graph(&graph), |_, paint| text::graph(&graph, paint)),
        Drawing::Dot => output.print(&dot::graph(&graph)),
        Drawing::Svg => output.print(&svg::graph(&graph)),
    }
}

/// Those of these names, or all if there is none.
fn chosen<'s>(services: &'s [Entry], names: &[String]) -> Result<Vec<&'s Entry>, Failure> {
    let known: Vec<&str> = services.iter().map(|entry| entry.service.name.as_str()).collect();
    if let Some(detail) = names.iter().find_map(|name| near::unknown(name, &known)) {
        return Err(Failure::refused(detail));
    }
    Ok(services.iter().filter(|entry| names.is_empty() || names.contains(&entry.service.name)).collect())
}
