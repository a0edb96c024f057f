//! Random frames, one after the other on the same maps: the loaded programs and the host's walk must agree on
//! every verdict, every byte, and on what they remember in the end.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use lb_common::{Counter, Flow, HalfOpen};
use lb_ebpf::host::{Frame, Model};
use lb_ebpf::process;
use lb_testbed::cases;
use lb_testbed::loaded::{Hook, Loaded};
use lb_testbed::mutation;
use lb_testbed::world::{ESTABLISHED, World};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// For each program; `SLUICE_TEST_FRAMES` asks for more.
const FRAMES: usize = 100_000;
/// `SLUICE_TEST_SEED` asks for another.
const SEED: u64 = 1;
/// Entries of the flow tables: none is ever refused.
const CAPACITY: usize = 1 << 18;

#[test]
fn xdp_agrees_on_random_frames() -> Result<()> {
    agrees(Hook::Xdp)
}

#[test]
fn tc_agrees_on_random_frames() -> Result<()> {
    agrees(Hook::Tc)
}

fn agrees(hook: Hook) -> Result<()> {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>()).transpose();
    let frames = number("SLUICE_TEST_FRAMES")?.map_or(Ok(FRAMES), usize::try_from)?;
    let seed = number("SLUICE_TEST_SEED")?.unwrap_or(SEED);
    let mut random = StdRng::seed_from_u64(seed);
    let cases = cases::all();
    let seeds: Vec<Vec<u8>> = cases.iter().map(|case| case.frame.clone()).collect();
    let mut world = World::new();
    // Many rows are about one flow: the first of them says what is remembered of it.
    let flows: BTreeMap<_, _> = cases.iter().rev().flat_map(|case| case.world.flows.clone()).collect();
    let half_open: BTreeMap<_, _> =
        cases.iter().rev().flat_map(|case| case.world.half_open.clone()).collect();
    (world.flows, world.half_open) = (flows.into_iter().collect(), half_open.into_iter().collect());
    // Nothing expires meanwhile: the two clocks may differ by a tick.
    world.state.services.values_mut().for_each(|service| service.half_open = ESTABLISHED);
    let mut loaded = Loaded::new()?;
    let now = loaded.now();
    loaded.become_world(&world, now)?;
    let mut model = world.model(now);
    model.flows.capacity = CAPACITY;
    model.half_open.capacity = CAPACITY;
    let mut verdicts: BTreeMap<Counter, u64> = BTreeMap::new();
    for number in 0..frames {
        let frame = mutation::frame(&mut random, &seeds);
        if !hook.takes(&frame) {
            continue;
        }
        let counter = same(&mut loaded, hook, &mut model, &frame)
            .with_context(|| format!("{hook:?}, seed {seed}, frame {number}: {}", hex(&frame)))?;
        *verdicts.entry(counter).or_default() += 1;
    }
    println!("{hook:?}: {verdicts:?}");
    // A table of verdicts that hardly differ would mean that the frames are too random to be let in.
    ensure!(verdicts.len() >= 10, "only {verdicts:?}");
    same_memory(&loaded, &model)
}

/// Runs the frame through both; the verdict that they agree on.
fn same(loaded: &mut Loaded, hook: Hook, model: &mut Model, frame: &[u8]) -> Result<Counter> {
    model.now.set(loaded.now());
    let mut host = Frame::new(frame);
    let verdict = process(&mut host, model);
    let ran = loaded.run(hook, frame)?;
    let answers = verdict.ifindex != 0 && !matches!(verdict.counter, Counter::Forwarded | Counter::Replied);
    // On tc a device has taken the outermost tag out of the frame; with one inside, the kernel changes no length.
    let is_tagged = matches!(frame.get(12..14), Some([0x81, 0x00] | [0x88, 0xa8]));
    if hook == Hook::Tc && is_tagged && answers && ran.verdict == Some(Counter::Rewrite) {
        return Ok(Counter::Rewrite);
    }
    ensure!(ran.verdict == Some(verdict.counter), "{:?}, the host says {verdict:?}", ran.verdict);
    ensure!(ran.action == hook.action(verdict), "returned {}, the host says {verdict:?}", ran.action as i32);
    if verdict.counter == Counter::Passed || verdict.ifindex != 0 {
        ensure!(ran.frame == host.bytes(), "made {}\nhost: {}", hex(&ran.frame), hex(host.bytes()));
    }
    if answers {
        // How often something is answered depends on the clock.
        loaded.fill_buckets()?;
        model.answers = Default::default();
    }
    Ok(verdict.counter)
}

/// Compares both flow tables, times left out.
fn same_memory(loaded: &Loaded, model: &Model) -> Result<()> {
    let (flows, half_open) = loaded.remembered()?;
    let flows: BTreeMap<_, _> =
        flows.into_iter().map(|(key, flow)| (key, Flow { expires: 0, ..flow })).collect();
    let half_open: BTreeMap<_, _> =
        half_open.into_iter().map(|(key, half)| (key, HalfOpen { expires: 0, ..half })).collect();
    let entries = model.flows.entries.borrow();
    let host = entries.iter().map(|(key, flow)| (*key, Flow { expires: 0, ..flow.get() })).collect();
    ensure!(flows == host, "flows {flows:?}\nhost: {host:?}");
    let entries = model.half_open.entries.borrow();
    let host = entries.iter().map(|(key, half)| (*key, HalfOpen { expires: 0, ..half.get() })).collect();
    ensure!(half_open == host, "half-open {half_open:?}\nhost: {host:?}");
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
