use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::objects::Protocol;

const V4: VirtualKey = VirtualKey { mark: Mark(85765), family: Family::V4 };
const V6: VirtualKey = VirtualKey { mark: Mark(131_125), family: Family::V6 };

fn service(scheduler: Scheduler) -> VirtualService {
    VirtualService {
        scheduler,
        flags: SchedulerFlags::default(),
        persistence: None,
        one_packet: false,
        destinations: BTreeMap::new(),
    }
}

fn destination(text: &str) -> DestinationKey {
    let socket: std::net::SocketAddr = text.parse().unwrap();
    DestinationKey { address: socket.ip(), port: socket.port() }
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<char> = text.chars().filter(|character| !character.is_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap()).collect()
}

#[track_caller]
fn check(message: Message, expected: &str) {
    assert_eq!(message.body(), hex(expected));
}

/// `ipvsadm -A`, byte for byte as strace showed it (ipvsadm 1.31 on x86-64).
#[test]
fn services_are_made_as_ipvsadm_makes_them() {
    // -A -f 85765 -s rr
    check(
        Message::about_service(Command::NewService, V4, Some(&service(Scheduler::RoundRobin))),
        "01010000 38000180
         06000100 02000000  08000500 054f0100  07000600 72720000
         0c000700 00000000 ffffffff  08000800 00000000  08000900 ffffffff",
    );
    // -A -f 85766 -s sh -b sh-fallback,sh-port -p 300 -M 255.255.255.0
    let key = VirtualKey { mark: Mark(85766), ..V4 };
    let sticky = VirtualService {
        flags: SchedulerFlags { fallback: true, port: true },
        persistence: Some(Persistence { timeout: 300, prefix: 24 }),
        ..service(Scheduler::SourceHash)
    };
    check(
        Message::about_service(Command::NewService, key, Some(&sticky)),
        "01010000 38000180
         06000100 02000000  08000500 064f0100  07000600 73680000
         0c000700 19000000 ffffffff  08000800 2c010000  08000900 ffffff00",
    );
    // -A -f 131125 -6 -s mh -p 60 -M 64 -o
    let one_packet = VirtualService {
        persistence: Some(Persistence { timeout: 60, prefix: 64 }),
        one_packet: true,
        ..service(Scheduler::Maglev)
    };
    check(
        Message::about_service(Command::NewService, V6, Some(&one_packet)),
        "01010000 38000180
         06000100 0a000000  08000500 35000200  07000600 6d680000
         0c000700 05000000 ffffffff  08000800 3c000000  08000900 40000000",
    );
    // --set 901 121 301
    let timeouts = Timeouts { tcp: 901, tcp_fin: 121, udp: 301 };
    check(Message::set_timeouts(&timeouts), "0c010000 08000400 85030000 08000500 79000000 08000600 2d010000");
}

/// As ipvsadm's, but for what the kernel does not ask for (the service's attributes, the tunnel's).
#[test]
fn destinations_are_made_as_ipvsadm_makes_them() {
    // -a -f 85765 -r 10.255.0.33:9092 -m -w 3
    check(
        Message::about_destination(
            Command::NewDestination,
            V4,
            destination("10.255.0.33:9092"),
            Some(Destination { weight: 3, thresholds: Thresholds::default() }),
        ),
        "05010000 14000180 06000100 02000000  08000500 054f0100
         48000280 06000b00 02000000  14000100 0aff0021 00000000 00000000 00000000  06000200 23840000
         08000300 00000000  08000400 03000000  08000500 00000000  08000600 00000000",
    );
    // -a -f 85765 -r 10.255.0.33:9092 -m -w 3 -x 1000 -y 700
    check(
        Message::about_destination(
            Command::NewDestination,
            V4,
            destination("10.255.0.33:9092"),
            Some(Destination { weight: 3, thresholds: Thresholds { upper: 1000, lower: 700 } }),
        ),
        "05010000 14000180 06000100 02000000  08000500 054f0100
         48000280 06000b00 02000000  14000100 0aff0021 00000000 00000000 00000000  06000200 23840000
         08000300 00000000  08000400 03000000  08000500 e8030000  08000600 bc020000",
    );
    // -d -f 131125 -6 -r [fd00::21]:53
    check(
        Message::about_destination(Command::DeleteDestination, V6, destination("[fd00::21]:53"), None),
        "07010000 14000180 06000100 0a000000  08000500 35000200
         28000280 06000b00 0a000000  14000100 fd000000 00000000 00000000 00000021  06000200 00350000",
    );
}

