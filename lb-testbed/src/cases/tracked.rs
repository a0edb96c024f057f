//! Packets in slots that are within a change: what is remembered, and what decides.

use lb_common::{BackendId, Counter, Flow, HalfOpen, ticks};

use super::{Case, chosen, client, client6};
use crate::segment::{ACK, FIN, PSH, RST, SYN, Tcp};
use crate::world::{CLOSING, ESTABLISHED, Web, World};

/// The client's initial sequence number.
const ISN: u32 = 1000;
/// The backend's initial sequence number.
const SERVER: u32 = 77_000;
/// Longer ago than any entry may be.
const LONG_AGO: u32 = (-10_i32) as u32;

pub(super) fn cases() -> Vec<Case> {
    [new_flows(), known_flows(), handshakes(), closing_flows(), replies(), always()].concat()
}

fn remembering(web: Web, flow: Option<Flow>, half: Option<HalfOpen>) -> World {
    let client = if web == Web::TrackedV6 { client6() } else { client() };
    let mut world = World::new();
    world.flows.extend(flow.map(|flow| (web.flow_key(client), flow)));
    world.half_open.extend(half.map(|half| (web.flow_key(client), half)));
    world
}

fn flow(web: Web, backend: BackendId) -> Flow {
    Flow { backend, slot: 0, table: web as u32, seq: ISN + 500, expires: ESTABLISHED / 2, closing: 0 }
}

fn half(web: Web, backend: BackendId) -> HalfOpen {
    HalfOpen {
        backend,
        slot: 0,
        table: web as u32,
        isn: ISN,
        server_isn: [SERVER, 0],
        recorded: 1,
        expires: ticks::SECOND,
        proven: 0,
    }
}

fn new_flows() -> Vec<Case> {
    let web = Web::Tracked;
    let (new, old) = (web.new_backend(), web.old_backend());
    let syn = Tcp::new(client(), web.vip(), SYN).numbers(ISN, 0);
    let ack = Tcp::new(client(), web.vip(), ACK).numbers(ISN + 1, SERVER + 1);
    let dead = Web::DeadFallback;
    let v6 = Web::TrackedV6;
    vec![
        Case::forwarded("a SYN is remembered for the new backend", &syn, web, new)
            .remembers_half_open(new, 0),
        Case::forwarded("a packet of a flow without an entry goes to the old backend", &ack, web, old),
        Case::forwarded(
            "a SYN while settling",
            &Tcp::new(client(), Web::Settling.vip(), SYN),
            Web::Settling,
            Web::Settling.new_backend(),
        )
        .remembers_half_open(Web::Settling.new_backend(), 0),
        Case::forwarded(
            "a SYN when the fallback is dead needs no entry",
            &Tcp::new(client(), dead.vip(), SYN),
            dead,
            dead.new_backend(),
        ),
        Case::forwarded(
            "a packet without an entry when the fallback is dead goes to the new one",
            &Tcp::new(client(), dead.vip(), ACK),
            dead,
            dead.new_backend(),
        ),
        Case::forwarded(
            "an IPv6 SYN is remembered",
            &Tcp::new(client6(), v6.vip(), SYN),
            v6,
            v6.new_backend(),
        )
        .remembers_half_open(v6.new_backend(), 0),
        Case::forwarded(
            "an IPv6 packet without an entry",
            &Tcp::new(client6(), v6.vip(), ACK),
            v6,
            v6.old_backend(),
        ),
    ]
}

/// Services that remember every flow, in stable slots.
fn always() -> Vec<Case> {
    let (web, dns) = (Web::Always, Web::AlwaysDns);
    let (id, udp) = (chosen(web, client()), chosen(dns, client()));
    let syn = Tcp::new(client(), web.vip(), SYN).numbers(ISN, 0);
    let ack = Tcp::new(client(), web.vip(), ACK).numbers(ISN + 1, SERVER + 1);
    let syn_ack = Tcp::new(web.endpoint(id), client(), SYN | ACK).numbers(SERVER, ISN + 1);
    let unanswered = HalfOpen { server_isn: [0, 0], recorded: 0, ..half(web, id) };
    vec![
        Case::forwarded("always: a SYN is remembered", &syn, web, id).remembers_half_open(id, 0),
        Case::replied("always: a SYN-ACK is noted", &syn_ack, web)
            .in_world(&remembering(web, None, Some(unanswered)))
            .remembers_half_open(id, 0),
        Case::forwarded("always: the ACK proves the flow", &ack, web, id)
            .in_world(&remembering(web, None, Some(half(web, id))))
            .remembers_flow(id, 0),
        Case::forwarded("always: an ACK of no known flow is not remembered", &ack, web, id),
        Case::forwarded(
            "always: a datagram is remembered",
            &Tcp::datagram(client(), dns.vip(), b""),
            dns,
            udp,
        )
        .remembers_flow(udp, 0),
    ]
}

