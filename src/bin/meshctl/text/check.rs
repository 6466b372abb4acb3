//! What was tried, a line for each port, and each failure below.

use std::collections::BTreeMap;

use meshd::control::protocol::{Checked, Kind, Verdict};

use crate::meshctl::escape;
use crate::meshctl::table::{Align, Cell, Paint, Table, Tone};

/// Of one port: how many were tried, how many answered, and of how many nothing can be said.
#[derive(Default)]
struct Tally {
    tried: usize,
    good: usize,
    unsure: usize,
}

impl Tally {
    fn add(&mut self, verdict: Verdict) {
        self.tried += 1;
        match verdict {
            Verdict::Good => self.good += 1,
            Verdict::Unsure => self.unsure += 1,
            _ => {}
        }
    }

    fn cell(&self) -> Cell {
        let Tally { tried, good, unsure } = *self;
        let tone = if good + unsure < tried { Tone::Bad } else { Tone::Good };
        let text = match unsure {
            0 => format!("{good} of {tried}"),
            _ => format!("{good} of {tried}, {unsure} unsure"),
        };
        if tried == 0 { "-".into() } else { Cell::new(text, tone) }
    }
}

pub fn checked(all: &[Checked], paint: Paint) -> String {
    if all.is_empty() {
        return "nothing is published\n".to_owned();
    }
    let mut ports: BTreeMap<(&str, &str), [Tally; 2]> = BTreeMap::new();
    for one in all {
        let tallies = ports.entry((&one.service, &one.port)).or_default();
        tallies[usize::from(one.kind == Kind::Backend)].add(one.verdict);
    }
    let left = |head| (head, Align::Left);
    let mut table = Table::new(&["SERVICE", "PORT", "ADDRESSES", "BACKENDS"].map(left));
    for ((service, port), [addresses, backends]) in ports {
        table.row([service.into(), port.into(), addresses.cell(), backends.cell()]);
    }
    let failures = all.iter().filter(|one| one.verdict == Verdict::Broken).map(|one| failure(one, paint));
    let failures: String = failures.collect();
    let gap = if failures.is_empty() { "" } else { "\n" };
    format!("{}{gap}{failures}", table.render(paint))
}

fn failure(one: &Checked, paint: Paint) -> String {
    let Checked { kind, service, port, to, node, result, .. } = one;
    let what = match kind {
        Kind::Port => format!("{service} {port}: by {to} of {node}: {result}"),
        Kind::Backend => format!("{service} {port}: backend {to} on {node}, from the sandbox: {result}"),
    };
    format!("{}\n", paint.on(Tone::Bad, &escape::word(&what)))
}

/// How far it has come, for a line that is written over and over.
pub fn progress(done: usize, of: usize, broken: usize) -> String {
    const WIDTH: usize = 30;
    let full = (done * WIDTH).checked_div(of).unwrap_or(WIDTH).min(WIDTH);
    format!("[{}{}] {done} of {of}, {broken} broken", "#".repeat(full), " ".repeat(WIDTH - full))
}

#[cfg(test)]
mod tests {
    use meshd::control::protocol::Checked;
    use serde_json::{from_value, json};

    use super::{checked, progress};
    use crate::meshctl::table::Paint;

    fn one(kind: &str, port: &str, to: &str, verdict: &str, result: &str) -> Checked {
        let one = json!({ "kind": kind, "service": "kafka", "port": port, "to": to, "node": "node-1", "verdict": verdict,
                          "result": result });
        from_value(one).expect("it is one")
    }

    #[test]
    fn each_port_has_a_line_and_each_failure() {
        let all = [
            one("port", "tcp/20229", "127.0.0.1:20229", "good", "answers, after 0.1 ms"),
            one("port", "tcp/20229", "192.168.50.1:20229", "broken", "refuses"),
            one("backend", "tcp/20229", "10.255.0.33:9092", "good", "answers, after 0.1 ms"),
            one("backend", "udp/53", "10.255.0.33:53", "unsure", "no answer in 500 ms"),
        ];
        let expected = "\
SERVICE   PORT        ADDRESSES   BACKENDS
kafka     tcp/20229   1 of 2      1 of 1
kafka     udp/53      -           0 of 1, 1 unsure

kafka tcp/20229: by 192.168.50.1:20229 of node-1: refuses
";
        assert_eq!(checked(&all, Paint(false)), expected);
        assert_eq!(checked(&[], Paint(false)), "nothing is published\n");
    }

    #[test]
    fn a_bar_is_never_longer() {
        assert_eq!(progress(0, 0, 0), format!("[{}] 0 of 0, 0 broken", "#".repeat(30)));
        assert_eq!(progress(1, 2, 1), format!("[{}{}] 1 of 2, 1 broken", "#".repeat(15), " ".repeat(15)));
        assert_eq!(progress(9, 2, 0), format!("[{}] 9 of 2, 0 broken", "#".repeat(30)));
    }
}
