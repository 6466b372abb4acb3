//! Who may import whom (DESIGN.md): read from the paths that the source names, file by file.

use std::fmt;
use std::fs;
use std::path::Path;

/// What the parts that know nothing of the world may name of this crate. `kernel` is not pure; it is kept from
/// knowing what a mesh is.
const KNOWS: [(&str, &[&str]); 15] = [
    ("change", &["change", "dataplane", "mesh", "objects", "plan"]),
    ("check", &["check", "control::protocol", "mesh", "objects"]),
    ("config", &["config", "mesh", "objects"]),
    ("mesh", &["mesh", "objects"]),
    ("dataplane", &["dataplane", "mesh", "objects"]),
    ("doctor", &["doctor", "control::protocol", "dataplane", "mesh", "objects"]),
    ("drain", &["drain", "mesh"]),
    ("share", &["share", "mesh"]),
    ("explain", &["explain", "control::protocol", "dataplane", "mesh", "objects"]),
    ("objects", &["objects"]),
    ("plan", &["plan", "objects"]),
    ("kernel", &["kernel", "objects", "plan"]),
    ("health", &["health", "mesh", "objects", "kernel::process"]),
    ("source", &["source", "config", "mesh", "objects", "control::protocol", "kernel::lock", "kernel::fault"]),
    ("control", &["control", "source", "explain", "mesh", "objects", "metrics", "kernel::peer"]),
];
const PURE: [&str; 11] =
    ["change", "check", "config", "mesh", "dataplane", "doctor", "drain", "explain", "objects", "plan", "share"];
/// What only the kernel part may name.
const KERNELS_OWN: [&str; 8] = [
    "nix",
    "nftnl",
    "rtnetlink",
    "netlink_packet_core",
    "netlink_packet_generic",
    "netlink_packet_route",
    "netlink_proto",
    "netlink_sys",
];
/// What pure parts may not name, besides.
const WORLDLY: [&str; 12] = [
    "tokio",
    "tracing",
    "rand",
    "libc",
    "std::fs",
    "std::process",
    "std::os",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::UdpSocket",
    "std::time::Instant",
    "std::time::SystemTime",
];
/// Who may open a kernel.
const OWNERS: [&str; 3] = ["kernel", "daemon", "main"];
/// Who speaks to the outside in serde's words.
const SPEAKERS: [&str; 2] = ["config", "control::protocol"];

/// A path as it stands in the source, from the root: `crate::plan::Step`, `std::fs::read`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Named {
    line: usize,
    path: String,
}

/// What is wrong with a file, each with its line.
#[derive(Debug, PartialEq, Eq)]
struct Offence {
    file: String,
    named: Named,
    rule: String,
}

impl fmt::Display for Offence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Named { line, path } = &self.named;
        write!(f, "src/{}:{line}: `{path}`: {}", self.file, self.rule)
    }
}

fn offences(file: &str, text: &str) -> Vec<Offence> {
    let module = module(file);
    let mut out = Vec::new();
    for named in named(&module, &tokens(text)) {
        if let Some(rule) = broken_rule(&module, &named.path) {
            out.push(Offence { file: file.to_owned(), named, rule });
        }
    }
    out
}

fn broken_rule(module: &str, path: &str) -> Option<String> {
    let part = module.split("::").next().unwrap_or_default();
    let knows = KNOWS.iter().find(|(other, _)| *other == part).map(|(_, knows)| *knows);
    if let (Some(knows), Some(rest)) = (knows, path.strip_prefix("crate::"))
        && !knows.iter().any(|known| within(rest, known))
    {
        return Some(format!("{part} knows only {}", knows.join(", ")));
    }
    if PURE.contains(&part) && WORLDLY.iter().any(|worldly| within(path, worldly)) {
        return Some(format!("{part} is pure"));
    }
    if part != "kernel" && KERNELS_OWN.iter().any(|own| within(path, own)) {
        return Some("only kernel talks to the kernel".to_owned());
    }
    if within(path, "serde") && !SPEAKERS.iter().any(|speaker| within(module, speaker)) {
        return Some(format!("only {} know serde", SPEAKERS.join(" and ")));
    }
    let opens = path.starts_with("Kernel::") || path.contains("::Kernel::");
    if opens && !OWNERS.contains(&part) {
        return Some("only daemon owns a kernel".to_owned());
    }
    (path == "unsafe").then(|| "there is no unsafe code in this crate".to_owned())
}