fn known_flows() -> Vec<Case> {
    let web = Web::Tracked;
    let (new, old) = (web.new_backend(), web.old_backend());
    let known = remembering(web, Some(flow(web, new)), None);
    let to_web = |flags, seq| Tcp::new(client(), web.vip(), flags).numbers(seq, SERVER + 1);
    let expired = remembering(web, Some(Flow { expires: LONG_AGO, ..flow(web, new) }), None);
    let foreign = remembering(web, Some(flow(web, BackendId::new(new.index(), 9))), None);
    vec![
        Case::forwarded("an entry decides", &to_web(ACK, ISN + 600), web, new)
            .in_world(&known)
            .remembers_flow(new, 0),
        Case::forwarded("a SYN on a live flow moves nothing", &to_web(SYN, 9_999_999), web, new)
            .in_world(&known)
            .remembers_flow(new, 0),
        Case::forwarded("an expired entry counts as absent", &to_web(ACK, ISN + 600), web, old)
            .in_world(&expired)
            .remembers_flow(new, 0),
        Case::forwarded("an entry of an old generation counts as absent", &to_web(ACK, ISN + 600), web, old)
            .in_world(&foreign)
            .remembers_flow(BackendId::new(new.index(), 9), 0),
        Case::forwarded("a FIN near the flow's numbers closes it", &to_web(FIN | ACK, ISN + 700), web, new)
            .in_world(&known)
            .remembers_flow(new, 1),
        Case::forwarded("a RST near the flow's numbers closes it", &to_web(RST, ISN + 700), web, new)
            .in_world(&known)
            .remembers_flow(new, 1),
        Case::forwarded(
            "a FIN far from the flow's numbers changes nothing",
            &to_web(FIN | ACK, ISN.wrapping_sub(1 << 20)),
            web,
            new,
        )
        .in_world(&known)
        .remembers_flow(new, 0),
        Case::forwarded(
            "a RST far from the flow's numbers changes nothing",
            &to_web(RST, ISN + (1 << 20)),
            web,
            new,
        )
        .in_world(&known)
        .remembers_flow(new, 0),
    ]
}

fn handshakes() -> Vec<Case> {
    let web = Web::Tracked;
    let (new, old) = (web.new_backend(), web.old_backend());
    let open = remembering(web, None, Some(half(web, new)));
    let unanswered = remembering(web, None, Some(HalfOpen { recorded: 0, ..half(web, new) }));
    let proven = remembering(web, None, Some(HalfOpen { proven: 1, ..half(web, new) }));
    let to_web = |flags, seq, ack| Tcp::new(client(), web.vip(), flags).numbers(seq, ack);
    let settling = remembering(Web::Settling, None, Some(half(Web::Settling, Web::Settling.new_backend())));
    vec![
        Case::forwarded("a retransmitted SYN follows the first", &to_web(SYN, ISN, 0), web, new)
            .in_world(&open)
            .remembers_half_open(new, 0),
        Case::forwarded("a SYN with another ISN moves nothing", &to_web(SYN, ISN + 7, 0), web, old)
            .in_world(&open)
            .remembers_half_open(new, 0),
        Case::new(
            "a SYN with another ISN while settling",
            Tcp::new(client(), Web::Settling.vip(), SYN).numbers(ISN + 7, 0).frame(),
            Counter::Settling,
        )
        .in_world(&settling),
        Case::forwarded(
            "the ACK of the handshake promotes the flow",
            &to_web(ACK, ISN + 1, SERVER + 1),
            web,
            new,
        )
        .in_world(&open)
        .remembers_flow(new, 0),
        Case::forwarded(
            "data with the ACK promotes too",
            &to_web(ACK | PSH, ISN + 1, SERVER + 1).payload(b"x"),
            web,
            new,
        )
        .in_world(&open)
        .remembers_flow(new, 0),
        Case::forwarded(
            "a FIN with the ACK promotes and closes",
            &to_web(FIN | ACK, ISN + 1, SERVER + 1),
            web,
            new,
        )
        .in_world(&open)
        .remembers_flow(new, 1),
        Case::forwarded(
            "an ACK of a wrong sequence number proves nothing",
            &to_web(ACK, ISN, SERVER + 1),
            web,
            old,
        )
        .in_world(&open)
        .remembers_half_open(new, 0),
        Case::forwarded(
            "an ACK of a wrong acknowledgment number proves nothing",
            &to_web(ACK, ISN + 1, SERVER + (1 << 17)),
            web,
            old,
        )
        .in_world(&open)
        .remembers_half_open(new, 0),
        Case::forwarded("an ACK before any SYN-ACK proves nothing", &to_web(ACK, ISN + 1, 1), web, old)
            .in_world(&unanswered)
            .remembers_half_open(new, 0),
        Case::forwarded("a RST needs only the sequence number", &to_web(RST, ISN + 1, 0), web, new)
            .in_world(&open),
        Case::forwarded("a proven entry counts as a flow", &to_web(ACK, ISN + 90_000, 1), web, new)
            .in_world(&proven)
            .remembers_half_open(new, 1),
        Case::forwarded("a SYN on a proven entry moves nothing", &to_web(SYN, ISN + 5, 0), web, new)
            .in_world(&proven)
            .remembers_half_open(new, 1),
    ]
}

