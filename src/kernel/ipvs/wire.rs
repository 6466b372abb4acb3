//! IPVS messages as bytes (linux/ip_vs.h).
//!
//! Numbers are in host byte order, ports and IPv4 netmasks in network byte order, an address takes 16 bytes
//! whatever its family. Reading is tolerant: attributes that this file does not know are passed over, and what
//! cannot be ours yields `None`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::Emitable;
use netlink_packet_generic::GenlFamily;

use super::Traffic;
use crate::kernel::attribute::{Writer, be16_of, find, string_of, u16_of, u32_of, u64_of};
use crate::kernel::generic;
use crate::objects::{
    Destination, DestinationKey, Family, Mark, Persistence, Scheduler, SchedulerFlags, Thresholds, Timeouts,
    VirtualKey, VirtualService,
};
use crate::plan::Step;

/// The name of the family of these messages.
pub const FAMILY: &str = "IPVS";

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

// Attributes of a command.
const SERVICE: u16 = 1;
const DESTINATION: u16 = 2;
const TIMEOUT_TCP: u16 = 4;
const TIMEOUT_TCP_FIN: u16 = 5;
const TIMEOUT_UDP: u16 = 6;

// Attributes of a service.
const SVC_AF: u16 = 1;
const SVC_FWMARK: u16 = 5;
const SVC_SCHED_NAME: u16 = 6;
const SVC_FLAGS: u16 = 7;
const SVC_TIMEOUT: u16 = 8;
const SVC_NETMASK: u16 = 9;
const SVC_STATS: u16 = 10;
const SVC_PE_NAME: u16 = 11;
const SVC_STATS64: u16 = 12;

const F_PERSISTENT: u32 = 0x01;
/// The kernel's own note; it cannot be set.
const F_HASHED: u32 = 0x02;
const F_ONEPACKET: u32 = 0x04;
/// `sh-fallback` and `mh-fallback`.
const F_SCHED1: u32 = 0x08;
/// `sh-port` and `mh-port`.
const F_SCHED2: u32 = 0x10;

// Attributes of a destination.
const DEST_ADDR: u16 = 1;
const DEST_PORT: u16 = 2;
const DEST_FWD_METHOD: u16 = 3;
const DEST_WEIGHT: u16 = 4;
const DEST_U_THRESH: u16 = 5;
const DEST_L_THRESH: u16 = 6;
const DEST_ACTIVE_CONNS: u16 = 7;
const DEST_INACT_CONNS: u16 = 8;
const DEST_PERSIST_CONNS: u16 = 9;
const DEST_STATS: u16 = 10;
const DEST_ADDR_FAMILY: u16 = 11;
const DEST_STATS64: u16 = 12;

/// IP_VS_CONN_F_MASQ.
const MASQUERADE: u32 = 0;

// Attributes of statistics.
const STATS_CONNS: u16 = 1;
const STATS_INPKTS: u16 = 2;
const STATS_OUTPKTS: u16 = 3;
const STATS_INBYTES: u16 = 4;
const STATS_OUTBYTES: u16 = 5;

/// A persistence that no configuration can want.
///
/// A service of ours may be set to something that the vocabulary has no word for: a scheduler from a newer
/// kernel, a persistence engine, a mask with holes. It is then reported with this in place of its
/// persistence; it differs from all that can be wanted, so it gets set right.
pub const STRANGE_PERSISTENCE: Persistence = Persistence { timeout: 0, prefix: 0 };

/// A weight that no configuration can want (the kernel refuses more than `i32::MAX`), for a destination that
/// is not masqueraded: for the same reason.
pub const STRANGE_WEIGHT: u32 = u32::MAX;

/// What is asked of IPVS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Command {
    NewService = 1,
    SetService = 2,
    DeleteService = 3,
    GetService = 4,
    NewDestination = 5,
    SetDestination = 6,
    DeleteDestination = 7,
    GetDestination = 8,
    SetConfig = 12,
    GetConfig = 13,
}

/// A request: a command and its attributes.
#[derive(Clone, Debug)]
pub struct Message {
    command: Command,
    attributes: Vec<u8>,
}

