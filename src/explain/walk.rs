//! Taking the way: the hops so far, and the questions on it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Asked, Known, Serves};
use crate::control::protocol::{Hop, Part, Verdict};
use crate::mesh::{Mesh, Port};
use crate::objects::{
    DestinationKey, Family, Hook, Layer, Netns, NetnsRef, Onward, Packet, Phase, Question, Reply, Space, VirtualKey,
};

pub struct Walk<'k> {
    pub known: &'k Known,
    pub port: &'k Port,
    pub from: Option<IpAddr>,
    /// The published port that a client asks for.
    pub number: u16,
    replies: &'k BTreeMap<Question, Reply>,
    questions: RefCell<BTreeSet<Question>>,
    parts: Vec<Part>,
}

impl<'k> Walk<'k> {
    pub fn new(known: &'k Known, asked: &Asked, port: &'k Port, replies: &'k BTreeMap<Question, Reply>) -> Walk<'k> {
        let (questions, parts) = (RefCell::default(), Vec::new());
        Walk { known, port, from: asked.from, number: asked.number, replies, questions, parts }
    }

    pub fn mesh(&self) -> &'k Mesh {
        &self.known.mesh
    }

    pub fn begin(&mut self, title: String) {
        self.parts.push(Part { title, hops: Vec::new() });
    }

    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    pub fn finish(self) -> (Vec<Part>, BTreeSet<Question>) {
        (self.parts, self.questions.into_inner())
    }

    pub fn hop(&mut self, hop: Hop) {
        if let Some(part) = self.parts.last_mut() {
            part.hops.push(hop);
        }
    }

    /// The hops of this part so far.
    pub fn hops(&mut self) -> &mut [Hop] {
        self.parts.last_mut().map(|part| &mut part.hops[..]).unwrap_or_default()
    }

    /// A port that is closed since nobody takes clients: if nothing else is broken, that is.
    pub fn settle(&mut self) {
        let mut hops = self.parts.iter().flat_map(|part| &part.hops);
        if hops.any(|hop| hop.verdict == Verdict::Broken) {
            return;
        }
        let mut hops = self.parts.iter_mut().flat_map(|part| &mut part.hops);
        let closed = hops.find(|hop| hop.what == "mark" && hop.verdict == Verdict::Idle);
        closed.into_iter().for_each(|hop| hop.verdict = Verdict::Broken);
    }

