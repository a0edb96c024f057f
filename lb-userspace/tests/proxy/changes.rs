//! Updates, closing, and the end of the plane.

use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use lb_userspace::data_plane::proxy::{ProxyAction, ProxyPlane};
use lb_userspace::model::{Cut, Member, Scheduler};
use lb_userspace::proxy::Splice;
use rustix::event::{PollFd, PollFlags, poll};

use crate::harness::{
    DEADLINE, Echo, Setup, accept, assert_reset, expect_end, listener, member, ping, service, timespec, who,
};

#[test]
fn an_update_cuts_only_what_it_must() {
    let [a, b, c] = [b'a', b'b', b'c'].map(Echo::start);
    let all = [&a, &b, &c].map(|echo| member(echo.address, 1));
    let mut setup = Setup::new(1, Splice::Adaptive, service(Scheduler::RoundRobin, &all));
    let mut clients = [setup.client(), setup.client(), setup.client()];
    clients.sort_by_cached_key(|client| who(&mut client.try_clone().unwrap()));
    let [on_a, on_b, on_c] = &mut clients;

    // a is drained, b has failed for good, c stays.
    let failed = Member { address: b.address, weight: 0, cut: Cut::ALL };
    setup.update(service(Scheduler::RoundRobin, &[member(a.address, 0), failed, member(c.address, 1)]));
    assert_reset(on_b);
    ping(on_a).unwrap();
    ping(on_c).unwrap();
    for _ in 0..6 {
        assert_eq!(who(&mut setup.client()), b'c');
    }

    // a is gone, b is back.
    setup.update(service(Scheduler::RoundRobin, &[member(b.address, 1), member(c.address, 1)]));
    assert_reset(on_a);
    ping(on_c).unwrap();
    let mut back = [setup.client(), setup.client()];
    let mut names = back.each_mut().map(who);
    names.sort_unstable();
    assert_eq!(&names, b"bc");
    back.iter_mut().for_each(|client| ping(client).unwrap());
    assert_eq!(setup.backend_traffic(b.address).new_connections, 2, "counters outlive a failure");
}

#[test]
fn a_cut_takes_a_share_and_leaves_the_others_alone_until_it_goes_on_or_for_ever() {
    let (a, b) = (Echo::start(b'a'), Echo::start(b'b'));
    let mut setup = Setup::over(&[member(a.address, 1)]);
    let mut clients: Vec<_> = (0..200).map(|_| setup.client()).collect();
    assert!(clients.iter_mut().all(|client| who(client) == b'a'));
    let start = Instant::now();
    let share = |part: u64| Cut::at(start, Duration::from_secs(8), start + Duration::from_secs(part));
    let open = |setup: &Setup| setup.backend_traffic(a.address).connections as usize;
    let mut cut = |part| {
        let drained = Member { address: a.address, weight: 0, cut: share(part) };
        setup.update(service(Scheduler::RoundRobin, &[drained, member(b.address, 1)]));
        // The connection of each worker that is cut ends a moment later.
        let mut last = (open(&setup), Instant::now());
        while last.1.elapsed() < Duration::from_millis(300) {
            if open(&setup) != last.0 {
                last = (open(&setup), Instant::now());
            }
            thread::yield_now();
        }
        clients.retain_mut(|client| ping(client).is_ok());
        assert_eq!(clients.len(), last.0, "who is not counted is reset, and nobody else");
        clients.len()
    };
    assert_eq!(cut(0), 200);
    // Five standard deviations of a binomial.
    let quarter = cut(2);
    assert!((119..=181).contains(&quarter), "{quarter} of 200 stay after a quarter");
    let half = cut(4);
    assert!((65..=135).contains(&half) && half < quarter, "{half} of 200 stay after half");
    assert_eq!(cut(4), half, "the same share are the same connections");
    assert_eq!(cut(0), half, "the drain was taken back");
    let again = cut(6);
    assert!(again < half && again > 0, "{again}");
    assert_eq!(cut(8), 0);
}

