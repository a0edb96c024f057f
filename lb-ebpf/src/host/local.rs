//! What is remembered of sockets, in a model that forgets nothing by itself.

use lb_common::{BackendId, Peer, PeerKey, Service};

use super::Model;
use crate::local::Sockets;

impl Sockets for Model {
    fn peer(&self, key: &PeerKey) -> Option<Peer> {
        self.peers.borrow().get(key).copied()
    }

    fn remember_peer(&self, key: &PeerKey, peer: &Peer) {
        self.peers.borrow_mut().insert(*key, *peer);
    }

    fn forget_peer(&self, key: &PeerKey) {
        self.peers.borrow_mut().remove(key);
    }

    fn count_local(&self, service: &Service, backend: BackendId) {
        self.service_traffic.borrow_mut().entry(service.id.index()).or_default().new_flows += 1;
        self.backend_traffic.borrow_mut().entry(backend.index()).or_default().new_flows += 1;
    }
}
