//! Limits, one step before and behind: what a link takes of packets that a device cuts, and when entries are written.

use lb_common::ticks::SECOND;
use lb_common::{Counter, Flow, HalfOpen};
use lb_ebpf::host::{Frame, Model};
use lb_ebpf::process;
use lb_testbed::cases::client;
use lb_testbed::segment::{ACK, Tcp};
use lb_testbed::world::{CLOSING, ESTABLISHED, MTU, UDP_IDLE, Web, World};

const NOW: u32 = u32::MAX - 100;

fn verdict(model: &Model, frame: &mut Frame) -> Counter {
    process(frame, model).counter
}

#[test]
fn a_link_takes_segments_as_long_as_itself_and_no_longer() {
    let model = World::new().model(NOW);
    let plain = Tcp::new(client(), Web::V4.vip(), ACK).payload(&[0; 4000]);
    let with_options = plain.clone().tcp_options(&[1; 12]);
    // IPv4 and TCP headers of 20 bytes each.
    let longest = MTU as usize - 40;
    for (packet, segment_size, fits) in [
        (&plain, longest - 1, true),
        (&plain, longest, true),
        (&plain, longest + 1, false),
        (&plain, 0, false),
        (&with_options, longest - 12, true),
        (&with_options, longest - 11, false),
    ] {
        let mut frame = Frame::new(&packet.frame());
        frame.segment_size = segment_size;
        let counter = verdict(&model, &mut frame);
        assert_eq!(counter == Counter::Forwarded, fits, "segments of {segment_size} bytes: {counter:?}");
    }
}

/// A world in which the usual client's flow to a service has an entry.
fn with_flow(web: Web, flow: Flow) -> Model {
    World { flows: vec![(web.flow_key(client()), flow)], ..World::new() }.model(NOW)
}

#[test]
fn an_entry_is_moved_on_once_a_second() {
    for (web, idle, closing) in
        [(Web::Tracked, ESTABLISHED, 0), (Web::Tracked, CLOSING, 1), (Web::TrackedDns, UDP_IDLE, 0)]
    {
        let flow = Flow { backend: web.new_backend(), seq: 1000, closing, ..Flow::default() };
        let packet = match web {
            Web::TrackedDns => Tcp::datagram(client(), web.vip(), b"question"),
            _ => Tcp::new(client(), web.vip(), ACK).numbers(1000, 5000),
        };
        for (later, is_written) in [(0, false), (SECOND - 1, false), (SECOND, true), (2 * SECOND, true)] {
            let model = with_flow(web, Flow { expires: idle, ..flow });
            model.now.set(NOW.wrapping_add(later));
            assert_eq!(verdict(&model, &mut Frame::new(&packet.frame())), Counter::Forwarded);
            let expires = model.flows.get(&web.flow_key(client())).map(|flow| flow.get().expires);
            let expected = NOW.wrapping_add(idle).wrapping_add(if is_written { later } else { 0 });
            assert_eq!(expires, Some(expected), "{web:?}, {later} ticks later");
        }
    }
}

#[test]
fn a_proven_handshake_is_moved_on_when_more_than_a_second_has_passed() {
    let web = Web::Tracked;
    let half = HalfOpen { backend: web.new_backend(), isn: 999, proven: 1, ..HalfOpen::default() };
    let packet = Tcp::new(client(), web.vip(), ACK).numbers(1000, 5000);
    for (later, is_written) in [(0, false), (SECOND, false), (SECOND + 1, true)] {
        let half = HalfOpen { expires: ESTABLISHED, ..half };
        let model = World { half_open: vec![(web.flow_key(client()), half)], ..World::new() }.model(NOW);
        model.now.set(NOW.wrapping_add(later));
        assert_eq!(verdict(&model, &mut Frame::new(&packet.frame())), Counter::Forwarded);
        let expires = model.half_open.get(&web.flow_key(client())).map(|half| half.get().expires);
        let expected = NOW.wrapping_add(ESTABLISHED).wrapping_add(if is_written { later } else { 0 });
        assert_eq!(expires, Some(expected), "{later} ticks later");
    }
}
