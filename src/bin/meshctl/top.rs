//! `meshctl top`: rates in the terminal, as they are.

pub mod number;
pub mod once;
pub mod rates;
mod screen;
mod view;

use std::io::{self, IsTerminal};
use std::time::Duration;

use meshd::control::protocol::Traffic;
use ratatui::crossterm::event::{self, Event};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::arguments::TopArguments;
use super::client::Client;
use super::failure::Failure;
use super::output::Output;
use view::{Next, View};

type Look = Result<Traffic, Failure>;

pub async fn run(client: Client, output: &Output, arguments: &TopArguments) -> Result<(), Failure> {
    if arguments.once {
        return once::run(&client, output, arguments).await;
    }
    if output.is_json() {
        return Err(Failure::usage("the screen is for people; `meshctl top --once -o json` is for programs"));
    }
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(Failure::usage("the screen needs a terminal; `meshctl top --once` needs none"));
    }
    let mut view = View::new(arguments.sort, arguments.interval, output.paint().0);
    let mut looks = looks(client, arguments.interval);
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let _restored = Restored;
    let mut terminal = ratatui::try_init()?;
    let mut keys = keys();
    loop {
        terminal.draw(|frame| screen::draw(frame, &mut view))?;
        let next = tokio::select! {
            key = keys.recv() => key.map_or(Next::Quit, |event| view.on(&event)),
            look = looks.recv() => look.map_or(Next::Quit, |look| view.take(look)),
            _ = interrupted.recv() => Next::Quit,
            _ = terminated.recv() => Next::Quit,
        };
        if next == Next::Quit {
            return Ok(());
        }
    }
}

/// The terminal is the user's again, however this ends. (A panic's message waits for it, too: ratatui sees to it.)
struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = ratatui::try_restore();
    }
}

/// Looks again and again, whether or not there is a daemon; so keys never wait for one.
fn looks(client: Client, every: Duration) -> mpsc::Receiver<Look> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if sender.send(client.get("/v1/traffic").await).await.is_err() {
                return;
            }
        }
    });
    receiver
}

/// Reads keys on a thread of its own, which ends with the program.
fn keys() -> mpsc::UnboundedReceiver<Event> {
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if sender.send(event).is_err() {
                return;
            }
        }
    });
    receiver
}
