//! The packet table on the host's walk.

use std::collections::HashMap;

use lb_common::{Counter, Handshakes, Traffic};
use lb_ebpf::host::Frame;
use lb_ebpf::process;
use lb_testbed::cases::{chosen, client};
use lb_testbed::segment::{ACK, PSH, SYN, Tcp};
use lb_testbed::world::{Web, World};
use lb_testbed::{cases, segment};

/// Any time; close to where the ticks wrap.
const NOW: u32 = u32::MAX - 100;

#[test]
fn the_packet_table_holds() {
    let mut names = std::collections::HashSet::new();
    for case in [cases::all(), cases::sweeps()].concat() {
        assert!(names.insert(case.name), "{}: twice in the table", case.name);
        let model = case.world.model(NOW);
        let mut frame = Frame::new(&case.frame);
        let verdict = process(&mut frame, &model);
        assert_eq!(verdict.counter, case.verdict, "{}", case.name);
        match &case.out {
            Some(out) => assert_eq!(frame.bytes(), out, "{}: frame out", case.name),
            None if verdict.counter == Counter::Passed => {
                assert_eq!(frame.bytes(), case.frame, "{}: a passed frame is untouched", case.name);
            }
            None => {}
        }
        if let Some((key, confirmed, pending)) = &case.exact {
            let exact =
                model.exact.get(key).map(|exact| (exact.get().confirmed.whose, exact.get().pending.whose));
            assert_eq!(exact, Some((*confirmed, *pending)), "{}: exact entry", case.name);
        }
        let Some(key) = case.key else { continue };
        let flow = model.flows.get(&key).map(|flow| (flow.get().backend, flow.get().closing));
        assert_eq!(flow, case.flow, "{}: flow table", case.name);
        let half = model.half_open.get(&key).map(|half| (half.get().backend, half.get().proven));
        assert_eq!(half, case.half_open, "{}: half-open table", case.name);
    }
}

#[test]
fn forwarded_frames_have_right_checksums() {
    for case in cases::all() {
        if let Some(out) = &case.out
            && segment::verify_checksums(&case.frame).is_ok()
        {
            segment::verify_checksums(out).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        }
    }
}

/// Over all services, or backends.
fn sum(traffic: &HashMap<u32, Traffic>) -> Traffic {
    let mut sum = Traffic::default();
    for one in traffic.values() {
        sum.packets += one.packets;
        sum.bytes += one.bytes;
        sum.new_flows += one.new_flows;
        sum.drops += one.drops;
        sum.reply_packets += one.reply_packets;
        sum.reply_bytes += one.reply_bytes;
    }
    sum
}

#[test]
fn what_goes_through_is_counted_by_service_and_by_backend() {
    let mut drops = 0;
    for case in cases::all() {
        let model = case.world.model(NOW);
        let verdict = process(&mut Frame::new(&case.frame), &model);
        let services = sum(&model.service_traffic.borrow());
        let backends = sum(&model.backend_traffic.borrow());
        let went = |counter| u64::from(verdict.counter == counter);
        let name = case.name;
        assert_eq!(Traffic { drops: 0, ..services }, backends, "{name}");
        assert_eq!(services.packets, went(Counter::Forwarded), "{name}");
        assert_eq!(services.reply_packets, went(Counter::Replied), "{name}");
        let bytes = services.bytes + services.reply_bytes;
        // The frame may be padded.
        let most = (services.packets + services.reply_packets) * case.frame.len() as u64;
        assert!(bytes <= most && bytes + 14 >= most, "{name}: {bytes} of {most}");
        assert!(services.new_flows <= services.packets, "{name}");
        assert!(services.drops <= u64::from(verdict.counter.is_drop()), "{name}");
        drops += services.drops;
    }
    assert!(drops > 20, "only {drops}");
}

#[test]
fn packets_bytes_and_new_flows_add_up() {
    let world = World::new();
    let model = world.model(NOW);
    let id = chosen(Web::V4, client());
    let mut bytes = [0, 0];
    for (flags, payload) in [(SYN, 0), (ACK, 0), (ACK | PSH, 7), (ACK, 100)] {
        let frame = Tcp::new(client(), Web::V4.vip(), flags).payload(&vec![0; payload]).frame();
        assert_eq!(process(&mut Frame::new(&frame), &model).counter, Counter::Forwarded);
        bytes[0] += frame.len() as u64;
        let frame = Tcp::new(Web::V4.endpoint(id), client(), ACK).payload(&vec![0; 2 * payload]).frame();
        assert_eq!(process(&mut Frame::new(&frame), &model).counter, Counter::Replied);
        bytes[1] += frame.len() as u64;
    }
    let [bytes, reply_bytes] = bytes;
    let expected = Traffic { packets: 4, bytes, new_flows: 1, drops: 0, reply_packets: 4, reply_bytes };
    assert_eq!(model.service_traffic.borrow().get(&Web::V4.id().index()), Some(&expected));
    assert_eq!(model.backend_traffic.borrow().get(&id.index()), Some(&expected));
}

#[test]
fn the_steps_of_handshakes_are_counted_by_backend() {
    let (frames, id) = cases::handshakes();
    let model = World::new().model(NOW);
    let mut expected = Handshakes::default();
    for (name, frame, step) in frames {
        process(&mut Frame::new(&frame), &model);
        step.into_iter().for_each(|step| expected.count(step));
        let counted = model.handshakes.borrow().get(&id.index()).copied();
        assert_eq!(counted, Some(expected), "{name}");
    }
    assert_eq!(model.handshakes.borrow().len(), 1);
}
