//! Sockets of this host. Their packets never come by, so they are led to a backend when they name a VIP: at
//! `connect`, or with each datagram of a socket that is not connected. From then on they talk to the backend as to
//! any other host; only its name is changed back where a program asks whom it talks to.
//!
//! A flow that begins goes to the slot's `current`, as in the walk. There is no packet to tell an old flow from a
//! new one by, and none is needed: whom a socket was led to is remembered. A connection stays where it is. A
//! socket that is not connected follows its slot, and within a change stays with its backend while that lives.
//!
//! What is remembered is a convenience and may be evicted, unlike flows: then a socket that is not connected may
//! move within a change, and sees the backend's address until its next datagram.

use lb_common::hash::{self, Tuple};
use lb_common::service::SOURCE_AFFINITY;
use lb_common::{Address, Backend, BackendId, Peer, PeerKey, Port, Service, Slot, SocketKey};

use crate::select::lives;
use crate::tables::Tables;

/// What is remembered of sockets, and counted.
pub trait Sockets: Tables {
    /// What stands behind an address, for a socket.
    fn peer(&self, key: &PeerKey) -> Option<Peer>;
    /// Remembers that.
    fn remember_peer(&self, key: &PeerKey, peer: &Peer);
    /// Forgets it.
    fn forget_peer(&self, key: &PeerKey);
    /// Counts a flow that begins here.
    fn count_local(&self, service: &Service, backend: BackendId);
}

/// What becomes of an address that a socket names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lead {
    /// The system call fails: the service has no backend.
    pub is_refused: bool,
    /// Whether the address becomes `address`.
    pub is_changed: bool,
    /// Where to.
    pub address: SocketKey,
}

impl Lead {
    const STAY: Self =
        Self { is_refused: false, is_changed: false, address: SocketKey::vip(Address::from_v6_raw([0; 4])) };
    const REFUSE: Self = Self { is_refused: true, ..Self::STAY };

    #[inline(always)]
    const fn to(address: SocketKey) -> Self {
        Self { is_refused: false, is_changed: true, address }
    }
}

/// Where `socket` goes that connects to `target`.
#[inline(always)]
pub fn connect<T: Sockets>(tables: &T, socket: u64, target: &SocketKey) -> Lead {
    let Some(service) = tables.service(target) else {
        direct(tables, socket, target);
        return Lead::STAY;
    };
    let Some((_, slot)) = slot_of(tables, service, socket, target) else { return Lead::REFUSE };
    let Some(backend) = backend(tables, slot.current()) else { return Lead::REFUSE };
    let endpoint = backend.endpoint();
    remember(tables, socket, &endpoint, &Peer { address: *target, backend: backend.id });
    tables.count_local(service, backend.id);
    Lead::to(endpoint)
}

/// Where a datagram of `socket` to `target` goes. `is_connected`: the socket has a peer, which may be `target`.
#[inline(always)]
pub fn send<T: Sockets>(tables: &T, socket: u64, target: &SocketKey, is_connected: bool) -> Lead {
    let Some(service) = tables.service(target) else {
        if !is_connected {
            direct(tables, socket, target);
        }
        return Lead::STAY;
    };
    let Some((index, slot)) = slot_of(tables, service, socket, target) else { return Lead::REFUSE };
    let before = tables.peer(&PeerKey::new(socket, *target)).map_or(BackendId::NONE, |peer| peer.backend);
    let mut id = slot.current();
    if slot.is_tracked() && before != id && lives(tables, before) {
        id = before;
        if id == slot.fallback() {
            tables.stamp_old(service.table, index, tables.now());
        }
    }
    let Some(backend) = backend(tables, id) else { return Lead::REFUSE };
    let endpoint = backend.endpoint();
    remember(tables, socket, &endpoint, &Peer { address: *target, backend: id });
    if before != id {
        tables.remember_peer(&PeerKey::new(socket, *target), &Peer { address: endpoint, backend: id });
        tables.count_local(service, id);
    }
    Lead::to(endpoint)
}

/// The name of whom `socket` talks to or hears from: the VIP where it was led from one.
#[inline(always)]
pub fn name<T: Sockets>(tables: &T, socket: u64, address: &SocketKey) -> Lead {
    match tables.peer(&PeerKey::new(socket, *address)) {
        Some(peer) => Lead::to(peer.address),
        None => Lead::STAY,
    }
}

/// A socket that names a backend itself shall hear of that backend.
#[inline(always)]
fn direct<T: Sockets>(tables: &T, socket: u64, target: &SocketKey) {
    if tables.endpoint(target).is_some() {
        tables.forget_peer(&PeerKey::new(socket, *target));
    }
}

/// Has `endpoint` known to the socket as `vip`. It mostly is.
#[inline(always)]
fn remember<T: Sockets>(tables: &T, socket: u64, endpoint: &SocketKey, vip: &Peer) {
    let key = PeerKey::new(socket, *endpoint);
    if tables.peer(&key) != Some(*vip) {
        tables.remember_peer(&key, vip);
    }
}

#[inline(always)]
fn backend<T: Tables>(tables: &T, id: BackendId) -> Option<&Backend> {
    if !id.is_some() {
        return None;
    }
    tables.backend(id).filter(|backend| backend.id == id)
}

/// The slot of a socket. Its own address and port are not known yet, so the socket's number stands for them; with
/// `affinity = "source"` all of this host's sockets are one client.
#[inline(always)]
fn slot_of<T: Tables>(tables: &T, service: &Service, socket: u64, vip: &SocketKey) -> Option<(u32, Slot)> {
    let client = if service.flags & SOURCE_AFFINITY == 0 { socket } else { 0 };
    let tuple = Tuple {
        source: Address::from_v6_raw([client as u32, (client >> 32) as u32, 0, 0]),
        destination: vip.address,
        source_port: Port::new(0),
        destination_port: vip.port,
        protocol: vip.protocol as u8,
    };
    let index = hash::slot(tuple.hash(|word| tables.hash_key(word)), service.slots);
    tables.slot(service.table, index).map(|slot| (index, slot))
}
