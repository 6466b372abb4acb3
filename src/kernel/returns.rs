//! The ways back of preserved client addresses: what a backend's namespace gets, and the record of what got what.
//!
//! Nothing in the kernel tells which namespaces have something of ours, and their names leave the configuration before
//! they do. So each is written down first, in a file below /run, with what it is given; what it then holds is compared with
//! that.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};

use super::link::ways;
use super::socket::{self, Socket};
use super::{netns, nft, record, sysctl};
use crate::objects::{Mac, NetnsRef, Returns};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Record(#[from] record::Error),
    #[error("no link of namespace {0} has the backend's address")]
    NotAttached(NetnsRef),
    #[error("namespace {0} is meshd's own or the host's, which no backend can have")]
    Own(NetnsRef),
    #[error(transparent)]
    Namespace(#[from] netns::Error),
    #[error("cannot enter a namespace")]
    Enter(#[source] io::Error),
    #[error(transparent)]
    Netlink(#[from] socket::Error),
    #[error(transparent)]
    Sysctl(#[from] sysctl::Error),
}

type Result<T> = std::result::Result<T, Error>;

/// That a socket which is accepted has the mark of its first packet, and what the kernel itself answers the mark of its
/// question (ip-sysctl).
const REFLECT: [&str; 3] = ["net/ipv4/tcp_fwmark_accept", "net/ipv4/fwmark_reflect", "net/ipv6/fwmark_reflect"];

/// What a namespace was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Given {
    /// Which namespace it was: the next one of that name was given nothing.
    identity: u64,
    returns: Returns,
    /// The parameters among [`REFLECT`] that were 0 before.
    set: Vec<String>,
}

/// The record.
#[derive(Debug)]
pub struct Record {
    file: PathBuf,
}

impl Record {
    pub fn new(directory: impl AsRef<Path>) -> Record {
        Record { file: directory.as_ref().join("returns") }
    }

    /// What each namespace has. One that has not what the record says comes out as having nothing, so that it is given
    /// it again; one that is gone, not at all.
    pub fn observe(&self) -> Result<BTreeMap<NetnsRef, Returns>> {
        let mut seen = BTreeMap::new();
        for (netns, given) in self.load()? {
            let Some(file) = given.open(&netns) else { continue };
            let whole = within(&file, || holds(&given.returns))?;
            seen.insert(netns, if whole { given.returns } else { Returns::default() });
        }
        Ok(seen)
    }

    /// Gives a namespace its ways back; `own` are the namespaces that no backend can have.
    pub fn set(&self, netns: &NetnsRef, returns: &Returns, own: &[&OwnedFd]) -> Result<()> {
        let file = open(netns, own)?;
        let mut all = self.load()?;
        all.retain(|netns, given| given.open(netns).is_some());
        let before = all.remove(netns).unwrap_or_default();
        let identity = netns::identity(&file).map_err(Error::Enter)?;
        let mut given = Given { identity, returns: returns.clone(), set: before.set };
        let missing = within(&file, || {
            let off = |name: &&str| sysctl::get(name).is_ok_and(|value| value.as_deref() == Some("0"));
            Ok(REFLECT.into_iter().filter(off).map(str::to_owned).collect::<Vec<_>>())
        })?;
        given.set.extend(missing.iter().filter(|name| !given.set.contains(name)).cloned().collect::<Vec<_>>());
        all.insert(netns.clone(), given);
        self.store(&all)?;
        within(&file, || give(returns, &missing))?.then_some(()).ok_or_else(|| Error::NotAttached(netns.clone()))
    }

    /// Takes from a namespace what it was given. One that is gone has nothing.
    pub fn delete(&self, netns: &NetnsRef, own: &[&OwnedFd]) -> Result<()> {
        let mut all = self.load()?;
        let Some(given) = all.remove(netns) else { return Ok(()) };
        if given.open(netns).is_some() {
            within(&open(netns, own)?, || take(&given.set))?;
        }
        self.store(&all)
    }

    fn load(&self) -> Result<BTreeMap<NetnsRef, Given>> {
        let text = record::load(&self.file)?;
        Ok(text.lines().filter_map(read).collect())
    }

    fn store(&self, all: &BTreeMap<NetnsRef, Given>) -> Result<()> {
        let text: String = all.iter().map(|(netns, given)| write(netns, given)).collect();
        Ok(record::store(&self.file, &text)?)
    }
}

impl Given {
    /// The namespace that was given it; `None`: it is gone, and its name may be another's by now.
    fn open(&self, netns: &NetnsRef) -> Option<OwnedFd> {
        let file = netns::open(netns.path()).ok()?;
        (netns::identity(&file).ok()? == self.identity).then_some(file)
    }
}

fn open(netns: &NetnsRef, own: &[&OwnedFd]) -> Result<OwnedFd> {
    let file = netns::open(netns.path())?;
    // A process's number may be another process's by now.
    match own.iter().any(|own| netns::same(&file, own).unwrap_or(true)) {
        true => Err(Error::Own(netns.clone())),
        false => Ok(file),
    }
}

fn within<T: Send>(file: &OwnedFd, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    netns::within(file, work).map_err(Error::Enter)?
}

fn sockets() -> Result<(Socket, Socket)> {
    Ok((Socket::open(NETLINK_ROUTE)?, Socket::open(NETLINK_NETFILTER)?))
}

/// With a mark taken for valid, an answer's way is looked up as it will go: so a strict reverse-path filter lets in what
/// came by a node (ip-sysctl, `src_valid_mark`).
fn valid_mark(link: &str) -> String {
    format!("net/ipv4/conf/{link}/src_valid_mark")
}

/// Whether the calling thread's namespace has them all.
fn holds(returns: &Returns) -> Result<bool> {
    let (mut route, mut netfilter) = sockets()?;
    let Some((index, name)) = ways::leg_of(&mut route, returns)? else { return Ok(false) };
    let on = |name: &str| Ok::<_, Error>(sysctl::get(name)?.is_none_or(|value| value != "0"));
    for parameter in REFLECT {
        if !on(parameter)? {
            return Ok(false);
        }
    }
    Ok(on(&valid_mark(&name))? && ways::are(&mut route, index, returns)? && nft::returns::is(&mut netfilter, returns)?)
}

/// False: no link there has the backend's address.
fn give(returns: &Returns, off: &[String]) -> Result<bool> {
    let (mut route, mut netfilter) = sockets()?;
    let Some((index, name)) = ways::leg_of(&mut route, returns)? else { return Ok(false) };
    for parameter in off {
        sysctl::put(parameter, "1")?;
    }
    sysctl::put(&valid_mark(&name), "1")?;
    // A mark leads somewhere before a packet has it.
    ways::set(&mut route, index, returns)?;
    nft::returns::set(&mut netfilter, returns)?;
    Ok(true)
}

fn take(set: &[String]) -> Result<()> {
    let (mut route, mut netfilter) = sockets()?;
    nft::returns::remove(&mut netfilter)?;
    ways::remove(&mut route)?;
    set.iter().try_for_each(|parameter| Ok(sysctl::put(parameter, "0")?))
}

/// One line: the namespace and its number, the parameters, the sources, the ports, and for each node its MAC and its addresses.
fn write(netns: &NetnsRef, given: &Given) -> String {
    let Given { identity, returns, set } = given;
    let join = |items: Vec<String>| items.join(",");
    let ports = returns.datagrams.iter().map(|(first, last)| format!("{first}-{last}")).collect();
    let sources = returns.sources.iter().map(ToString::to_string).collect();
    let netns = match netns {
        NetnsRef::Pid(pid) => pid.to_string(),
        NetnsRef::Name(name) | NetnsRef::Path(name) => name.clone(),
    };
    let mut line = format!("{netns}\t{identity}\t{}\t{}\t{}", join(set.clone()), join(sources), join(ports));
    for (mac, addresses) in &returns.nodes {
        line += &format!("\t{mac}={}", join(addresses.iter().map(ToString::to_string).collect()));
    }
    line + "\n"
}

/// What cannot be read of a line is left out: then the namespace has not what the line says, and gets it again.
fn read(line: &str) -> Option<(NetnsRef, Given)> {
    let mut fields = line.split('\t');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let netns = match name.parse() {
        Ok(pid) => NetnsRef::Pid(pid),
        Err(_) if name.starts_with('/') => NetnsRef::Path(name.to_owned()),
        Err(_) => NetnsRef::Name(name.to_owned()),
    };
    let identity = fields.next().and_then(|number| number.parse().ok()).unwrap_or(0);
    let mut list = || fields.next().unwrap_or_default().split(',').filter(|item| !item.is_empty());
    let set = list().filter(|name| REFLECT.contains(name)).map(str::to_owned).collect();
    let sources = list().filter_map(|source| source.parse().ok()).collect();
    let ports = |item: &str| item.split_once('-').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    let datagrams = list().filter_map(ports).collect();
    let node = |field: &str| {
        let (mac, addresses) = field.split_once('=')?;
        let addresses = addresses.split(',').filter_map(|address| address.parse().ok()).collect();
        Some((mac.parse::<Mac>().ok()?, addresses))
    };
    let nodes = fields.filter_map(node).collect();
    Some((netns, Given { identity, returns: Returns { nodes, sources, datagrams }, set }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let ip = |text: &str| text.parse().unwrap();
        let returns = Returns {
            nodes: [
                (Mac([2, 0x42, 10, 255, 0, 3]), [ip("10.255.0.3"), ip("fd00:255::3")].into()),
                (Mac([2, 0x42, 10, 255, 0, 4]), [ip("10.255.0.4")].into()),
            ]
            .into(),
            sources: ["10.255.0.33/16", "fd00:255::33/64"].map(|source| source.parse().unwrap()).into(),
            datagrams: [(53, 53), (30000, 30009)].into(),
        };
        let given = Given { identity: 4026532000, returns, set: vec![REFLECT[0].to_owned()] };
        for netns in
            [NetnsRef::Name("kafka 1".to_owned()), NetnsRef::Path("/run/docker/netns/a".to_owned()), NetnsRef::Pid(7)]
        {
            for given in [&given, &Given::default()] {
                let line = write(&netns, given);
                assert_eq!(read(line.trim_end_matches('\n')), Some((netns.clone(), given.clone())));
                (0..line.len()).filter(|end| line.is_char_boundary(*end)).for_each(|end| drop(read(&line[..end])));
            }
        }
        assert_eq!(read(""), None);
    }
}