/// What Linux 6.12 said of `ipvsadm -a -f 66536 -r 10.255.0.33:9092 -m -w 3` (but for the counters, which were
/// all 0): attributes that we do not know stand between those that we do.
#[test]
fn a_destination_is_read_as_the_kernel_tells_it() {
    let answer = hex("05010000 50010200
         14000100 0aff0021 00000000 00000000 00000000  06000200 23840000  08000300 00000000  08000400 03000000
         05000d00 00000000  06000e00 00000000  06000f00 00000000  08000500 00000000  08000600 00000000
         08000700 01000000  08000800 02000000  08000900 03000000  06000b00 02000000
         5c000a00
           08000100 00000000  08000200 00000000  08000300 00000000
           0c000400 00000000 00000000  0c000500 00000000 00000000
           08000600 00000000  08000700 00000000  08000800 00000000  08000900 00000000  08000a00 00000000
         7c000c00
           0c000100 04000000 00000000  0c000200 05000000 00000000  0c000300 06000000 00000000
           0c000400 07000000 01000000  0c000500 08000000 00000000
           0c000600 00000000 00000000  0c000700 00000000 00000000  0c000800 00000000 00000000
           0c000900 00000000 00000000  0c000a00 00000000 00000000");
    let traffic = Traffic { connections: 4, packets_in: 5, packets_out: 6, bytes_in: (1 << 32) + 7, bytes_out: 8 };
    let key = destination("10.255.0.33:9092");
    let thresholds = Thresholds::default();
    let seen =
        SeenDestination { key, weight: 3, plain: true, thresholds, active: 1, inactive: 2, persistent: 3, traffic };
    assert_eq!(read_destination(&answer, Family::V4), Some(seen));
}

/// Services by address, and marks that mean nothing to us.
#[test]
fn foreign_services_are_not_seen() {
    for mark in [0, 1, 80, 0x10000, 0x40050] {
        let key = VirtualKey { mark: Mark(mark), ..V4 };
        let message = Message::about_service(Command::NewService, key, Some(&service(Scheduler::RoundRobin)));
        assert_eq!(read_service(&message.body()), None, "{mark:#x}");
    }
    let by_address = hex("01010000 40000180 06000100 02000000  06000200 06000000
         14000300 0a000001 00000000 00000000 00000000  06000400 00500000  07000600 72720000");
    assert_eq!(read_service(&by_address), None);
}

/// What cannot be said in our words is no reason not to see a service, and is never what is wanted.
#[test]
fn strange_services_are_seen_as_different() {
    let strange = |scheduler: &str, flags: u32, netmask: u32, more: &dyn Fn(&mut Writer)| {
        let message = Message::new(Command::NewService, |writer| {
            writer.nested(SERVICE, |writer| {
                write_key(writer, V4);
                writer.string(SVC_SCHED_NAME, scheduler);
                writer.bytes(SVC_FLAGS, &[flags.to_ne_bytes(), [0; 4]].concat());
                writer.u32(SVC_TIMEOUT, 60);
                writer.be32(SVC_NETMASK, netmask);
                more(writer);
            });
        });
        read_service(&message.body()).unwrap().service
    };
    assert_eq!(strange("rr", F_HASHED, 0xff, &|_| ()), service(Scheduler::RoundRobin), "a mask that is not used");
    assert_eq!(strange("future", 0, u32::MAX, &|_| ()).persistence, Some(STRANGE_PERSISTENCE));
    assert_eq!(strange("none", 0, u32::MAX, &|_| ()).persistence, Some(STRANGE_PERSISTENCE));
    assert_eq!(strange("rr", 0x20, u32::MAX, &|_| ()).persistence, Some(STRANGE_PERSISTENCE));
    assert_eq!(strange("rr", F_PERSISTENT, 0xff00_ff00, &|_| ()).persistence, Some(STRANGE_PERSISTENCE));
    assert_eq!(
        strange("rr", 0, u32::MAX, &|writer| writer.string(SVC_PE_NAME, "sip")).persistence,
        Some(STRANGE_PERSISTENCE)
    );
    let every_address = Some(Persistence { timeout: 60, prefix: 0 });
    assert_eq!(strange("rr", F_PERSISTENT, 0, &|_| ()).persistence, every_address);
}

/// A direct-routed destination, and one of kernels that do not tell its address family.
#[test]
fn strange_destinations_are_seen_as_different() {
    let seen = |forwarding: u32, upper: u32, lower: u32| {
        let message = Message::new(Command::NewDestination, |writer| {
            writer.nested(DESTINATION, |writer| {
                writer.bytes(DEST_ADDR, &[10, 255, 0, 33, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
                writer.be16(DEST_PORT, 9092);
                writer.u32(DEST_FWD_METHOD, forwarding);
                writer.u32(DEST_WEIGHT, 5);
                writer.u32(DEST_U_THRESH, upper);
                writer.u32(DEST_L_THRESH, lower);
            });
        });
        let seen = read_destination(&message.body(), Family::V4).unwrap();
        assert_eq!(seen.key, destination("10.255.0.33:9092"));
        assert_eq!(seen.weight, 5);
        seen.destination()
    };
    let plain = Destination { weight: 5, thresholds: Thresholds::default() };
    assert_eq!(seen(MASQUERADE, 0, 0), plain);
    assert_eq!(seen(3, 0, 0), Destination { weight: STRANGE_WEIGHT, ..plain });
    assert_eq!(seen(MASQUERADE, 100, 90), Destination { thresholds: Thresholds { upper: 100, lower: 90 }, ..plain });
}

#[test]
fn counters_are_read_in_either_width() {
    let wide: &dyn Fn(&mut Writer) = &|writer| {
        writer.nested(SVC_STATS64, |writer| writer.bytes(STATS_INBYTES, &(1u64 << 40).to_ne_bytes()));
        writer.nested(SVC_STATS, |writer| writer.bytes(STATS_INBYTES, &7u64.to_ne_bytes()));
    };
    let narrow: &dyn Fn(&mut Writer) = &|writer| {
        writer.nested(SVC_STATS, |writer| {
            writer.u32(STATS_CONNS, 3);
            writer.bytes(STATS_INBYTES, &7u64.to_ne_bytes());
        });
    };
    for (write, connections, bytes_in) in [(wide, 0, 1 << 40), (narrow, 3, 7)] {
        let message = Message::new(Command::NewService, |writer| {
            writer.nested(SERVICE, |writer| {
                write_key(writer, V4);
                write(writer);
            });
        });
        let traffic = read_service(&message.body()).unwrap().traffic;
        assert_eq!(traffic, Traffic { connections, bytes_in, ..Traffic::default() });
    }
}

fn any_key() -> impl Strategy<Value = VirtualKey> {
    (prop::sample::select(&Protocol::ALL[..]), 1..=u16::MAX, prop::sample::select(&Family::ALL[..]))
        .prop_map(|(protocol, port, family)| VirtualKey { mark: Mark::new(protocol, port), family })
}

/// In the family, a persistence's prefix is at most that long.
fn any_service(longest: u8) -> impl Strategy<Value = VirtualService> {
    let persistence = (1..=u32::MAX, 1..=longest).prop_map(|(timeout, prefix)| Persistence { timeout, prefix });
    (prop::sample::select(Scheduler::of_ipvs().collect::<Vec<_>>()), any::<[bool; 3]>(), prop::option::of(persistence))
        .prop_map(|(scheduler, [fallback, port, one_packet], persistence)| VirtualService {
            flags: SchedulerFlags { fallback, port },
            persistence,
            one_packet,
            ..service(scheduler)
        })
}

fn any_destination() -> impl Strategy<Value = (DestinationKey, Destination)> {
    (any::<IpAddr>(), any::<u16>(), 0..=i32::MAX as u32, any::<(u32, u32)>()).prop_map(
        |(address, port, weight, (upper, lower))| {
            (DestinationKey { address, port }, Destination { weight, thresholds: Thresholds { upper, lower } })
        },
    )
}

proptest! {
    // The kernel answers in the form in which it is asked.
    #[test]
    fn services_are_read_as_written(key in any_key(), v4 in any_service(32), v6 in any_service(128)) {
        let service = if key.family == Family::V4 { v4 } else { v6 };
        let body = Message::about_service(Command::NewService, key, Some(&service)).body();
        prop_assert_eq!(read_service(&body), Some(SeenService { key, service, traffic: Traffic::default() }));
    }

    #[test]
    fn destinations_are_read_as_written(service in any_key(), (key, destination) in any_destination()) {
        let body = Message::about_destination(Command::NewDestination, service, key, Some(destination)).body();
        let seen = read_destination(&body, service.family).unwrap();
        prop_assert_eq!((seen.key, seen.destination()), (key, destination));
    }

    #[test]
    fn timeouts_are_read_as_written(tcp: u32, tcp_fin: u32, udp: u32) {
        let timeouts = Timeouts { tcp, tcp_fin, udp };
        prop_assert_eq!(read_timeouts(&Message::set_timeouts(&timeouts).body()), Some(timeouts));
    }

    #[test]
    fn no_bytes_make_the_readers_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        read_all(&bytes);
    }

    #[test]
    fn no_torn_message_makes_the_readers_panic(
        key in any_key(), service in any_service(32), (address, destination) in any_destination(),
        place in 0..120usize, byte: u8, length in 0..120usize,
    ) {
        for mut bytes in [
            Message::about_service(Command::NewService, key, Some(&service)).body(),
            Message::about_destination(Command::NewDestination, key, address, Some(destination)).body(),
        ] {
            if let Some(there) = bytes.get_mut(place) {
                *there = byte;
            }
            bytes.truncate(length);
            read_all(&bytes);
        }
    }
}

fn read_all(bytes: &[u8]) {
    let _ = read_service(bytes);
    let _ = read_destination(bytes, Family::V4);
    let _ = read_timeouts(bytes);
}