/// Whether `path` is `prefix` or something in it.
fn within(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// The module that a file below src is; the library's root has no name.
fn module(file: &str) -> String {
    let path = file.trim_end_matches(".rs").replace('/', "::");
    if path == "lib" { String::new() } else { path }
}

/// Every path in the source: what `use` brings in, and what is named where it is used.
fn named(module: &str, tokens: &[(usize, String)]) -> Vec<Named> {
    let mut out = Vec::new();
    let mut place = 0;
    while let Some((line, token)) = tokens.get(place) {
        let first = is_word(token) && place.checked_sub(1).is_none_or(|before| tokens[before].1 != "::");
        if token == "use" {
            place = tree(tokens, place + 1, "", &mut out);
        } else if first {
            let mut path = token.clone();
            while tokens.get(place + 1).is_some_and(|(_, next)| next == "::")
                && tokens.get(place + 2).is_some_and(|(_, next)| is_word(next))
            {
                path = format!("{path}::{}", tokens[place + 2].1);
                place += 2;
            }
            // One word alone is a name that some `use` brought in, or a local one.
            if path.contains("::") || path == "unsafe" {
                out.push(Named { line: *line, path });
            }
            place += 1;
        } else {
            place += 1;
        }
    }
    out.iter_mut().for_each(|named| named.path = absolute(module, &named.path));
    out
}

/// One tree of a `use`, `a::{b, c::d as e}`, from `place` on; returns the place after it.
fn tree(tokens: &[(usize, String)], mut place: usize, prefix: &str, out: &mut Vec<Named>) -> usize {
    let mut path = prefix.to_owned();
    let mut line = tokens.get(place).map_or(0, |(line, _)| *line);
    while let Some((at, token)) = tokens.get(place) {
        match token.as_str() {
            "{" => {
                place += 1;
                while tokens.get(place).is_some_and(|(_, token)| token != "}") {
                    place = tree(tokens, place, &path, out);
                    place += usize::from(tokens.get(place).is_some_and(|(_, token)| token == ","));
                }
                return place + 1;
            }
            "as" => place += 2,
            "::" => place += 1,
            word if is_word(word) || word == "*" => {
                path = if path.is_empty() { word.to_owned() } else { format!("{path}::{word}") };
                line = *at;
                place += 1;
            }
            _ => break,
        }
    }
    out.push(Named { line, path: path.trim_end_matches("::self").to_owned() });
    place
}

/// `self` and `super` resolved by where the file is. Inside a `mod tests { … }` a `super` more is needed than
/// is seen here: what then comes out is too far up, and in the file's own part all the same.
fn absolute(module: &str, path: &str) -> String {
    let mut base: Vec<&str> = module.split("::").filter(|part| !part.is_empty()).collect();
    let mut words = path.split("::").peekable();
    if !matches!(words.peek(), Some(&"self" | &"super")) {
        return path.to_owned();
    }
    while let Some(word) = words.next_if(|word| matches!(*word, "self" | "super")) {
        if word == "super" && base.len() > 1 {
            base.pop();
        }
    }
    std::iter::once("crate").chain(base).chain(words).collect::<Vec<_>>().join("::")
}

fn is_word(token: &str) -> bool {
    token.starts_with(|letter: char| letter.is_alphabetic() || letter == '_')
}

/// Words and signs with their lines, without comments, strings and characters.
fn tokens(text: &str) -> Vec<(usize, String)> {
    let mut out: Vec<(usize, String)> = Vec::new();
    let (mut line, mut rest) = (1, text);
    while let Some(letter) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = literal(rest) {
            length
        } else if letter.is_alphanumeric() || letter == '_' {
            rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            letter.len_utf8()
        };
        let token = &rest[..length];
        let kept = is_word(token) && literal(rest).is_none() || matches!(token, "::" | "{" | "}" | "," | ";" | "*");
        if kept {
            out.push((line, token.to_owned()));
        } else if !letter.is_whitespace() && !token.starts_with('/') {
            // Anything else parts one path from the next.
            out.push((line, ".".to_owned()));
        }
        line += token.matches('\n').count();
        rest = &rest[length..];
    }
    out
}

