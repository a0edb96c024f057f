//! Backends that say who they are, and clients that listen.

use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::daemon::DEADLINE;

/// Starts a backend that greets with its own address and then echoes lines. Ends with the test's runtime.
pub async fn start() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, address));
        }
    });
    address
}

async fn serve(stream: TcpStream, address: SocketAddr) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    writer.write_all(format!("{address}\n").as_bytes()).await?;
    let mut lines = BufReader::new(reader).lines();
    while let Some(line) = lines.next_line().await? {
        writer.write_all(format!("{line}\n").as_bytes()).await?;
    }
    Ok(())
}

/// An address where nobody listens. Another process may take it before the daemon does; the kernel hands out
/// the ports of its range in such an order that this is unlikely.
pub async fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// A client's connection.
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects; the client and the backend that greeted it.
    pub async fn connect(service: SocketAddr) -> (Self, SocketAddr) {
        let stream = timeout(DEADLINE, TcpStream::connect(service)).await.unwrap().unwrap();
        let mut client = Self { stream: BufReader::new(stream) };
        let backend = client.line().await.unwrap().parse().unwrap();
        (client, backend)
    }

    /// As the service sees it.
    pub fn local_address(&self) -> SocketAddr {
        self.stream.get_ref().local_addr().unwrap()
    }

    /// Sends a line and expects it back.
    pub async fn echo(&mut self, line: &str) {
        self.stream.get_mut().write_all(format!("{line}\n").as_bytes()).await.unwrap();
        assert_eq!(self.line().await.as_deref(), Some(line));
    }

    /// The next line; `None` where the connection ended.
    pub async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match timeout(DEADLINE, self.stream.read_line(&mut line)).await.unwrap() {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(line.trim_end().to_owned()),
        }
    }
}
