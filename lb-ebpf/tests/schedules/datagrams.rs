//! UDP: flows without a beginning or an end.

use super::*;

/// A UDP bed of one slot whose flow table holds this many entries.
pub fn bed(flows: usize) -> Bed {
    let mut bed = Bed::udp(1);
    bed.limit(Memory::Flows, flows);
    bed
}

/// Other clients' datagrams.
fn noise(bed: &Bed, datagrams: u16) {
    for port in 1..=datagrams {
        let source = SocketAddr::from(([198, 51, 100, 1], port));
        bed.send(&Tcp::datagram(source, vip(), b"noise"));
    }
}

/// Lets `parts` half idle times pass in which these flows speak, and the controller works.
fn speak_on(bed: &mut Bed, flows: &[&Talker], parts: usize) {
    for _ in 0..parts {
        bed.pass(UDP_IDLE / 2);
        for flow in flows {
            flow.assert_whole(bed);
        }
        bed.keep_house();
    }
}

#[test]
fn a_stable_slot_remembers_nothing() {
    let bed = bed(0);
    let flow = Talker::open(&bed, PORT);
    bed.pass(10 * UDP_IDLE);
    flow.assert_whole(&bed);
    assert_eq!(flow.answer(&bed, B), Passed);
}

#[test]
fn old_flows_stay_and_new_ones_go_on_one_idle_time_after_a_change() {
    let mut bed = bed(8);
    let old = Talker::open(&bed, PORT);
    bed.change(B);
    let early = Talker::open(&bed, PORT + 1);
    assert_eq!(early.host, Some(A), "nobody can tell it from an old one");
    speak_on(&mut bed, &[&old, &early], 3);
    let late = Talker::open(&bed, PORT + 2);
    assert_eq!(late.host, Some(B));
    speak_on(&mut bed, &[&old, &early, &late], 6);
    assert!(bed.slots()[0].is_tracked(), "as long as an old flow speaks");
    for _ in 0..3 {
        speak_on(&mut bed, &[&late], 2);
    }
    assert_eq!(bed.slots(), [Slot::stable(bed.id(B))]);
    late.assert_whole(&bed);
}

#[test]
fn changes_while_old_flows_speak_move_none_of_them() {
    for changes in [[B, A, B], [B, C, D], [C, C, A]] {
        for pause in [0, 1, 3] {
            let mut bed = bed(16);
            let mut flows = vec![Talker::open(&bed, PORT)];
            for (port, to) in (1..).zip(changes) {
                bed.change(to);
                flows.push(Talker::open(&bed, PORT + port));
                let all: Vec<_> = flows.iter().collect();
                speak_on(&mut bed, &all, pause);
                flows.push(Talker::open(&bed, PORT + 10 + port));
            }
            let all: Vec<_> = flows.iter().collect();
            speak_on(&mut bed, &all, 4);
        }
    }
}

#[test]
fn a_full_flow_table_lengthens_a_drain_and_moves_no_flow() {
    for flows in [0, 1, 2] {
        let mut bed = bed(flows);
        let old = [Talker::open(&bed, PORT), Talker::open(&bed, PORT + 1), Talker::open(&bed, PORT + 2)];
        bed.change(B);
        noise(&bed, 20);
        speak_on(&mut bed, &[&old[0], &old[1], &old[2]], 5);
        assert_eq!(Talker::open(&bed, PORT + 3).host, Some(A), "its slot is as before the change");
        // The time counts from the last flow that could not be remembered.
        bed.pass(UDP_IDLE / 2);
        old[0].assert_whole(&bed);
        bed.pass(UDP_IDLE / 2);
        bed.keep_house();
        old[0].assert_whole(&bed);
        bed.pass(UDP_IDLE + SECOND);
        settle_down(&mut bed);
        assert_eq!(Talker::open(&bed, PORT + 4).host, Some(B));
    }
}

