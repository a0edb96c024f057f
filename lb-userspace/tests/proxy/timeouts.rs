//! Silence.

use std::net::Shutdown;
use std::time::{Duration, Instant};

use lb_userspace::data_plane::proxy::ProxyService;
use lb_userspace::model::Scheduler;
use lb_userspace::proxy::Splice;

use crate::harness::{Echo, Setup, accept, assert_reset, listener, member, ping, service, who};

#[test]
fn silence_ends_a_connection_and_bytes_keep_it() {
    let backend = Echo::start(b'a');
    let idle = Duration::from_secs(1);
    let service =
        ProxyService { idle_timeout: idle, ..service(Scheduler::RoundRobin, &[member(backend.address, 1)]) };
    let setup = Setup::new(1, Splice::Adaptive, service);
    let mut client = setup.client();
    assert_eq!(who(&mut client), b'a');
    let start = Instant::now();
    while start.elapsed() < idle * 3 / 2 {
        ping(&mut client).unwrap();
    }
    let last = Instant::now();
    assert_reset(&mut client);
    assert!(last.elapsed() >= idle / 2, "reset after {:?}", last.elapsed());
    setup.expect_traffic(|traffic| traffic.connections == 0);
}

#[test]
fn a_half_closed_connection_has_its_own_time_out() {
    let (backend, address) = listener();
    let closing = Duration::from_millis(200);
    let service =
        ProxyService { closing_timeout: closing, ..service(Scheduler::RoundRobin, &[member(address, 1)]) };
    let setup = Setup::new(1, Splice::Adaptive, service);
    let mut client = setup.client();
    let _server = accept(&backend);
    let start = Instant::now();
    client.shutdown(Shutdown::Write).unwrap();
    assert_reset(&mut client);
    assert!(start.elapsed() >= closing, "reset after {:?}", start.elapsed());
}
