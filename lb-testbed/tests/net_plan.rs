//! `sluice plan` while no daemon runs: compared with what the last one has left in the kernel, which it leaves as it is.

use std::time::Duration;

use anyhow::{Context, ensure};
use aya::maps::{Array, Map, MapData};
use lb_common::layout::LAYOUT;
use lb_common::names;
use lb_testbed::bed::{Bed, Setup};
use lb_testbed::object;
use lb_testbed::process::succeeded;
use lb_testbed::snapshot::{Objects, Snapshot};
use lb_userspace::config::{Config, Environment};
use lb_userspace::data_plane::kernel::KernelState;
use lb_userspace::kernel::{self, Settings};
use lb_userspace::model::Plane;
use lb_userspace::model::plan::{Fate, Plan};
use std::collections::BTreeMap;

const DEADLINE: Duration = Duration::from_secs(10);
const FLOWS: u64 = 30;

#[test]
fn without_a_daemon_the_pins_tell_what_would_change() -> anyhow::Result<()> {
    let mut bed = Bed::prepare(Setup { services: "tracking = \"always\"\n", ..Setup::on(Plane::Tc) })?;
    let printed = succeeded(bed.sluice.with_config(&["plan"])?)?;
    ensure!(printed.contains("compared with nothing") && printed.contains("+ service web"), "{printed}");

    bed.sluice.start()?;
    let flows = bed.long(FLOWS, None)?;
    let gone = bed.servers[0].address();
    // Another weight for the first backend, none of the last one's servers, other time-outs.
    let all = bed.config(&[100; 6]);
    let weights = (0..4).map(|server| (server, if server < 2 { 50 } else { 100 }));
    let other = bed.config_of(weights).replace(
        "tracking = \"always\"",
        "tracking = \"always\"\ntimeouts = { established = \"20m\", half_open = \"500ms\" }",
    );
    bed.sluice.write_config(&other)?;
    let asked = plan(&bed)?;
    ensure!(asked.running && asked.pools.len() == 1, "{asked:?}");
    bed.sluice.write_config(&all)?;
    ensure!(bed.sluice.stop(DEADLINE)?.success(), "{}", bed.sluice.log());
    let before = (Objects::pinned(&bed.sluice.bpf_dir())?, Snapshot::of(&bed.topology.lb)?);
    let printed = succeeded(bed.sluice.with_config(&["plan"])?)?;
    ensure!(printed.contains("left in the kernel") && printed.contains("nothing would change"), "{printed}");

    // Without the first backend's two servers, and with another port on the IPv6 VIP.
    let less = bed.config_of((2..6).map(|server| (server, 100))).replace("]:80\"", "]:81\"");
    bed.sluice.write_config(&less)?;
    let plan = plan(&bed)?;
    ensure!(!plan.running && plan.left, "{plan:?}");
    let services: Vec<_> =
        plan.services.iter().map(|service| (service.name.as_str(), service.fate)).collect();
    let web = (services.first().copied(), services.len());
    ensure!(web == (Some(("web", Fate::Changed)), 2) && services[1].1 == Fate::Removed, "{plan:?}");
    ensure!(plan.services[1].flows.is_some_and(|flows| flows.known == 0 && flows.exact), "{plan:?}");
    let backends: Vec<_> = plan.pools.iter().flat_map(|pool| &pool.backends).collect();
    let removed = backends.iter().filter(|backend| backend.fate == Fate::Removed);
    let known = removed.clone().find(|backend| backend.address == gone).and_then(|backend| backend.flows);
    // Its IPv6 server goes with the service that is removed.
    ensure!(removed.count() == 1 && backends.len() == 1, "{plan:?}");
    ensure!(known.is_some_and(|flows| (1..FLOWS).contains(&flows.known) && !flows.exact), "{plan:?}");

    // What a start would refuse.
    let number = |number| -> anyhow::Result<()> {
        let map = MapData::from_pin(bed.sluice.bpf_dir().join("maps").join(names::MAP_LAYOUT))?;
        Ok(Array::<_, u32>::try_from(Map::Array(map))?.set(0, number, 0)?)
    };
    number(LAYOUT + 1)?;
    let refused = bed.sluice.with_config(&["plan"])?;
    number(LAYOUT)?;
    let printed = String::from_utf8_lossy(&refused.stderr);
    ensure!(
        refused.status.code() == Some(1) && printed.contains("have layout"),
        "{}: {printed}",
        refused.status
    );

    let churn = bed.churn(100);
    bed.sluice.write_config(&all.replace("table_size = 4099", "table_size = 1009"))?;
    let words = "table_size is 1009, but the pinned table 0 has 4099 slots";
    for verb in ["plan", "check"] {
        let refused = bed.sluice.with_config(&[verb])?;
        let printed = String::from_utf8_lossy(&refused.stderr);
        ensure!(refused.status.code() == Some(1) && printed.contains(words), "{verb}: {printed}");
    }
    let refused = bed.sluice.with_config(&["check", "--json"])?;
    let printed = String::from_utf8_lossy(&refused.stdout);
    ensure!(printed.contains("\"ok\": false") && printed.contains(words), "{printed}");
    let exit = bed.sluice.fail()?;
    ensure!(exit.code() == Some(1) && bed.sluice.log().contains(words), "{}", bed.sluice.log());
    let churn = churn.stop()?;
    ensure!(churn.flows > 0 && churn.lost == 0, "{churn}");

    let after = (Objects::pinned(&bed.sluice.bpf_dir())?, Snapshot::of(&bed.topology.lb)?);
    ensure!(before == after, "{:?}, then {:?}", before.0, after.0);

    // The same as the daemon has said, and as the next one does.
    bed.sluice.write_config(&other)?;
    let looked = self::plan(&bed)?;
    let counted = |plan: &Plan| {
        plan.pools.iter().map(|pool| (pool.slots, pool.moved, pool.moved_when_up)).collect::<Vec<_>>()
    };
    ensure!(counted(&looked) == counted(&asked), "{looked:?}, and {asked:?}");
    let fates = |plan: &Plan| {
        plan.pools[0]
            .backends
            .iter()
            .map(|backend| (backend.address, backend.fate))
            .collect::<BTreeMap<_, _>>()
    };
    let (said, found) = (fates(&asked), fates(&looked));
    ensure!(said.iter().all(|(address, fate)| found.get(address) == Some(fate)), "{looked:?}, and {asked:?}");
    let lines = asked.changes.iter().filter(|line| line.contains("timeouts."));
    ensure!(lines.eq(&looked.changes) && looked.changes.len() == 2, "{looked:?}, and {asked:?}");
    ensure!(looked.services.len() == 1 && asked.services.len() == 1, "{looked:?}, and {asked:?}");
    let weighed = looked.pools[0].backends.iter().find(|backend| backend.address == gone).cloned();
    let weighed = weighed.map(|backend| (backend.fate, backend.after, backend.slots));
    let Some((Fate::Changed, Some(50), Some((before, then)))) = weighed else { anyhow::bail!("{looked:?}") };

    let tables = pinned(&bed, &other)?;
    bed.sluice.start()?;
    ensure!(bed.sluice.stop(DEADLINE)?.success(), "{}", bed.sluice.log());
    let started = pinned(&bed, &other)?;
    let mut moved = 0;
    for (number, slots) in &tables.tables {
        let now = started.tables.get(number).context("a table is gone")?;
        moved +=
            slots.iter().zip(now.iter()).filter(|(old, new)| old.current() != new.current()).count() as u64;
    }
    ensure!(looked.pools[0].moved == Some(moved) && moved > 0, "{moved} moved, {looked:?}");
    let of = |state: &KernelState| -> u64 {
        let ids: Vec<_> = state
            .endpoints
            .iter()
            .filter(|(key, _)| key.socket() == gone)
            .map(|(_, endpoint)| endpoint.backend)
            .collect();
        state
            .tables
            .values()
            .flat_map(|slots| slots.iter())
            .filter(|slot| ids.contains(&slot.current()))
            .count() as u64
    };
    ensure!((of(&tables), of(&started)) == (before, then), "{looked:?}");
    let printed = succeeded(bed.sluice.with_config(&["plan"])?)?;
    ensure!(printed.contains("nothing would change"), "{printed}");

    bed.sluice.write_config(&all)?;
    bed.sluice.start()?;
    let flows = flows.finish()?;
    ensure!(flows.broken == 0, "{flows}");
    Ok(())
}

fn plan(bed: &Bed) -> anyhow::Result<Plan> {
    Ok(serde_json::from_str(&succeeded(bed.sluice.with_config(&["plan", "--json"])?)?)?)
}

/// What is in the maps while no daemon runs that has them.
fn pinned(bed: &Bed, config: &str) -> anyhow::Result<KernelState> {
    let (config, object) = (Config::parse("test", config, &Environment::new()), object::bytes()?);
    let config = config.map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
    let bpf_dir = bed.sluice.bpf_dir();
    let left = kernel::left(&Settings { bpf_dir: &bpf_dir, ..Settings::of(&config, &object) })?;
    Ok(left.context("nothing is pinned")?.state)
}