/// The length of the string or character that the text begins with.
fn literal(text: &str) -> Option<usize> {
    let raw = text.strip_prefix('b').unwrap_or(text);
    if let Some(hashes) = raw.strip_prefix('r').map(|rest| rest.len() - rest.trim_start_matches('#').len())
        && raw[1 + hashes..].starts_with('"')
    {
        let closing = format!("\"{}", "#".repeat(hashes));
        let start = text.len() - raw.len() + hashes + 2;
        return text[start..].find(&closing).map(|end| start + end + closing.len());
    }
    let quote = raw.chars().next().filter(|letter| matches!(letter, '"' | '\''))?;
    let start = text.len() - raw.len() + 1;
    let mut letters = text[start..].char_indices();
    let mut count = 0;
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => drop(letters.next()),
            letter if letter == quote => return Some(start + at + 1),
            // A lifetime has no closing quote near.
            _ if quote == '\'' && count > 0 => return None,
            _ => {}
        }
        count += 1;
    }
    None
}

fn sources(folder: &Path, out: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            out.push(path);
        }
    }
}

#[test]
fn every_part_knows_only_what_it_may() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    files.sort();
    assert!(files.len() > 20, "the source was found");
    let offences = files.iter().flat_map(|file| {
        let name = file.strip_prefix(&root).unwrap().to_str().unwrap();
        offences(name, &fs::read_to_string(file).unwrap())
    });
    let offences: Vec<String> = offences.map(|offence| offence.to_string()).collect();
    assert!(offences.is_empty(), "\n{}\n", offences.join("\n"));
}

#[test]
fn the_library_forbids_unsafe_code() {
    let root = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    assert!(root.lines().any(|line| line == "#![forbid(unsafe_code)]"));
}

// Whether this test can fail.

#[track_caller]
fn check(file: &str, text: &str, expected: &[&str]) {
    let found: Vec<String> = offences(file, text).iter().map(|offence| offence.to_string()).collect();
    assert_eq!(found, expected, "in\n{text}");
}

#[test]
fn an_offence_is_told_with_its_file_and_line() {
    check(
        "plan/maps.rs",
        "\nuse crate::mesh::Mesh;\n",
        &["src/plan/maps.rs:2: `crate::mesh::Mesh`: plan knows only plan, objects"],
    );
}

#[test]
fn pure_parts_name_nothing_of_the_world() {
    let pure = "mesh is pure";
    check("mesh.rs", "use std::time::Instant;", &[&format!("src/mesh.rs:1: `std::time::Instant`: {pure}")]);
    check("mesh.rs", "use std::{fmt, fs as files};", &[&format!("src/mesh.rs:1: `std::fs`: {pure}")]);
    check("mesh.rs", "fn f() { std::fs::read(1); }", &[&format!("src/mesh.rs:1: `std::fs::read`: {pure}")]);
    check(
        "mesh.rs",
        "use std::net::{\n    IpAddr,\n    TcpStream,\n};",
        &[&format!("src/mesh.rs:3: `std::net::TcpStream`: {pure}")],
    );
    check(
        "mesh.rs",
        "use tokio::{sync::{self, mpsc}};",
        &[&format!("src/mesh.rs:1: `tokio::sync`: {pure}"), &format!("src/mesh.rs:1: `tokio::sync::mpsc`: {pure}")],
    );
    check("mesh.rs", "use std::time::Duration; use std::net::{IpAddr, Ipv4Addr}; use std::fmt::{self, Write};", &[]);
    check("daemon.rs", "use tokio::time; use std::time::Instant;", &[]);
}

