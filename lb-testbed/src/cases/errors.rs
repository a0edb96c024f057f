//! ICMP errors about packets of services, from routers and hosts on either side.

use std::net::{IpAddr, SocketAddr};

use lb_common::{BackendId, Claim, Counter, Exact, ExactKey, Flow, HalfOpen, Port, ServiceId, SocketKey};

use super::{Case, chosen, client, client6};
use crate::icmp::Icmp;
use crate::segment::{ACK, SYN, Tcp};
use crate::world::{
    BACKEND_SIDE, CLIENT_SIDE, ESTABLISHED, GATEWAY, HALF_OPEN, HOST, STRANGER, Web, World, mac,
};

/// Where the quoted packet begins in an IPv4 error.
const QUOTED: usize = 14 + 20 + 8;

pub(super) fn cases() -> Vec<Case> {
    [to_backends(), tracked(), foreign(), to_clients(), passed()].concat()
}

/// A flow: what a backend sent to its client, and what the client got.
#[derive(Clone)]
struct Pair {
    web: Web,
    id: BackendId,
    /// Between client and VIP.
    outside: Tcp,
    /// Between client and backend.
    inside: Tcp,
}

/// A reply of a backend, with all its checksums.
fn reply(web: Web, id: BackendId, client: SocketAddr) -> Pair {
    let inside = if matches!(web, Web::Dns | Web::Dns6) {
        Tcp::datagram(web.endpoint(id), client, b"an answer")
    } else {
        Tcp::new(web.endpoint(id), client, ACK).payload(b"some data")
    };
    let outside = Tcp { source: web.vip(), ..inside.clone() };
    Pair { web, id, outside, inside }
}

/// A request of a client.
fn request(web: Web, id: BackendId, client: SocketAddr) -> Pair {
    let Pair { outside, inside, .. } = reply(web, id, client);
    let turned = |packet: Tcp| Tcp { source: packet.destination, destination: packet.source, ..packet };
    Pair { web, id, outside: turned(outside), inside: turned(inside) }
}

/// The usual client's flow.
fn of(web: Web, make: fn(Web, BackendId, SocketAddr) -> Pair) -> Pair {
    let client = if web.vip().is_ipv6() { client6() } else { client() };
    make(web, chosen(web, client), client)
}

/// Its first `length` bytes, from the IP header on.
fn quote(packet: &Tcp, length: usize) -> Vec<u8> {
    let frame = packet.frame();
    frame[14..frame.len().min(14 + length)].to_vec()
}

/// A router somewhere.
fn router(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { "203.0.113.1" } else { "2001:db8:c::1" }.parse().expect("an address")
}

/// Shortest quotes that show a flow, and whole packets.
const LENGTHS: [usize; 2] = [28, 1000];
const LENGTHS6: [usize; 2] = [48, 1000];

/// An error for the VIP, and the same for the backend.
fn to_backend(name: &'static str, pair: &Pair, error: impl Fn(IpAddr, IpAddr, &Tcp) -> Icmp) -> Case {
    let from = router(pair.outside.source.ip());
    let frame = error(from, pair.outside.source.ip(), &pair.outside).frame();
    let mut case = Case::new(name, frame, Counter::Forwarded);
    let out = error(from, pair.inside.source.ip(), &pair.inside).ttl(63);
    case.out = Some(out.frame_between(mac(0xff00 + BACKEND_SIDE), mac(pair.id.index())));
    case.key = Some(pair.web.flow_key(pair.outside.destination));
    case
}

/// An error for the client from the backend's side, and the same from the VIP.
fn to_client(name: &'static str, pair: &Pair, error: impl Fn(IpAddr, IpAddr, &Tcp) -> Icmp) -> Case {
    let client = pair.inside.source.ip();
    let frame = error(router(client), client, &pair.inside).frame();
    let mut case = Case::new(name, frame, Counter::Replied);
    let out = error(pair.outside.destination.ip(), client, &pair.outside).ttl(63);
    case.out = Some(out.frame_between(mac(0xff00 + CLIENT_SIDE), mac(GATEWAY)));
    case.key = Some(pair.web.flow_key(pair.outside.source));
    case
}

fn too_long(length: usize) -> impl Fn(IpAddr, IpAddr, &Tcp) -> Icmp {
    move |from, to, packet| Icmp::too_long(from, to, 1400, &quote(packet, length))
}

