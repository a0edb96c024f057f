//! The packet table on the host's walk.

use lb_common::Counter;
use lb_ebpf::host::Frame;
use lb_ebpf::process;
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
