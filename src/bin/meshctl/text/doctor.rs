//! What a host was examined for.

use meshd::control::protocol::{Area, Diagnosis, Finding, Grade};

use crate::meshctl::escape;
use crate::meshctl::table::{Paint, Tone};

/// As wide as the longest word of a grade.
const WORD: usize = 7;

pub fn diagnosis(diagnosis: &Diagnosis, paint: Paint) -> String {
    let mut text = String::new();
    let mut last: Option<Area> = None;
    for finding in &diagnosis.findings {
        if last != Some(finding.area) {
            let gap = if last.is_none() { "" } else { "\n" };
            text += &format!("{gap}{}\n", paint.on(Tone::Head, head(finding.area)));
            last = Some(finding.area);
        }
        text += &lines(finding, paint);
    }
    let node = format!("{}, balanced by {}", diagnosis.node, diagnosis.dataplane);
    text + &format!("\n{}: {}\n", escape::word(&node), summary(diagnosis, paint))
}

fn head(area: Area) -> &'static str {
    match area {
        Area::Kernel => "kernel",
        Area::Sysctl => "kernel parameters",
        Area::Underlay => "underlay",
        Area::Offload => "offloads",
        Area::Clash => "clashes",
        Area::Firewall => "firewalls",
        Area::Tables => "tables",
        Area::Timeouts => "timeouts",
        Area::Clock => "clock",
        Area::Limits => "limits",
    }
}

fn word(grade: Grade) -> (&'static str, Tone) {
    match grade {
        Grade::Good => ("ok", Tone::Good),
        Grade::Notice => ("notice", Tone::Head),
        Grade::Warning => ("warning", Tone::Warning),
        Grade::Fault => ("FAULT", Tone::Bad),
    }
}

/// What is good has one line.
fn lines(finding: &Finding, paint: Paint) -> String {
    let Finding { grade, what, found, why, mend, .. } = finding;
    let (word, tone) = word(*grade);
    let (what, found, why) = (escape::word(what), escape::word(found), escape::word(why));
    let text = format!("  {}{}  {what}: {found}", paint.on(tone, word), " ".repeat(WORD - word.len()));
    if *grade == Grade::Good {
        return format!("{text} ({why})\n");
    }
    let below = " ".repeat(2 + WORD + 2);
    let mend = mend.iter().map(|mend| format!("{below}mend: {}\n", escape::word(mend)));
    format!("{text}\n{below}{why}\n{}", mend.collect::<String>())
}

/// `2 faults, 1 warning, 0 notices, 31 good`
fn summary(diagnosis: &Diagnosis, paint: Paint) -> String {
    let count = |grade, tone, one: &str, many: &str| {
        let number = diagnosis.findings.iter().filter(|finding| finding.grade == grade).count();
        let text = format!("{number} {}", if number == 1 { one } else { many });
        if number == 0 { text } else { paint.on(tone, &text) }
    };
    [
        count(Grade::Fault, Tone::Bad, "fault", "faults"),
        count(Grade::Warning, Tone::Warning, "warning", "warnings"),
        count(Grade::Notice, Tone::Head, "notice", "notices"),
        count(Grade::Good, Tone::Good, "good", "good"),
    ]
    .join(", ")
}

/// All faults, in a line.
pub fn faults(diagnosis: &Diagnosis) -> String {
    let faults = diagnosis.findings.iter().filter(|finding| finding.grade == Grade::Fault);
    let told: Vec<String> = faults.map(|Finding { what, found, .. }| format!("{what}: {found}")).collect();
    format!("{} on this host: {}", if told.len() == 1 { "a fault" } else { "faults" }, told.join("; "))
}

#[cfg(test)]
mod tests {
    use meshd::control::protocol::Diagnosis;
    use serde_json::{from_value, json};

    use super::{diagnosis, faults};
    use crate::meshctl::table::Paint;

    fn example() -> Diagnosis {
        let finding = |area: &str, grade: &str, what: &str, found: &str, mend: Option<&str>| json!({ "area": area, "grade": grade, "what": what, "found": found, "why": "it matters", "mend": mend });
        from_value(json!({
            "node": "node-1", "dataplane": "ipvs", "good": false, "findings": [
                finding("kernel", "good", "version", "6.1.115", None),
                finding("sysctl", "fault", "net.ipv4.ip_forward of the host", "0, where 1 is wanted", Some("sysctl -w net.ipv4.ip_forward=1")),
                finding("sysctl", "notice", "reverse path filter of \u{1b}", "1, strict", Some("sysctl -w x=2")),
                finding("sysctl", "good", "conntrack of the sandbox", "1", None),
                finding("tables", "warning", "connection tracking", "9 of 10", None),
            ]
        }))
        .expect("a diagnosis")
    }

    #[test]
    fn findings_stand_by_area_and_what_is_good_in_a_line() {
        let expected = "\
kernel
  ok       version: 6.1.115 (it matters)

kernel parameters
  FAULT    net.ipv4.ip_forward of the host: 0, where 1 is wanted
           it matters
           mend: sysctl -w net.ipv4.ip_forward=1
  notice   reverse path filter of \\u{1b}: 1, strict
           it matters
           mend: sysctl -w x=2
  ok       conntrack of the sandbox: 1 (it matters)

tables
  warning  connection tracking: 9 of 10
           it matters

node-1, balanced by ipvs: 1 fault, 1 warning, 1 notice, 2 good
";
        assert_eq!(diagnosis(&example(), Paint(false)), expected);
        assert_eq!(faults(&example()), "a fault on this host: net.ipv4.ip_forward of the host: 0, where 1 is wanted");
    }

    #[test]
    fn grades_have_their_colours() {
        let text = diagnosis(&example(), Paint(true));
        for coloured in
            ["\u{1b}[31mFAULT\u{1b}[0m    net", "\u{1b}[32mok\u{1b}[0m       version", "\u{1b}[33m1 warning\u{1b}[0m"]
        {
            assert!(text.contains(coloured), "{coloured:?} in {text:?}");
        }
        let plain: String = text
            .split('\u{1b}')
            .map(|part| part.split_once('m').filter(|(code, _)| code.starts_with('[')).map_or(part, |(_, rest)| rest))
            .collect();
        assert_eq!(plain, diagnosis(&example(), Paint(false)));
    }
}
