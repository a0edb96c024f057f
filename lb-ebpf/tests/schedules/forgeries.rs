//! Packets that belong to no flow, whoever sent them.

use super::*;

#[test]
fn a_forged_syn_moves_no_silent_flow() {
    let mut bed = Bed::new(1);
    for mut flow in old_and_new(&mut bed) {
        bed.pass(IDLE / 2);
        bed.send(&forge(&flow, SYN));
        flow.assert_whole(&bed);
    }
}

#[test]
fn a_forged_syn_and_a_forged_ack_move_no_flow() {
    let mut bed = Bed::new(1);
    for mut flow in old_and_new(&mut bed) {
        bed.pass(IDLE / 2);
        bed.send(&forge(&flow, SYN));
        // The forger knows its own number, but not what the host answered.
        let mut ack = forge(&flow, ACK);
        ack.seq = ack.seq.wrapping_add(1);
        bed.send(&ack);
        flow.assert_whole(&bed);
    }
}

#[test]
fn a_forged_syn_that_was_answered_and_a_forged_ack_move_no_flow() {
    let mut bed = Bed::new(1);
    let mut flow = Client::open(&bed, PORT);
    bed.change(B);
    let forger = Client { isn: flow.isn.wrapping_add(FAR), ..flow.clone() };
    assert_eq!(forger.syn(&bed), To(B));
    assert_eq!(forger.syn_ack(&bed, B), Replied);
    let guess = forger.packet(ACK).numbers(forger.isn.wrapping_add(1), 0x0fff_ffff);
    assert_eq!(bed.send(&guess), To(A));
    flow.assert_whole(&bed);
}

#[test]
fn a_forged_syn_that_came_first_spoils_no_handshake() {
    for change in [false, true] {
        let mut bed = Bed::new(1);
        bed.change(B);
        let mut flow = Client::new(PORT);
        bed.send(&forge(&flow, SYN));
        if change {
            bed.change(C);
        }
        flow.connect(&bed);
        flow.assert_whole(&bed);
    }
}

#[test]
fn bogus_acks_take_no_memory_from_new_flows() {
    let mut bed = Bed::small(4, 4);
    bed.change(B);
    flood(&bed, 100, ACK);
    assert_eq!(bed.events(Counter::Missed), 100);
    let mut flow = Client::open(&bed, PORT);
    assert_eq!(flow.host, Some(B), "there was room to remember it");
    bed.pass(IDLE / 2);
    flow.assert_whole(&bed);
}

#[test]
fn forged_fin_rst_and_syn_end_no_entry() {
    let mut bed = Bed::new(1);
    let [_, mut flow] = old_and_new(&mut bed);
    for flags in [FIN | ACK, RST, RST | ACK, SYN] {
        bed.send(&forge(&flow, flags));
    }
    bed.pass(2 * CLOSING);
    bed.keep_house();
    flow.assert_whole(&bed);
}

#[test]
fn an_entry_follows_its_flows_numbers_and_no_forgers() {
    let mut bed = Bed::new(1);
    let [_, mut flow] = old_and_new(&mut bed);
    for _ in 0..100 {
        flow.seq = flow.seq.wrapping_add(60_000);
        assert_eq!(flow.data(&bed), To(B));
        bed.send(&forge(&flow, ACK));
    }
    assert_eq!(flow.fin(&bed), To(B));
    bed.pass(2 * CLOSING);
    assert_eq!(bed.sweep().flows, 0, "its FIN was believed");
}

#[test]
fn an_answer_to_the_balancer_itself_is_no_reply() {
    let mut bed = Bed::new(1);
    let check = SocketAddr::from(([192, 0, 2, 200], 40001));
    bed.add_local(check);
    for to in [A, B] {
        bed.change(to);
        for flags in [SYN | ACK, ACK, FIN | ACK, RST] {
            assert_eq!(bed.send(&Tcp::new(A.endpoint(), check, flags)), Passed);
        }
    }
}

#[test]
fn a_hosts_own_connection_is_no_reply() {
    let bed = Bed::new(1);
    // Of so many peers, some have the slot of the very host.
    for (host, port) in Host::ALL.into_iter().flat_map(|host| (1..200).map(move |port| (host, port))) {
        let peer = SocketAddr::from(([203, 0, 113, 9], port));
        assert_eq!(bed.send(&Tcp::new(host.endpoint(), peer, SYN)), Passed, "{host:?}, port {port}");
    }
}

#[test]
fn hosts_of_one_slot_are_the_only_ones_that_a_reply_may_come_from() {
    let mut bed = Bed::new(1);
    let flows = old_and_new(&mut bed);
    for flow in flows {
        for host in Host::ALL {
            let packet = Tcp::new(host.endpoint(), flow.address, PSH | ACK).numbers(flow.ack, flow.seq);
            let expected = if flow.host == Some(host) { Replied } else { Passed };
            assert_eq!(bed.send(&packet), expected, "{host:?} for the flow of {:?}", flow.host);
        }
    }
}
