//! Handshakes that a change, a flood or a loss comes into.

use super::*;

#[test]
fn a_full_flow_table_lets_a_handshake_live_as_long_as_a_flow() {
    let mut bed = Bed::small(4, 0);
    bed.change(B);
    let mut flow = Client::open(&bed, PORT);
    assert_eq!(flow.host, Some(B));
    bed.change(C);
    for _ in 0..6 {
        bed.pass(IDLE / 2);
        bed.keep_house();
        flow.seq = flow.seq.wrapping_add(1 << 20);
        flow.assert_whole(&bed);
    }
}

#[test]
fn a_handshake_whose_host_was_cut_begins_again_elsewhere() {
    let mut bed = Bed::new(1);
    bed.change(B);
    let mut flow = Client::new(PORT);
    assert_eq!(flow.syn(&bed), To(B));
    bed.cut(B, &[Some(C)]);
    flow.connect(&bed);
    flow.assert_whole(&bed);
}

#[test]
fn a_syn_flood_between_syn_and_ack_moves_nothing() {
    for (port, capacity) in [1, 2, 4, 8].into_iter().enumerate() {
        let mut bed = Bed::small(capacity, 4);
        bed.change(B);
        let mut flow = Client::new(PORT + port as u16);
        let host = flow.syn(&bed).host().expect("it goes somewhere");
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
