//! The sockets of a listen address: one for each worker, shared by `SO_REUSEPORT`.

use std::io;
use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Type};

use crate::data_plane::PlaneError;
use crate::model::{Listen, Protocol};

use super::datagrams::Group;

/// Connections that may wait to be accepted, for each socket; the kernel caps it at net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// Bytes of datagrams that may wait to be read, for each socket; the kernel caps it at net.core.rmem_max. One
/// socket holds what all clients of a worker send at once, and what it has no room for is lost.
const QUEUE: usize = 4 << 20;

/// A bound socket that does not block.
#[derive(Debug)]
pub(super) enum Socket {
    /// It listens.
    Tcp(TcpListener),
    /// It receives.
    Udp(UdpSocket, Arc<Group>),
}

/// Opens `count` sockets on one address, or none.
pub(super) fn bind(listen: Listen, count: usize) -> Result<Vec<Socket>, PlaneError> {
    let group = Arc::new(Group::new(count));
    // Without SO_REUSEPORT first: with it, two programs of one user would share the clients and never know.
    open(listen, false, &group)
        .and_then(|probe| {
            drop(probe);
            (0..count).map(|_| open(listen, true, &group)).collect()
        })
        .map_err(|error| PlaneError::new(format!("listen {listen}"), explain(listen, &error)))
}

fn open(Listen { protocol, address }: Listen, share: bool, group: &Arc<Group>) -> io::Result<Socket> {
    let kind = match protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    let socket = socket2::Socket::new(Domain::for_address(address), kind.nonblocking(), None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_port(share)?;
    match protocol {
        Protocol::Tcp => {
            socket.set_reuse_address(true)?;
            // Accepted sockets inherit both: no delay, and a close that is a reset (see `session`).
            socket.set_tcp_nodelay(true)?;
            socket.set_linger(Some(Duration::ZERO))?;
            socket.bind(&address.into())?;
            if share {
                socket.listen(BACKLOG)?;
            }
            Ok(Socket::Tcp(socket.into()))
        }
        // No SO_REUSEADDR: for UDP that would let others in as SO_REUSEPORT does.
        Protocol::Udp => {
            socket.set_recv_buffer_size(QUEUE)?;
            socket.bind(&address.into())?;
            Ok(Socket::Udp(socket.into(), Arc::clone(group)))
        }
    }
}

/// The kernel's words, and the cure.
fn explain(Listen { protocol, address }: Listen, error: &io::Error) -> String {
    let (ip, port) = (address.ip(), address.port());
    let cure = match error.kind() {
        io::ErrorKind::AddrInUse => {
            let show = match protocol {
                Protocol::Tcp => "ss -ltnp",
                Protocol::Udp => "ss -lunp",
            };
            format!("another program listens there, `{show} 'sport = :{port}'` shows it: stop it or move it")
        }
        io::ErrorKind::AddrNotAvailable => format!(
            "the proxy plane needs {ip} on this host: announce = \"address\" puts it there, or `ip address add`"
        ),
        io::ErrorKind::PermissionDenied => {
            format!("ports below net.ipv4.ip_unprivileged_port_start, like {port}, need CAP_NET_BIND_SERVICE")
        }
        _ => return format!("cannot listen: {error}"),
    };
    format!("cannot listen: {error} (hint: {cure})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_sockets_inherit_what_the_listener_has() {
        let listen = Listen { protocol: Protocol::Tcp, address: "127.0.0.1:0".parse().unwrap() };
        let Some(Socket::Tcp(socket)) = bind(listen, 1).unwrap().pop() else { panic!("not TCP") };
        let _client = std::net::TcpStream::connect(socket.local_addr().unwrap()).unwrap();
        let (accepted, _) = socket.accept().unwrap();
        assert!(accepted.nodelay().unwrap());
        assert_eq!(socket2::SockRef::from(&accepted).linger().unwrap(), Some(Duration::ZERO));
    }
}