#[test]
fn close_serves_who_is_in_the_queue_and_resets_the_rest_at_the_deadline() {
    let backend = Echo::start(b'a');
    let mut setup = Setup::over(&[member(backend.address, 1)]);
    let mut clients: Vec<_> = (0..50).map(|_| setup.client()).collect();
    let drain = Duration::from_secs(3);
    let start = Instant::now();
    setup.close(drain);
    let refused = TcpStream::connect(setup.listen.address).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    for client in &mut clients {
        assert_eq!(who(client), b'a');
        ping(client).unwrap();
    }
    assert!(start.elapsed() < drain, "too slow for this test");
    clients.iter_mut().for_each(assert_reset);
    assert!(start.elapsed() >= drain);

    let service = service(Scheduler::RoundRobin, &[member(backend.address, 1)]);
    setup.proxy.apply(&ProxyAction::Listen { listen: setup.listen, service }).unwrap();
    assert_eq!(who(&mut setup.client()), b'a');
}

#[test]
fn stop_waits_for_connections_and_resets_them_at_the_deadline() {
    let (backend, address) = listener();
    let setup = Setup::over(&[member(address, 1)]);
    let (mut patient, quick) = (setup.client(), setup.client());
    let (mut first, mut second) = (accept(&backend), accept(&backend));
    let listen = setup.listen.address;
    let drain = Duration::from_secs(2);
    let start = Instant::now();
    let stopping = thread::spawn(move || setup.proxy.stop(drain, Duration::ZERO));
    while TcpStream::connect(listen).is_ok() {
        assert!(start.elapsed() < drain, "still accepts");
    }
    (&quick).write_all(b"x").unwrap();
    quick.shutdown(Shutdown::Write).unwrap();
    // Which of the two is quick's is up to the workers.
    let mut ready = [PollFd::new(&first, PollFlags::IN), PollFd::new(&second, PollFlags::IN)];
    poll(&mut ready, Some(&timespec(DEADLINE))).unwrap();
    if ready[0].revents().is_empty() {
        std::mem::swap(&mut first, &mut second);
    }
    assert_eq!(io::read_to_string(&mut first).unwrap(), "x");
    first.write_all(b"y").unwrap();
    drop(first);
    assert_eq!(io::read_to_string(quick).unwrap(), "y");
    assert_reset(&mut patient);
    assert!(start.elapsed() >= drain);
    stopping.join().unwrap();
    assert_reset(&mut second);
}

#[test]
fn stop_resets_who_is_left_one_after_another() {
    let backend = Echo::start(b'a');
    let setup = Setup::over(&[member(backend.address, 1)]);
    let mut clients: Vec<_> = (0..64).map(|_| setup.client()).collect();
    clients.iter_mut().for_each(|client| assert_eq!(who(client), b'a'));
    let (drain, spread) = (Duration::from_millis(500), Duration::from_secs(2));
    let start = Instant::now();
    let stopping = thread::spawn(move || setup.proxy.stop(drain, spread));
    let ends = clients.into_iter().map(|mut client| {
        thread::spawn(move || {
            assert_reset(&mut client);
            start.elapsed()
        })
    });
    let ends: Vec<_> = ends.collect::<Vec<_>>().into_iter().map(|end| end.join().unwrap()).collect();
    stopping.join().unwrap();
    assert!(ends.iter().all(|end| *end >= drain), "{ends:?}");
    // Half of them on each side of the middle, give or take what a busy machine is late.
    let early = ends.iter().filter(|end| **end < drain + spread * 3 / 4).count();
    let late = ends.iter().filter(|end| **end > drain + spread / 4).count();
    assert!(early >= 16 && late >= 16, "{ends:?}");
}

#[test]
fn stop_returns_as_soon_as_all_have_ended() {
    let backend = Echo::start(b'a');
    let setup = Setup::over(&[member(backend.address, 1)]);
    let mut client = setup.client();
    assert_eq!(who(&mut client), b'a');
    let start = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| setup.proxy.stop(DEADLINE, DEADLINE));
        client.shutdown(Shutdown::Write).unwrap();
        expect_end(&client);
    });
    assert!(start.elapsed() < DEADLINE / 2);
}