impl GenlFamily for Message {
    fn family_name() -> &'static str {
        FAMILY
    }

    fn command(&self) -> u8 {
        self.command as u8
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for Message {
    fn buffer_len(&self) -> usize {
        self.attributes.len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        buffer[..self.attributes.len()].copy_from_slice(&self.attributes);
    }
}

impl Message {
    fn new(command: Command, write: impl FnOnce(&mut Writer)) -> Message {
        let mut writer = Writer::default();
        write(&mut writer);
        Message { command, attributes: writer.finish() }
    }

    /// Of all services.
    pub fn get_services() -> Message {
        Message::new(Command::GetService, |_| ())
    }

    /// Of one service's destinations.
    pub fn get_destinations(key: VirtualKey) -> Message {
        Message::about_service(Command::GetDestination, key, None)
    }

    pub fn get_timeouts() -> Message {
        Message::new(Command::GetConfig, |_| ())
    }

    pub fn set_timeouts(timeouts: &Timeouts) -> Message {
        Message::new(Command::SetConfig, |writer| {
            writer.u32(TIMEOUT_TCP, timeouts.tcp);
            writer.u32(TIMEOUT_TCP_FIN, timeouts.tcp_fin);
            writer.u32(TIMEOUT_UDP, timeouts.udp);
        })
    }

    /// To make or to change a service, all its attributes are needed; otherwise its key will do.
    pub fn about_service(command: Command, key: VirtualKey, service: Option<&VirtualService>) -> Message {
        Message::new(command, |writer| {
            writer.nested(SERVICE, |writer| {
                write_key(writer, key);
                if let Some(service) = service {
                    write_service(writer, key.family, service);
                }
            });
        })
    }

    pub fn about_destination(
        command: Command,
        service: VirtualKey,
        key: DestinationKey,
        destination: Option<Destination>,
    ) -> Message {
        Message::new(command, |writer| {
            writer.nested(SERVICE, |writer| write_key(writer, service));
            writer.nested(DESTINATION, |writer| write_destination(writer, key, destination));
        })
    }

    /// What carries out a step, if it is one of IPVS.
    pub fn of(step: &Step) -> Option<Message> {
        Some(match step {
            Step::SetTimeouts(timeouts) => Message::set_timeouts(timeouts),
            Step::AddService { key, service } => Message::about_service(Command::NewService, *key, Some(service)),
            Step::SetService { key, service } => Message::about_service(Command::SetService, *key, Some(service)),
            Step::DeleteService(key) => Message::about_service(Command::DeleteService, *key, None),
            Step::AddDestination { service, key, destination } => {
                Message::about_destination(Command::NewDestination, *service, *key, Some(*destination))
            }
            Step::SetDestination { service, key, destination } => {
                Message::about_destination(Command::SetDestination, *service, *key, Some(*destination))
            }
            Step::DeleteDestination { service, key } => {
                Message::about_destination(Command::DeleteDestination, *service, *key, None)
            }
            _ => return None,
        })
    }

    /// What carries out a step that would add what is there already.
    pub fn of_change(step: &Step) -> Option<Message> {
        Some(match step {
            Step::AddService { key, service } => Message::about_service(Command::SetService, *key, Some(service)),
            Step::AddDestination { service, key, destination } => {
                Message::about_destination(Command::SetDestination, *service, *key, Some(*destination))
            }
            _ => return None,
        })
    }

    pub fn body(self) -> Vec<u8> {
        generic::body(self)
    }
}

fn write_key(writer: &mut Writer, key: VirtualKey) {
    writer.u16(SVC_AF, af_of(key.family));
    writer.u32(SVC_FWMARK, key.mark.0);
}

fn write_service(writer: &mut Writer, family: Family, service: &VirtualService) {
    let flag = |set: bool, flag: u32| if set { flag } else { 0 };
    let flags = flag(service.persistence.is_some(), F_PERSISTENT)
        | flag(service.one_packet, F_ONEPACKET)
        | flag(service.flags.fallback, F_SCHED1)
        | flag(service.flags.port, F_SCHED2);
    // The mask says which flags are meant: all, so that none of an older setting stays.
    let mut flags_and_mask = flags.to_ne_bytes().to_vec();
    flags_and_mask.extend_from_slice(&u32::MAX.to_ne_bytes());

    writer.string(SVC_SCHED_NAME, service.scheduler.name());
    writer.bytes(SVC_FLAGS, &flags_and_mask);
    writer.u32(SVC_TIMEOUT, service.persistence.map_or(0, |persistence| persistence.timeout));
    // Needed without persistence too: the kernel refuses an IPv6 service with a prefix of 0.
    let prefix = service.persistence.map(|persistence| persistence.prefix);
    match family {
        Family::V4 => writer.be32(SVC_NETMASK, netmask(prefix.unwrap_or(32))),
        Family::V6 => writer.u32(SVC_NETMASK, prefix.unwrap_or(128).into()),
    }
}

fn write_destination(writer: &mut Writer, key: DestinationKey, destination: Option<Destination>) {
    let mut address = [0; 16];
    match key.address {
        IpAddr::V4(v4) => address[..4].copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => address = v6.octets(),
    }
    writer.u16(DEST_ADDR_FAMILY, af_of(Family::of(&key.address)));
    writer.bytes(DEST_ADDR, &address);
    writer.be16(DEST_PORT, key.port);
    if let Some(Destination { weight, thresholds: Thresholds { upper, lower } }) = destination {
        writer.u32(DEST_FWD_METHOD, MASQUERADE);
        writer.u32(DEST_WEIGHT, weight);
        writer.u32(DEST_U_THRESH, upper);
        writer.u32(DEST_L_THRESH, lower);
    }
}

/// A service as the kernel describes it, without its destinations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenService {
    pub key: VirtualKey,
    pub service: VirtualService,
    pub traffic: Traffic,
}