fn expired(length: usize) -> impl Fn(IpAddr, IpAddr, &Tcp) -> Icmp {
    move |from, to, packet| Icmp::expired(from, to, &quote(packet, length))
}

fn of_kind(kind: (u8, u8)) -> impl Fn(IpAddr, IpAddr, &Tcp) -> Icmp {
    move |from, to, packet| Icmp { payload: quote(packet, 1000), ..Icmp::new(from, to, kind) }
}

fn to_backends() -> Vec<Case> {
    let (v4, v6) = (of(Web::V4, reply), of(Web::V6, reply));
    let (dns, dns6) = (of(Web::Dns, reply), of(Web::Dns6, reply));
    let mut bare = dns.clone();
    (bare.inside.without_checksum, bare.outside.without_checksum) = (true, true);
    let mut options = v4.clone();
    (options.inside.ip_options, options.outside.ip_options) = (vec![1, 1, 1, 0], vec![1, 1, 1, 0]);
    let tagged = |from, to, packet: &Tcp| {
        let mut error = Icmp::too_long(from, to, 1400, &quote(packet, 1000));
        error.vlan = Some(42);
        error
    };
    vec![
        to_backend("a link too narrow for a reply", &v4, too_long(LENGTHS[0])),
        to_backend("a link too narrow for a reply, all of it quoted", &v4, too_long(LENGTHS[1])),
        to_backend("an odd number of bytes quoted", &v4, too_long(45)),
        to_backend("a link too narrow for an IPv6 reply", &v6, too_long(LENGTHS6[0])),
        to_backend("a link too narrow for an IPv6 reply, all of it quoted", &v6, too_long(LENGTHS6[1])),
        to_backend("a link too narrow for a datagram", &dns, too_long(LENGTHS[1])),
        to_backend("a link too narrow for an IPv6 datagram", &dns6, too_long(LENGTHS6[1])),
        to_backend("a link too narrow for a datagram without checksum", &bare, too_long(LENGTHS[1])),
        to_backend("a reply that ran out of hops", &v4, expired(LENGTHS[0])),
        to_backend("an IPv6 reply that ran out of hops", &v6, expired(LENGTHS6[1])),
        to_backend("a client that is gone", &dns, of_kind((3, 3))),
        to_backend("an IPv6 client that is gone", &v6, of_kind((1, 4))),
        to_backend("a header that somebody did not like", &v4, of_kind((12, 0))),
        to_backend("an IPv6 header that somebody did not like", &v6, of_kind((4, 1))),
        to_backend("a quoted packet with options", &options, too_long(LENGTHS[1])),
        to_backend("an error behind a VLAN tag", &v4, tagged),
    ]
}

/// Entries tell whose a flow is, and errors change none.
fn tracked() -> Vec<Case> {
    let web = Web::Tracked;
    let (new, old) = (web.new_backend(), web.old_backend());
    let key = web.flow_key(client());
    let entry = |backend| Flow { backend, seq: 1000, expires: ESTABLISHED, ..Flow::default() };
    let mut followed = World::new();
    followed.flows.push((key, entry(new)));
    let half = HalfOpen {
        backend: new,
        isn: 999,
        server_isn: [4242, 0],
        recorded: 1,
        expires: HALF_OPEN,
        ..HalfOpen::default()
    };
    let mut opening = World::new();
    opening.half_open.push((key, half));
    let answered = |seq| {
        let mut pair = reply(web, new, client());
        (pair.inside.seq, pair.outside.seq) = (seq, seq);
        pair
    };
    let mut another = answered(77_777_777);
    another.id = old;
    another.inside.source = web.endpoint(old);
    vec![
        to_backend("an error about a flow without an entry", &reply(web, old, client()), too_long(28)),
        to_backend("an error about a flow with an entry", &reply(web, new, client()), too_long(28))
            .in_world(&followed)
            .remembers_flow(new, 0),
        to_backend("an error about a SYN-ACK", &answered(4242), too_long(28))
            .in_world(&opening)
            .remembers_half_open(new, 0),
        to_backend("an error about another flow than the one that opens", &another, too_long(28))
            .in_world(&opening)
            .remembers_half_open(new, 0),
        to_client(
            "an error about a SYN",
            &{
                let mut pair = request(web, new, client());
                (pair.inside.seq, pair.outside.seq) = (999, 999);
                (pair.inside.flags, pair.outside.flags) = (SYN, SYN);
                pair
            },
            too_long(28),
        )
        .in_world(&opening)
        .remembers_half_open(new, 0),
    ]
}

