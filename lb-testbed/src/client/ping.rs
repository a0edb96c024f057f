//! ICMP echo.

use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use crate::namespace::Namespace;

const DEADLINE: Duration = Duration::from_secs(5);
/// Type, code, checksum, identifier, sequence number (RFC 792, RFC 4443).
const HEADER: usize = 8;

/// Sends one echo request with so many bytes of data and waits for its answer, which must hold the same. What
/// is larger than the MTU goes in fragments.
///
/// # Errors
/// No answer, or another one.
pub fn ping(namespace: &Namespace, target: IpAddr, bytes: usize) -> anyhow::Result<()> {
    // The kernel fills in checksum and identifier for those whose group may have echo sockets.
    namespace.sysctl("net/ipv4/ping_group_range", "0 0")?;
    namespace.run(|| echo(target, bytes))?.with_context(|| format!("an echo of {bytes} bytes from {target}"))
}

fn echo(target: IpAddr, bytes: usize) -> anyhow::Result<()> {
    let (protocol, request) = match target {
        IpAddr::V4(_) => (Protocol::ICMPV4, 8),
        IpAddr::V6(_) => (Protocol::ICMPV6, 128),
    };
    let target = SocketAddr::new(target, 0);
    let mut socket = Socket::new(Domain::for_address(target), Type::DGRAM, Some(protocol))?;
    socket.set_read_timeout(Some(DEADLINE))?;
    socket.connect(&target.into())?;
    let data: Vec<u8> = (0..bytes).map(|place| place as u8).collect();
    let mut packet = vec![0; HEADER];
    packet[0] = request;
    packet.extend(&data);
    socket.send(&packet)?;
    let mut answer = vec![0; HEADER + bytes + 1];
    let length = socket.read(&mut answer)?;
    ensure!(answer[HEADER..length] == data, "the answer holds other data");
    Ok(())
}
