//! Services that remember every flow.

use super::*;

fn bed(half_open: usize, flows: usize) -> Bed {
    let mut bed = Bed::small(half_open, flows);
    bed.track_always();
    bed
}

#[test]
fn every_flow_has_an_entry_while_it_lives() {
    let bed = bed(8, 8);
    let mut flows: Vec<_> = (0..4).map(|port| Client::open(&bed, PORT + port)).collect();
    assert_eq!(bed.sweep().flows, 4);
    bed.pass(IDLE / 2);
    for flow in &mut flows[..2] {
        flow.assert_whole(&bed);
    }
    bed.pass(IDLE / 2 + SECOND);
    assert_eq!(bed.sweep().flows, 2, "two were silent");
    for flow in &mut flows {
        flow.assert_whole(&bed);
    }
    assert_eq!(flows[0].fin(&bed), To(A));
    bed.pass(CLOSING + SECOND);
    assert_eq!(bed.sweep().flows, 1, "one has ended");
}

#[test]
fn every_udp_flow_has_an_entry_while_it_lives() {
    let mut bed = Bed::udp(1);
    bed.track_always();
    let flows = [Talker::open(&bed, PORT), Talker::open(&bed, PORT + 1)];
    assert_eq!(bed.sweep().flows, 2);
    bed.pass(UDP_IDLE / 2);
    flows[0].assert_whole(&bed);
    bed.pass(UDP_IDLE / 2 + SECOND);
    assert_eq!(bed.sweep().flows, 1);
}

#[test]
fn what_cannot_be_remembered_is_served_all_the_same() {
    let mut bed = bed(2, 2);
    flood(&bed, 20, SYN);
    let mut flows: Vec<_> = (0..4).map(|port| Client::open(&bed, PORT + port)).collect();
    flood(&bed, 20, ACK);
    bed.guard(true);
    flows.push(Client::open(&bed, PORT + 4));
    for to in [A, B, C, A] {
        bed.change(to);
        for flow in &mut flows {
            flow.assert_whole(&bed);
        }
    }
}

#[test]
fn flows_from_before_are_whole() {
    let mut bed = Bed::new(1);
    let mut old = Client::open(&bed, PORT);
    bed.track_always();
    old.assert_whole(&bed);
    let mut new = Client::open(&bed, PORT + 1);
    bed.change(B);
    let mut last = Client::open(&bed, PORT + 2);
    for flow in [&mut old, &mut new, &mut last] {
        flow.assert_whole(&bed);
    }
}

#[test]
fn slots_settle_and_are_stable_again() {
    let mut bed = bed(8, 8);
    let flow = Client::open(&bed, PORT);
    assert_eq!(flow.host, Some(A));
    bed.change(B);
    let mut new = Client::open(&bed, PORT + 1);
    for _ in 0..3 {
        bed.pass(IDLE / 2 + SECOND);
        new.assert_whole(&bed);
        bed.keep_house();
    }
    assert_eq!(bed.slots(), [Slot::stable(bed.id(B))]);
    new.assert_whole(&bed);
}
