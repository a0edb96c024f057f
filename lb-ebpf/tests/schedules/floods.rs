//! The insert guard: what it refuses, a full table would have refused too.

use super::*;

#[test]
fn a_guarded_slot_behaves_as_before_the_change() {
    let mut bed = Bed::new(1);
    let mut flows = old_and_new(&mut bed);
    bed.guard(true);
    flood(&bed, 100, SYN);
    let mut new = Client::open(&bed, PORT + 2);
    assert_eq!(new.host, Some(A));
    for flow in flows.iter_mut().chain([&mut new]) {
        flow.assert_whole(&bed);
    }
    assert_eq!(bed.sweep().half_open, 0);
    bed.pass(IDLE - SECOND);
    settle_down(&mut bed);
    new.assert_whole(&bed);
}

#[test]
fn a_handshake_that_was_remembered_goes_on_under_the_guard() {
    let mut bed = Bed::new(1);
    bed.change(B);
    let mut flow = Client::new(PORT);
    assert_eq!(flow.syn(&bed), To(B));
    bed.guard(true);
    assert_eq!(flow.syn(&bed), To(B), "sent again");
    flow.accept(&bed, B);
    assert_eq!(flow.ack(&bed), To(B));
    flow.assert_whole(&bed);
    assert_eq!(bed.sweep().flows, 1, "proven flows are not what the guard is for");
}

#[test]
fn a_flow_that_the_guard_refused_while_its_fallback_was_dead_is_whole_when_that_returns() {
    let mut bed = Bed::new(1);
    bed.change(B);
    bed.guard(true);
    bed.cut(A, &[Some(B)]);
    let mut flow = Client::new(PORT);
    assert_eq!(flow.syn(&bed), To(B));
    flow.accept(&bed, B);
    assert_eq!(flow.ack(&bed), To(B));
    bed.come_back(A);
    flow.assert_whole(&bed);
    bed.change(A);
    flow.assert_whole(&bed);
}

#[test]
fn guarded_datagrams_lengthen_a_drain_and_move_no_flow() {
    let mut bed = Bed::udp(1);
    let old = Talker::open(&bed, PORT);
    bed.change(B);
    bed.guard(true);
    for _ in 0..6 {
        bed.pass(UDP_IDLE / 2);
        old.assert_whole(&bed);
        bed.keep_house();
    }
    bed.guard(false);
    old.assert_whole(&bed);
    bed.pass(UDP_IDLE - SECOND);
    bed.keep_house();
    old.assert_whole(&bed);
    bed.pass(2 * SECOND);
    bed.keep_house();
    assert_eq!(Talker::open(&bed, PORT + 1).host, Some(B), "its time counts from the last that was refused");
    old.assert_whole(&bed);
}
