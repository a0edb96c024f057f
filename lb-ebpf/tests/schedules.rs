//! Schedules that break a careless flow table: every test ends with the flow whole on its host, that is, its
//! next packet reaches the host that holds the connection, and that host's reply is translated.
//!
//! TCP through NAT, one service. Not there yet, so not here: UDP, exact entries (direct flows, several
//! services of one endpoint), and the guard that refuses inserts under a flood. Where a schedule asks for
//! the guard, a full table stands in for it: the data path knows only that an insert was refused.

use std::net::SocketAddr;

use lb_common::ticks::SECOND;
use lb_common::{Counter, Slot};
use lb_testbed::schedule::{Bed, Client, Flight, Host, Host::*, Moment, Op, Outcome::*, interleave, vip};
use lb_testbed::segment::{ACK, FIN, PSH, RST, SYN, Tcp};
use lb_testbed::world::{CLOSING, ESTABLISHED as IDLE, HALF_OPEN};

/// Numbers that a forger might guess: 16 MiB away from the client's.
const FAR: u32 = 1 << 24;
/// A client's port.
const PORT: u16 = 40000;

/// A packet in the client's name with numbers that its forger has guessed.
fn forge(client: &Client, flags: u8) -> Tcp {
    let ack = if flags & ACK != 0 { 0x0fff_ffff } else { 0 };
    client.packet(flags).numbers(client.seq.wrapping_add(FAR), ack)
}

/// Other clients' packets.
fn flood(bed: &Bed, packets: u16, flags: u8) {
    for port in 1..=packets {
        let source = SocketAddr::from(([198, 51, 100, 1], port));
        bed.send(&Tcp::new(source, vip(), flags).numbers(u32::from(port) << 16, 0x0fff_ffff));
    }
}

/// A live flow of A without an entry, and one of B with an entry, in a slot that goes from A to B.
fn old_and_new(bed: &mut Bed) -> [Client; 2] {
    let old = Client::open(bed, PORT);
    bed.change(B);
    let new = Client::open(bed, PORT + 1);
    assert_eq!([old.host, new.host], [Some(A), Some(B)]);
    [old, new]
}

/// What the silence of old flows leads to.
fn settle_down(bed: &mut Bed) {
    bed.keep_house();
    bed.keep_house();
}

#[test]
fn a_change_leaves_old_flows_where_they_are_and_sends_new_ones_on() {
    let mut bed = Bed::new(1);
    let flows = old_and_new(&mut bed);
    for to in [C, B, A, D] {
        bed.change(to);
        assert_eq!(Client::open(&bed, PORT + 10 + to as u16).host, Some(to));
        for flow in &mut flows.clone() {
            flow.assert_whole(&bed);
        }
    }
}

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
fn bogus_acks_take_no_memory_from_new_flows() {
    let mut bed = Bed::small(4, 4);
    bed.change(B);
    flood(&bed, 100, ACK);
    let mut flow = Client::open(&bed, PORT);
    assert_eq!(flow.host, Some(B), "there was room to remember it");
    bed.pass(IDLE / 2);
    flow.assert_whole(&bed);
}

#[test]
fn a_full_flow_table_lets_a_handshake_live_as_long_as_a_flow() {
    let mut bed = Bed::small(4, 0);
    bed.change(B);
    let mut flow = Client::open(&bed, PORT);
    assert_eq!(flow.host, Some(B));
    for _ in 0..3 {
        bed.pass(IDLE / 2);
        bed.keep_house();
        flow.assert_whole(&bed);
    }
}

#[test]
fn a_syn_flood_between_syn_and_ack_moves_nothing() {
    for (port, capacity) in [1, 2, 4, 8].into_iter().enumerate() {
        let mut bed = Bed::small(capacity, 4);
        bed.change(B);
        let mut flow = Client::new(PORT + port as u16);
        let To(host) = flow.syn(&bed) else { panic!("it goes somewhere") };
        flood(&bed, 20, SYN);
        flow.accept(&bed, host);
        flood(&bed, 20, SYN);
        assert_eq!(flow.ack(&bed), To(host));
        flow.assert_whole(&bed);
    }
}

