//! Commands that look, or wait, and change no service.

use std::time::Duration;

use hyper::Method;
use meshd::control::protocol::{Accepted, Event, Plan, Status};

use super::Session;
use super::change::query;
use crate::meshctl::failure::Failure;
use crate::meshctl::text;

pub async fn status(session: &Session<'_>) -> Result<(), Failure> {
    let status: Status = session.client.get("/v1/status").await?;
    session.output.show(&status, text::status::status)
}

pub async fn plan(session: &Session<'_>, reload: bool) -> Result<(), Failure> {
    let path = if reload { "/v1/plan?reload=true" } else { "/v1/plan" };
    let plan: Plan = session.client.get(path).await?;
    session.output.show(&plan, text::status::whole_plan)
}

pub async fn reload(session: &Session<'_>, wait: Option<Duration>) -> Result<(), Failure> {
    let query = query([wait.map(|wait| format!("wait={}", wait.as_secs_f64()))]);
    let wait = wait.unwrap_or_default();
    let answer: Accepted = session.client.ask(Method::POST, &format!("/v1/reload{query}"), None, wait).await?;
    session.tell("configuration", &answer, wait)
}

pub async fn wait(session: &Session<'_>, generation: Option<u64>, timeout: Duration) -> Result<(), Failure> {
    let query = query([
        generation.map(|generation| format!("generation={generation}")),
        Some(format!("timeout={}", timeout.as_secs_f64())),
    ]);
    let answer: Accepted = session.client.ask(Method::GET, &format!("/v1/wait{query}"), None, timeout).await?;
    session.tell("", &answer, timeout)
}

pub async fn watch(session: &Session<'_>) -> Result<(), Failure> {
    let mut stream = session.client.stream("/v1/events").await?;
    while let Some(events) = stream.next().await? {
        for data in events {
            let event: Event = serde_json::from_str(&data)
                .map_err(|error| Failure::unavailable(format!("this is no event of meshd's: {error}")))?;
            session.output.show_line(&event, text::event::line)?;
        }
    }
    Err(Failure::unavailable("meshd has ended the stream"))
}