/// Errors for a VIP that are about none of its packets.
fn foreign() -> Vec<Case> {
    let pair = of(Web::V4, reply);
    let (vip, from) = (pair.web.vip(), router(pair.web.vip().ip()));
    let error = |packet: &Tcp, length| Icmp::too_long(from, vip.ip(), 1400, &quote(packet, length)).frame();
    let dropped = |name, frame| Case::new(name, frame, Counter::Icmp);
    let edited = |at: usize, byte| {
        let mut frame = error(&pair.outside, 1000);
        frame[at] = byte;
        frame
    };
    let elsewhere = Tcp { source: Web::Tracked.vip(), ..pair.outside.clone() };
    let other_port = Tcp { source: SocketAddr::new(vip.ip(), 81), ..pair.outside.clone() };
    let mut local = World::new();
    local.state.local.insert(vip.ip().into());
    let ttl = Icmp::too_long(from, vip.ip(), 1400, &quote(&pair.outside, 28)).ttl(1);
    let narrow =
        |name, mtu| dropped(name, Icmp::too_long(from, vip.ip(), mtu, &quote(&pair.outside, 28)).frame());
    let pair6 = of(Web::V6, reply);
    let (vip6, from6) = (pair6.web.vip().ip(), router(pair6.web.vip().ip()));
    vec![
        dropped("an error that quotes another VIP", error(&elsewhere, 28)),
        dropped("an error that quotes another port", error(&other_port, 28)),
        dropped("an error that quotes no sequence number", error(&pair.outside, 27)),
        dropped("an error that quotes half a header", error(&pair.outside, 12)),
        dropped("an error whose quoted sequence number is padding", {
            let mut frame = error(&pair.outside, 27);
            frame.extend([0; 18]);
            frame
        }),
        dropped("an IPv6 error that quotes another version", {
            let mut frame = Icmp::too_long(from6, vip6, 1400, &quote(&pair6.outside, 48)).frame();
            frame[14 + 40 + 8] = 0x45;
            frame
        }),
        dropped("an unknown message that quotes a reply", {
            Icmp { kind: (4, 0), ..Icmp::too_long(from, vip.ip(), 1400, &quote(&pair.outside, 28)) }.frame()
        }),
        dropped("an unknown IPv6 message that quotes a reply", {
            Icmp { kind: (5, 0), ..Icmp::too_long(from6, vip6, 1400, &quote(&pair6.outside, 48)) }.frame()
        }),
        dropped("an error that quotes nothing", error(&pair.outside, 0)),
        dropped("an error that quotes a later fragment", edited(QUOTED + 7, 9)),
        dropped("an error that quotes a ping", edited(QUOTED + 9, 1)),
        dropped("an error that quotes another version", edited(QUOTED, 0x65)),
        dropped("an error that quotes an impossible header length", edited(QUOTED, 0x44)),
        dropped("an error whose quoted options reach beyond it", edited(QUOTED, 0x4f)),
        narrow("a link that claims to take 68 bytes", 68),
        narrow("a link that claims to take nothing", 0),
        dropped(
            "an IPv6 link that claims to take 1279 bytes",
            Icmp::too_long(from6, vip6, 1279, &quote(&pair6.outside, 48)).frame(),
        ),
        to_backend("the narrowest link that is believed", &pair, |from, to, packet| {
            Icmp::too_long(from, to, 552, &quote(packet, 28))
        }),
        Case::new("an error at its last hop", ttl.frame(), Counter::TtlExceeded),
        Case::passed("an error about the host's own packet", error(&other_port, 28)).in_world(&local),
        to_backend("an error about a service's packet where the host has the VIP", &pair, too_long(28))
            .in_world(&local),
    ]
}