/// A destination as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenDestination {
    pub key: DestinationKey,
    pub weight: u32,
    /// Whether it is masqueraded, as we make them.
    pub plain: bool,
    pub thresholds: Thresholds,
    pub active: u32,
    pub inactive: u32,
    pub persistent: u32,
    pub traffic: Traffic,
}

impl SeenDestination {
    pub fn destination(&self) -> Destination {
        let weight = if self.plain { self.weight } else { STRANGE_WEIGHT };
        Destination { weight, thresholds: self.thresholds }
    }
}

/// One answer to [`Message::get_services`]; `None` if the service is not ours.
pub fn read_service(body: &[u8]) -> Option<SeenService> {
    let attributes = find(answer(body, Command::NewService)?, SERVICE)?;
    let number = |kind| find(attributes, kind).and_then(u32_of);
    // Services known by an address have no mark.
    let mark = Mark(number(SVC_FWMARK)?);
    mark.meaning()?;
    let family = family_of(find(attributes, SVC_AF).and_then(u16_of)?)?;

    let scheduler = find(attributes, SVC_SCHED_NAME).and_then(string_of).and_then(|name| name.parse().ok());
    let flags = find(attributes, SVC_FLAGS).and_then(|value| u32_of(value.get(..4)?)).unwrap_or_default();
    let prefix = find(attributes, SVC_NETMASK).and_then(|mask| prefix(family, mask));
    let known = F_PERSISTENT | F_HASHED | F_ONEPACKET | F_SCHED1 | F_SCHED2;
    let persistent = flags & F_PERSISTENT != 0;
    let strange = scheduler.is_none()
        || flags & !known != 0
        || find(attributes, SVC_PE_NAME).is_some()
        || (persistent && prefix.is_none());

    let persistence = match (strange, persistent) {
        (true, _) => Some(STRANGE_PERSISTENCE),
        (false, true) => {
            Some(Persistence { timeout: number(SVC_TIMEOUT).unwrap_or_default(), prefix: prefix.unwrap_or_default() })
        }
        (false, false) => None,
    };
    let service = VirtualService {
        scheduler: scheduler.unwrap_or(Scheduler::RoundRobin),
        flags: SchedulerFlags { fallback: flags & F_SCHED1 != 0, port: flags & F_SCHED2 != 0 },
        persistence,
        one_packet: flags & F_ONEPACKET != 0,
        destinations: Default::default(),
    };
    let traffic = read_traffic(attributes, SVC_STATS64, SVC_STATS);
    Some(SeenService { key: VirtualKey { mark, family }, service, traffic })
}

