//! Floods of TCP segments in the names of hosts that are not there (198.18.0.0/15, RFC 2544).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use etherparse::PacketBuilder;
use socket2::{Domain, Protocol, Socket, Type};

use crate::namespace::Namespace;

/// The first of the senders' addresses.
const FIRST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
/// How many there are; each has as many flows as there are ports.
const SENDERS: u64 = 1 << 17;
/// The first of their ports.
const FIRST_PORT: u16 = 1024;
/// Segments between two looks at the clock.
const BURST: u64 = 64;

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Opens a flow.
    Syn,
    /// What would come next, but in answer to nothing.
    Ack,
}

/// A flood. Every segment is of another flow, and the n-th of both kinds of the same one.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// A VIP over IPv4.
    pub target: SocketAddr,
    /// Of every segment.
    pub kind: Kind,
    /// How many.
    pub segments: u64,
    /// At most so many a second.
    pub rate: u32,
}

/// Sends all of it from within the namespace, and says how long that took.
///
/// # Errors
/// No rights, no route to the target, or it is none over IPv4.
pub fn send(namespace: &Arc<Namespace>, plan: Plan) -> anyhow::Result<Duration> {
    namespace.run(|| pour(plan))?
}

#[expect(clippy::disallowed_methods, reason = "the rate is what it is about, nothing is waited for")]
fn pour(plan: Plan) -> anyhow::Result<Duration> {
    // Of this protocol number the kernel takes packets with their IP header.
    let raw = Protocol::from(libc::IPPROTO_RAW);
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(raw)).context("a raw socket")?;
    let to = SocketAddr::new(plan.target.ip(), 0).into();
    let start = Instant::now();
    let mut packet = Vec::new();
    for number in 0..plan.segments {
        if number % BURST == 0 {
            let due = Duration::from_secs_f64(number as f64 / f64::from(plan.rate));
            thread::sleep(due.saturating_sub(start.elapsed()));
        }
        packet.clear();
        write(plan, number, &mut packet)?;
        socket.send_to(&packet, &to).with_context(|| format!("segment {number} of {plan:?}"))?;
    }
    Ok(start.elapsed())
}

fn write(plan: Plan, number: u64, packet: &mut Vec<u8>) -> anyhow::Result<()> {
    let IpAddr::V4(target) = plan.target.ip() else { anyhow::bail!("{} is not over IPv4", plan.target) };
    let sender = Ipv4Addr::from(u32::from(FIRST) + u32::try_from(number % SENDERS)?);
    let port = FIRST_PORT + u16::try_from(number / SENDERS)?;
    // Far apart, as of flows that have nothing to do with each other.
    let isn = (number as u32).wrapping_mul(0x9e37_79b9);
    let ip = PacketBuilder::ipv4(sender.octets(), target.octets(), 64);
    let segment = match plan.kind {
        Kind::Syn => ip.tcp(port, plan.target.port(), isn, 65_535).syn(),
        Kind::Ack => ip.tcp(port, plan.target.port(), isn.wrapping_add(1), 65_535).ack(!isn),
    };
    segment.write(packet, &[])?;
    Ok(())
}
