//! How a check reaches whom it asks. Everything about its path is decided here, and only here: where it goes, where it
//! comes from, and what else its sockets need.
//!
//! Both forward modes of today send a backend what is addressed to itself, so a check is addressed to it as well. A mode
//! that reaches backends in another way (by the VIP's address, through a tunnel) has its checks take that way by what
//! it sets here: another destination, a mark that leads to a route, an interface.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use crate::model::Health;

/// The path of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    /// Who is asked.
    pub(super) endpoint: SocketAddr,
    /// Where the question comes from; `None`: the kernel chooses.
    source: Option<IpAddr>,
}

impl Way {
    /// Of a check of this backend.
    pub(super) fn to(backend: SocketAddr, health: &Health) -> Self {
        let endpoint = health.endpoint(backend);
        Self { endpoint, source: health.source_to(endpoint) }
    }

    /// A connection.
    pub(super) async fn connect(&self) -> io::Result<TcpStream> {
        let socket = if self.endpoint.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        if let Some(source) = self.source {
            // Else every check would keep a port of this address for a minute, whatever the endpoint is.
            socket.set_reuseaddr(true)?;
            socket.bind(SocketAddr::new(source, 0))?;
        }
        socket.connect(self.endpoint).await
    }

    /// A socket that sends to the endpoint and hears nobody else.
    pub(super) async fn datagrams(&self) -> io::Result<UdpSocket> {
        let any = match self.endpoint {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let socket = UdpSocket::bind((self.source.unwrap_or(any), 0)).await?;
        socket.connect(self.endpoint).await?;
        Ok(socket)
    }
}
