//! The kernel: what it holds is observed as [`Objects`], and changed step by step.
//!
//! The one place that talks to it. All of it is synchronous: netlink answers within the call that asks
//! (see [`socket`]). Sockets are opened once in each of our namespaces and kept.

pub mod ask;
pub mod attribute;
pub mod condition;
pub mod conntrack;
pub mod fake;
pub mod fault;
pub mod generic;
pub mod inside;
pub mod ipvs;
pub mod link;
pub mod listeners;
pub mod lock;
pub mod netns;
pub mod nft;
pub mod occupancy;
pub mod path;
pub mod peer;
pub mod privileges;
pub mod probe;
pub mod process;
pub mod record;
#[doc(hidden)]
pub mod replies;
pub mod returns;
pub mod seccomp;
pub mod socket;
pub mod surroundings;
pub mod sysctl;
pub mod watch;
pub mod wireguard;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use nix::errno::Errno;
use tracing::warn;

use crate::objects::{
    Balance, DestinationKey, Family, LinkId, LinkKind, Mac, MapKind, NO_LIMIT, Netns, NetnsRef, Objects, Opening,
    PortRange, PrivateKey, PublicKey, TUNNEL_CHAIN, Timeouts, VirtualKey, WIREGUARD, backends_set, ways_map,
};
use crate::plan::{BalanceEdit, Blocked, Step};
use conntrack::balanced;
use inside::Inside;
use ipvs::connections::{self, Place};
use ipvs::{Ipvs, ServiceCounters, listing};
use link::Links;
use nft::Nft;
use occupancy::Occupancy;
use watch::Watch;
use wireguard::WireguardSocket;

