//! A change: how it is asked for, and what its answer means.

use std::time::Duration;

use hyper::Method;
use meshd::control::protocol::{Accepted, Progress};
use serde_json::Value;

use super::{Session, near};
use crate::meshctl::arguments::changes::{Changing, Doing};
use crate::meshctl::failure::{Code, Failure};
use crate::meshctl::text;

pub struct Change {
    pub method: Method,
    /// Without its query.
    pub path: String,
    pub body: Option<Value>,
    /// What is changed, for people: `service kafka`.
    pub what: String,
}

/// How it is to be done; goes on from one change to the next of the same command.
#[derive(Clone, Debug, Default)]
pub struct Manner {
    /// Of the service, as the user knows it.
    pub generation: Option<u64>,
    pub dry_run: bool,
    /// `None`: not at all.
    pub wait: Option<Duration>,
}

impl From<&Doing> for Manner {
    fn from(doing: &Doing) -> Manner {
        // Nothing comes of a dry run that could be waited for.
        let wait = if doing.dry_run { None } else { doing.waiting.wait() };
        Manner { generation: None, dry_run: doing.dry_run, wait }
    }
}

impl From<&Changing> for Manner {
    fn from(changing: &Changing) -> Manner {
        Manner { generation: changing.generation, ..Manner::from(&changing.doing) }
    }
}

impl Manner {
    fn query(&self) -> String {
        let parts = [
            self.generation.map(|generation| format!("generation={generation}")),
            self.dry_run.then(|| "dry_run=true".to_owned()),
            self.wait.map(|wait| format!("wait={}", wait.as_secs_f64())),
        ];
        query(parts)
    }
}

/// `?a=1&b=2`, or nothing.
pub fn query(parts: impl IntoIterator<Item = Option<String>>) -> String {
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { String::new() } else { format!("?{}", parts.join("&")) }
}

impl Session<'_> {
    /// Asks for the change and tells what became of it.
    pub async fn change(&self, service: &str, change: Change, manner: &mut Manner) -> Result<(), Failure> {
        let Change { method, path, body, what } = change;
        let path = format!("{path}{}", manner.query());
        let wait = manner.wait.unwrap_or_default();
        let answer: Result<Accepted, Failure> = self.client.ask(method, &path, body.as_ref(), wait).await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(failure) => return Err(near::explain(&self.client, failure, service).await),
        };
        if answer.changed && answer.plan.is_none() && manner.generation.is_some() {
            manner.generation = Some(answer.generation);
        }
        self.tell(&what, &answer, wait)
    }

    /// An answer, and the exit code that goes with it.
    pub fn tell(&self, what: &str, answer: &Accepted, waited: Duration) -> Result<(), Failure> {
        self.output.show(answer, |answer, paint| text::status::accepted(what, answer, paint))?;
        outcome(answer, waited)
    }
}

fn outcome(answer: &Accepted, waited: Duration) -> Result<(), Failure> {
    let generation = answer.generation;
    match answer.result {
        _ if answer.plan.is_some() => Ok(()),
        Progress::Accepted | Progress::Programmed => Ok(()),
        Progress::Failed => {
            let steps: String = answer.failures.iter().map(|step| format!("\n  {step}")).collect();
            Err(Failure::refused(format!(
                "generation {generation} is accepted, but the kernel refused steps; they are retried:{steps}"
            )))
        }
        Progress::Pending => Err(Failure::new(
            Code::NotYet,
            format!(
                "generation {generation} is accepted, but the kernel did not hold it in {} s; \
                 `meshctl wait {generation}` goes on waiting",
                waited.as_secs_f64()
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use meshd::control::protocol::{Accepted, Progress};

    use super::{Manner, outcome};
    use crate::meshctl::failure::Code;

    #[test]
    fn a_manner_is_a_query() {
        let check = |manner: Manner, expected: &str| assert_eq!(manner.query(), expected);
        check(Manner::default(), "");
        check(Manner { dry_run: true, ..Manner::default() }, "?dry_run=true");
        check(
            Manner { generation: Some(0), dry_run: false, wait: Some(Duration::from_millis(1500)) },
            "?generation=0&wait=1.5",
        );
    }

    #[track_caller]
    fn check(result: Progress, expected: Result<(), (Code, &str)>) {
        let failures = vec!["add service tcp 1 ipv4: no such scheduler".to_owned()];
        let answer = Accepted { generation: 12, changed: true, result, failures, plan: None };
        let outcome = outcome(&answer, Duration::from_secs(30)).map_err(|failure| (failure.code, failure.detail));
        assert_eq!(outcome, expected.map_err(|(code, detail)| (code, detail.to_owned())));
    }

    #[test]
    fn a_result_is_an_exit_code() {
        check(Progress::Accepted, Ok(()));
        check(Progress::Programmed, Ok(()));
        check(
            Progress::Failed,
            Err((
                Code::Refused,
                "generation 12 is accepted, but the kernel refused steps; they are retried:\
                 \n  add service tcp 1 ipv4: no such scheduler",
            )),
        );
        check(
            Progress::Pending,
            Err((
                Code::NotYet,
                "generation 12 is accepted, but the kernel did not hold it in 30 s; \
                 `meshctl wait 12` goes on waiting",
            )),
        );
    }
}
