//! A single flow to an echo server that a test holds in its hand.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, ensure};
use socket2::{Domain, Socket, Type};

use crate::namespace::Namespace;
use crate::record::{self, BANNER, RECORD};

const DEADLINE: Duration = Duration::from_secs(5);

/// An open flow.
#[derive(Debug)]
pub struct Visit {
    /// Who greeted.
    pub id: String,
    /// Our own address and port.
    pub client: SocketAddr,
    stream: TcpStream,
}

impl Visit {
    /// Connects from within the namespace, by a port that no other flow has, and waits for the banner. (Left to
    /// itself the kernel may use one port for several targets, and at a backend of both those flows are the same.)
    ///
    /// # Errors
    /// There is none in time.
    pub fn open(namespace: &Namespace, target: SocketAddr) -> anyhow::Result<Self> {
        let any = if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        Self::open_from(namespace, any, target)
    }

    /// As [`Self::open`], from one of the namespace's addresses.
    ///
    /// # Errors
    /// There is no banner in time.
    pub fn open_from(namespace: &Namespace, source: IpAddr, target: SocketAddr) -> anyhow::Result<Self> {
        let connected = namespace.run(|| {
            let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
            socket.bind(&SocketAddr::new(source, 0).into())?;
            socket.connect_timeout(&target.into(), DEADLINE)?;
            Ok(socket.into())
        });
        Self::greeted(connected?, target)
    }

    fn greeted(connected: io::Result<TcpStream>, target: SocketAddr) -> anyhow::Result<Self> {
        let mut stream = connected.with_context(|| format!("connecting to {target}"))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_nodelay(true)?;
        let mut banner = [0; BANNER];
        stream.read_exact(&mut banner).with_context(|| format!("waiting for the banner of {target}"))?;
        Ok(Self { id: record::id(&banner), client: stream.local_addr()?, stream })
    }

    /// Exchanges one record.
    ///
    /// # Errors
    /// What comes back is not what was sent.
    pub fn speak(&mut self) -> anyhow::Result<()> {
        let record = record::record(self.client.port().into(), 0);
        self.stream.write_all(&record)?;
        let mut answer = [0; RECORD];
        self.stream.read_exact(&mut answer)?;
        ensure!(answer == record, "a record has come back changed");
        Ok(())
    }
}