#[test]
fn the_kernel_knows_objects_and_plans_only() {
    let rule = "kernel knows only kernel, objects, plan";
    check("kernel/fake.rs", "use crate::objects::Mark;\nuse crate::plan::Step;\nuse super::netns;", &[]);
    check(
        "kernel/fake.rs",
        "use crate::{objects::Mark, mesh};",
        &[&format!("src/kernel/fake.rs:1: `crate::mesh`: {rule}")],
    );
    check("kernel.rs", "pub use crate::daemon::Event;", &[&format!("src/kernel.rs:1: `crate::daemon::Event`: {rule}")]);
    check(
        "kernel/nft.rs",
        "fn f(c: &crate::config::Config) {}",
        &[&format!("src/kernel/nft.rs:1: `crate::config::Config`: {rule}")],
    );
}

#[test]
fn super_leads_where_the_file_is() {
    check("dataplane/host.rs", "use super::topology::gateway;\nuse super::super::mesh;", &[]);
    assert_eq!(absolute("kernel::nft::map", "super::expr"), "crate::kernel::nft::expr");
    assert_eq!(absolute("kernel::nft::map", "super::super::socket"), "crate::kernel::socket");
    assert_eq!(absolute("plan", "self::step::Step"), "crate::plan::step::Step");
}

#[test]
fn only_the_kernel_part_talks_to_the_kernel() {
    let rule = "only kernel talks to the kernel";
    check("daemon.rs", "use nix::sys::signal;", &[&format!("src/daemon.rs:1: `nix::sys::signal`: {rule}")]);
    check("kernel/netns.rs", "use nix::sched::setns;", &[]);
}

#[test]
fn only_the_daemon_owns_a_kernel() {
    let rule = "only daemon owns a kernel";
    check("metrics.rs", "let k = Kernel::open();", &[&format!("src/metrics.rs:1: `Kernel::open`: {rule}")]);
    check(
        "metrics.rs",
        "crate::kernel::Kernel::open()",
        &[&format!("src/metrics.rs:1: `crate::kernel::Kernel::open`: {rule}")],
    );
    check("daemon.rs", "let k = Kernel::open();", &[]);
}

#[test]
fn only_config_and_the_protocol_know_serde() {
    let rule = "only config and control::protocol know serde";
    check("mesh.rs", "use serde::Serialize;", &[&format!("src/mesh.rs:1: `serde::Serialize`: {rule}")]);
    check(
        "control/server.rs",
        "#[derive(serde::Serialize)]",
        &[&format!("src/control/server.rs:1: `serde::Serialize`: {rule}")],
    );
    check("control/protocol.rs", "use serde::Serialize;", &[]);
    check("control/server.rs", "use serde_json::Value;", &[]);
}

#[test]
fn unsafe_is_found_wherever_it_is() {
    check(
        "kernel/netns.rs",
        "fn f() { unsafe { g() } }",
        &["src/kernel/netns.rs:1: `unsafe`: there is no unsafe code in this crate"],
    );
}

#[test]
fn comments_and_strings_name_nothing() {
    check("mesh.rs", "// use tokio::time;\n/* std::fs */ /// [`tokio::sync`]\n", &[]);
    check(
        "mesh.rs",
        r##"const A: &str = "use tokio::time; \" unsafe"; const B: char = '"'; const C: &str = r#"std::fs"#;"##,
        &[],
    );
    check("mesh.rs", "fn f<'a>(x: &'a str) -> &'a str { x } // std::fs", &[]);
    check("mesh.rs", "const A: char = '\"'; use std::fs;", &["src/mesh.rs:1: `std::fs`: mesh is pure"]);
}