fn closing_flows() -> Vec<Case> {
    let web = Web::Tracked;
    let (new, old) = (web.new_backend(), web.old_backend());
    let ended = Flow { closing: 1, expires: CLOSING / 2, ..flow(web, old) };
    let closing = remembering(web, Some(ended), None);
    let reopened = remembering(web, Some(ended), Some(half(web, new)));
    let to_web = |flags, seq, ack| Tcp::new(client(), web.vip(), flags).numbers(seq, ack);
    vec![
        Case::forwarded("a closing entry is followed", &to_web(ACK, ISN + 600, 1), web, old)
            .in_world(&closing)
            .remembers_flow(old, 1),
        Case::forwarded("a SYN after FIN opens a new flow", &to_web(SYN, ISN, 0), web, new)
            .in_world(&closing)
            .remembers_flow(old, 1)
            .remembers_half_open(new, 0),
        Case::forwarded(
            "the reopened flow is proven beside the ended one",
            &to_web(ACK, ISN + 1, SERVER + 1),
            web,
            new,
        )
        .in_world(&reopened)
        .remembers_flow(old, 1)
        .remembers_half_open(new, 1),
    ]
}

fn replies() -> Vec<Case> {
    let web = Web::Tracked;
    let (new, old) = (web.new_backend(), web.old_backend());
    let from = |id, flags, seq, ack| Tcp::new(web.endpoint(id), client(), flags).numbers(seq, ack);
    let unanswered = remembering(web, None, Some(HalfOpen { recorded: 0, ..half(web, new) }));
    let known = remembering(web, Some(flow(web, new)), None);
    let ended = remembering(web, Some(Flow { closing: 1, ..flow(web, old) }), None);
    let v6 = Web::TrackedV6;
    vec![
        Case::replied("a reply of the old backend for a flow without an entry", &from(old, ACK, 1, 1), web),
        Case::passed("not of the new backend for a flow without an entry", from(new, ACK, 1, 1).frame()),
        Case::replied(
            "a SYN-ACK of the new backend for a remembered SYN",
            &from(new, SYN | ACK, SERVER, ISN + 1),
            web,
        )
        .in_world(&unanswered)
        .remembers_half_open(new, 0),
        Case::replied(
            "a RST of the new backend for a remembered SYN",
            &from(new, RST | ACK, 0, ISN + 1),
            web,
        )
        .in_world(&unanswered)
        .remembers_half_open(new, 0),
        Case::passed(
            "not one that acknowledges something else",
            from(new, SYN | ACK, SERVER, ISN + (1 << 17)).frame(),
        )
        .in_world(&unanswered),
        Case::replied("the old backend's reply beside a remembered SYN", &from(old, ACK, 1, 1), web)
            .in_world(&unanswered)
            .remembers_half_open(new, 0),
        Case::replied("a reply of the backend that the entry names", &from(new, ACK, 1, 1), web)
            .in_world(&known)
            .remembers_flow(new, 0),
        Case::passed("not of another", from(old, ACK, 1, 1).frame()).in_world(&known),
        Case::replied("a reply of a closing flow's backend", &from(old, ACK, 1, 1), web)
            .in_world(&ended)
            .remembers_flow(old, 1),
        Case::replied(
            "an IPv6 reply of the old backend",
            &Tcp::new(v6.endpoint(v6.old_backend()), client6(), ACK),
            v6,
        ),
    ]
}
