//! Schedules that break a careless flow table: every test ends with the flow whole on its host, that is, its
//! next packet reaches the host that holds the connection, and that host's reply is translated.
//!
//! Through NAT.

#[path = "schedules/always.rs"]
mod always;
#[path = "schedules/controller.rs"]
mod controller;
#[path = "schedules/datagrams.rs"]
mod datagrams;
#[path = "schedules/exact.rs"]
mod exact;
#[path = "schedules/floods.rs"]
mod floods;
#[path = "schedules/forgeries.rs"]
mod forgeries;
#[path = "schedules/handshakes.rs"]
mod handshakes;
#[path = "schedules/races.rs"]
mod races;
#[path = "schedules/reuse.rs"]
mod reuse;

use std::net::SocketAddr;

use lb_common::ticks::SECOND;
use lb_common::{Counter, Slot};
use lb_testbed::schedule::{
    Bed, Client, Flight, Host, Host::*, Moment, Op, Outcome::*, Talker, further_vip, interleave, vip,
};
use lb_testbed::segment::{ACK, FIN, PSH, RST, SYN, Tcp};
use lb_testbed::world::{CLOSING, ESTABLISHED as IDLE, HALF_OPEN, UDP_IDLE};

/// Numbers that a forger might guess: 16 MiB away from the client's.
const FAR: u32 = 1 << 24;
/// A client's port.
const PORT: u16 = 40000;

/// A packet in the client's name with numbers that its forger has guessed.
fn forge(client: &Client, flags: u8) -> Tcp {
    let ack = if flags & ACK != 0 { 0x0fff_ffff } else { 0 };
    client.packet(flags).numbers(client.seq.wrapping_add(FAR), ack)
}

/// Other clients' packets.
fn flood(bed: &Bed, packets: u16, flags: u8) {
    for port in 1..=packets {
        let source = SocketAddr::from(([198, 51, 100, 1], port));
        bed.send(&Tcp::new(source, vip(), flags).numbers(u32::from(port) << 16, 0x0fff_ffff));
    }
}

/// A live flow of A without an entry, and one of B with an entry, in a slot that goes from A to B.
fn old_and_new(bed: &mut Bed) -> [Client; 2] {
    let old = Client::open(bed, PORT);
    bed.change(B);
    let new = Client::open(bed, PORT + 1);
    assert_eq!([old.host, new.host], [Some(A), Some(B)]);
    [old, new]
}

/// What the silence of old flows leads to.
fn settle_down(bed: &mut Bed) {
    bed.keep_house();
    bed.keep_house();
}
