//! A way, hop by hop.

use meshd::control::protocol::{Explanation, Hop, PortWay, Verdict};

use crate::meshctl::escape;
use crate::meshctl::table::{Paint, Tone};

pub fn explanation(explanation: &Explanation, paint: Paint) -> String {
    let Explanation { node, dataplane, ports, .. } = explanation;
    ports.iter().map(|port| way(port, node, dataplane, paint)).collect::<Vec<_>>().join("\n")
}

fn way(way: &PortWay, node: &str, dataplane: &str, paint: Paint) -> String {
    let PortWay { service, port, mark, parts } = way;
    let head = format!("{port} of {service} on {node}: mark {mark}, balanced by {dataplane}");
    let mut text = format!("{}\n", paint.on(Tone::Head, &escape::word(&head)));
    let hops = || parts.iter().flat_map(|part| &part.hops);
    let widest = |of: fn(&Hop) -> &str| hops().map(|hop| escape::word(of(hop)).chars().count()).max().unwrap_or(0);
    let widths = (widest(|hop| &hop.place), widest(|hop| &hop.what));
    for part in parts {
        text += &format!("\n{}\n", paint.on(Tone::Head, &escape::word(&part.title)));
        part.hops.iter().for_each(|hop| text += &line(hop, widths, paint));
    }
    text
}

fn line(hop: &Hop, (place_width, what_width): (usize, usize), paint: Paint) -> String {
    let (word, tone) = match hop.verdict {
        Verdict::Good => ("ok", Tone::Good),
        Verdict::Broken => ("BROKEN", Tone::Bad),
        Verdict::Unsure => ("unsure", Tone::Warning),
        Verdict::Idle => ("idle", Tone::Warning),
    };
    let (place, what) = (escape::word(&hop.place), escape::word(&hop.what));
    let head =
        format!("  {}{}  {place:place_width$}  {what:what_width$}  ", paint.on(tone, word), " ".repeat(6 - word.len()));
    // As wide as that is without colours.
    let below = format!("\n{}", " ".repeat(2 + 6 + 2 + place_width + 2 + what_width + 2));
    let mut text = head + &escape::word(&hop.found);
    if hop.verdict == Verdict::Good {
        hop.reason.iter().for_each(|reason| text += &format!(" ({})", escape::word(reason)));
    } else {
        if hop.wanted != hop.found {
            text += &format!("{below}wanted: {}", escape::word(&hop.wanted));
        }
        hop.reason.iter().for_each(|reason| text += &format!("{below}{}", escape::word(reason)));
        text += &format!("{below}see `{}`", escape::word(&hop.look));
    }
    text + "\n"
}

/// The first hop that does not hold, in a line.
pub fn broken(hop: &Hop) -> String {
    let reason = hop.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    format!(
        "broken in {} at \"{}\"{reason}; wanted {}, found {}; see `{}`",
        hop.place, hop.what, hop.wanted, hop.found, hop.look
    )
}

#[cfg(test)]
mod tests {
    use meshd::control::protocol::Explanation;
    use serde_json::{from_value, json};

    use super::{broken, explanation};
    use crate::meshctl::table::Paint;

    #[test]
    fn what_does_not_hold_is_told_in_full() {
        let hop = |what: &str, found: &str, verdict: &str, reason: Option<&str>| {
            json!({ "place": "ingress_sbox", "what": what, "wanted": "a", "found": found, "verdict": verdict,
                    "reason": reason, "look": "ip netns exec ingress_sbox true" })
        };
        let hops = [
            hop("link eth1", "a", "good", None),
            hop("mark", "nothing", "broken", Some("it is not there")),
            hop("destination", "a", "good", Some("2 connections")),
            hop("state\u{1b}", "a", "idle", Some("drained")),
        ];
        let whole: Explanation = from_value(json!({
            "node": "node-1", "dataplane": "ipvs", "good": false, "broken": hops[1], "ports": [
                { "service": "kafka", "port": "tcp/20229", "mark": "0x14f05 = 85765",
                  "parts": [{ "title": "IPv4 in", "hops": hops }] }
            ]
        }))
        .expect("an explanation");
        let expected = "\
tcp/20229 of kafka on node-1: mark 0x14f05 = 85765, balanced by ipvs

IPv4 in
  ok      ingress_sbox  link eth1    a
  BROKEN  ingress_sbox  mark         nothing
                                     wanted: a
                                     it is not there
                                     see `ip netns exec ingress_sbox true`
  ok      ingress_sbox  destination  a (2 connections)
  idle    ingress_sbox  state\\u{1b}  a
                                     drained
                                     see `ip netns exec ingress_sbox true`
";
        assert_eq!(explanation(&whole, Paint(false)), expected);
        assert_eq!(
            broken(&whole.broken.expect("a hop")),
            "broken in ingress_sbox at \"mark\": it is not there; wanted a, found nothing; see `ip netns exec ingress_sbox true`"
        );
    }
}
