//! Netlink sockets and whole-table dumps.

use std::pin::{Pin, pin};

use futures_util::{Stream, StreamExt, TryStreamExt};
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::sys::AsyncSocket;
use rtnetlink::{Handle, MulticastGroup};
use tokio_util::task::AbortOnDropHandle;

use super::NetworkError;
use super::tables::Tables;

/// Room for what the kernel announces between two reads, in bytes; it caps this at `net.core.rmem_max`.
const RECEIVE_BUFFER: i32 = 8 * 1024 * 1024;

const GROUPS: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

/// A socket for requests and dumps.
#[derive(Debug)]
pub(super) struct Requests {
    pub(super) handle: Handle,
    _connection: AbortOnDropHandle<()>,
}

impl Requests {
    /// Opens one in the calling thread's network namespace.
    pub(super) fn open() -> Result<Self, NetworkError> {
        let (connection, handle, _) = rtnetlink::new_connection()
            .map_err(|error| NetworkError::new("opening a netlink socket", error))?;
        Ok(Self { handle, _connection: AbortOnDropHandle::new(tokio::spawn(connection)) })
    }

    /// Every table at once.
    pub(super) async fn dump(&self) -> Result<Tables, NetworkError> {
        let mut tables = Tables::default();
        for_each("links", self.handle.link().get().execute(), |message| {
            tables.fold(&RouteNetlinkMessage::NewLink(message));
        })
        .await?;
        for_each("addresses", self.handle.address().get().execute(), |message| {
            tables.fold(&RouteNetlinkMessage::NewAddress(message));
        })
        .await?;
        for_each("neighbours", self.handle.neighbours().get().execute(), |message| {
            tables.fold(&RouteNetlinkMessage::NewNeighbour(message));
        })
        .await?;
        tables.replace_routes(&self.routes().await?);
        Ok(tables)
    }

    /// The routes of both families.
    pub(super) async fn routes(&self) -> Result<Vec<RouteMessage>, NetworkError> {
        let mut routes = Vec::new();
        let dump = self.handle.route().get(RouteMessage::default()).execute();
        for_each("routes", dump, |message| routes.push(message)).await?;
        Ok(routes)
    }
}

async fn for_each<T>(
    what: &str,
    dump: impl Stream<Item = Result<T, rtnetlink::Error>>,
    mut take: impl FnMut(T),
) -> Result<(), NetworkError> {
    let mut dump = pin!(dump);
    while let Some(message) = dump
        .try_next()
        .await
        .map_err(|error| NetworkError::netlink(format!("reading the kernel's {what}"), &error))?
    {
        take(message);
    }
    Ok(())
}

/// What the kernel announced.
pub(super) enum Event {
    /// A table changed.
    Message(RouteNetlinkMessage),
    /// More was announced than the socket could hold: only a new dump tells what.
    Overrun,
}

/// The socket that hears announcements: one of its own, so that a burst costs no request its answer.
pub(super) struct Events {
    messages: Pin<Box<dyn Stream<Item = Event> + Send>>,
    _connection: AbortOnDropHandle<()>,
}

impl Events {
    /// Subscribes in the calling thread's network namespace.
    pub(super) fn subscribe() -> Result<Self, NetworkError> {
        let (mut connection, _, messages) = rtnetlink::new_multicast_connection(&GROUPS)
            .map_err(|error| NetworkError::new("subscribing to netlink announcements", error))?;
        connection
            .socket_mut()
            .socket_mut()
            .set_rx_buf_sz(RECEIVE_BUFFER)
            .map_err(|error| NetworkError::new("sizing a netlink socket", error))?;
        let messages = messages.filter_map(async |(message, _)| match message.payload {
            NetlinkPayload::InnerMessage(message) => Some(Event::Message(message)),
            NetlinkPayload::Overrun(_) => Some(Event::Overrun),
            _ => None,
        });
        Ok(Self {
            messages: Box::pin(messages),
            _connection: AbortOnDropHandle::new(tokio::spawn(connection)),
        })
    }

    /// The next announcement; none: the socket is broken. Nothing is lost when this is cancelled.
    pub(super) async fn next(&mut self) -> Option<Event> {
        self.messages.next().await
    }
}
