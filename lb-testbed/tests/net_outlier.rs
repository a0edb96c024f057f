//! Nobody checks the backends: what their clients meet tells who cannot serve.

use std::time::{Duration, Instant};

use anyhow::ensure;
use lb_testbed::bed::{Bed, Setup};
use lb_testbed::eventually::eventually;
use lb_testbed::topology::VIP4;
use lb_userspace::model::Plane;

const DEADLINE: Duration = Duration::from_secs(30);
/// New flows a second.
const RATE: u32 = 60;

#[test]
fn tc_ejects_who_refuses_and_who_is_silent() -> anyhow::Result<()> {
    who_refuses_and_who_is_silent(Plane::Tc)
}

#[test]
fn xdp_ejects_who_refuses_and_who_is_silent() -> anyhow::Result<()> {
    who_refuses_and_who_is_silent(Plane::Xdp)
}

#[test]
fn the_proxy_ejects_who_refuses_and_who_is_silent() -> anyhow::Result<()> {
    who_refuses_and_who_is_silent(Plane::Proxy)
}

fn who_refuses_and_who_is_silent(plane: Plane) -> anyhow::Result<()> {
    let mut bed = Bed::start(Setup {
        vips: vec![VIP4],
        check: "none",
        services: "timeouts = { half_open = \"500ms\" }\n",
        pool: "outlier = { consecutive = 5, ejection = \"5s\" }\n",
        ..Setup::on(plane)
    })?;
    let silent = bed.long(60, None)?;
    let churn = bed.churn(RATE);
    eventually("new flows", DEADLINE, || Ok((churn.begun() > 5).then_some(())))?;

    // Nobody listens on its port any more; those that are connected stay so.
    bed.servers[0].pause();
    let start = Instant::now();
    let reason = state_is(&bed, 0, "down")?;
    println!("{plane}: refusing, ejected after {:?}: {reason}", start.elapsed());
    ensure!(reason.contains("ejected for 5s") && !reason.contains(" 0 were refused"), "{reason}");
    let backend = bed.pool()?.backends[0].clone();
    match plane {
        Plane::Proxy => ensure!(backend.failures >= Some(5) && backend.handshakes.is_none(), "{backend:?}"),
        _ => {
            let seen = backend.handshakes.unwrap_or_default();
            ensure!(seen.refused >= 5 && seen.accepted >= 5 && seen.syns >= seen.accepted, "{backend:?}");
        }
    }
    let new = bed.long(30, None)?;
    ensure!(new.report().broken == 0 && new.report().backends.len() == 2, "{}", new.report());
    bed.servers[0].resume()?;
    state_is(&bed, 0, "up")?;

    // Its answers go nowhere.
    let host = &bed.topology.backends[2].namespace;
    let route = if plane == Plane::Proxy { "blackhole 10.201.3.1/32" } else { "blackhole 10.201.0.0/24" };
    host.ip(&format!("route add {route}"))?;
    let start = Instant::now();
    let reason = state_is(&bed, 2, "down")?;
    println!("{plane}: silent, ejected after {:?}: {reason}", start.elapsed());
    ensure!(reason.contains("ejected for 5s") && reason.contains(" 0 were refused"), "{reason}");
    if plane == Plane::Proxy {
        let backend = bed.pool()?.backends[2].clone();
        ensure!(backend.timeouts >= Some(1), "{backend:?}");
    }
    let others = bed.long(30, None)?;
    ensure!(others.report().broken == 0 && others.report().backends.len() == 2, "{}", others.report());
    host.ip(&format!("route del {route}"))?;
    state_is(&bed, 2, "up")?;

    let report = churn.stop()?;
    println!("{plane}: {report}");
    for flows in [silent, new, others] {
        let flows = flows.finish()?;
        ensure!(flows.broken == 0, "who is ejected keeps its flows: {flows}");
    }
    Ok(())
}

/// The next daemon has seen nobody fail.
#[test]
fn who_is_ejected_stays_so_over_a_restart() -> anyhow::Result<()> {
    let mut bed = Bed::start(Setup {
        vips: vec![VIP4],
        check: "none",
        pool: "outlier = { consecutive = 5, ejection = \"2m\" }\n",
        ..Setup::on(Plane::Tc)
    })?;
    let churn = bed.churn(RATE);
    eventually("new flows", DEADLINE, || Ok((churn.begun() > 5).then_some(())))?;
    bed.servers[0].pause();
    state_is(&bed, 0, "down")?;
    churn.stop()?;
    bed.servers[0].resume()?;
    ensure!(bed.sluice.stop(DEADLINE)?.success(), "{}", bed.sluice.log());
    bed.sluice.start()?;
    let reason = state_is(&bed, 0, "down")?;
    ensure!(reason.contains("ejected for 2m: by the daemon before this one"), "{reason}");
    let flows = bed.long(30, None)?;
    ensure!(flows.report().broken == 0 && flows.report().backends.len() == 2, "{}", flows.report());

    // Without the section there are no ejections.
    let config = bed.config(&[100; 3]);
    let section = config.lines().find(|line| line.starts_with("outlier")).unwrap_or_default();
    bed.reload(&config.replace(section, ""))?;
    state_is(&bed, 0, "up")?;
    let flows = flows.finish()?;
    ensure!(flows.broken == 0, "{flows}");
    Ok(())
}

/// Waits for the state; the reason.
fn state_is(bed: &Bed, server: usize, state: &str) -> anyhow::Result<String> {
    eventually(&format!("{} is {state}", bed.servers[server].id()), DEADLINE, || {
        let backend = bed.pool()?.backends[server].clone();
        Ok((backend.state == state).then_some(backend.reason))
    })
}