    /// The answer, if it is there already; else it is asked for.
    pub fn ask(&self, question: Question) -> Option<&'k Reply> {
        let reply = self.replies.get(&question);
        self.questions.borrow_mut().insert(question);
        reply
    }

    /// A port without anyone who may serve is closed.
    pub fn nobody(&mut self) {
        let wanted = "a backend that may serve".to_owned();
        let reason = "every client is refused: none is enabled, or none that this node may use".to_owned();
        self.hop(Hop {
            place: "host".to_owned(),
            what: "backends".to_owned(),
            wanted,
            found: "none".to_owned(),
            verdict: Verdict::Broken,
            reason: Some(reason),
            look: "meshctl service ls".to_owned(),
        });
    }

    pub fn key(&self, family: Family) -> VirtualKey {
        VirtualKey { mark: self.port.mark(), family }
    }

    pub fn serves(&self, family: Family, place: &DestinationKey) -> Option<&'k Serves> {
        self.known.serves.get(&self.key(family))?.get(place)
    }

    /// A namespace as an operator knows it.
    pub fn place(&self, space: &Space) -> String {
        let sandbox = &self.mesh().ingress.namespace;
        match space {
            Space::Ours(Netns::Host) => "host".to_owned(),
            Space::Ours(Netns::Sandbox) => sandbox.clone(),
            Space::Ours(Netns::Overlay) => format!("{sandbox}_overlay"),
            Space::Backend(netns) => netns.to_string(),
        }
    }

    /// The command, in that namespace.
    pub fn command(&self, space: &Space, command: &str) -> String {
        match space {
            Space::Ours(Netns::Host) => command.to_owned(),
            Space::Ours(_) | Space::Backend(NetnsRef::Name(_)) => {
                format!("ip netns exec {} {command}", self.place(space))
            }
            Space::Backend(NetnsRef::Path(path)) => format!("nsenter --net={path} {command}"),
            Space::Backend(NetnsRef::Pid(pid)) => format!("nsenter -t {pid} -n {command}"),
        }
    }

    /// The first packet of a connection of that family, before it is sent anywhere.
    pub fn packet(&self, family: Family) -> Packet {
        let any = Packet::first(family, self.port.published.protocol);
        Packet { source: self.from, destination_port: Some(self.number), ..any }
    }

    /// What others' rules do to it. Where nothing stands in the way, one hop for all the hooks says so.
    pub fn rules(&mut self, space: &Space, layer: Layer, what: &str, packets: &[(Hook, Packet)]) {
        let (mut found, mut verdict, mut reason) = (Vec::new(), Verdict::Good, None);
        // What opens a connection may pass, and what comes behind it may not.
        let later = packets.iter().filter(|(_, packet)| packet.phase == Phase::First);
        let later: Vec<(Hook, Packet)> =
            later.map(|(hook, packet)| (*hook, Packet { phase: Phase::Later, ..packet.clone() })).collect();
        for (hook, packet) in packets.iter().chain(&later) {
            let (space, packet) = (space.clone(), packet.clone());
            match self.ask(Question::Rules { space, layer, hook: *hook, packet }) {
                Some(Reply::Rules(obstacles)) => {
                    for obstacle in obstacles {
                        verdict = match (verdict, obstacle.is_sure) {
                            (_, true) | (Verdict::Broken, _) => Verdict::Broken,
                            _ => Verdict::Unsure,
                        };
                        let text = format!("{hook}: {obstacle}");
                        if !found.contains(&text) {
                            found.push(text);
                        }
                    }
                }
                other => {
                    verdict = if verdict == Verdict::Broken { verdict } else { Verdict::Unsure };
                    reason = reason.or(Some(unknown(other)));
                }
            }
        }
        if verdict == Verdict::Broken {
            reason = Some("a rule of someone else's keeps these packets".to_owned());
        } else if !found.is_empty() {
            reason = Some("it depends on more than is known of the packet".to_owned());
        }
        let look = self.command(space, "nft -a list ruleset");
        let found = if found.is_empty() { "nothing in the way".to_owned() } else { found.join("; ") };
        let wanted = "nothing in the way".to_owned();
        self.hop(Hop { place: self.place(space), what: what.to_owned(), wanted, found, verdict, reason, look });
    }

    /// The kernel's choice for a packet, and the one that there has to be.
    pub fn route(
        &mut self,
        space: &Space,
        what: &str,
        (to, from): (IpAddr, Option<IpAddr>),
        link_in: Option<String>,
        mark: u32,
        wanted: &Wanted,
    ) {
        let question = Question::Route { space: space.clone(), to, from, link_in: link_in.clone(), mark };
        let (found, verdict, reason) = match self.ask(question) {
            Some(Reply::Route(route)) => {
                let holds = wanted.holds(route);
                let reason =
                    (!holds).then(|| "a route or a rule (ip-rule(8)) leads elsewhere, or none there".to_owned());
                (route.to_string(), if holds { Verdict::Good } else { Verdict::Broken }, reason)
            }
            other => ("unknown".to_owned(), Verdict::Unsure, Some(unknown(other))),
        };
        let mut command = format!("ip route get {to}");
        from.into_iter().for_each(|from| command += &format!(" from {from}"));
        link_in.into_iter().for_each(|link| command += &format!(" iif {link}"));
        if mark != 0 {
            command += &format!(" mark {mark}");
        }
        let look = self.command(space, &command);
        let wanted = format!("to {to} {wanted}");
        self.hop(Hop { place: self.place(space), what: what.to_owned(), wanted, found, verdict, reason, look });
    }

    /// The links by which clients' packets may come in; `None`: by any.
    pub fn uplinks(&self) -> Vec<Option<String>> {
        const MOST: usize = 4;
        let all: Vec<Option<String>> = match self.from {
            Some(_) => vec![self.uplink()],
            None => self.known.uplinks.iter().take(MOST).cloned().map(Some).collect(),
        };
        if all.is_empty() { vec![None] } else { all }
    }

    /// The link by which packets to that address leave the host, as far as it is known by now.
    pub fn link_to(&self, to: IpAddr, from: Option<IpAddr>) -> Option<String> {
        let question = Question::Route { space: Space::Ours(Netns::Host), to, from, link_in: None, mark: 0 };
        match self.ask(question) {
            Some(Reply::Route(Onward::By { link, .. })) => Some(link.clone()),
            _ => None,
        }
    }

    /// The link by which a client's packets come in, as far as the way back to it says so.
    pub fn uplink(&self) -> Option<String> {
        self.link_to(self.from?, None)
    }
}

/// Which way a packet has to take.
pub enum Wanted {
    /// By that link, and through that gateway if there is one.
    By(&'static str, Option<IpAddr>),
    Link(String),
    /// Through that gateway, by whatever link.
    Through(Option<IpAddr>),
    /// By any link that there is.
    Somewhere,
}

impl Wanted {
    fn holds(&self, route: &Onward) -> bool {
        match (self, route) {
            (Wanted::By(wanted, through), Onward::By { link, gateway }) => wanted == link && through == gateway,
            (Wanted::Link(wanted), Onward::By { link, gateway }) => wanted == link && gateway.is_none(),
            (Wanted::Through(through), Onward::By { gateway, .. }) => through == gateway,
            (Wanted::Somewhere, Onward::By { .. }) => true,
            _ => false,
        }
    }
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Wanted::By(link, Some(gateway)) => write!(f, "via {gateway} dev {link}"),
            Wanted::By(link, None) => write!(f, "dev {link}"),
            Wanted::Link(link) => write!(f, "dev {link}"),
            Wanted::Through(Some(gateway)) => write!(f, "via {gateway}"),
            Wanted::Through(None) | Wanted::Somewhere => write!(f, "by some link"),
        }
    }
}

pub fn unknown(reply: Option<&Reply>) -> String {
    match reply {
        Some(Reply::Unknown(reason)) => format!("it could not be asked: {reason}"),
        _ => "it could not be asked".to_owned(),
    }
}
