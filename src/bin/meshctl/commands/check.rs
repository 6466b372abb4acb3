//! `meshctl check`.

use std::io::{self, IsTerminal, Write};

use meshd::control::protocol::{CheckEvent, Checked, Verdict};

use super::Session;
use super::change::query;
use crate::meshctl::arguments::CheckArguments;
use crate::meshctl::client::segment;
use crate::meshctl::failure::Failure;
use crate::meshctl::text;

pub async fn run(session: &Session<'_>, arguments: CheckArguments) -> Result<(), Failure> {
    let CheckArguments { all_nodes, service } = &arguments;
    let query = query([
        all_nodes.then(|| "all_nodes=true".to_owned()),
        service.as_ref().map(|service| format!("service={}", segment(service))),
    ]);
    let (mut all, mut of) = (Vec::new(), 0);
    let mut progress = Progress::new();
    let mut stream = session.client.stream(&format!("/v1/check{query}")).await?;
    'all: while let Some(events) = progress.unless(stream.next().await)? {
        for data in events {
            let event = serde_json::from_str(&data)
                .map_err(|error| Failure::unavailable(format!("this is nothing that meshd tells: {error}")));
            let event = progress.unless(event)?;
            match event {
                CheckEvent::Begun { pairs } => of = pairs,
                CheckEvent::Checked(one) => all.push(one),
                CheckEvent::Failed { reason } => return progress.unless(Err(Failure::refused(reason))),
                CheckEvent::Done {} => break 'all,
            }
            progress.show(&all, of);
        }
    }
    progress.end();
    if all.len() < of {
        return Err(Failure::unavailable(format!("meshd has ended the stream after {} of {of}", all.len())));
    }
    // In an order that is the same each time.
    all.sort_by(|one: &Checked, other| {
        (&one.service, &one.port, one.kind as u8, &one.to).cmp(&(
            &other.service,
            &other.port,
            other.kind as u8,
            &other.to,
        ))
    });
    session.output.show(&all, |all, paint| text::check::checked(all, paint))?;
    match broken(&all) {
        0 => Ok(()),
        some => Err(Failure::refused(format!("{some} of {of} do not answer; `meshctl explain PORT` says why"))),
    }
}

fn broken(all: &[Checked]) -> usize {
    all.iter().filter(|one| one.verdict == Verdict::Broken).count()
}

/// A bar on standard error, where that is a terminal.
struct Progress {
    shown: bool,
}

impl Progress {
    fn new() -> Progress {
        Progress { shown: io::stderr().is_terminal() }
    }

    fn show(&mut self, all: &[Checked], of: usize) {
        if self.shown {
            // Nobody is there to be told if that fails.
            let _ = write!(io::stderr(), "\r{}", text::check::progress(all.len(), of, broken(all)));
        }
    }

    /// Takes it away before a reason is told.
    fn unless<T>(&mut self, result: Result<T, Failure>) -> Result<T, Failure> {
        result.inspect_err(|_| self.end())
    }

    /// Takes it away.
    fn end(&mut self) {
        if self.shown {
            let _ = write!(io::stderr(), "\r\u{1b}[K");
        }
    }
}
