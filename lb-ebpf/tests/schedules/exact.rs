//! Exact entries: direct flows to a host's own address, and flows of a second service of the same hosts.

use super::*;

/// Ports of which the service's slots would give half to another host: enough that one of them shows a mistake.
const PORTS: std::ops::Range<u16> = PORT..PORT + 12;

/// Two slots, of A and of B, and a further service of the same hosts.
pub fn bed() -> Bed {
    let mut bed = Bed::new(2);
    bed.share();
    bed.begin_change(&[Some(A), Some(B)]);
    bed.end_grace();
    bed.pass(2 * IDLE);
    settle_down(&mut bed);
    assert!(bed.slots().iter().all(|slot| !slot.is_tracked()));
    bed
}

/// A flow to host A itself.
pub fn direct(port: u16) -> Client {
    Client::new(port).to(A.endpoint())
}

fn connected(bed: &Bed, mut client: Client) -> Client {
    client.connect(bed);
    client
}

#[test]
fn direct_flows_are_left_alone() {
    let bed = bed();
    for port in PORTS {
        let mut flow = connected(&bed, direct(port));
        flow.assert_whole(&bed);
        assert_eq!(flow.fin(&bed), Passed);
        assert_eq!(flow.reply(&bed), Passed);
    }
}

#[test]
fn a_direct_syn_that_is_answered_by_a_reset_hears_it() {
    let bed = bed();
    for port in PORTS {
        let flow = direct(port);
        assert_eq!(flow.syn(&bed), Passed);
        let reset = Tcp::new(A.endpoint(), flow.address, RST | ACK).numbers(0, flow.seq);
        assert_eq!(bed.send(&reset), Passed, "port {port}");
    }
}

#[test]
fn a_direct_flow_that_cannot_be_remembered_does_not_begin() {
    let mut bed = bed();
    bed.limit(Memory::Exact, 1);
    let mut first = connected(&bed, direct(PORT));
    assert_eq!(direct(PORT + 1).syn(&bed), Dropped(Counter::Exact));
    bed.limit(Memory::Exact, 8);
    bed.guard(true);
    assert_eq!(direct(PORT + 1).syn(&bed), Dropped(Counter::Exact));
    first.assert_whole(&bed);
}

#[test]
fn a_direct_tuple_can_be_used_for_the_service_right_after_and_the_other_way_round() {
    for port in PORTS {
        let bed = bed();
        let mut flow = connected(&bed, direct(port));
        for target in [vip(), A.endpoint(), vip(), further_vip(), A.endpoint(), further_vip(), vip()] {
            flow.again();
            flow = connected(&bed, flow.to(target));
            flow.assert_whole(&bed);
        }
    }
}

#[test]
fn both_services_keep_their_flows_through_changes() {
    let mut bed = bed();
    let mut flows: Vec<_> = PORTS
        .map(|port| connected(&bed, Client::new(port).to(if port % 2 == 0 { vip() } else { further_vip() })))
        .collect();
    for to in [C, D, A] {
        bed.change(to);
        let port = PORT + 100 + to as u16;
        flows.push(connected(&bed, Client::new(port).to(further_vip())));
        assert_eq!(flows.last().and_then(|flow| flow.host), Some(to), "new flows follow");
        for flow in &mut flows {
            flow.assert_whole(&bed);
        }
        bed.keep_house();
    }
    bed.pass(IDLE / 2);
    for flow in &mut flows {
        flow.assert_whole(&bed);
    }
}

#[test]
fn the_same_tuple_on_both_services_is_two_flows() {
    for port in PORTS {
        let bed = bed();
        let mut first = connected(&bed, Client::new(port));
        let mut second = Client::new(port).to(further_vip());
        second.isn = second.isn.wrapping_add(1 << 20);
        second.seq = second.isn.wrapping_add(1);
        let host = second.syn(&bed).host().expect("it goes to a host");
        if Some(host) == first.host {
            // One endpoint, one tuple: it challenges the SYN (RFC 5961), and that is the first flow's.
            first.assert_whole(&bed);
            continue;
        }
        second.accept(&bed, host);
        assert_eq!(second.ack(&bed), To(host));
        second.assert_whole(&bed);
        first.assert_whole(&bed);
    }
}

#[test]
fn a_further_flow_is_translated_as_long_as_it_speaks_and_its_entry_goes_then() {
    let bed = bed();
    let mut flows: Vec<_> = PORTS.map(|port| connected(&bed, Client::new(port).to(further_vip()))).collect();
    for _ in 0..4 {
        bed.pass(IDLE / 2);
        bed.sweep();
        for flow in &mut flows {
            flow.assert_whole(&bed);
        }
    }
    bed.pass(IDLE + SECOND);
    bed.sweep();
    assert_eq!(bed.exact(), (0, 0));
}

#[test]
fn a_forged_syn_to_a_host_changes_no_flow() {
    let bed = bed();
    for port in PORTS {
        for target in [vip(), further_vip(), A.endpoint()] {
            let mut flow = connected(&bed, Client::new(port).to(target));
            let forged = forge(&flow, SYN);
            bed.send(&Tcp { destination: flow.host.expect("connected").endpoint(), ..forged });
            flow.assert_whole(&bed);
            bed.pass(HALF_OPEN + 1);
            flow.assert_whole(&bed);
            assert_eq!(flow.rst(&bed).host(), if target == A.endpoint() { None } else { flow.host });
            bed.pass(2 * IDLE);
            bed.sweep();
        }
    }
}

#[test]
fn udp_tuples_go_from_direct_to_the_service_and_back() {
    for port in PORTS {
        let mut bed = Bed::udp(2);
        bed.share();
        bed.begin_change(&[Some(A), Some(B)]);
        bed.end_grace();
        bed.pass(2 * UDP_IDLE);
        settle_down(&mut bed);
        let direct = Talker { target: A.endpoint(), ..Talker::new(port) };
        let service = Talker::new(port);
        let further = Talker { target: further_vip(), ..Talker::new(port) };
        for _ in 0..2 {
            assert_eq!(direct.speak(&bed), Passed);
            assert_eq!(direct.answer(&bed, A), Passed);
            let host = service.speak(&bed).host().expect("it goes to a host");
            assert_eq!(service.answer(&bed, host), Replied);
            let host = further.speak(&bed).host().expect("it goes to a host");
            assert_eq!(further.answer(&bed, host), RepliedFurther);
            bed.pass(UDP_IDLE / 2);
            assert_eq!(further.answer(&bed, host), RepliedFurther, "an answer keeps the entry");
            bed.pass(UDP_IDLE / 2 + SECOND);
            assert_eq!(further.answer(&bed, host), RepliedFurther);
            bed.pass(2 * UDP_IDLE);
        }
        bed.sweep();
        assert_eq!(bed.exact().0, 0);
    }
}

#[test]
fn direct_datagrams_that_cannot_be_remembered_are_dropped() {
    let mut bed = Bed::udp(2);
    bed.limit(Memory::Exact, 0);
    let direct = Talker { target: A.endpoint(), ..Talker::new(PORT) };
    assert_eq!(direct.speak(&bed), Dropped(Counter::Exact));
    bed.limit(Memory::Exact, 1);
    assert_eq!(direct.speak(&bed), Passed);
    bed.pass(2 * UDP_IDLE);
    assert_eq!(direct.speak(&bed), Passed, "an entry that has expired is used again, also without a daemon");
    assert_eq!(direct.answer(&bed, A), Passed);
}