fn to_clients() -> Vec<Case> {
    let (v4, v6) = (of(Web::V4, request), of(Web::V6, request));
    let from_backend = |from: &Pair| {
        let (backend, client, vip) =
            (from.inside.destination.ip(), from.inside.source.ip(), from.outside.destination.ip());
        let kind = if client.is_ipv4() { (3, 3) } else { (1, 4) };
        let error =
            |source, packet: &Tcp| Icmp { payload: quote(packet, 1000), ..Icmp::new(source, client, kind) };
        let mut case = Case::new(
            "a backend's host that refuses",
            error(backend, &from.inside).frame(),
            Counter::Replied,
        );
        let out = error(vip, &from.outside).ttl(63);
        case.out = Some(out.frame_between(mac(0xff00 + CLIENT_SIDE), mac(GATEWAY)));
        case
    };
    let further = of(Web::Further, request);
    let claim = Claim { isn: 0, whose: Web::Further.id(), expires: HALF_OPEN };
    let waiting = Exact { confirmed: Claim::none(), pending: claim };
    let answered =
        Exact { confirmed: claim, pending: Claim { isn: 1 << 31, whose: ServiceId::DIRECT, ..claim } };
    let stranger: SocketAddr = STRANGER.parse().expect("an address");
    let unknown = request(Web::V4, chosen(Web::V4, stranger), stranger);
    vec![
        to_client("a link too narrow for a request", &v4, too_long(28)),
        to_client("a link too narrow for a request, all of it quoted", &v4, too_long(1000)),
        to_client("a link too narrow for an IPv6 request", &v6, too_long(48)),
        to_client("a link too narrow for an IPv6 request, all of it quoted", &v6, too_long(1000)),
        to_client("a link too narrow for a query", &of(Web::Dns, request), too_long(1000)),
        to_client("a link too narrow for an IPv6 query", &of(Web::Dns6, request), too_long(1000)),
        to_client("a request that ran out of hops", &v4, expired(28)),
        to_client("an IPv6 request that ran out of hops", &v6, expired(48)),
        to_client("a link too narrow for a request to a further service", &further, too_long(28))
            .in_world(&with_exact(&further, answered)),
        to_client("a link too narrow for the first request to a further service", &further, too_long(28))
            .in_world(&with_exact(&further, waiting)),
        from_backend(&v4),
        Case { name: "a backend's IPv6 host that refuses", ..from_backend(&v6) },
        Case::new(
            "an error for a client whose neighbour is unknown",
            too_long(28)(router(stranger.ip()), stranger.ip(), &unknown.inside).frame(),
            Counter::NoNeighbour,
        ),
    ]
}

/// A world in which the flow has an exact entry.
fn with_exact(pair: &Pair, exact: Exact) -> World {
    let (endpoint, client) = (pair.inside.destination, pair.inside.source);
    let endpoint = SocketKey::new(endpoint, pair.web.protocol());
    let key = ExactKey { endpoint, client: client.ip().into(), port: Port::new(client.port()), padding: 0 };
    World { exact: vec![(key, exact)], ..World::new() }
}

/// Errors for others that are about no packet of a service.
fn passed() -> Vec<Case> {
    let pair = of(Web::V4, request);
    let (web, client_ip) = (pair.web, client().ip());
    let error =
        |packet: &Tcp| Icmp::too_long(router(client_ip), packet.source.ip(), 1400, &quote(packet, 28));
    let other = *web.backends().iter().find(|id| **id != pair.id).expect("three backends");
    let host: SocketAddr = HOST.parse().expect("an address");
    let to = |destination| Tcp { destination, ..pair.inside.clone() };
    vec![
        Case::passed("an error about a packet that no slot gives the backend", {
            error(&to(web.endpoint(other))).frame()
        }),
        Case::passed("an error about a packet to no backend", {
            error(&to(SocketAddr::new(web.endpoint(pair.id).ip(), 9090))).frame()
        }),
        Case::passed("an error about the host's own health check", {
            error(&Tcp { source: host, ..pair.inside.clone() }).frame()
        }),
        Case::passed("an error for another than the quoted sender", {
            Icmp::too_long(router(client_ip), host.ip(), 1400, &quote(&pair.inside, 28)).frame()
        }),
        Case::passed("a redirect for a client", Icmp { kind: (5, 1), ..error(&pair.inside) }.frame()),
        Case::passed("an unknown IPv6 message about a request", {
            let pair = of(Web::V6, request);
            let (from, to) = (router(client6().ip()), client6().ip());
            let error = Icmp::too_long(from, to, 1400, &quote(&pair.inside, 48));
            Icmp { kind: (100, 0), ..error }.frame()
        }),
        Case::passed("an error for a client that claims to take 68 bytes", {
            Icmp::too_long(router(client_ip), client_ip, 68, &quote(&pair.inside, 28)).frame()
        }),
        Case::passed("a fragment of an error", {
            let mut frame = error(&pair.inside).frame();
            frame[14 + 6] = 0x20;
            frame
        }),
        Case::passed("an error for a client that is cut", {
            let frame = error(&pair.inside).frame();
            frame[..frame.len() - 1].to_vec()
        }),
    ]
}
