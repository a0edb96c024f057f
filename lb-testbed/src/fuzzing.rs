//! What the fuzz targets run: bytes in, properties of the walk checked. They need no kernel, so the host ring runs
//! them too.

use std::net::{IpAddr, SocketAddr};

use lb_common::Counter;
use lb_ebpf::host::{Frame, Model};
use lb_ebpf::process;

use crate::cases::{self, client, client6};
use crate::icmp::Icmp;
use crate::segment::{Tcp, verify_checksums};
use crate::world::{Web, World};

/// Any time.
const NOW: u32 = 1 << 20;
/// Before the first frame of an input, and between frames: the length of the next one.
const LENGTH: usize = 2;
/// Bytes of the Ethernet header.
const LINK: usize = 14;

/// Every frame of the packet table, as inputs for [`frames`].
pub fn seeds() -> Vec<Vec<u8>> {
    let prefixed = |frame: Vec<u8>| [&(frame.len() as u16).to_be_bytes(), frame.as_slice()].concat();
    cases::all().into_iter().map(|case| prefixed(case.frame)).collect()
}

/// Any frames, one after the other on the same maps, each behind its length in two bytes.
///
/// # Panics
/// A property does not hold.
pub fn frames(mut data: &[u8]) {
    let model = World::new().model(NOW);
    while let Some((length, rest)) = data.split_first_chunk::<LENGTH>() {
        let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
        let (frame, rest) = rest.split_at(length);
        run(&model, frame);
        data = rest;
    }
}

/// A client's packet with any payload and numbers, and the backend's answer to it: both are translated, and the
/// payload stays as it is.
///
/// # Panics
/// A property does not hold.
pub fn round_trip(data: &[u8]) {
    let Some((head, payload)) = data.split_first_chunk::<14>() else { return };
    let [kind, flags, a, b, c, d, port, port2, seq @ .., ttl, vlan] = *head;
    let (web, client) = match kind % 4 {
        0 => (Web::V4, SocketAddr::from(([100, b, c, d], 0))),
        1 => (Web::Dns, SocketAddr::from(([100, b, c, d], 0))),
        2 => (Web::V6, SocketAddr::new(IpAddr::from([0x2001, 0xdb8, 9, 0, 0, 0, u16::from(a), 1]), 0)),
        _ => (Web::Dns6, SocketAddr::new(IpAddr::from([0x2001, 0xdb8, 9, 0, 0, 0, u16::from(a), 1]), 0)),
    };
    let client = SocketAddr::new(client.ip(), u16::from_be_bytes([port, port2]));
    let payload = &payload[..payload.len().min(1300)];
    let build = |source, destination, flags| {
        let packet = match web {
            Web::Dns | Web::Dns6 => Tcp::datagram(source, destination, payload),
            _ => Tcp::new(source, destination, flags).payload(payload).numbers(u32::from_be_bytes(seq), 7),
        };
        let packet = packet.ttl(ttl.max(2));
        if vlan > 0 { packet.vlan(u16::from(vlan)) } else { packet }
    };
    let model = World::new().model(NOW);
    // A SYN or an ACK.
    let packet = build(client, web.vip(), if flags & 1 == 0 { 0x02 } else { 0x10 });
    let id = cases::chosen(web, client);
    expect(&model, &packet, Counter::Forwarded, |out| out.destination = web.endpoint(id));
    let answer = build(web.endpoint(id), client, if flags & 1 == 0 { 0x12 } else { 0x10 });
    expect(&model, &answer, Counter::Replied, |out| out.source = web.vip());
}

/// An ICMP error of any kind that quotes any bytes, or the beginning of a packet of ours with bytes changed.
///
/// # Panics
/// A property does not hold.
pub fn quote(data: &[u8]) {
    let Some((&[choice, kind, code, at, a, b, c, d], quote)) = data.split_first_chunk::<8>() else { return };
    let (web, client) = if choice & 1 == 0 { (Web::V4, client()) } else { (Web::V6, client6()) };
    let id = cases::chosen(web, client);
    let (sender, receiver, quoted) = match choice >> 1 & 3 {
        // From a router towards the client, about a reply; from one towards the backend, about a request.
        0 => (client, web.vip(), Tcp::new(web.vip(), client, 0x10)),
        _ => (web.endpoint(id), client, Tcp::new(client, web.endpoint(id), 0x10)),
    };
    let mut bytes = quoted.payload(quote).frame()[LINK..].to_vec();
    if choice & 0x80 != 0 {
        bytes = quote.to_vec();
    } else if let Some(byte) = bytes.get_mut(usize::from(at)) {
        *byte ^= d;
    }
    bytes.truncate(if choice & 0x40 == 0 { 548 } else { usize::from(at) });
    let mut error = Icmp::new(sender.ip(), receiver.ip(), (kind, code));
    (error.rest, error.payload) = ([a, b, c, d], bytes);
    run(&World::new().model(NOW), &error.frame());
}

/// Runs one frame and checks what holds for all.
fn run(model: &Model, bytes: &[u8]) {
    let mut frame = Frame::new(bytes);
    let verdict = process(&mut frame, model);
    let out = frame.bytes();
    if verdict.counter == Counter::Passed {
        assert_eq!(out, bytes, "a frame that passes is untouched");
    }
    if verdict.ifindex == 0 {
        return;
    }
    match verdict.counter {
        Counter::Forwarded | Counter::Replied => assert_eq!(out.len(), bytes.len(), "{verdict:?}"),
        // Whom to tell stands in the request itself, and an advertisement has room for a MAC address.
        Counter::ArpAnswered | Counter::NdAnswered => {}
        _ => {
            assert!(out.len() <= bytes.len(), "an answer is no longer than what it answers: {verdict:?}");
            assert_eq!(out[..6], bytes[6..12], "an answer goes to the sender: {verdict:?}");
        }
    }
    if verify_checksums(bytes).is_ok() {
        assert_eq!(verify_checksums(out), Ok(()), "{verdict:?} {bytes:02x?}\n{out:02x?}");
    }
}

/// Runs a packet that must come out as another, built from nothing.
fn expect(model: &Model, packet: &Tcp, counter: Counter, change: impl Fn(&mut Tcp)) {
    let mut frame = Frame::new(&packet.frame());
    let verdict = process(&mut frame, model);
    assert_eq!(verdict.counter, counter, "{packet:?}");
    let mut out = packet.clone();
    change(&mut out);
    out.ttl -= 1;
    // The MAC addresses are the next hop's.
    assert_eq!(frame.bytes()[12..], out.frame()[12..], "{packet:?}");
}