#[test]
fn a_flow_whose_syn_was_refused_at_the_end_of_the_window_is_whole_after_it() {
    let mut bed = Bed::small(0, 4);
    bed.change(B);
    bed.pass(IDLE - SECOND);
    let mut flow = Client::new(PORT);
    assert_eq!(flow.syn(&bed), To(A), "it cannot be remembered, so it goes where such flows belong");
    flow.accept(&bed, A);
    bed.pass(2 * SECOND);
    settle_down(&mut bed);
    assert_eq!(flow.ack(&bed), To(A));
    bed.pass(IDLE / 2);
    settle_down(&mut bed);
    flow.assert_whole(&bed);
}

#[test]
fn a_flow_that_began_while_the_fallback_was_dead_is_whole_when_it_returns() {
    for capacity in [0, 4] {
        let mut bed = Bed::small(capacity, 4);
        bed.change(B);
        bed.cut(A, &[Some(B)]);
        let mut flow = Client::open(&bed, PORT);
        assert_eq!(flow.host, Some(B));
        bed.come_back(A);
        flow.assert_whole(&bed);
        bed.change(A);
        flow.assert_whole(&bed);
    }
}

#[test]
fn the_first_hosts_syn_ack_counts_where_a_change_came_between_two_syns() {
    let mut bed = Bed::new(1);
    let mut flow = Client::new(PORT);
    assert_eq!(flow.syn(&bed), To(A));
    bed.change(B);
    assert_eq!(flow.syn(&bed), To(B));
    assert_eq!(flow.syn_ack(&bed, B), Replied);
    flow.accept(&bed, A);
    assert_eq!(flow.ack(&bed), To(A));
    flow.assert_whole(&bed);
}

#[test]
fn the_second_hosts_syn_ack_counts_where_the_client_takes_it() {
    let mut bed = Bed::new(1);
    let mut flow = Client::new(PORT);
    assert_eq!(flow.syn(&bed), To(A));
    bed.change(B);
    assert_eq!(flow.syn(&bed), To(B));
    flow.accept(&bed, B);
    assert_eq!(flow.syn_ack(&bed, A), Replied);
    assert_eq!(flow.ack(&bed), To(B));
    flow.assert_whole(&bed);
}

#[test]
fn a_syn_late_in_the_half_open_time_extends_it() {
    let mut bed = Bed::new(1);
    bed.change(B);
    let mut flow = Client::new(PORT);
    assert_eq!(flow.syn(&bed), To(B));
    bed.pass(HALF_OPEN - 1);
    assert_eq!(flow.syn(&bed), To(B));
    bed.pass(HALF_OPEN - 1);
    bed.keep_house();
    flow.accept(&bed, B);
    assert_eq!(flow.ack(&bed), To(B));
    flow.assert_whole(&bed);
}

#[test]
fn two_syn_acks_with_different_numbers_prove_a_flow_either_way() {
    for accepted in [1, 2] {
        let mut bed = Bed::new(1);
        bed.change(B);
        let mut flow = Client::new(PORT);
        assert_eq!(flow.syn(&bed), To(B));
        // A host that answers with SYN cookies has another number for the same SYN a minute later.
        for number in [0x2000_0000_u32, 0x2abc_0000] {
            let answer = Tcp::new(B.endpoint(), flow.address, SYN | ACK).numbers(number, flow.seq);
            assert_eq!(bed.send(&answer), Replied);
            assert_eq!(bed.send(&answer), Replied, "sent twice");
        }
        flow.ack = if accepted == 1 { 0x2000_0001 } else { 0x2abc_0001 };
        flow.host = Some(B);
        assert_eq!(flow.ack(&bed), To(B), "number {accepted}");
        bed.change(C);
        flow.assert_whole(&bed);
    }
}

