//! The daemon itself, and what it would do.

use meshd::control::protocol::{Accepted, Plan, Progress, Status};

use super::indented;
use crate::meshctl::escape;
use crate::meshctl::table::{Cell, Paint, Tone, facts};

pub fn status(status: &Status, paint: Paint) -> String {
    let behind = status.generation.programmed < status.generation.wanted;
    let generation = if behind {
        let (wanted, programmed) = (status.generation.wanted, status.generation.programmed);
        Cell::new(format!("{wanted}, the kernel holds {programmed}"), Tone::Warning)
    } else {
        Cell::new(format!("{}, programmed", status.generation.wanted), Tone::Good)
    };
    let refused = status.configuration.refused.as_ref();
    let configuration = match refused {
        Some(_) => Cell::new(format!("{}, refused: the one before is in force", status.configuration.path), Tone::Bad),
        None => (&status.configuration.path).into(),
    };
    let mut known = vec![
        ("Node", Cell::new(&status.node, Tone::Head)),
        ("Version", (&status.version).into()),
        ("Running", format!("{}, pid {}", span(status.uptime), status.pid).into()),
        ("Generation", generation),
        ("Serving", serving(status).into()),
    ];
    // One of before had none.
    known.extend((!status.dataplane.is_empty()).then(|| ("Data plane", (&status.dataplane).into())));
    known.extend(status.timeouts.as_ref().map(|timeouts| {
        let (tcp, fin, udp) = (timeouts.tcp, timeouts.tcp_fin, timeouts.udp);
        ("Timeouts", format!("tcp {tcp} s, tcp after FIN {fin} s, udp {udp} s").into())
    }));
    known.extend(status.public_key.as_ref().map(|key| ("Public key", key.into())));
    known.extend([
        ("Last look", format!("{:.3} s", status.look).into()),
        ("Mended", counted(status.repaired as usize, "thing", "that others changed").into()),
        ("Configuration", configuration),
        ("State", (&status.state.directory).into()),
    ]);
    let mut text = facts(&known, paint);
    if let Some(reason) = refused {
        text += &format!("\nWhat is wrong with the configuration:\n{}", escape::lines(&indented(reason)));
    }
    text += &section("Tables that are nearly full:", &status.crowded, paint);
    text += &section("Other firewalls that may keep clients out:", &status.firewalls, paint);
    text += &section("What someone else undoes every time that it is mended:", &status.contested, paint);
    text += &section("Backends that are not up:", &status.unwell, paint);
    text += &section("Backends that are drained:", &status.leaving, paint);
    text += &section("What is kept and not in force:", &status.state.refused, paint);
    text + &section("Steps that failed, and are retried:", &status.failures, paint)
}

fn serving(status: &Status) -> String {
    let services = counted(status.services, "service", "");
    let ports = counted(status.ports, "port", "");
    format!("{services}, {ports}, {}", counted(status.backends, "backend", ""))
}

fn counted(count: usize, what: &str, more: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural} {more}").trim_end().to_owned()
}

fn section(title: &str, lines: &[String], paint: Paint) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let lines: String = lines.iter().map(|line| format!("  {}\n", escape::word(line))).collect();
    format!("\n{}\n{lines}", paint.on(Tone::Bad, title))
}

/// The two largest units: `3d 4h`.
fn span(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    let parts = [(seconds / 86_400, 'd'), (seconds / 3600 % 24, 'h'), (seconds / 60 % 60, 'm'), (seconds % 60, 's')];
    let first = parts.iter().position(|(count, _)| *count > 0).unwrap_or(3);
    let shown: Vec<String> = parts[first..].iter().take(2).map(|(count, unit)| format!("{count}{unit}")).collect();
    shown.join(" ")
}

pub fn plan(steps: &[String]) -> String {
    if steps.is_empty() {
        return "nothing to do\n".to_owned();
    }
    steps.iter().map(|step| escape::lines(step) + "\n").collect()
}

pub fn whole_plan(answer: &Plan, _: Paint) -> String {
    plan(&answer.steps)
}

/// What became of a change, in one line.
pub fn accepted(what: &str, answer: &Accepted, paint: Paint) -> String {
    if let Some(steps) = &answer.plan {
        return plan(steps);
    }
    let result = match answer.result {
        Progress::Accepted => "accepted".to_owned(),
        Progress::Programmed => paint.on(Tone::Good, "programmed"),
        Progress::Failed => paint.on(Tone::Bad, "failed"),
        Progress::Pending => paint.on(Tone::Warning, "pending"),
    };
    // To wait is no change.
    let unchanged = if answer.changed || what.is_empty() { "" } else { "unchanged, " };
    let separator = if what.is_empty() { "" } else { ": " };
    format!("{}{separator}{unchanged}generation {}, {result}\n", escape::word(what), answer.generation)
}