#[test]
fn what_cannot_be_remembered_while_a_slot_settles_is_dropped() {
    let mut bed = bed(0);
    bed.change(B);
    bed.pass(UDP_IDLE + SECOND);
    bed.begin_settling();
    bed.end_grace();
    assert_eq!(Talker::new(PORT).speak(&bed), Dropped(Counter::Settling));
    bed.settle();
    let flow = Talker::open(&bed, PORT);
    assert_eq!(flow.host, Some(B));
    flow.assert_whole(&bed);
}

#[test]
fn what_is_remembered_while_a_slot_settles_stays() {
    let mut bed = bed(4);
    bed.change(B);
    bed.pass(UDP_IDLE + SECOND);
    bed.begin_settling();
    bed.end_grace();
    let flow = Talker::open(&bed, PORT);
    assert_eq!(flow.host, Some(A));
    bed.settle();
    speak_on(&mut bed, &[&flow], 4);
}

#[test]
fn a_failed_host_loses_its_flows_at_once_and_inherits_none() {
    for tracked in [false, true] {
        let mut bed = bed(8);
        if tracked {
            bed.change(B);
        }
        let flow = Talker::open(&bed, PORT);
        assert_eq!(flow.host, Some(A));
        bed.cut(A, &[Some(B)]);
        let moved = Talker::open(&bed, PORT);
        assert_eq!(moved.host, Some(B));
        assert_eq!(bed.slots()[0].is_tracked(), tracked, "an untracked slot stays untracked");
        bed.come_back(A);
        moved.assert_whole(&bed);
        bed.change(A);
        // Its entry of the host's earlier life is in the way until it expires.
        speak_on(&mut bed, &[&moved], 6);
        assert_eq!(Talker::open(&bed, PORT + 1).host, Some(A));
    }
}

#[test]
fn a_daemon_that_is_dead_in_the_middle_of_a_change_costs_no_flow() {
    let mut bed = bed(4);
    let old = Talker::open(&bed, PORT);
    bed.change(B);
    old.assert_whole(&bed);
    for _ in 0..20 {
        bed.pass(UDP_IDLE / 2);
        noise(&bed, 20);
        old.assert_whole(&bed);
    }
    bed.adopt();
    speak_on(&mut bed, &[&old], 4);
}

#[test]
fn an_expired_entry_is_none_and_its_tuple_belongs_to_the_slot() {
    let mut bed = bed(4);
    bed.change(B);
    let flow = Talker::open(&bed, PORT);
    assert_eq!(flow.host, Some(A));
    bed.pass(2 * UDP_IDLE);
    bed.begin_settling();
    bed.end_grace();
    bed.settle();
    let again = Talker::open(&bed, PORT);
    assert_eq!(again.host, Some(B), "it was silent for too long");
    bed.keep_house();
    again.assert_whole(&bed);
}

#[test]
fn an_expired_entry_is_in_the_way_only_while_its_slot_settles_and_until_it_is_swept() {
    for is_swept in [false, true] {
        let mut bed = bed(4);
        bed.change(B);
        let flow = Talker::open(&bed, PORT);
        assert_eq!(flow.host, Some(A));
        bed.pass(2 * UDP_IDLE);
        bed.begin_settling();
        bed.end_grace();
        if is_swept {
            bed.sweep();
        }
        // Without an entry of its own it would move when the slot has settled.
        let expected = if is_swept { To(A) } else { Dropped(Counter::Settling) };
        assert_eq!(flow.speak(&bed), expected);
        bed.settle();
        let again = Talker::open(&bed, PORT);
        assert_eq!(again.host, Some(if is_swept { A } else { B }));
        speak_on(&mut bed, &[&again], 4);
    }
}

#[test]
fn an_answer_to_the_balancer_itself_is_no_reply() {
    let mut bed = bed(4);
    let check = Talker { address: SocketAddr::from(([192, 0, 2, 200], 40001)), ..Talker::new(0) };
    bed.add_local(check.address);
    for to in [A, B] {
        bed.change(to);
        assert_eq!(check.answer(&bed, A), Passed);
    }
}
