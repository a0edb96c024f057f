//! The schedules that need no packet stopped half-way: on the host as well as on the loaded programs. Whoever takes
//! them in says on which, by a type `Bed`.

mod always;
mod controller;
pub mod datagrams;
pub mod exact;
mod floods;
mod forgeries;
mod handshakes;
mod reuse;

pub use std::net::SocketAddr;

pub use lb_common::ticks::SECOND;
pub use lb_common::{Counter, Slot};
pub use lb_testbed::schedule::{Client, Host, Host::*, Memory, Outcome::*, Talker, further_vip, vip};
pub use lb_testbed::segment::{ACK, FIN, PSH, RST, SYN, Tcp};
pub use lb_testbed::world::{CLOSING, ESTABLISHED as IDLE, HALF_OPEN, UDP_IDLE};

use super::Bed;

/// Numbers that a forger might guess: 16 MiB away from the client's.
pub const FAR: u32 = 1 << 24;
/// A client's port.
pub const PORT: u16 = 40000;

/// A packet in the client's name with numbers that its forger has guessed.
pub fn forge(client: &Client, flags: u8) -> Tcp {
    let ack = if flags & ACK != 0 { 0x0fff_ffff } else { 0 };
    client.packet(flags).numbers(client.seq.wrapping_add(FAR), ack)
}

/// Other clients' packets.
pub fn flood(bed: &Bed, packets: u16, flags: u8) {
    for port in 1..=packets {
        let source = SocketAddr::from(([198, 51, 100, 1], port));
        bed.send(&Tcp::new(source, vip(), flags).numbers(u32::from(port) << 16, 0x0fff_ffff));
    }
}

/// A live flow of A without an entry, and one of B with an entry, in a slot that goes from A to B.
pub fn old_and_new(bed: &mut Bed) -> [Client; 2] {
    let old = Client::open(bed, PORT);
    bed.change(B);
    let new = Client::open(bed, PORT + 1);
    assert_eq!([old.host, new.host], [Some(A), Some(B)]);
    [old, new]
}

/// What the silence of old flows leads to.
pub fn settle_down(bed: &mut Bed) {
    bed.keep_house();
    bed.keep_house();
}
