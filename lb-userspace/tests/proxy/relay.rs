//! What is sent arrives, in both directions and to the last byte; what ends, ends for both sides.

use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use lb_userspace::data_plane::proxy::ProxyTraffic;
use lb_userspace::model::Scheduler;
use lb_userspace::proxy::Splice;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rustix::event::{PollFd, PollFlags, poll};
use socket2::SockRef;

use crate::harness::{
    DEADLINE, Echo, Setup, accept, assert_reset, expect_end, listener, member, service, timespec, who,
};
use crate::pattern::Pattern;

/// Echoes `size` bytes through the proxy, writing and reading at the same time.
fn echo_all(splice: Splice, scheduler: Scheduler, size: usize) {
    let backend = Echo::start(b'a');
    let setup = Setup::new(1, splice, service(scheduler, &[member(backend.address, 1)]));
    let mut client = setup.client();
    assert_eq!(who(&mut client), b'a');
    let pattern = Pattern::new(1);
    thread::scope(|scope| {
        scope.spawn(|| {
            pattern.write(&client, 0..size, &mut StdRng::seed_from_u64(2)).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        });
        pattern.expect(&client, 0..size, &mut StdRng::seed_from_u64(3));
        expect_end(&client);
    });
    let size = size as u64;
    setup.expect_traffic(|traffic| {
        traffic
            == ProxyTraffic { new_connections: 1, bytes: size, reply_bytes: size + 1, ..Default::default() }
    });
    let ProxyTraffic { connecting, .. } = setup.backend_traffic(backend.address);
    assert!(!connecting.is_zero());
    let expected = ProxyTraffic { connecting, ..setup.traffic() };
    assert_eq!(setup.backend_traffic(backend.address), expected);
}

#[test]
fn bulk_passes_unharmed_through_pipes() {
    echo_all(Splice::Adaptive, Scheduler::Maglev, 64 << 20);
}

#[test]
fn bulk_passes_unharmed_when_copied() {
    echo_all(Splice::Off, Scheduler::RoundRobin, 64 << 20);
}

/// The end of the stream is behind full buffers everywhere when it is sent; what is before it must arrive, and
/// the other direction must go on for as long as it likes.
fn half_close(splice: Splice) {
    let (backend, address) = listener();
    let setup = Setup::new(1, splice, service(Scheduler::RoundRobin, &[member(address, 1)]));
    let client = setup.client();
    let server = accept(&backend);
    let pattern = Pattern::new(4);
    let mut sizes = StdRng::seed_from_u64(5);

    let size = pattern.fill(&client);
    client.shutdown(Shutdown::Write).unwrap();
    pattern.expect(&server, 0..size, &mut sizes);
    expect_end(&server);

    let size = pattern.fill(&server);
    server.shutdown(Shutdown::Write).unwrap();
    pattern.expect(&client, 0..size, &mut sizes);
    expect_end(&client);
    setup.expect_traffic(|traffic| traffic.connections == 0);
}

#[test]
fn half_close_keeps_the_tail_in_a_full_pipe() {
    half_close(Splice::Adaptive);
}

#[test]
fn half_close_keeps_the_tail_in_a_full_buffer() {
    half_close(Splice::Off);
}

#[test]
fn the_receiver_slows_the_sender_down() {
    let (backend, address) = listener();
    // Small windows on the far side, so that what the proxy itself holds stands out.
    SockRef::from(&backend).set_recv_buffer_size(64 << 10).unwrap();
    let setup = Setup::over(&[member(address, 1)]);
    let client = setup.client();
    let server = accept(&backend);
    let pattern = Pattern::new(6);
    let sent = pattern.fill(&client);
    let relayed = usize::try_from(setup.traffic().bytes).unwrap();
    // The most that one call splices into a pipe, and the two queues of the client's connection.
    let queues = sysctl_max("tcp_rmem") + sysctl_max("tcp_wmem");
    assert!(sent - relayed <= (1 << 20) + queues, "{sent} sent, {relayed} relayed");
    pattern.expect(&server, 0..sent, &mut StdRng::seed_from_u64(7));
}

fn sysctl_max(name: &str) -> usize {
    let text = std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap();
    text.split_whitespace().next_back().unwrap().parse().unwrap()
}

#[test]
fn a_reset_passes_in_both_directions_behind_what_was_sent_before() {
    let (backend, address) = listener();
    let setup = Setup::over(&[member(address, 1)]);

    let mut client = setup.client();
    let server = accept(&backend);
    SockRef::from(&server).set_linger(Some(Duration::ZERO)).unwrap();
    drop(server);
    assert_reset(&mut client);

    let client = setup.client();
    let mut server = accept(&backend);
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    assert_reset(&mut server);
    setup.expect_traffic(|traffic| traffic.connections == 0);
}

#[test]
fn a_client_that_gives_up_is_noticed_while_its_backend_takes_nothing() {
    let (backend, address) = listener();
    let setup = Setup::over(&[member(address, 1)]);
    let client = setup.client();
    let server = accept(&backend);
    Pattern::new(8).fill(&client);
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    let mut errors = [PollFd::new(&server, PollFlags::ERR)];
    assert_eq!(poll(&mut errors, Some(&timespec(DEADLINE))).unwrap(), 1, "the backend's side stays open");
    setup.expect_traffic(|traffic| traffic.connections == 0);
}
