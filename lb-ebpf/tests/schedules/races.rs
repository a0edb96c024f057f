//! What two CPUs, or a CPU and the controller, do at the same time: a packet is stopped in the middle, or the sweep
//! between reading an entry and deleting it. Nobody can do that to a loaded program or to the controller's own sweep, so
//! these run on the host alone; what the kernel adds to them is `kernel_flow_tables`' stress of two CPUs and a sweep.

use super::all::*;
use super::*;
use lb_testbed::schedule::{Flight, Moment, Op, interleave};

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
    for again in [false, true] {
        let mut bed = Bed::new(1);
        bed.change(B);
        let mut flow = Client::new(PORT);
        assert_eq!(flow.syn(&bed), To(B));
        bed.pass(HALF_OPEN + 1);
        if again {
            flow.again();
        }
        let mut reached = None;
        bed.sweep_while(|moment| {
            if moment != Moment::BetweenTables {
                reached = flow.syn(&bed).host();
            }
        });
        let host = reached.expect("the SYN's own expired entry is deleted");
        flow.accept(&bed, host);
        assert_eq!(flow.ack(&bed), To(host));
        flow.assert_whole(&bed);
    }
}

#[test]
fn an_element_that_another_handshake_was_given_meanwhile_is_left_alone() {
    let mut bed = Bed::new(1);
    let live = Client::open(&bed, PORT + 1);
    bed.change(B);
    let mut flow = Client::new(PORT);
    assert_eq!(flow.syn(&bed), To(B));
    flow.accept(&bed, B);
    let slow = Flight::new(flow.packet(ACK));
    slow.go_until(&bed, Op::InsertFlow);
    assert_eq!(flow.ack(&bed), To(B), "another CPU is quicker");
    bed.send(&forge(&live, SYN));
    assert_eq!(slow.finish(&bed), To(B));
    flow.assert_whole(&bed);
    live.clone().assert_whole(&bed);
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
fn a_datagram_that_is_refused_while_its_slot_settles_keeps_the_fallback() {
    let mut bed = datagrams::bed(1);
    bed.change(B);
    let other = Talker::open(&bed, PORT + 1);
    bed.pass(UDP_IDLE / 2);
    other.assert_whole(&bed);
    bed.pass(UDP_IDLE / 2 + SECOND);
    let refused = Talker { host: Some(A), ..Talker::new(PORT) };
    let flight = Flight::new(refused.packet());
    flight.go_until(&bed, Op::StampOld);
    bed.begin_settling();
    assert!(bed.slots()[0].is_settling());
    assert_eq!(flight.finish(&bed), To(A));
    bed.end_grace();
    bed.settle();
    assert_eq!(bed.slots(), [Slot::tracked(bed.id(B), bed.id(A), false)]);
    refused.assert_whole(&bed);
    other.assert_whole(&bed);
}

#[test]
fn the_same_udp_flow_on_two_cpus_goes_to_one_host() {
    for flows in [0, 1] {
        let setup = || {
            let mut bed = datagrams::bed(flows);
            bed.change(B);
            let flow = Talker::new(PORT);
            (bed, [flow.packet(), flow.packet()])
        };
        interleave(setup, |bed, outcomes| {
            assert_eq!(outcomes, [To(A), To(A)]);
            Talker { host: Some(A), ..Talker::new(PORT) }.assert_whole(bed);
        });
    }
}

#[test]
fn the_same_direct_syn_on_two_cpus_passes_twice() {
    let setup = || (exact::bed(), [exact::direct(PORT).first(), exact::direct(PORT).first()]);
    interleave(setup, |bed, outcomes| {
        assert_eq!(outcomes, [Passed, Passed]);
        let mut flow = exact::direct(PORT);
        flow.accept(bed, A);
        flow.assert_whole(bed);
    });
}
