//! What lies in pinned maps, held against the record of its layout's number: `layouts/<number>.txt`.

#![expect(clippy::expect_used, reason = "a test whose input is wrong should stop")]

use core::mem::{align_of, offset_of, size_of};
use std::fmt::Debug;
use std::path::Path;

use lb_common::buckets::{self, Key};
use lb_common::flow_table::{self, Place};
use lb_common::layout::LAYOUT;
use lb_common::route::{self, Host, Route, Routes};
use lb_common::{
    Address, Backend, BackendId, Claim, Counter, Endpoint, Exact, ExactKey, Flow, FlowKey, HalfOpen,
    Handshakes, NextHop, Peer, PeerKey, Port, Service, ServiceId, Slot, SocketKey, Station, Traffic, Vip,
    hash, limits, names, service, ticks,
};

/// Size, alignment and offsets of every field. A field that is not named here does not compile.
macro_rules! types {
    ($($type:ident { $($field:ident),* $(,)? })*) => {
        vec![$({
            let _whole = |value: $type| { let $type { $($field: _),* } = value; };
            let fields: &[String] = &[$(format!(" {}@{}", stringify!($field), offset_of!($type, $field))),*];
            let (size, alignment) = (size_of::<$type>(), align_of::<$type>());
            format!("type {} {size}/{alignment}:{}", stringify!($type), fields.concat())
        }),*]
    };
}

macro_rules! constants {
    ($($path:path),* $(,)?) => {
        [$(format!("constant {} {:?}", stringify!($path).replace(' ', ""), $path)),*]
    };
}

fn sample(of: &str, value: impl Debug) -> String {
    format!("sample {of}: {value:x?}")
}

/// The layout of this build, a line for each thing.
fn layout() -> Vec<String> {
    let mut lines: Vec<String> = names::MAPS.iter().map(|name| format!("map {name}")).collect();
    lines.extend(types! {
        Address { words }
        SocketKey { address, port, protocol }
        NextHop { destination, source, ifindex, mtu }
        Backend { address, port, protocol, id, hop, plain }
        Service { id, table, slots, flags, established, closing, half_open, mss }
        Endpoint { vip, backend, service }
        Vip { key, service }
        FlowKey { client, service, port, padding }
        HalfOpen { backend, slot, table, isn, server_isn, recorded, expires, proven }
        Flow { backend, slot, table, seq, expires, closing }
        ExactKey { endpoint, client, port, padding }
        Claim { isn, whose, expires }
        Exact { confirmed, pending }
        Station { vip, ifindex }
        PeerKey { socket, address, padding }
        Peer { address, backend }
        Host { hop, flags }
        Route { network, mask, hop }
        Routes { count, list }
        Traffic { packets, bytes, reply_packets, reply_bytes, new_flows, drops }
        Handshakes { syns, accepted, refused }
    });
    lines.push(format!("type Slot {}/{}", size_of::<Slot>(), align_of::<Slot>()));
    lines.push(format!("type flow_table::Bucket {}", size_of::<flow_table::Bucket>()));
    lines.push(format!("type buckets::Bucket {}", size_of::<buckets::Bucket>()));
    lines.extend(constants![
        limits::SERVICES,
        limits::SERVICE_BUCKETS,
        limits::ENDPOINT_BUCKETS,
        limits::SPARE_ENTRIES,
        limits::TABLES,
        limits::ROUTES,
        limits::HOSTS,
        limits::HOST_BUCKETS,
        limits::LISTS,
        limits::LIST_BUCKETS,
        limits::WANTED,
        limits::ASKERS,
        limits::STATIONS,
        limits::PEERS,
        limits::HALF_OPEN,
        service::SOURCE_AFFINITY,
        service::VIP_MARKER,
        service::VIP_TCP,
        service::VIP_UDP,
        service::TRACK_ALWAYS,
        service::VIP_PING,
        ServiceId::DIRECT,
        ServiceId::NOBODY,
        route::LOCAL,
        route::HOP,
        route::TOO_MANY,
        buckets::EMPTY,
        buckets::HOLE,
        buckets::FILTER,
        flow_table::WAYS,
        flow_table::LANES,
        ticks::SHIFT,
        names::GONE,
    ]);
    lines.extend(samples());
    let counters =
        Counter::ALL.iter().map(|counter| format!("counter {} {}", *counter as u32, counter.name()));
    lines.extend(counters);
    lines
}

/// What encodings and hashes make of some values.
fn samples() -> Vec<String> {
    let (a, b) = (BackendId::new(0xf_ffff, 0x7ff), BackendId::new(3, 5));
    let socket = SocketKey::new("192.0.2.10:80".parse().expect("an address"), 6);
    let tuple = |source: &str, destination: &str| hash::Tuple {
        source: source.parse::<std::net::IpAddr>().expect("an address").into(),
        destination: destination.parse::<std::net::IpAddr>().expect("an address").into(),
        source_port: Port::new(40_000),
        destination_port: Port::new(80),
        protocol: 6,
    };
    let seed = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
    let client = Address::from(std::net::Ipv6Addr::LOCALHOST);
    let flow = FlowKey { client, service: ServiceId::new(7, 9), port: Port::new(40_000), padding: 0 };
    let place = Place::of(&flow, &flow_table::secret(seed), 1024);
    let hashed = socket.hash();
    vec![
        sample("id of a backend", (a.0, b.0)),
        sample("id of a service", ServiceId::new(7, 9).0),
        sample("stable slot", Slot::stable(b).0),
        sample("tracked slot", (Slot::tracked(a, b, false).0, Slot::tracked(b, a, true).0)),
        sample(
            "IPv4 flow",
            hash::slot(tuple("192.0.2.1", "198.51.100.2").hash_with(&hash::key(seed)), 65537),
        ),
        sample(
            "IPv6 flow",
            hash::slot(tuple("2001:db8::1", "2001:db8::2").hash_with(&hash::key(seed)), 65537),
        ),
        sample(
            "place of a socket",
            (hashed.first(8192), hashed.second(8192), hashed.word(5), hashed.filter()),
        ),
        sample("place of a flow", (place.first, place.second, place.mark)),
        sample("entry of a lane", flow_table::entry(11, 13)),
        sample("buckets for flows", (flow_table::buckets(1), flow_table::buckets(1_000_000))),
        sample("entries of buckets", flow_table::entries(1000)),
    ]
}

#[test]
fn the_layout_is_that_of_its_number() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/layouts/{LAYOUT}.txt"));
    let recorded = std::fs::read_to_string(&path).unwrap_or_default();
    let found = layout();
    let differing: Vec<_> = found
        .iter()
        .filter(|line| !recorded.lines().any(|old| old == *line))
        .map(|line| format!("+ {line}"))
        .chain(
            recorded
                .lines()
                .filter(|old| !found.iter().any(|line| line == old))
                .map(|old| format!("- {old}")),
        )
        .collect();
    assert!(
        recorded.lines().eq(found.iter()),
        "maps that are pinned as layout {LAYOUT} would be misread. Raise lb_common::layout::LAYOUT and write the new \
         record to tests/layouts (or over the newest, where no daemon of that number has ever run anywhere). Changed:\n\
         {}\n\nThe new record:\n{}",
        differing.join("\n"),
        found.join("\n")
    );
}

#[test]
fn every_number_so_far_has_its_record() {
    for number in 1..=LAYOUT {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/layouts/{number}.txt"));
        assert!(path.is_file(), "{} is missing", path.display());
    }
}
