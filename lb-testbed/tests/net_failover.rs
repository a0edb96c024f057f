//! A backend dies, as a process or as a host: its flows end and nobody else's; one that only stumbles loses none.
//! Health checks run every 500 ms, two failures take a backend down.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::ensure;
use lb_testbed::bed::{Bed, Setup};
use lb_testbed::client::Outcome;
use lb_testbed::client::churn::Churn;
use lb_testbed::client::long::{LongFlows, Plan};
use lb_testbed::eventually::eventually;
use lb_testbed::topology::VIP4;
use lb_userspace::model::Plane;

/// New flows have moved by then.
const DETECTION: Duration = Duration::from_millis(1500);
const DOWN_GRACE: Duration = Duration::from_secs(2);
/// Flows that speak are reset so soon after they were given up.
const RESET: Duration = Duration::from_secs(1);
/// What it takes to look, on a busy machine.
const NOTICE: Duration = Duration::from_millis(500);
const DEADLINE: Duration = Duration::from_secs(20);
/// How long a backend stumbles.
const HICCUP: Duration = Duration::from_secs(3);
const RATE: u32 = 50;

#[test]
fn tc_moves_new_flows_and_ends_the_old_ones_of_a_dead_backend() -> anyhow::Result<()> {
    a_process_and_a_host_die(Plane::Tc)
}

#[test]
fn xdp_moves_new_flows_and_ends_the_old_ones_of_a_dead_backend() -> anyhow::Result<()> {
    a_process_and_a_host_die(Plane::Xdp)
}

#[test]
fn the_proxy_moves_new_flows_and_ends_the_old_ones_of_a_dead_backend() -> anyhow::Result<()> {
    a_process_and_a_host_die(Plane::Proxy)
}

#[test]
fn tc_loses_no_silent_flow_of_a_backend_that_comes_back() -> anyhow::Result<()> {
    a_process_and_a_link_stumble(Plane::Tc)
}

#[test]
fn xdp_loses_no_silent_flow_of_a_backend_that_comes_back() -> anyhow::Result<()> {
    a_process_and_a_link_stumble(Plane::Xdp)
}

#[test]
fn the_proxy_loses_no_silent_flow_of_a_backend_that_comes_back() -> anyhow::Result<()> {
    a_process_and_a_link_stumble(Plane::Proxy)
}

#[test]
fn a_backend_whose_link_is_down_is_down_before_its_next_check() -> anyhow::Result<()> {
    let setup = Setup { vips: vec![VIP4], interval: "1h", ..Setup::on(Plane::Tc) };
    let bed = Bed::start(setup)?;
    state_is(&bed, 1, "up")?;
    let start = Instant::now();
    bed.topology.backends[1].cut()?;
    state_is(&bed, 1, "down")?;
    let took = start.elapsed();
    ensure!(took < NOTICE, "seen after {took:?}");
    let pool = bed.pool()?;
    ensure!(pool.backends[1].reason.contains(" is down"), "{}", pool.backends[1].reason);
    ensure!([0, 2].iter().all(|&other: &usize| pool.backends[other].state == "up"), "{pool:?}");
    // The others serve.
    let new = bed.long(30, None)?.finish()?;
    ensure!(new.broken == 0 && new.backends.len() == 2, "{new}");
    Ok(())
}

#[test]
fn a_backend_that_the_network_calls_unreachable_is_down_with_one_check() -> anyhow::Result<()> {
    // The second check, which `fall` asks for, would come seconds later.
    let setup = Setup { vips: vec![VIP4], interval: "4s", ..Setup::on(Plane::Proxy) };
    let bed = Bed::start(setup)?;
    state_is(&bed, 1, "up")?;
    bed.topology.lb.ip(&format!("route add unreachable {}", bed.topology.backends[1].ipv4()))?;
    let failed = eventually("a check fails", DEADLINE, || {
        let backend = bed.pool()?.backends[1].clone();
        Ok(backend.last_check.clone().is_some_and(|check| !check.ok).then_some(backend))
    })?;
    ensure!(failed.state == "down" && failed.reason.contains("host unreachable"), "{failed:?}");
    Ok(())
}

#[test]
fn a_backend_that_refuses_is_down_at_once_after_the_first_refusal() -> anyhow::Result<()> {
    let setup = Setup { vips: vec![VIP4], interval: "4s", ..Setup::on(Plane::Tc) };
    let mut bed = Bed::start(setup)?;
    state_is(&bed, 1, "up")?;
    bed.servers[1].kill();
    let failed =
        || Ok(bed.pool()?.backends[1].last_check.clone().is_some_and(|check| !check.ok).then_some(()));
    eventually("a check fails", DEADLINE, failed)?;
    let refused = Instant::now();
    state_is(&bed, 1, "down")?;
    let took = refused.elapsed();
    println!("down {took:?} after the first refusal was seen");
    ensure!(took < NOTICE, "down only {took:?} after the first refusal");
    Ok(())
}

fn bed(plane: Plane, down_grace: &'static str) -> anyhow::Result<Bed> {
    Bed::start(Setup { vips: vec![VIP4], down_grace, ..Setup::on(plane) })
}

