//! Backends that cannot be reached.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use lb_userspace::data_plane::proxy::{ProxyService, ProxyTraffic};
use lb_userspace::model::Scheduler;
use lb_userspace::proxy::Splice;

use crate::harness::{Echo, Setup, assert_reset, member, refusing, service, who};

#[test]
fn an_unreachable_backend_costs_a_client_nothing() {
    let (_held, dead) = refusing();
    let live = Echo::start(b'a');
    for scheduler in [Scheduler::RoundRobin, Scheduler::Maglev] {
        let members = [member(dead, 1), member(live.address, 1)];
        let setup = Setup::new(1, Splice::Adaptive, service(scheduler, &members));
        for _ in 0..10 {
            assert_eq!(who(&mut setup.client()), b'a');
        }
        assert_eq!(setup.traffic().failures, 0);
        let failures = setup.backend_traffic(dead).failures;
        assert!((1..=10).contains(&failures), "{failures} attempts at the dead one");
        if scheduler == Scheduler::RoundRobin {
            assert_eq!(failures, 5, "every second client met the dead one first");
        }
    }
}

#[test]
fn a_silent_backend_costs_a_client_the_connect_time_out() {
    // Its queue is full, so the kernel drops every SYN.
    let silent = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    silent.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    silent.listen(0).unwrap();
    let address = silent.local_addr().unwrap().as_socket().unwrap();
    let mut fillers = Vec::new();
    while let Ok(filler) = TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
        fillers.push(filler);
    }

    let live = Echo::start(b'a');
    let connect_timeout = Duration::from_millis(100);
    let members = [member(address, 1), member(live.address, 1)];
    let service = ProxyService { connect_timeout, ..service(Scheduler::RoundRobin, &members) };
    let setup = Setup::new(1, Splice::Adaptive, service);
    let start = Instant::now();
    assert_eq!(who(&mut setup.client()), b'a');
    assert!(start.elapsed() >= connect_timeout);
    assert_eq!(setup.backend_traffic(address).failures, 1);
}

#[test]
fn three_different_backends_are_tried_and_no_more() {
    let dead = [(); 4].map(|()| refusing());
    let members = dead.each_ref().map(|(_, address)| member(*address, 1));
    for scheduler in [Scheduler::RoundRobin, Scheduler::Maglev] {
        let setup = Setup::new(1, Splice::Adaptive, service(scheduler, &members));
        assert_reset(&mut setup.client());
        let mut failures = members.map(|member| setup.backend_traffic(member.address).failures);
        failures.sort_unstable();
        assert_eq!(failures, [0, 1, 1, 1]);
    }
}

#[test]
fn without_a_backend_the_client_is_reset_and_counted() {
    let (_held, dead) = refusing();
    let idle = Echo::start(b'a');
    for members in [vec![], vec![member(idle.address, 0)], vec![member(dead, 1)]] {
        for scheduler in [Scheduler::RoundRobin, Scheduler::Maglev] {
            let setup = Setup::new(1, Splice::Adaptive, service(scheduler, &members));
            assert_reset(&mut setup.client());
            setup.expect_traffic(|traffic| traffic.connections == 0);
            assert_eq!(
                setup.traffic(),
                ProxyTraffic { new_connections: 1, failures: 1, ..Default::default() }
            );
        }
    }
}

#[test]
fn who_refuses_is_named() {
    let (_held, dead) = refusing();
    let live = Echo::start(b'a');
    let members = [member(dead, 1), member(live.address, 1)];
    let mut setup = Setup::new(1, Splice::Adaptive, service(Scheduler::RoundRobin, &members));
    let mut refusals = setup.proxy.refusals().unwrap();
    for _ in 0..2 {
        assert_eq!(who(&mut setup.client()), b'a');
    }
    assert_eq!(refusals.try_recv(), Ok(dead));
    assert!(
        refusals.try_recv().is_err(),
        "one connection of two met it, and the one that lives refuses nobody"
    );
}
