//! `meshctl top --once`: one table, without a terminal.

use std::time::Duration;

use meshd::control::protocol::Traffic;
use serde_json::{Value, json};

use super::rates::{History, PortRate, Rate, sort};
use super::screen::{COLUMNS, cells};
use crate::meshctl::arguments::TopArguments;
use crate::meshctl::client::Client;
use crate::meshctl::failure::Failure;
use crate::meshctl::output::Output;
use crate::meshctl::table::{Align, Paint, Table};

/// The kernel adds up its counters that often.
pub const LEAST: Duration = Duration::from_secs(2);

pub async fn run(client: &Client, output: &Output, arguments: &TopArguments) -> Result<(), Failure> {
    let mut rates = measure(client, Some(arguments.interval.max(LEAST))).await?;
    sort(&mut rates, arguments.sort);
    output.show(&as_json(&rates), |_, paint| table(&rates, paint))
}

/// By two looks, so far apart; by one, which makes no rates but has the rest, if there is no time between them.
pub async fn measure(client: &Client, between: Option<Duration>) -> Result<Vec<PortRate>, Failure> {
    let mut history = History::default();
    history.push(client.get::<Traffic>("/v1/traffic").await?);
    if let Some(between) = between {
        tokio::time::sleep(between).await;
        history.push(client.get::<Traffic>("/v1/traffic").await?);
    }
    Ok(history.rates())
}

fn table(rates: &[PortRate], paint: Paint) -> String {
    let align = |left: bool| if left { Align::Left } else { Align::Right };
    let columns: Vec<_> = COLUMNS.iter().enumerate().map(|(at, (head, _))| (*head, align(at == 0))).collect();
    let mut table = Table::new(&columns);
    for line in rates.iter().flat_map(cells) {
        table.row(line.into_iter().map(Into::into));
    }
    table.render(paint)
}

fn as_json(rates: &[PortRate]) -> Value {
    let rate = |rate: &Option<Rate>| {
        rate.map(|rate| {
            json!({
                "connections": rate.connections, "packets_in": rate.packets_in, "packets_out": rate.packets_out,
                "bytes_in": rate.bytes_in, "bytes_out": rate.bytes_out,
            })
        })
    };
    let port = |port: &PortRate| {
        let backends = port.backends.iter().map(|backend| {
            json!({
                "backend": backend.backend, "rate": rate(&backend.rate), "weight": backend.weight,
                "active": backend.active, "inactive": backend.inactive,
            })
        });
        let backends: Vec<Value> = backends.collect();
        json!({ "service": port.service, "port": port.port, "rate": rate(&port.rate), "backends": backends })
    };
    json!({ "ports": rates.iter().map(port).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::{as_json, table};
    use crate::meshctl::table::Paint;
    use crate::meshctl::top::view::tests::rates;

    #[test]
    fn rates_are_a_table() {
        let expected = r"
SERVICE, BACKEND             CONN/S   PKT/S IN   PKT/S OUT   B/S IN   B/S OUT   ACTIVE   INACTIVE   WEIGHT
kafka tcp/20229                12.5       1.2k         900     120k      3.4M        3         14        3
  10.255.0.33:9092             12.5       1.2k         900     120k      3.4M        3         12        1
  [fd00::33\u{1b}[2J]:9092        -          -           -        -         -        0          2        2
web tcp/443                       -          -           -        -         -        0          0        0
";
        assert_eq!(table(&rates(), Paint(false)), expected.trim_start());
    }

    #[test]
    fn rates_are_json() {
        let rates = as_json(&rates());
        assert_eq!(rates["ports"][0]["backends"][0]["rate"]["connections"], 12.5);
        assert!(rates["ports"][1]["rate"].is_null());
    }
}