fn a_process_and_a_host_die(plane: Plane) -> anyhow::Result<()> {
    let mut bed = bed(plane, "2s")?;
    let load = Load::start(&bed)?;
    bed.servers[0].kill();
    load.judge(&bed, 0, Death::Process)?;

    bed.servers[0].resume()?;
    state_is(&bed, 0, "up")?;
    let load = Load::start(&bed)?;
    bed.topology.backends[1].cut()?;
    load.judge(&bed, 1, Death::Host)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Death {
    /// Its kernel resets the flows at once.
    Process,
    /// Nobody answers any more.
    Host,
}

/// Flows that speak, flows that are silent, and new ones.
struct Load {
    speaking: LongFlows,
    silent: LongFlows,
    churn: Churn,
    dies: Instant,
    /// A flow without an answer speaks by retransmission only. Whether it does so at least every [`RESET`] (since
    /// Linux 6.15), or each time after as long as all before.
    paced: bool,
}

impl Load {
    fn start(bed: &Bed) -> anyhow::Result<Self> {
        let plan = |interval| Plan { stall: DEADLINE, ..bed.long_plan(60, interval) };
        let client = &bed.topology.client.namespace;
        let longest = RESET.as_millis().to_string();
        let paced = client.sysctl("net/ipv4/tcp_rto_max_ms", &longest).is_ok();
        let speaking = LongFlows::open(client, plan(Some(Duration::from_millis(200))))?;
        let silent = LongFlows::open(client, plan(None))?;
        let churn = bed.churn(RATE);
        eventually("new flows", DEADLINE, || Ok((churn.begun() > 5).then_some(())))?;
        Ok(Self { speaking, silent, churn, dies: Instant::now(), paced })
    }

    /// The server at this index has just died.
    fn judge(self, bed: &Bed, victim: usize, death: Death) -> anyhow::Result<()> {
        let Self { speaking, silent, churn, dies, paced } = self;
        let since_death = millis(dies.elapsed());
        let (of_churn, of_speaking) = (churn.now_ms() - since_death, speaking.now_ms() - since_death);
        state_is(bed, victim, "down")?;
        eventually("the old flows are given up", DEADLINE, || {
            let reason = bed.pool()?.backends[victim].reason.clone();
            Ok(reason.contains("old flows were moved").then_some(()))
        })?;
        let given_up = dies.elapsed();
        ensure!(given_up < DETECTION + DOWN_GRACE + NOTICE, "given up after {given_up:?}");
        silent.speak()?;
        let answered = dies.elapsed() - given_up;
        let victim = bed.servers[victim].id();

        for (name, report) in [("speaking", speaking.finish()?), ("silent", silent.finish()?)] {
            for (backend, outcomes) in &report.backends {
                let expected = if backend == victim { Outcome::Reset } else { Outcome::Ok };
                let flows: u64 = outcomes.values().sum();
                ensure!(*outcomes == BTreeMap::from([(expected, flows)]), "{name}: {report}");
            }
            ensure!(report.backends.len() == 3, "{name}: {report}");
            if name == "speaking" {
                let last = report.ends.iter().map(|end| end.at_ms).fold(0.0, f64::max) - of_speaking;
                println!("{victim}: its last speaking flow ended after {last:.0} ms");
                let bound = match death {
                    Death::Process => NOTICE,
                    Death::Host if paced => given_up + RESET + NOTICE,
                    Death::Host => given_up * 2 + NOTICE,
                };
                ensure!(
                    last <= millis(bound),
                    "the last flow of {victim} ended after {last:.0} ms: {report}"
                );
            }
        }
        ensure!(answered <= RESET, "silent flows of {victim} were reset after {answered:?}");

        let report = churn.stop()?;
        let late = report.losses.iter().filter(|loss| loss.at_ms > of_churn + millis(DETECTION)).count();
        println!("{victim}: {report}");
        ensure!(late == 0, "{late} flows were lost after {DETECTION:?}: {report}");
        let early = report.losses.iter().filter(|loss| loss.at_ms < of_churn - 100.0).count();
        ensure!(early == 0, "{early} flows were lost before: {report}");
        Ok(())
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn a_process_and_a_link_stumble(plane: Plane) -> anyhow::Result<()> {
    let mut bed = bed(plane, "10s")?;
    let silent = bed.long(90, None)?;

    let start = Instant::now();
    bed.servers[0].pause();
    bed.topology.backends[1].cut()?;
    for server in [0, 1] {
        state_is(&bed, server, "down")?;
    }
    // Meanwhile all new flows go to the third.
    let new = bed.long(30, None)?;
    ensure!(new.report().broken == 0 && new.report().backends.len() == 1, "{}", new.report());
    eventually("the hiccup is long enough", DEADLINE, || Ok((start.elapsed() >= HICCUP).then_some(())))?;
    bed.servers[0].resume()?;
    bed.topology.backends[1].mend()?;
    for server in [0, 1] {
        state_is(&bed, server, "up")?;
    }
    let old = silent.finish()?;
    ensure!(old.broken == 0 && old.backends.len() == 3, "{old}");
    let new = new.finish()?;
    ensure!(new.broken == 0, "{new}");
    Ok(())
}

fn state_is(bed: &Bed, server: usize, state: &str) -> anyhow::Result<()> {
    eventually(&format!("{} is {state}", bed.servers[server].id()), DEADLINE, || {
        let pool = bed.pool()?;
        ensure!(pool.backends[server].state == state, "{:?}", pool.backends[server]);
        Ok(Some(()))
    })
}
