//! Looking at the flows that a plane remembers, while it goes on.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use crate::model::Listen;
use crate::model::flows::FlowState;

use super::PlaneError;

/// Which flows are asked for; `None`: all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of the service with these listen addresses.
    pub listens: Option<BTreeSet<Listen>>,
    /// Of this client.
    pub client: Option<Peer>,
    /// To this backend.
    pub backend: Option<Peer>,
}

/// An address with a port, or with any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    ip: IpAddr,
    port: Option<u16>,
}

impl Peer {
    fn is(&self, address: SocketAddr) -> bool {
        self.ip == address.ip() && self.port.is_none_or(|port| port == address.port())
    }
}

/// A text is no [`Peer`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no address (hint: 198.51.100.7, 198.51.100.7:40000, 2001:db8::7 or [2001:db8::7]:40000)")]
pub struct NoPeer(String);

impl FromStr for Peer {
    type Err = NoPeer;

    fn from_str(text: &str) -> Result<Self, NoPeer> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self { ip: ip.to_canonical(), port: None });
        }
        let address: SocketAddr = text.parse().map_err(|_| NoPeer(text.to_owned()))?;
        Ok(Self { ip: address.ip().to_canonical(), port: Some(address.port()) })
    }
}

/// One flow, see [`crate::model::flows::FlowEntry`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "as in the document")]
pub struct SeenFlow {
    pub listen: Listen,
    pub client: SocketAddr,
    pub backend: Option<SocketAddr>,
    pub state: FlowState,
    pub expires: Option<Duration>,
    pub age: Option<Duration>,
}

/// The flows that were asked for, as far as they are wanted: however many there are, no more are held.
#[derive(Clone, Debug)]
pub struct Listing {
    filter: Filter,
    most: usize,
    flows: Vec<SeenFlow>,
    matched: u64,
}

impl Listing {
    /// Of at most `most` flows.
    pub fn new(filter: Filter, most: usize) -> Self {
        Self { filter, most, flows: Vec::new(), matched: 0 }
    }

    /// One for another thread to fill.
    pub fn part(&self) -> Self {
        Self::new(self.filter.clone(), self.most.saturating_sub(self.flows.len()))
    }

    /// Takes a flow in, if it was asked for.
    pub fn offer(&mut self, flow: SeenFlow) {
        let Filter { listens, client, backend } = &self.filter;
        if listens.as_ref().is_none_or(|listens| listens.contains(&flow.listen))
            && client.is_none_or(|client| client.is(flow.client))
            && backend.is_none_or(|backend| flow.backend.is_some_and(|address| backend.is(address)))
        {
            self.matched += 1;
            if self.flows.len() < self.most {
                self.flows.push(flow);
            }
        }
    }

    /// Takes in what another thread has found.
    pub fn join(&mut self, part: Self) {
        let room = self.most.saturating_sub(self.flows.len());
        self.flows.extend(part.flows.into_iter().take(room));
        self.matched += part.matched;
    }

    /// The flows, and how many were asked for in all.
    pub fn into_parts(self) -> (Vec<SeenFlow>, u64) {
        (self.flows, self.matched)
    }
}

/// What can be looked at beside the plane that it belongs to. Calls block.
pub trait FlowSource: Send {
    /// Offers every flow that is there all the while; one that changes its place meanwhile may come twice.
    fn list(&self, listing: &mut Listing) -> Result<(), PlaneError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(client: &str, backend: Option<&str>) -> SeenFlow {
        SeenFlow {
            listen: Listen {
                address: "192.0.2.10:80".parse().unwrap(),
                protocol: crate::model::Protocol::Tcp,
            },
            client: client.parse().unwrap(),
            backend: backend.map(|backend| backend.parse().unwrap()),
            state: FlowState::Established,
            expires: None,
            age: None,
        }
    }

    fn listing(client: Option<&str>, backend: Option<&str>, most: usize) -> Listing {
        let peer = |text: &str| text.parse().unwrap();
        Listing::new(Filter { listens: None, client: client.map(peer), backend: backend.map(peer) }, most)
    }

    #[test]
    fn filters_take_addresses_with_and_without_a_port() {
        let flows = [
            flow("198.51.100.7:1", Some("10.0.0.1:80")),
            flow("198.51.100.7:2", Some("10.0.0.2:80")),
            flow("[2001:db8::7]:1", None),
        ];
        for (client, backend, expected) in [
            (None, None, 3),
            (Some("198.51.100.7"), None, 2),
            (Some("198.51.100.7:2"), None, 1),
            (Some("::ffff:198.51.100.7"), None, 2),
            (Some("[2001:db8::7]:1"), None, 1),
            (Some("2001:db8::7"), Some("10.0.0.1"), 0),
            (None, Some("10.0.0.2:80"), 1),
            (None, Some("10.0.0.2:81"), 0),
        ] {
            let mut listing = listing(client, backend, 9);
            flows.iter().for_each(|flow| listing.offer(*flow));
            assert_eq!(listing.matched, expected, "{client:?} {backend:?}");
        }
        for bad in ["", "web", "10.0.0.1:", "10.0.0", "[::1]"] {
            assert!(bad.parse::<Peer>().is_err(), "{bad}");
        }
    }

    #[test]
    fn no_more_are_held_than_asked_for_and_all_are_counted() {
        let mut all = listing(None, None, 3);
        for port in 1..=2 {
            all.offer(flow(&format!("198.51.100.7:{port}"), None));
        }
        let mut part = all.part();
        for port in 3..=9 {
            part.offer(flow(&format!("198.51.100.7:{port}"), None));
        }
        assert_eq!(part.flows.len(), 1);
        all.join(part);
        let (flows, matched) = all.into_parts();
        assert_eq!((flows.len(), matched), (3, 9));
    }
}