#[test]
fn a_syn_before_a_change_and_its_syn_ack_after_it_belong_together() {
    let mut bed = Bed::new(1);
    let mut flow = Client::new(PORT);
    assert_eq!(flow.syn(&bed), To(A));
    bed.change(B);
    flow.accept(&bed, A);
    assert_eq!(flow.ack(&bed), To(A));
    flow.assert_whole(&bed);
}

#[test]
fn a_syn_ack_is_translated_though_its_host_is_neither_current_nor_fallback() {
    let mut bed = Bed::new(1);
    bed.change(B);
    let mut flow = Client::new(PORT);
    assert_eq!(flow.syn(&bed), To(B));
    bed.change(C);
    flow.accept(&bed, B);
    assert_eq!(flow.ack(&bed), To(B));
    flow.assert_whole(&bed);
}

#[test]
fn a_change_back_moves_nothing() {
    let mut bed = Bed::new(1);
    let flows = old_and_new(&mut bed);
    bed.change(A);
    for mut flow in flows {
        flow.assert_whole(&bed);
        bed.keep_house();
        flow.assert_whole(&bed);
    }
}

#[test]
fn a_second_change_moves_nothing() {
    let mut bed = Bed::new(1);
    let flows = old_and_new(&mut bed);
    bed.change(C);
    for mut flow in flows {
        flow.assert_whole(&bed);
        bed.keep_house();
        flow.assert_whole(&bed);
    }
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

/// The tuple of a flow that is over, used again in a slot that has changed since, on a host that has never
/// seen it. `over` ends the first flow.
fn reuse(over: impl Fn(&mut Bed, &mut Client)) {
    for sweep in [false, true] {
        let mut bed = Bed::new(1);
        let [_, mut flow] = old_and_new(&mut bed);
        over(&mut bed, &mut flow);
        bed.change(C);
        if sweep {
            bed.keep_house();
        }
        flow.again();
        flow.connect(&bed);
        flow.assert_whole(&bed);
        bed.pass(2 * CLOSING);
        bed.keep_house();
        flow.assert_whole(&bed);
        bed.change(D);
        flow.assert_whole(&bed);
    }
}

#[test]
fn a_tuple_can_be_used_again_after_fin() {
    reuse(|bed, flow| assert_eq!(flow.fin(bed), To(B)));
}

#[test]
fn a_tuple_can_be_used_again_after_rst() {
    reuse(|bed, flow| assert_eq!(flow.rst(bed), To(B)));
}

#[test]
fn a_tuple_can_be_used_again_after_silence() {
    reuse(|bed, _| bed.pass(IDLE / 2));
    reuse(|bed, _| bed.pass(2 * IDLE));
}

#[test]
fn a_tuple_can_be_used_again_after_its_host_was_cut() {
    reuse(|bed, _| bed.cut(B, &[Some(C)]));
}

#[test]
fn a_tuple_can_be_used_again_after_its_host_was_cut_and_came_back() {
    reuse(|bed, _| {
        bed.cut(B, &[Some(C)]);
        bed.come_back(B);
    });
}

#[test]
fn a_syn_that_a_closing_entry_takes_in_lives_to_its_ack() {
    let mut bed = Bed::small(1, 4);
    let [_, mut flow] = old_and_new(&mut bed);
    assert_eq!(flow.fin(&bed), To(B));
    bed.change(C);
    flood(&bed, 4, SYN);
    bed.pass(CLOSING - SECOND);
    flood(&bed, 4, SYN);
    bed.sweep();
    flood(&bed, 4, SYN);
    flow.again();
    assert_eq!(flow.syn(&bed), To(B), "refused, and the tuple is still an ended flow's");
    flow.accept(&bed, B);
    bed.pass(2 * SECOND);
    bed.keep_house();
    assert_eq!(flow.ack(&bed), To(B));
    flow.assert_whole(&bed);
}

#[test]
fn a_tuple_that_was_reset_opens_on_the_next_host() {
    let mut bed = Bed::new(1);
    let [_, mut flow] = old_and_new(&mut bed);
    assert_eq!(flow.rst(&bed), To(B));
    bed.change(C);
    flow.again();
    flow.connect(&bed);
    assert_eq!(flow.host, Some(C));
    flow.assert_whole(&bed);
    bed.pass(2 * CLOSING);
    bed.keep_house();
    flow.assert_whole(&bed);
}

#[test]
fn a_tuple_opened_in_an_untracked_slot_outlives_the_closing_entry_of_its_forerunner() {
    let mut bed = Bed::new(1);
    bed.change(B);
    let mut flow = Client::open(&bed, PORT);
    bed.pass(IDLE);
    assert_eq!(flow.data(&bed), To(B));
    bed.pass(2 * SECOND);
    assert_eq!(flow.fin(&bed), To(B));
    settle_down(&mut bed);
    assert_eq!(bed.slots(), [Slot::stable(bed.id(B))]);
    flow.again();
    flow.connect(&bed);
    bed.change(C);
    // It speaks often enough to keep the old entry alive, and for longer than the idle time-out.
    let mut passed = 0;
    while passed < IDLE + CLOSING {
        bed.pass(CLOSING / 2);
        passed += CLOSING / 2;
        assert_eq!(flow.data(&bed), To(B));
        bed.keep_house();
    }
    bed.pass(2 * CLOSING);
    bed.keep_house();
    flow.assert_whole(&bed);
}

#[test]
fn an_expired_entry_of_another_host_spoils_no_handshake() {
    for sweep in [false, true] {
        let mut bed = Bed::new(1);
        bed.change(D);
        let mut flow = Client::open(&bed, PORT);
        bed.change(B);
        bed.pass(2 * IDLE);
        flow.again();
        assert_eq!(flow.syn(&bed), To(B));
        assert_eq!(bed.send(&forge(&flow, ACK)), To(A));
        flow.accept(&bed, B);
        bed.send(&forge(&flow, ACK));
        assert_eq!(flow.ack(&bed), To(B));
        if sweep {
            bed.sweep();
        }
        bed.send(&forge(&flow, ACK));
        flow.assert_whole(&bed);
        bed.pass(IDLE / 2);
        flow.assert_whole(&bed);
    }
}

#[test]
fn a_daemon_that_is_dead_in_the_middle_of_a_change_costs_no_flow() {
    let mut bed = Bed::small(8, 8);
    let mut flows = old_and_new(&mut bed);
    for round in 0..20 {
        bed.pass(IDLE / 2);
        flood(&bed, 40, SYN);
        flood(&bed, 40, ACK);
        for flow in &mut flows {
            flow.assert_whole(&bed);
        }
        let mut newcomer = Client::open(&bed, PORT + 100 + round);
        newcomer.assert_whole(&bed);
    }
    bed.adopt();
    bed.keep_house();
    for flow in &mut flows {
        flow.assert_whole(&bed);
    }
    bed.pass(IDLE / 2 + SECOND);
    bed.keep_house();
    for flow in &mut flows {
        flow.assert_whole(&bed);
    }
}

#[test]
fn a_daemon_that_dies_between_two_steps_costs_no_flow() {
    let mut bed = Bed::new(1);
    let mut flows = old_and_new(&mut bed);
    bed.pass(IDLE - SECOND);
    assert_eq!(flows[1].data(&bed), To(B));
    bed.pass(2 * SECOND);
    bed.begin_settling();
    assert!(bed.slots()[0].is_settling());
    assert_eq!(flows[0].data(&bed), To(A), "just before it is given up");
    bed.adopt();
    settle_down(&mut bed);
    for flow in &mut flows {
        flow.assert_whole(&bed);
    }
}

#[test]
fn a_host_that_is_removed_and_added_again_keeps_its_flows() {
    let mut bed = Bed::new(1);
    let mut old = Client::open(&bed, PORT);
    bed.change(B);
    old.assert_whole(&bed);
    bed.change(A);
    let mut new = Client::open(&bed, PORT + 1);
    bed.change(B);
    for flow in [&mut old, &mut new] {
        flow.assert_whole(&bed);
        bed.keep_house();
        flow.assert_whole(&bed);
    }
}

#[test]
fn a_host_that_failed_and_came_back_inherits_nothing() {
    let mut bed = Bed::new(1);
    let [mut old, mut new] = old_and_new(&mut bed);
    bed.cut(A, &[Some(B)]);
    // Its client was reset, and opens the tuple again.
    old.again();
    old.connect(&bed);
    assert_eq!(old.host, Some(B));
    bed.come_back(A);
    for to in [A, C] {
        bed.change(to);
        old.assert_whole(&bed);
        new.assert_whole(&bed);
    }
}

#[test]
fn an_entry_of_a_hosts_earlier_life_is_none() {
    let mut bed = Bed::new(1);
    let [_, mut flow] = old_and_new(&mut bed);
    bed.cut(B, &[Some(C)]);
    flow.again();
    flow.connect(&bed);
    assert_eq!(flow.host, Some(C));
    bed.come_back(B);
    flow.assert_whole(&bed);
    bed.change(B);
    flow.assert_whole(&bed);
}

#[test]
fn a_failure_within_the_grace_breaks_no_silent_flow() {
    let mut bed = Bed::new(1);
    let mut flow = Client::open(&bed, PORT);
    bed.begin_change(&[None]);
    bed.end_grace();
    assert_eq!(Client::new(PORT + 1).syn(&bed), Dropped(Counter::NoBackend));
    bed.pass(5 * SECOND);
    bed.change(A);
    flow.assert_whole(&bed);
    let mut new = Client::open(&bed, PORT + 2);
    bed.change(B);
    bed.pass(5 * SECOND);
    bed.change(A);
    bed.keep_house();
    flow.assert_whole(&bed);
    new.assert_whole(&bed);
}

/// A flow that waits for the ACK of its handshake in a slot that goes from A to B; with `closing`, an ended
/// flow of C still has an entry for the tuple.
fn at_the_ack(closing: bool) -> (Bed, Client) {
    let mut bed = Bed::new(1);
    let mut flow = Client::new(PORT);
    if closing {
        bed.change(C);
        flow.connect(&bed);
        assert_eq!(flow.fin(&bed), To(C));
        flow.again();
    }
    bed.change(B);
    assert_eq!(flow.syn(&bed), To(B));
    flow.accept(&bed, B);
    (bed, flow)
}

#[test]
fn while_one_cpu_promotes_a_flow_others_send_it_nowhere_else() {
    for closing in [false, true] {
        for flags in [ACK, PSH | ACK, FIN | ACK] {
            let setup = || {
                let (bed, flow) = at_the_ack(closing);
                (bed, [flow.packet(ACK), flow.packet(flags)])
            };
            let orders = interleave(setup, |bed, outcomes| {
                assert_eq!(outcomes, [To(B), To(B)]);
                let (_, mut flow) = at_the_ack(closing);
                flow.assert_whole(bed);
                bed.pass(CLOSING / 2);
                bed.sweep();
                flow.assert_whole(bed);
            });
            assert!(orders > 5, "only {orders} orders");
        }
    }
}

#[test]
fn while_one_cpu_promotes_a_flow_another_translates_its_replies() {
    for closing in [false, true] {
        let setup = || {
            let (bed, flow) = at_the_ack(closing);
            let reply = Tcp::new(B.endpoint(), flow.address, PSH | ACK).numbers(flow.ack, flow.seq);
            (bed, [flow.packet(ACK), reply])
        };
        interleave(setup, |_, outcomes| assert_eq!(outcomes, [To(B), Replied]));
    }
}

#[test]
fn the_same_syn_on_two_cpus_goes_to_one_host() {
    let setup = || {
        let mut bed = Bed::new(1);
        bed.change(B);
        let flow = Client::new(PORT);
        (bed, [flow.first(), flow.first()])
    };
    interleave(setup, |bed, outcomes| {
        assert_eq!(outcomes, [To(B), To(B)]);
        let mut flow = Client::new(PORT);
        flow.accept(bed, B);
        assert_eq!(flow.ack(bed), To(B));
        flow.assert_whole(bed);
    });
}

#[test]
fn a_syn_that_is_refused_while_its_slot_settles_keeps_the_fallback() {
    let mut bed = Bed::small(1, 4);
    bed.change(B);
    bed.pass(IDLE + SECOND);
    flood(&bed, 1, SYN);
    let mut refused = Client::new(PORT);
    let flight = Flight::new(refused.first());
    flight.go_until(&bed, Op::StampOld);
    bed.begin_settling();
    assert!(bed.slots()[0].is_settling());
    assert_eq!(Client::new(PORT + 1).syn(&bed), Dropped(Counter::Settling), "nothing new may go to A");
    bed.pass(SECOND);
    assert_eq!(flight.finish(&bed), To(A));
    bed.end_grace();
    bed.settle();
    assert_eq!(bed.slots(), [Slot::tracked(bed.id(B), bed.id(A), false)]);
    bed.pass(HALF_OPEN);
    bed.sweep();
    let mut accepted = Client::new(PORT + 1);
    assert_eq!(accepted.syn(&bed), To(B));
    accepted.accept(&bed, B);
    assert_eq!(accepted.ack(&bed), To(B));
    // Its own SYN-ACK is late, so it knocks again.
    bed.pass(HALF_OPEN);
    refused.accept(&bed, A);
    assert_eq!(refused.ack(&bed), To(A));
    refused.assert_whole(&bed);
    accepted.assert_whole(&bed);
}

#[test]
fn an_old_flow_that_speaks_while_its_slot_settles_keeps_the_fallback() {
    let mut bed = Bed::new(1);
    let [mut old, mut new] = old_and_new(&mut bed);
    bed.pass(IDLE - SECOND);
    assert_eq!(new.data(&bed), To(B));
    let flight = Flight::new(old.packet(PSH | ACK));
    flight.go_until(&bed, Op::StampOld);
    bed.pass(2 * SECOND);
    bed.begin_settling();
    assert_eq!(flight.finish(&bed), To(A));
    bed.end_grace();
    bed.settle();
    old.assert_whole(&bed);
    new.assert_whole(&bed);
}

#[test]
fn a_change_waits_for_packets_that_run_on_the_slots_before() {
    let mut bed = Bed::new(1);
    let mut flow = Client::new(PORT);
    let flight = Flight::new(flow.first());
    assert_eq!(flight.go(&bed, 1), Some(To(A)), "an untracked slot is all that a SYN looks at");
    bed.begin_change(&[Some(B)]);
    flow.accept(&bed, A);
    bed.end_grace();
    assert_eq!(flow.ack(&bed), To(A));
    flow.assert_whole(&bed);
}

#[test]
fn a_promotion_between_the_sweeps_reading_and_its_delete_loses_nothing() {
    let mut bed = Bed::new(1);
    bed.change(C);
    let mut flow = Client::open(&bed, PORT);
    bed.change(B);
    bed.pass(2 * IDLE);
    flow.again();
    assert_eq!(flow.syn(&bed), To(B));
    flow.accept(&bed, B);
    let mut deleted = 0;
    let sweep = bed.sweep_while(|moment| {
        if moment == Moment::BeforeDelete(bed.key(flow.address)) {
            assert_eq!(flow.ack(&bed), To(B));
            deleted += 1;
        }
    });
    assert_eq!(deleted, 1, "the expired entry of C");
    bed.untrack(&sweep);
    flow.assert_whole(&bed);
    bed.pass(IDLE / 2);
    bed.keep_house();
    flow.assert_whole(&bed);
}

#[test]
fn a_syn_between_the_sweeps_reading_and_its_delete_loses_nothing() {
    let mut bed = Bed::new(1);
    bed.change(B);
    let mut flow = Client::new(PORT);
    assert_eq!(flow.syn(&bed), To(B));
    bed.pass(HALF_OPEN + 1);
    flow.again();
    let mut reached = None;
    bed.sweep_while(|moment| {
        if moment != Moment::BetweenTables {
            reached = Some(flow.syn(&bed));
        }
    });
    let Some(To(host)) = reached else { panic!("it went {reached:?}") };
    flow.accept(&bed, host);
    assert_eq!(flow.ack(&bed), To(host));
    flow.assert_whole(&bed);
}

#[test]
fn a_promotion_between_the_two_halves_of_a_sweep_is_seen() {
    let mut bed = Bed::new(1);
    bed.change(B);
    let mut flow = Client::new(PORT);
    assert_eq!(flow.syn(&bed), To(B));
    flow.accept(&bed, B);
    bed.change(A);
    let sweep = bed.sweep_while(|moment| {
        if moment == Moment::BetweenTables {
            assert_eq!(flow.ack(&bed), To(B));
        }
    });
    bed.untrack(&sweep);
    flow.assert_whole(&bed);
}

#[test]
fn a_change_back_between_syn_and_ack_forgets_no_handshake() {
    let mut bed = Bed::new(1);
    bed.change(B);
    let mut flow = Client::new(PORT);
    assert_eq!(flow.syn(&bed), To(B));
    bed.change(A);
    bed.keep_house();
    flow.accept(&bed, B);
    bed.keep_house();
    assert_eq!(flow.ack(&bed), To(B));
    bed.keep_house();
    flow.assert_whole(&bed);
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
    let peer = SocketAddr::from(([203, 0, 113, 9], 443));
    assert_eq!(bed.send(&Tcp::new(A.endpoint(), peer, SYN)), Passed);
}

#[test]
fn a_reset_by_the_client_ends_a_handshake_and_one_that_is_forged_does_not() {
    let mut bed = Bed::new(1);
    bed.change(B);
    let mut flow = Client::new(PORT);
    assert_eq!(flow.syn(&bed), To(B));
    bed.send(&forge(&flow, RST));
    flow.accept(&bed, B);
    bed.send(&forge(&flow, RST));
    assert_eq!(flow.ack(&bed), To(B));
    flow.assert_whole(&bed);
    let given_up = Client::new(PORT + 1);
    assert_eq!(given_up.syn(&bed), To(B));
    assert_eq!(given_up.rst(&bed), To(B));
    assert_eq!(bed.sweep().half_open, 0);
}

#[test]
fn a_slot_is_free_again_when_the_last_old_flow_is_silent() {
    let mut bed = Bed::new(1);
    let [mut old, mut new] = old_and_new(&mut bed);
    for _ in 0..3 {
        bed.pass(IDLE - SECOND);
        old.assert_whole(&bed);
        new.assert_whole(&bed);
        bed.keep_house();
        assert!(bed.slots()[0].is_tracked(), "as long as an old flow speaks");
    }
    bed.pass(IDLE / 2 + SECOND);
    new.assert_whole(&bed);
    bed.pass(IDLE / 2 + SECOND);
    settle_down(&mut bed);
    assert_eq!(bed.slots(), [Slot::stable(bed.id(B))]);
    new.assert_whole(&bed);
    bed.pass(10 * IDLE);
    bed.keep_house();
    new.assert_whole(&bed);
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
