//! Flows that need an exact entry: those that clients open to a backend itself, and those of a backend's further
//! services.

use std::net::SocketAddr;

use lb_common::{BackendId, Claim, Counter, Exact, ExactKey, Port, ServiceId, SocketKey, ticks};

use super::{Case, chosen, client};
use crate::segment::{ACK, PSH, RST, SYN, Tcp};
use crate::world::{HALF_OPEN, UDP_IDLE, Web, World};

const ISN: u32 = 900_000;
const NOBODY: ServiceId = ServiceId::NOBODY;
const DIRECT: ServiceId = ServiceId::DIRECT;

fn key(web: Web, id: BackendId, client: SocketAddr) -> ExactKey {
    let endpoint = SocketKey::new(web.endpoint(id), web.protocol());
    ExactKey { endpoint, client: client.ip().into(), port: Port::new(client.port()), padding: 0 }
}

fn claim(whose: ServiceId, isn: u32) -> Claim {
    if whose == NOBODY { Claim::none() } else { Claim { isn, whose, expires: HALF_OPEN / 2 } }
}

/// A world in which the client's tuple with a backend has an entry.
fn with(key: ExactKey, confirmed: Claim, pending: Claim) -> World {
    World { exact: vec![(key, Exact { confirmed, pending })], ..World::new() }
}

pub(super) fn cases() -> Vec<Case> {
    [direct(), further(), datagrams()].concat()
}

fn direct() -> Vec<Case> {
    let web = Web::V4;
    let id = chosen(web, client());
    let key = key(web, id, client());
    let endpoint = web.endpoint(id);
    let syn = Tcp::new(client(), endpoint, SYN).numbers(ISN, 0);
    let from = |flags, ack| Tcp::new(endpoint, client(), flags).numbers(5000, ack);
    let pending = with(key, Claim::none(), claim(DIRECT, ISN));
    let confirmed = with(key, claim(DIRECT, ISN), Claim::none());
    let other = web.backends().into_iter().find(|other| *other != id).expect("three backends");
    vec![
        Case::passed("direct: a SYN is remembered", syn.frame()).remembers_exact(key, [NOBODY, DIRECT]),
        Case::passed("direct: a SYN that is sent again", syn.frame())
            .in_world(&pending)
            .remembers_exact(key, [NOBODY, DIRECT]),
        Case::new(
            "direct: another SYN while one waits",
            syn.clone().numbers(ISN + 9, 0).frame(),
            Counter::Exact,
        )
        .in_world(&pending)
        .remembers_exact(key, [NOBODY, DIRECT]),
        Case::passed("direct: a SYN beside a confirmed flow", syn.clone().numbers(ISN + 9, 0).frame())
            .in_world(&confirmed)
            .remembers_exact(key, [DIRECT, DIRECT]),
        Case::passed("direct: a SYN whose entry has expired", syn.frame())
            .in_world(&with(
                key,
                Claim::none(),
                Claim { expires: 0_u32.wrapping_sub(9), ..claim(web.id(), ISN) },
            ))
            .remembers_exact(key, [NOBODY, DIRECT]),
        Case::passed("direct: an ACK is nobody's business", Tcp::new(client(), endpoint, ACK).frame()),
        Case::passed("direct: the SYN-ACK confirms", from(SYN | ACK, ISN + 1).frame())
            .in_world(&pending)
            .remembers_exact(key, [DIRECT, NOBODY]),
        Case::passed("direct: an answer", from(PSH | ACK, ISN + 1).frame())
            .in_world(&confirmed)
            .remembers_exact(key, [DIRECT, NOBODY]),
        Case::passed("direct: a RST to a SYN", from(RST | ACK, ISN + 1).frame())
            .in_world(&pending)
            .remembers_exact(key, [NOBODY, DIRECT]),
        Case::replied(
            "direct: a SYN-ACK for another SYN is the service's",
            &from(SYN | ACK, ISN + 900_000),
            web,
        )
        .in_world(&confirmed)
        .remembers_exact(key, [NOBODY, NOBODY]),
        Case::replied("direct: an entry that has expired counts as absent", &from(PSH | ACK, ISN + 1), web)
            .in_world(&with(
                key,
                Claim { expires: 0_u32.wrapping_sub(9), ..claim(DIRECT, ISN) },
                Claim::none(),
            )),
        Case::passed("direct: the SYN of a backend to another", {
            Tcp::new(web.endpoint(other), endpoint, SYN).numbers(ISN, 0).frame()
        })
        .remembers_exact(self::key(web, id, web.endpoint(other)), [NOBODY, DIRECT]),
    ]
}

fn further() -> Vec<Case> {
    let (web, first) = (Web::Further, Web::V4);
    let id = chosen(web, client());
    let key = key(web, id, client());
    let syn = Tcp::new(client(), web.vip(), SYN).numbers(ISN, 0);
    let from = |flags| Tcp::new(web.endpoint(id), client(), flags).numbers(5000, ISN + 1);
    let whose = web.id();
    vec![
        Case::forwarded("further service: a SYN is remembered", &syn, web, id)
            .remembers_exact(key, [NOBODY, whose]),
        Case::new("further service: another SYN while one waits", syn.frame(), Counter::Exact)
            .in_world(&with(key, Claim::none(), claim(DIRECT, ISN)))
            .remembers_exact(key, [NOBODY, DIRECT]),
        Case::replied("further service: the SYN-ACK confirms", &from(SYN | ACK), web)
            .in_world(&with(key, Claim::none(), claim(whose, ISN)))
            .remembers_exact(key, [whose, NOBODY]),
        Case::replied("further service: an answer", &from(PSH | ACK), web)
            .in_world(&with(key, claim(whose, ISN), Claim::none()))
            .remembers_exact(key, [whose, NOBODY]),
        Case::replied("further service: a RST to a SYN", &from(RST | ACK), web)
            .in_world(&with(key, claim(first.id(), ISN - 77_777), claim(whose, ISN)))
            .remembers_exact(key, [first.id(), whose]),
        Case::forwarded(
            "the first service's SYN needs no entry",
            &Tcp::new(client(), first.vip(), SYN),
            first,
            chosen(first, client()),
        ),
    ]
}

fn datagrams() -> Vec<Case> {
    let web = Web::Dns;
    let id = chosen(web, client());
    let key = key(web, id, client());
    let to_endpoint = Tcp::datagram(client(), web.endpoint(id), b"question");
    let answer = Tcp::datagram(web.endpoint(id), client(), b"answer");
    let direct = Claim { isn: 0, whose: DIRECT, expires: UDP_IDLE / 2 };
    let over = Claim { expires: 0_u32.wrapping_sub(ticks::SECOND), ..direct };
    vec![
        Case::passed("UDP: a datagram to a backend itself is remembered", to_endpoint.frame())
            .remembers_exact(key, [DIRECT, NOBODY]),
        Case::passed("UDP: an answer to a datagram to itself", answer.frame())
            .in_world(&with(key, direct, Claim::none()))
            .remembers_exact(key, [DIRECT, NOBODY]),
        Case::replied("UDP: an expired direct entry counts as absent", &answer, web).in_world(&with(
            key,
            over,
            Claim::none(),
        )),
        Case::forwarded(
            "UDP: a datagram to the service ends a direct flow",
            &Tcp::datagram(client(), web.vip(), b"question"),
            web,
            id,
        )
        .in_world(&with(key, direct, Claim::none()))
        .remembers_exact(key, [NOBODY, NOBODY]),
    ]
}
