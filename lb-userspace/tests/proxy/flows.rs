//! Looking at open connections.

use std::collections::BTreeSet;

use lb_userspace::data_plane::flows::{Filter, Listing, SeenFlow};
use lb_userspace::data_plane::proxy::{ProxyAction, ProxyPlane};
use lb_userspace::model::flows::FlowState;
use lb_userspace::model::{Listen, Protocol, Scheduler};

use crate::harness::{Echo, Setup, member, service, who};

fn open(setup: &Setup, filter: Filter) -> Vec<SeenFlow> {
    let mut listing = Listing::new(filter, 100);
    setup.proxy.connections().list(&mut listing).unwrap();
    listing.into_parts().0
}

#[test]
fn open_connections_are_listed_and_ended_ones_are_not() {
    let backend = Echo::start(b'a');
    let mut setup = Setup::over(&[member(backend.address, 1)]);
    let udp = Listen { protocol: Protocol::Udp, ..setup.listen };
    let service = service(Scheduler::RoundRobin, &[member(backend.address, 1)]);
    setup.proxy.apply(&ProxyAction::Listen { listen: udp, service }).unwrap();
    let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    datagrams.send_to(b"", udp.address).unwrap();
    let mut clients: Vec<_> = (0..6).map(|_| setup.client()).collect();
    clients.iter_mut().for_each(|client| assert_eq!(who(client), b'a'));

    let only = |listen| Filter { listens: Some([listen].into()), ..Filter::default() };
    let of = |listen| open(&setup, only(listen));
    let expected: BTreeSet<_> = clients.iter().map(|client| client.local_addr().unwrap()).collect();
    let found = of(setup.listen);
    assert_eq!(found.iter().map(|flow| flow.client).collect::<BTreeSet<_>>(), expected);
    for flow in found {
        assert_eq!((flow.backend, flow.state), (Some(backend.address), FlowState::Established));
        assert!(flow.age.is_some() && flow.expires.is_none());
    }
    let one =
        Filter { client: Some(expected.first().unwrap().to_string().parse().unwrap()), ..Filter::default() };
    assert_eq!(open(&setup, one).len(), 1);

    drop(clients);
    setup.expect_traffic(|traffic| traffic.connections == 0);
    assert_eq!(of(setup.listen), []);
}
