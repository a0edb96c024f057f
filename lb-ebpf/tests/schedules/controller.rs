//! Changes, failures, cuts, settling, and a daemon that dies.

use super::*;

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
fn a_silent_old_flow_has_the_whole_idle_time_after_a_change() {
    let mut bed = Bed::new(1);
    let mut flow = Client::open(&bed, PORT);
    bed.change(B);
    settle_down(&mut bed);
    bed.pass(IDLE - SECOND);
    settle_down(&mut bed);
    flow.assert_whole(&bed);
}

#[test]
fn a_silent_old_flow_has_the_whole_idle_time_after_an_adoption() {
    let mut bed = Bed::new(1);
    let mut flow = Client::open(&bed, PORT);
    bed.change(B);
    bed.pass(IDLE / 2);
    bed.adopt();
    settle_down(&mut bed);
    bed.pass(IDLE - SECOND);
    settle_down(&mut bed);
    flow.assert_whole(&bed);
}

#[test]
fn a_change_takes_new_flows_in_again_where_a_slot_was_about_to_settle() {
    let mut bed = Bed::small(0, 4);
    bed.change(B);
    bed.pass(IDLE + SECOND);
    bed.begin_settling();
    bed.end_grace();
    assert_eq!(Client::new(PORT).syn(&bed), Dropped(Counter::Settling));
    bed.change(C);
    let mut flow = Client::open(&bed, PORT);
    bed.settle();
    flow.assert_whole(&bed);
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