/// Why a step was not done, or something could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Netlink(#[from] socket::Error),
    #[error(transparent)]
    Link(#[from] link::Error),
    #[error(transparent)]
    Namespace(#[from] netns::Error),
    #[error(transparent)]
    Sysctl(#[from] sysctl::Error),
    #[error(transparent)]
    Ipvs(#[from] ipvs::OpenError),
    #[error(transparent)]
    Wireguard(#[from] wireguard::OpenError),
    #[error("there is no key, or no namespace of the overlay")]
    NoWireguard,
    #[error("nf_tables is missing from this kernel: load it with `modprobe nf_tables`, or use a kernel that has it")]
    NoNftables(#[source] socket::Error),
    #[error("only root may look at the kernel's tables (CAP_NET_ADMIN)")]
    NotAllowed,
    #[error(transparent)]
    Returns(#[from] returns::Error),
    #[error("the sandbox's namespace is not there")]
    NoSandbox,
    #[error("cannot enter a namespace")]
    Enter(#[source] io::Error),
    #[error("not done, since a step that it needs failed")]
    Blocked,
    /// Several take-overs are one pass over the table, and fail together.
    #[error("cannot search connection tracking: {0}")]
    TakeOver(String),
}

impl Error {
    /// The kernel's error number, if it refused.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Error::Netlink(error) => error.errno(),
            Error::Link(error) => error.errno(),
            _ => None,
        }
    }
}

pub type Result<T> = std::result::Result<T, Error>;

/// Names that the configuration gives to what is ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// The sandbox's namespace under /run/netns.
    pub sandbox: String,
    /// On the host: the bridge to the sandbox, or its own end of the link.
    pub gateway: String,
}

impl Names {
    fn overlay(&self) -> String {
        format!("{}_overlay", self.sandbox)
    }

    /// Where the daemon of this sandbox keeps what must outlive it, but not the kernel.
    pub fn runtime_directory(&self) -> PathBuf {
        PathBuf::from("/run/meshd").join(&self.sandbox)
    }

    fn of(&self, netns: Netns) -> Option<String> {
        match netns {
            Netns::Host => None,
            Netns::Sandbox => Some(self.sandbox.clone()),
            Netns::Overlay => Some(self.overlay()),
        }
    }
}

/// Elements of a change that is worth not hearing of.
const LARGE: usize = 2000;

/// At once, and again when packets that were on their way have passed.
const STRAYS_PASSES: u8 = 2;
/// So long at most they are searched for at a look.
const STRAYS_TIME: Duration = Duration::from_millis(300);

/// What is open in the sandbox, beside its links.
struct Sandbox {
    nft: Nft,
    /// `None`: this kernel has none.
    ipvs: Option<Ipvs>,
    /// nftables sends clients on here.
    balanced: bool,
    /// It has, and those who may have connections by that are known here.
    tracked: bool,
    /// IPVS has services here.
    serviced: bool,
    /// How often clients of slots that are closed are still to be searched for.
    strays: u8,
    /// Slots whose limit a step has made, if no one has asked yet.
    rooms: BTreeSet<(VirtualKey, u32)>,
}

pub struct Kernel {
    names: Names,
    links: Links,
    host: Nft,
    sandbox: Option<Sandbox>,
    /// This node's own key, if the tunnel is encrypted.
    key: Option<PrivateKey>,
    /// Open in the overlay's namespace, if there is a key.
    wireguard: Option<WireguardSocket>,
    /// Who works in the sandbox beside us.
    inside: Option<Inside>,
    watch: Option<Watch>,
    sysctls: sysctl::Host,
    returns: returns::Record,
    /// Whether this kernel has flow tables, if that was asked.
    flow_tables: Option<bool>,
}

impl Kernel {
    /// Opens the kernel from the host's namespace, which is the calling thread's. Changes nothing.
    pub fn open(names: Names) -> Result<Kernel> {
        let mut links = Links::default();
        links.enter(Netns::Host, netns::open("/proc/thread-self/ns/net")?)?;
        let refused = |error: socket::Error| match error.is(Errno::EPERM) {
            true => Error::NotAllowed,
            false => Error::NoNftables(error),
        };
        let mut host = Nft::open().map_err(refused)?;
        host.table().map_err(refused)?;
        let sysctls = sysctl::Host::new(names.runtime_directory());
        let returns = returns::Record::new(names.runtime_directory());
        let (sandbox, key, wireguard, inside, watch, flow_tables) = (None, None, None, None, None, None);
        let mut kernel =
            Kernel { names, links, host, sandbox, key, wireguard, inside, watch, sysctls, returns, flow_tables };
        kernel.refresh()?;
        Ok(kernel)
    }

    /// Whether someone works in the sandbox.
    pub fn has_inside(&self) -> bool {
        self.inside.as_ref().is_some_and(Inside::is_there)
    }

    /// Has `work` done in the sandbox, in place of what was done before, until `stop` is called: when the sandbox goes.
    ///
    /// # Errors
    /// There is no sandbox, or no thread can be started in it.
    pub fn inside(&mut self, work: impl FnOnce() + Send + 'static, stop: impl FnOnce() + Send + 'static) -> Result<()> {
        self.inside = None;
        let netns = self.links.netns(Netns::Sandbox).ok_or(Error::NoSandbox)?;
        self.inside = Some(Inside::start(netns, work, stop).map_err(Error::Enter)?);
        Ok(())
    }

    /// Calls `changed` from now on whenever someone else changes nftables, links, addresses or network parameters of the host,
    /// of the sandbox or of the overlay (there routes and neighbours, too), and whenever a namespace is pinned or unpinned under
    /// /run/netns. It ends when `changed` says that no one listens.
    ///
    /// # Errors
    /// A watch cannot be set up: then looking from time to time has to do.
    pub fn watch(&mut self, changed: impl Fn() -> bool + Clone + Send + Sync + 'static) -> io::Result<()> {
        self.watch = Some(Watch::start(changed)?);
        [Netns::Host, Netns::Sandbox, Netns::Overlay].into_iter().for_each(|netns| self.listen(netns));
        Ok(())
    }

    fn listen(&mut self, netns: Netns) {
        let rules = match netns {
            Netns::Host => Some(self.host.socket().port()),
            Netns::Sandbox => self.sandbox.as_mut().map(|sandbox| sandbox.nft.socket().port()),
            Netns::Overlay => None,
        };
        if let (Some(watch), Some((file, links))) = (&self.watch, self.links.opened(netns))
            && let Err(error) = watch.listen(netns, file, rules, links)
        {
            warn!("changes by others in the namespace of the {netns} are only seen from time to time: {error}");
        }
    }

    /// From now on there is a WireGuard link, with that key.
    ///
    /// # Errors
    /// This kernel has no WireGuard.
    pub fn encrypt(&mut self, key: PrivateKey) -> Result<()> {
        // Asking loads it.
        WireguardSocket::open()?;
        self.key = Some(key);
        self.open_wireguard()
    }

    fn open_wireguard(&mut self) -> Result<()> {
        if let (Some(_), Some(overlay)) = (&self.key, self.links.netns(Netns::Overlay)) {
            self.wireguard = Some(netns::within(overlay, WireguardSocket::open).map_err(Error::Enter)??);
        }
        Ok(())
    }

    /// IPVS of the sandbox, if the kernel has it loaded: asking for it would load it, and not everyone wants it (see [`ipvs::is_there`]).
    fn open_ipvs(&mut self) -> Result<()> {
        let (Some(sandbox), Some(netns)) = (&mut self.sandbox, self.links.netns(Netns::Sandbox)) else { return Ok(()) };
        if sandbox.ipvs.is_none() {
            let open = || listing::is_there().then(Ipvs::open).transpose();
            sandbox.ipvs = netns::within(netns, open).map_err(Error::Enter)??;
        }
        Ok(())
    }

    /// The port that our WireGuard link listens on, if there is one.
    pub fn wireguard_port(&mut self) -> Result<Option<u16>> {
        let there = self.links.is_wireguard(&LinkId::new(Netns::Overlay, WIREGUARD))?;
        match &mut self.wireguard {
            Some(wireguard) if there => Ok(Some(wireguard.read(None)?.port)),
            _ => Ok(None),
        }
    }

    /// When each peer of the WireGuard link last proved who it is, in seconds since 1970; nothing where there is no such
    /// link.
    pub fn handshakes(&mut self) -> Result<BTreeMap<PublicKey, u64>> {
        match &mut self.wireguard {
            Some(wireguard) => Ok(wireguard.handshakes()?),
            None => Ok(BTreeMap::new()),
        }
    }

    /// All that is ours, and of what can be anyone's (kernel parameters, backends' namespaces) what `about`
    /// speaks of. Unless `closely`, IPVS's services are what is wanted if they are as far as they are shown
    /// (see [`listing`]).
    pub fn observe(&mut self, about: &Objects, closely: bool) -> Result<Objects> {
        self.refresh()?;
        let mut seen = Objects::default();
        for netns in [Netns::Sandbox, Netns::Overlay] {
            if self.links.netns(netns).is_some() {
                seen.namespaces.insert(netns);
            }
        }
        let backends: BTreeMap<Mac, NetnsRef> =
            about.legs.iter().filter_map(|(mac, leg)| Some((*mac, leg.netns.clone()?))).collect();
        let found = self.links.observe(&backends)?;
        seen.links = found.links;
        seen.addresses = found.addresses;
        seen.routes = found.routes;
        seen.legs = found.legs;
        seen.forwarding = found.forwarding;
        seen.neighbours = found.neighbours;
        seen.returns = self.returns.observe()?;
        let wireguard = seen.links.get(&LinkId::new(Netns::Overlay, WIREGUARD));
        if let (Some(LinkKind::Wireguard), Some(socket)) = (wireguard.map(|link| &link.kind), &mut self.wireguard) {
            seen.wireguard = Some(socket.read(about.wireguard.as_ref())?);
        }

        if let Some(table) = self.host.table()? {
            seen.tables.insert(Netns::Host, table);
        }
        let forward = self.host.forward(&self.names.gateway)?;
        seen.openings = forward.open;
        // One rule of two is as good as none, where both are wanted; where none is, it has to go.
        seen.openings.extend(forward.stale.into_iter().filter(|opening| !about.openings.contains(opening)));

        if let Some(sandbox) = &mut self.sandbox {
            if let Some(table) = sandbox.nft.table()? {
                seen.balances = sandbox.nft.balances(&table)?;
                seen.balances.iter_mut().for_each(|(key, balance)| excuse_limits(balance, about.balances.get(key)));
                sandbox.balanced = table.maps.values().any(|map| map.kind == MapKind::Ways);
                sandbox.tracked = table.sets.contains_key(backends_set(Family::V4));
                seen.tables.insert(Netns::Sandbox, table);
            }
            if let Some(ipvs) = &mut sandbox.ipvs {
                let netns = self.links.netns(Netns::Sandbox).filter(|_| !closely);
                let shown = netns.map(|netns| netns::within(netns, || listing::shows(&about.services)));
                seen.services = match shown {
                    Some(Ok(Ok(true))) => about.services.clone(),
                    _ => ipvs.services()?,
                };
                sandbox.serviced = !seen.services.is_empty();
                // Where it is not IPVS that balances, it is no one's business how long it would remember.
                seen.timeouts = about.timeouts.map(|_| ipvs.timeouts()).transpose()?;
            }
        }
        self.observe_sysctls(about, &mut seen)?;
        Ok(seen)
    }

    fn observe_sysctls(&self, about: &Objects, seen: &mut Objects) -> Result<()> {
        let mut names: Vec<(Netns, String)> = about.sysctls.keys().cloned().collect();
        names.extend(self.sysctls.recorded()?.into_keys().map(|name| (Netns::Host, name)));
        for (netns, name) in names {
            let Some(file) = self.links.netns(netns) else { continue };
            // A parameter that is not there (of a link that is to come) has no value.
            if let Some(value) = sysctl::read(file, &name)? {
                seen.sysctls.insert((netns, name), value);
            }
        }
        Ok(())
    }

    /// Does the steps, in order. Steps of one kind that follow one another go to the kernel together. One
    /// outcome for each step: one that fails does not stop the others, but for those that it blocks.
    pub fn apply(&mut self, steps: &[Step]) -> Vec<Result<()>> {
        let large = steps.iter().map(elements).sum::<usize>() >= LARGE;
        match self.watch.clone().filter(|_| large) {
            Some(watch) => watch.deaf(|| self.apply_heard(steps)),
            None => self.apply_heard(steps),
        }
    }

    fn apply_heard(&mut self, steps: &[Step]) -> Vec<Result<()>> {
        if !steps.iter().any(|step| matches!(batch_of(step), Batch::Alone | Batch::Remote)) {
            return self.do_all(steps);
        }
        match self.watch.clone() {
            Some(watch) => watch.hushed(|| self.do_all(steps)),
            None => self.do_all(steps),
        }
    }

    fn do_all(&mut self, steps: &[Step]) -> Vec<Result<()>> {
        let mut outcomes = Vec::with_capacity(steps.len());
        let mut blocked = Blocked::default();
        let mut rest = steps;
        while let Some(first) = rest.first() {
            let batch = batch_of(first);
            let length =
                if batch == Batch::Alone { 1 } else { rest.iter().take_while(|step| batch_of(step) == batch).count() };
            let (run, after) = rest.split_at(length);
            let free: Vec<&Step> = run.iter().filter(|step| !blocked.blocks(step)).collect();
            let mut done = self.apply_run(batch, &free).into_iter();
            for step in run {
                let outcome =
                    if blocked.blocks(step) { Err(Error::Blocked) } else { done.next().unwrap_or(Err(Error::Blocked)) };
                outcomes.push(outcome);
            }
            for (step, outcome) in run.iter().zip(&outcomes[outcomes.len() - run.len()..]) {
                blocked.note(step, outcome.is_ok());
            }
            rest = after;
        }
        outcomes
    }

    fn apply_run(&mut self, batch: Batch, steps: &[&Step]) -> Vec<Result<()>> {
        let all = |outcome: Vec<socket::Result<()>>| outcome.into_iter().map(|one| one.map_err(Error::from)).collect();
        let nobody = || steps.iter().map(|_| Err(Error::NoSandbox)).collect();
        // Only to die there: what a step can be refused is refused where it asks.
        let _ = fault::at("before steps");
        match batch {
            Batch::Nft(Netns::Host) | Batch::Publish(Netns::Host) | Batch::Free(Netns::Host) => {
                all(self.host.apply(steps))
            }
            Batch::Nft(_) | Batch::Publish(_) | Batch::Free(_) | Batch::Balance | Batch::Trim => {
                match &mut self.sandbox {
                    Some(sandbox) => {
                        for step in steps {
                            match step {
                                Step::EditBalance { key, edit } => {
                                    sandbox.rooms.extend(edit.room.iter().map(|(slot, _)| (*key, *slot)));
                                    sandbox.balanced |= edit.leads();
                                    if edit.closes_slots() {
                                        sandbox.strays = STRAYS_PASSES;
                                    }
                                }
                                Step::DeleteMap { name, .. } if name == ways_map(Family::V4) => {
                                    sandbox.balanced = false
                                }
                                Step::AddSet { name, .. } if name == backends_set(Family::V4) => sandbox.tracked = true,
                                _ => {}
                            }
                        }
                        all(sandbox.nft.apply(steps))
                    }
                    None => nobody(),
                }
            }
            Batch::Drop => match &mut self.sandbox {
                Some(sandbox) => all(sandbox.nft.drop_backends(steps)),
                None => nobody(),
            },
            Batch::Ipvs => match &mut self.sandbox {
                Some(Sandbox { ipvs: Some(ipvs), serviced, .. }) => {
                    *serviced |= steps.iter().any(|step| matches!(step, Step::AddService { .. }));
                    all(ipvs.apply(steps))
                }
                _ => nobody(),
            },
            Batch::Wireguard => match (&mut self.wireguard, &self.key) {
                (Some(wireguard), Some(key)) => all(wireguard.apply(steps, key)),
                _ => steps.iter().map(|_| Err(Error::NoWireguard)).collect(),
            },
            Batch::Remote => self.links.apply_remote(steps).into_iter().map(|one| one.map_err(Error::from)).collect(),
            Batch::TakeOver => {
                let mut failed = |netns| self.take_over(netns, steps).err().map(|error| error.to_string());
                let failures = [Netns::Sandbox, Netns::Host].map(|netns| (netns, failed(netns)));
                let outcome = |step: &&Step| match step {
                    Step::TakeOver { netns, .. } => {
                        let failure =
                            failures.iter().find(|(of, _)| of == netns).and_then(|(_, failure)| failure.clone());
                        failure.map_or(Ok(()), |text| Err(Error::TakeOver(text)))
                    }
                    _ => Ok(()),
                };
                steps.iter().map(outcome).collect()
            }
            Batch::Alone => steps.iter().map(|step| self.apply_one(step)).collect(),
        }
    }

    fn apply_one(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::AddNamespace(netns) => {
                if let Some(name) = self.names.of(*netns) {
                    netns::create(&name)?;
                }
                self.enter(*netns)
            }
            Step::DeleteNamespace(netns) => {
                self.leave(*netns);
                match self.names.of(*netns) {
                    Some(name) => Ok(netns::delete(&name)?),
                    None => Ok(()),
                }
            }
            Step::SetSysctl { netns: Netns::Host, name, value } => Ok(self.sysctls.set(name, value)?),
            Step::SetSysctl { netns, name, value } => {
                let file = self.links.netns(*netns).ok_or(Error::NoSandbox)?;
                Ok(sysctl::write(file, name, value)?)
            }
            Step::RestoreSysctl { name } => Ok(self.sysctls.restore(name)?),
            Step::AddLink { id, link } => Ok(self.links.add_link(id, link)?),
            Step::SetLink { id, link } => Ok(self.links.set_link(id, link)?),
            Step::DeleteLink(id) => Ok(self.links.delete_link(id)?),
            Step::AddAddress(address) => Ok(self.links.add_address(address)?),
            Step::DeleteAddress(address) => Ok(self.links.delete_address(address)?),
            Step::AddRoute(route) => Ok(self.links.add_route(route)?),
            Step::DeleteRoute(route) => Ok(self.links.delete_route(route)?),
            Step::AddLeg { mac, leg } => Ok(self.links.add_leg(mac, leg)?),
            Step::DeleteLeg { mac } => Ok(self.links.delete_leg(mac)?),
            Step::SetReturns { netns, returns } => Ok(self.returns.set(netns, returns, &self.links.namespaces())?),
            Step::DeleteReturns { netns } => Ok(self.returns.delete(netns, &self.links.namespaces())?),
            Step::OpenForward(opening) => self.open_forward(opening),
            Step::CloseForward(opening) => self.close_forward(opening),
            _ => Ok(()),
        }
    }

    fn open_forward(&mut self, opening: &Opening) -> Result<()> {
        match self.host.open_forward(opening, &self.names.gateway) {
            // The chain is gone again (firewalld has one while it reloads), and with it what stood in the way.
            Err(error) if error.is(Errno::ENOENT) => Ok(()),
            other => Ok(other?),
        }
    }

    fn close_forward(&mut self, opening: &Opening) -> Result<()> {
        match self.host.close_forward(opening) {
            // The whole chain is gone, and our rules with it.
            Err(error) if error.is(Errno::ENOENT) => Ok(()),
            other => Ok(other?),
        }
    }

    fn take_over(&mut self, of: Netns, steps: &[&Step]) -> Result<()> {
        let ports: Vec<PortRange> = steps
            .iter()
            .filter_map(|step| match step {
                Step::TakeOver { netns, protocol, first, last } if *netns == of => {
                    Some(PortRange { protocol: *protocol, first: *first, last: *last })
                }
                _ => None,
            })
            .collect();
        if ports.is_empty() {
            return Ok(());
        }
        if of != Netns::Host {
            let sandbox = self.sandbox.as_mut().ok_or(Error::NoSandbox)?;
            conntrack::forget_untranslated(sandbox.nft.socket(), &ports, &|_| true)?;
            return Ok(());
        }
        let addresses = self.links.host_addresses()?;
        let local = |ip: IpAddr| ip.is_loopback() || addresses.iter().any(|address| address.ip() == ip);
        conntrack::forget_untranslated(self.host.socket(), &ports, &local)?;
        Ok(())
    }

    /// Traffic of every service and destination, as the kernel counts it now; nothing while there is no sandbox.
    pub fn counters(&mut self) -> Result<BTreeMap<VirtualKey, ServiceCounters>> {
        match &mut self.sandbox {
            Some(Sandbox { nft, balanced: true, .. }) => Ok(nft.served()?),
            Some(Sandbox { ipvs: Some(ipvs), .. }) => Ok(ipvs.counters()?),
            _ => Ok(BTreeMap::new()),
        }
    }

    /// How many open connections backends have, as far as that can be told; none while there is no sandbox.
    pub fn open_connections(&mut self, places: &BTreeSet<Place>) -> Result<BTreeMap<Place, Option<u32>>> {
        let (mut open, more) = (self.open_by_ipvs(places)?, self.open_by_nftables(places)?);
        for (place, open) in &mut open {
            *open = open.zip(more.get(place).copied().flatten()).map(|(one, other)| one.saturating_add(other));
        }
        Ok(open)
    }

    /// Those of them that nftables has sent on.
    pub fn open_by_nftables(&mut self, places: &BTreeSet<Place>) -> Result<BTreeMap<Place, Option<u32>>> {
        let served = |place: &Place| {
            let key = DestinationKey { address: place.address, port: place.port.unwrap_or(0) };
            (place.published.mark(), key)
        };
        let counts = match &mut self.sandbox {
            Some(Sandbox { nft, tracked: true, .. }) => {
                balanced::count(nft.socket(), &places.iter().map(served).collect())?
            }
            _ => BTreeMap::new(),
        };
        let count = |place: &Place| Some(counts.get(&served(place)).copied().unwrap_or(0));
        Ok(places.iter().map(|place| (*place, count(place))).collect())
    }

    /// Those of them that IPVS has.
    pub fn open_by_ipvs(&mut self, places: &BTreeSet<Place>) -> Result<BTreeMap<Place, Option<u32>>> {
        let Some(Sandbox { ipvs: Some(ipvs), serviced: true, .. }) = &mut self.sandbox else {
            return Ok(places.iter().map(|place| (*place, Some(0))).collect());
        };
        let mut open = BTreeMap::new();
        let mut unclear = Vec::new();
        let mut asked: BTreeMap<VirtualKey, BTreeMap<DestinationKey, (u32, u32)>> = BTreeMap::new();
        for place in places {
            let key = VirtualKey { mark: place.published.mark(), family: Family::of(&place.address) };
            if let Entry::Vacant(entry) = asked.entry(key) {
                entry.insert(ipvs.connections(key)?);
            }
            let destination = DestinationKey { address: place.address, port: place.port.unwrap_or(0) };
            let (active, inactive) = asked[&key].get(&destination).copied().unwrap_or_default();
            if active == 0 && inactive > 0 {
                unclear.push(*place);
            } else {
                open.insert(*place, Some(active));
            }
        }
        // Inactive is what has ended and is remembered, and what is half closed, and datagrams.
        if let (false, Some(netns)) = (unclear.is_empty(), self.links.netns(Netns::Sandbox)) {
            let found = netns::within(netns, || connections::open(&unclear)).and_then(|found| found);
            let found = found.map_err(Error::Enter)?;
            let of = |place: &Place| found.as_ref().map(|found| found.get(place).copied().unwrap_or(0));
            open.extend(unclear.iter().map(|place| (*place, of(place))));
        }
        Ok(open)
    }

    /// How full the kernel's tables are now. What cannot be read is left out.
    pub fn occupancy(&mut self) -> Occupancy {
        let strangers = self.host.counted(TUNNEL_CHAIN).ok();
        let read = occupancy::read([Netns::Host, Netns::Sandbox].map(|netns| (netns, self.links.netns(netns))));
        Occupancy { strangers, ..read }
    }

    /// Slots that had no room for someone, since this was asked last.
    pub fn full(&mut self) -> Result<BTreeSet<(VirtualKey, u32)>> {
        match &mut self.sandbox {
            Some(Sandbox { nft, balanced: true, .. }) => Ok(nft.full()?),
            _ => Ok(BTreeSet::new()),
        }
    }

    /// How many connections slots may get, as the kernel has it.
    pub fn rooms(&mut self) -> Result<BTreeMap<(VirtualKey, u32), u32>> {
        match &mut self.sandbox {
            Some(Sandbox { nft, balanced: true, .. }) => Ok(nft.rooms()?),
            _ => Ok(BTreeMap::new()),
        }
    }

    /// Slots whose limit was made since this was asked last, by a step: it knows no connection yet.
    pub fn made_rooms(&mut self) -> BTreeSet<(VirtualKey, u32)> {
        self.sandbox.as_mut().map(|sandbox| std::mem::take(&mut sandbox.rooms)).unwrap_or_default()
    }

    /// Has slots that have a limit count anew, from now on up to that one.
    pub fn renew_rooms(&mut self, rooms: &[((VirtualKey, u32), u32)]) -> Result<()> {
        let Some(sandbox) = &mut self.sandbox else { return Ok(()) };
        let step = |((key, slot), most): &((VirtualKey, u32), u32)| {
            let edit = BalanceEdit { no_room: vec![*slot], room: vec![(*slot, *most)], ..BalanceEdit::default() };
            Step::EditBalance { key: *key, edit }
        };
        let steps: Vec<Step> = rooms.iter().map(step).collect();
        let outcomes = sandbox.nft.apply(&steps.iter().collect::<Vec<_>>());
        // One that was taken away meanwhile has none to be renewed.
        let missing = |outcome: &socket::Result<()>| outcome.as_ref().is_err_and(|error| error.is(Errno::ENOENT));
        outcomes.into_iter().filter(|outcome| !missing(outcome)).try_for_each(|outcome| Ok(outcome?))
    }

    /// Has nftables forget clients of slots that take no more, if any has been closed since: by and by, if they are many.
    pub fn forget_strays(&mut self) -> Result<()> {
        let Some(sandbox) = self.sandbox.as_mut().filter(|sandbox| sandbox.balanced && sandbox.strays > 0) else {
            return Ok(());
        };
        if sandbox.nft.forget_strays(STRAYS_TIME)? {
            sandbox.strays -= 1;
        }
        Ok(())
    }

    /// IPVS's timeouts, as the sandbox has them; nothing while there is no sandbox.
    pub fn timeouts(&mut self) -> Result<Option<Timeouts>> {
        let balances = self.sandbox.as_mut().filter(|sandbox| !sandbox.balanced);
        balances.and_then(|sandbox| sandbox.ipvs.as_mut()).map(|ipvs| Ok(ipvs.timeouts()?)).transpose()
    }

    pub fn links(&mut self) -> &mut Links {
        &mut self.links
    }

    /// Enters namespaces that came, leaves those that went or were replaced behind our back.
    fn refresh(&mut self) -> Result<()> {
        for netns in [Netns::Sandbox, Netns::Overlay] {
            let Some(name) = self.names.of(netns) else { continue };
            let there = netns::exists(&name).then(|| netns::open(format!("/run/netns/{name}"))).transpose()?;
            let same = match (&there, self.links.netns(netns)) {
                (Some(there), Some(open)) => netns::same(there, open).map_err(Error::Enter)?,
                (None, None) => true,
                _ => false,
            };
            if !same {
                self.leave(netns);
                if there.is_some() {
                    self.enter(netns)?;
                }
            }
        }
        // It may have been loaded since.
        self.open_ipvs()?;
        // It may have failed before.
        if self.wireguard.is_none() {
            self.open_wireguard()?;
        }
        Ok(())
    }

    /// Removes the files that a crash left under /run/netns in our namespaces' names, with no namespace there.
    pub fn remove_leftovers(&self) -> Result<()> {
        let names = [Netns::Sandbox, Netns::Overlay].into_iter().filter_map(|netns| self.names.of(netns));
        names.filter(|name| !netns::exists(name)).try_for_each(|name| Ok(netns::delete(&name)?))
    }

    fn enter(&mut self, netns: Netns) -> Result<()> {
        let Some(name) = self.names.of(netns) else { return Ok(()) };
        self.links.enter(netns, netns::open(format!("/run/netns/{name}"))?)?;
        if netns == Netns::Sandbox {
            if let Some(file) = self.links.netns(netns) {
                let open = || {
                    let mut nft = Nft::open()?;
                    let (balanced, tracked) = nft.balances_here()?;
                    let rooms = BTreeSet::new();
                    // The one before us may have died before it had them forgotten.
                    Ok::<_, Error>(Sandbox {
                        nft,
                        ipvs: None,
                        balanced,
                        tracked,
                        // Who has connections is asked before the first look, too.
                        serviced: true,
                        strays: 1,
                        rooms,
                    })
                };
                self.sandbox = Some(netns::within(file, open).map_err(Error::Enter)??);
                self.open_ipvs()?;
            }
        }
        if netns == Netns::Overlay {
            self.open_wireguard()?;
        }
        self.listen(netns);
        Ok(())
    }

    /// A namespace with an open socket would live on unseen.
    fn leave(&mut self, netns: Netns) {
        if netns == Netns::Sandbox {
            (self.inside, self.sandbox) = (None, None);
        }
        if netns == Netns::Overlay {
            self.wireguard = None;
        }
        self.watch.iter().for_each(|watch| watch.forget(netns));
        self.links.leave(netns);
    }
}

/// A limit lower than a cap is what the kernel has while connections are there that it does not count. Where no cap is wanted, none is
/// right.
fn excuse_limits(seen: &mut Balance, about: Option<&Balance>) {
    for (slot, limit) in &mut seen.room {
        if let Some(cap) = about.and_then(|about| about.room.get(slot)).filter(|cap| **cap != NO_LIMIT) {
            *limit = (*limit).max(*cap);
        }
    }
}

/// Elements of maps and sets that a step adds or takes away.
fn elements(step: &Step) -> usize {
    match step {
        Step::EditMap { remove, add, .. } => remove.len() + add.len(),
        Step::EditSets { edits, .. } => edits.iter().map(|edit| edit.remove.len() + edit.add.len()).sum(),
        Step::EditBalance { edit, .. } => {
            edit.backends.len()
                + edit.turns.len()
                + edit.no_turns.len()
                + edit.remove.len()
                + edit.add.len()
                + edit.room.len()
        }
        _ => 0,
    }
}

/// What goes to the kernel together.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Batch {
    Nft(Netns),
    /// What is taken out of sets. In one transaction with what is put into others, there is a moment when a packet finds
    /// neither: a set of ranges shows what is new only some time after the old is gone (Linux, nft_pipapo_commit; seen on
    /// 6.1). So it comes in a transaction of its own.
    Free(Netns),
    /// Ports are published when it is known what else went well.
    Publish(Netns),
    Ipvs,
    /// How ports are balanced.
    Balance,
    /// What nobody is led to any more goes after what came in its place: packets may be on their way.
    Trim,
    Drop,
    Wireguard,
    Remote,
    TakeOver,
    Alone,
}

fn batch_of(step: &Step) -> Batch {
    match step {
        Step::SetTimeouts(_)
        | Step::AddService { .. }
        | Step::SetService { .. }
        | Step::DeleteService(_)
        | Step::AddDestination { .. }
        | Step::SetDestination { .. }
        | Step::DeleteDestination { .. } => Batch::Ipvs,
        Step::SetWireguard { .. } | Step::SetWireguardPeer { .. } | Step::DeleteWireguardPeer { .. } => {
            Batch::Wireguard
        }
        Step::SetForwarding { .. }
        | Step::DeleteForwarding { .. }
        | Step::SetNeighbour { .. }
        | Step::DeleteNeighbour { .. } => Batch::Remote,
        Step::TakeOver { .. } => Batch::TakeOver,
        Step::EditBalance { edit, .. } if edit.trims() => Batch::Trim,
        Step::EditBalance { .. } => Batch::Balance,
        Step::DropBackend { .. } => Batch::Drop,
        Step::EditSets { netns, edits } if edits.iter().all(|edit| edit.add.is_empty()) => Batch::Free(*netns),
        Step::EditMap { netns, .. } => Batch::Publish(*netns),
        _ => nft::namespace_of(step).map_or(Batch::Alone, Batch::Nft),
    }
}