#[cfg(test)]
mod tests {
    use meshd::control::protocol::{Accepted, Configuration, Generations, Plan, Progress, State, Status, Timeouts};

    use super::{accepted, span, status, whole_plan};
    use crate::meshctl::table::Paint;

    fn good() -> Status {
        Status {
            version: "0.1.0".into(),
            node: "node-1".into(),
            pid: 4711,
            uptime: 93_784.5,
            generation: Generations { wanted: 12, programmed: 12 },
            failures: vec![],
            services: 1,
            ports: 2,
            backends: 6,
            dataplane: "ipvs".to_owned(),
            timeouts: Some(Timeouts { tcp: 900, tcp_fin: 120, udp: 300 }),
            public_key: None,
            unwell: vec![],
            leaving: vec![],
            look: 0.0123,
            repaired: 0,
            crowded: vec![],
            firewalls: vec![],
            contested: vec![],
            configuration: Configuration { path: "/etc/meshd/services.toml".into(), refused: None },
            state: State { directory: "/var/lib/meshd".into(), refused: vec![] },
        }
    }

    #[test]
    fn a_daemon_that_is_well() {
        let expected = "\
Node:           node-1
Version:        0.1.0
Running:        1d 2h, pid 4711
Generation:     12, programmed
Serving:        1 service, 2 ports, 6 backends
Data plane:     ipvs
Timeouts:       tcp 900 s, tcp after FIN 120 s, udp 300 s
Last look:      0.012 s
Mended:         0 things that others changed
Configuration:  /etc/meshd/services.toml
State:          /var/lib/meshd
";
        assert_eq!(status(&good(), Paint(false)), expected);
    }

    #[test]
    fn a_daemon_with_troubles() {
        let ill = Status {
            generation: Generations { wanted: 13, programmed: 12 },
            failures: vec!["add service tcp 20229 ipv4: No such file\u{1b}[2J".into()],
            dataplane: "nftables".to_owned(),
            timeouts: None,
            configuration: Configuration {
                path: "a.toml".into(),
                refused: Some("a.toml:1:1: x\na.toml:2:1: y".into()),
            },
            state: State { directory: "/var/lib/meshd".into(), refused: vec!["b.json: no JSON".into()] },
            ..good()
        };
        let text = status(&ill, Paint(false));
        let expected = "\
State:          /var/lib/meshd

What is wrong with the configuration:
  a.toml:1:1: x
  a.toml:2:1: y

What is kept and not in force:
  b.json: no JSON

Steps that failed, and are retried:
  add service tcp 20229 ipv4: No such file\\u{1b}[2J
";
        assert!(text.ends_with(expected), "{text}");
        assert!(text.contains("Generation:     13, the kernel holds 12\n"), "{text}");
        assert!(text.contains("a.toml, refused: the one before is in force\n"), "{text}");
    }

    #[test]
    fn spans_have_two_units() {
        for (seconds, expected) in [(0.9, "0s"), (59.0, "59s"), (61.0, "1m 1s"), (3600.0, "1h 0m"), (-1.0, "0s")] {
            assert_eq!(span(seconds), expected);
        }
    }

    #[track_caller]
    fn check(what: &str, answer: Accepted, expected: &str) {
        assert_eq!(accepted(what, &answer, Paint(false)), expected);
    }

    #[test]
    fn a_change_is_told_in_one_line() {
        let answer =
            Accepted { generation: 12, changed: true, result: Progress::Programmed, failures: vec![], plan: None };
        check("service kafka", answer.clone(), "service kafka: generation 12, programmed\n");
        check("", answer.clone(), "generation 12, programmed\n");
        check("", Accepted { changed: false, ..answer.clone() }, "generation 12, programmed\n");
        let unchanged = Accepted { changed: false, result: Progress::Accepted, ..answer.clone() };
        check("service kafka", unchanged, "service kafka: unchanged, generation 12, accepted\n");
        let dry = |steps: &[&str]| {
            let plan = Some(steps.iter().map(|step| (*step).to_owned()).collect());
            Accepted { plan, ..answer.clone() }
        };
        check("service kafka", dry(&["add x", "delete y"]), "add x\ndelete y\n");
        check("service kafka", dry(&[]), "nothing to do\n");
        assert_eq!(whole_plan(&Plan { steps: vec!["add x".into()] }, Paint(false)), "add x\n");
    }
}
