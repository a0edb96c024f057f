//! Tuples that are used again, while something still remembers the flow before.

use super::*;

/// The tuple of a flow that is over, used again in a slot that has changed since, on a host that has never
/// seen it. `over` ends the first flow.
fn reuse(over: impl Fn(&mut Bed, &mut Client)) {
    for (next, sweep) in [(C, false), (C, true), (A, false), (A, true)] {
        let mut bed = Bed::new(1);
        let [_, mut flow] = old_and_new(&mut bed);
        over(&mut bed, &mut flow);
        bed.change(next);
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
