//! The packet table on the loaded programs, which must agree with the host's walk byte for byte.

use anyhow::{Context, Result};
use lb_common::{Counter, Exact, Handshakes};
use lb_ebpf::host::Frame;
use lb_ebpf::process;
use lb_testbed::cases::{self, Case};
use lb_testbed::loaded::{Hook, Loaded};
use lb_testbed::world::World;

fn check(loaded: &mut Loaded, hook: Hook, case: &Case) -> Result<()> {
    let now = loaded.now();
    loaded.become_world(&case.world, now)?;
    let ran = loaded.run(hook, &case.frame)?;
    let model = case.world.model(now);
    let mut frame = Frame::new(&case.frame);
    let verdict = process(&mut frame, &model);
    anyhow::ensure!(ran.verdict == Some(verdict.counter), "{:?}, the host says {verdict:?}", ran.verdict);
    anyhow::ensure!(ran.action == hook.action(verdict), "returned {}", ran.action as i32);
    if verdict.counter == Counter::Passed || verdict.ifindex != 0 {
        anyhow::ensure!(ran.frame == frame.bytes(), "{:02x?}\nhost: {:02x?}", ran.frame, frame.bytes());
    }
    if let Some((key, ..)) = &case.exact {
        let exact = model.exact.get(key).map(|exact| exact.get());
        let kernel = loaded.exact(key);
        let parts = |exact: Exact| [exact.confirmed, exact.pending].map(|claim| (claim.isn, claim.whose));
        anyhow::ensure!(exact.map(parts) == kernel.map(parts), "exact {kernel:?}\nhost: {exact:?}");
    }
    let Some(key) = case.key else { return Ok(()) };
    // The kernel's clock may have moved on by a tick between the two.
    let flow = model.flows.get(&key).map(|flow| flow.get());
    let (flows, half_open) = loaded.remembered()?;
    let kernel = flows.get(&key);
    anyhow::ensure!(
        flow.map(|flow| (flow.backend, flow.seq, flow.closing))
            == kernel.map(|flow| (flow.backend, flow.seq, flow.closing)),
        "flow {kernel:?}\nhost: {flow:?}"
    );
    let half = model.half_open.get(&key).map(|half| half.get());
    let kernel = half_open.get(&key);
    anyhow::ensure!(
        half.map(|half| (half.backend, half.isn, half.server_isn, half.recorded, half.proven))
            == kernel.map(|half| (half.backend, half.isn, half.server_isn, half.recorded, half.proven)),
        "half-open {kernel:?}\nhost: {half:?}"
    );
    Ok(())
}

fn agrees(hook: Hook) -> Result<()> {
    let mut loaded = Loaded::new()?;
    let mut failures = Vec::new();
    for case in [cases::all(), cases::sweeps()].concat().iter().filter(|case| hook.takes(&case.frame)) {
        if let Err(error) = check(&mut loaded, hook, case).with_context(|| format!("{hook:?}: {}", case.name))
        {
            failures.push(format!("{error:#}"));
        }
    }
    anyhow::ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

#[test]
fn xdp_agrees_with_the_host() -> Result<()> {
    agrees(Hook::Xdp)
}

#[test]
fn tc_agrees_with_the_host() -> Result<()> {
    agrees(Hook::Tc)
}

#[test]
fn the_steps_of_handshakes_are_counted_by_backend() -> Result<()> {
    let mut loaded = Loaded::new()?;
    let (frames, id) = cases::handshakes();
    let mut expected = Handshakes::default();
    for hook in [Hook::Xdp, Hook::Tc] {
        let now = loaded.now();
        loaded.become_world(&World::new(), now)?;
        for (name, frame, step) in &frames {
            loaded.run(hook, frame)?;
            step.iter().for_each(|step| expected.count(*step));
            let counted = loaded.handshakes(id)?;
            anyhow::ensure!(counted == expected, "{hook:?}, {name}: {counted:?}, not {expected:?}");
        }
    }
    Ok(())
}