/// One answer to [`Message::get_destinations`] of a service of that family.
pub fn read_destination(body: &[u8], family: Family) -> Option<SeenDestination> {
    let attributes = find(answer(body, Command::NewDestination)?, DESTINATION)?;
    let number = |kind| find(attributes, kind).and_then(u32_of).unwrap_or_default();
    let family = match find(attributes, DEST_ADDR_FAMILY) {
        Some(value) => family_of(u16_of(value)?)?,
        // Kernels before 3.18 know no other than the service's.
        None => family,
    };
    let octets: [u8; 16] = find(attributes, DEST_ADDR)?.try_into().ok()?;
    let address = match (family, octets) {
        (Family::V4, [a, b, c, d, ..]) => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
        (Family::V6, octets) => IpAddr::V6(Ipv6Addr::from(octets)),
    };
    let port = find(attributes, DEST_PORT).and_then(be16_of)?;
    Some(SeenDestination {
        key: DestinationKey { address, port },
        weight: number(DEST_WEIGHT),
        plain: number(DEST_FWD_METHOD) == MASQUERADE,
        thresholds: Thresholds { upper: number(DEST_U_THRESH), lower: number(DEST_L_THRESH) },
        active: number(DEST_ACTIVE_CONNS),
        inactive: number(DEST_INACT_CONNS),
        persistent: number(DEST_PERSIST_CONNS),
        traffic: read_traffic(attributes, DEST_STATS64, DEST_STATS),
    })
}

/// The answer to [`Message::get_timeouts`].
pub fn read_timeouts(body: &[u8]) -> Option<Timeouts> {
    let attributes = answer(body, Command::SetConfig)?;
    let seconds = |kind| find(attributes, kind).and_then(u32_of);
    Some(Timeouts { tcp: seconds(TIMEOUT_TCP)?, tcp_fin: seconds(TIMEOUT_TCP_FIN)?, udp: seconds(TIMEOUT_UDP)? })
}

/// The attributes of an answer, which bears the command that would make what it describes.
fn answer(body: &[u8], command: Command) -> Option<&[u8]> {
    generic::attributes_of(command as u8, body)
}

/// The 64-bit counters; kernels before 4.2 have only others, some of which are 32 bits wide.
fn read_traffic(attributes: &[u8], wide: u16, narrow: u16) -> Traffic {
    let stats = find(attributes, wide).or_else(|| find(attributes, narrow)).unwrap_or_default();
    let number = |kind| {
        let value = find(stats, kind).unwrap_or_default();
        u64_of(value).or_else(|| u32_of(value).map(u64::from)).unwrap_or_default()
    };
    Traffic {
        connections: number(STATS_CONNS),
        packets_in: number(STATS_INPKTS),
        packets_out: number(STATS_OUTPKTS),
        bytes_in: number(STATS_INBYTES),
        bytes_out: number(STATS_OUTBYTES),
    }
}

fn af_of(family: Family) -> u16 {
    match family {
        Family::V4 => AF_INET,
        Family::V6 => AF_INET6,
    }
}

fn family_of(af: u16) -> Option<Family> {
    Family::ALL.into_iter().find(|family| af_of(*family) == af)
}

fn netmask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0)
}

/// The length of the prefix that a mask leaves; `None` if it has holes.
fn prefix(family: Family, mask: &[u8]) -> Option<u8> {
    match family {
        Family::V4 => {
            let mask = u32::from_be_bytes(mask.try_into().ok()?);
            let prefix = mask.leading_ones() as u8;
            (netmask(prefix) == mask).then_some(prefix)
        }
        Family::V6 => u32_of(mask)?.try_into().ok().filter(|prefix| *prefix <= 128),
    }
}

#[cfg(test)]
mod tests;
