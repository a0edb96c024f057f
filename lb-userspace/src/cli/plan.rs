//! `sluice plan`: what a config file would change.

mod entries;
mod left;

use std::fmt::Write;
use std::path::Path;
use std::time::{Instant, SystemTime};

use anyhow::Context;

use crate::admin::api::PlanRequest;
use crate::admin::client::{Client, ClientError};
use crate::config::{self, Config};
use crate::controller::desired::Clock;
use crate::model::Plane;
use crate::model::plan::{BackendPlan, Fate, Flows, Plan, PoolPlan, ServicePlan};
use crate::state::Store;

use super::output::{plain, print, print_json};
use super::{Failure, runtime};

/// Asks the daemon what it would do at a reload; without one, compares with what an earlier one has left in the kernel, if
/// anything.
pub fn plan(socket: &Path, file: &Path, json: bool) -> Result<(), Failure> {
    let config = Config::load(file, &config::environment()).map_err(Failure::ConfigInvalid)?;
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let asked = PlanRequest { config: text };
    let answer = runtime()?.block_on(Client::new(socket).post("/api/v1/plan", &asked));
    let plan = match answer {
        Err(ClientError::NoDaemon(_)) => match left::look(&config)? {
            Some(left) => {
                let overrides = Store::look(&config.daemon.state_dir);
                let clock = Clock { wall: SystemTime::now(), process: Instant::now() };
                left::compare(&config, &left, &overrides, clock)
            }
            None => first_start(&config),
        },
        answer => answer?,
    };
    if json { print_json(&plan) } else { print(&render(&plan)) }
}

/// Where no daemon runs and none has left anything. What its planes would be is seen by `run`.
fn first_start(config: &Config) -> Plan {
    let services = config.services.iter().map(|service| ServicePlan {
        name: service.name.clone(),
        fate: Fate::Added,
        before: None,
        after: None,
        reason: "no daemon runs: the plane is chosen at its start".to_owned(),
        flows: None,
    });
    let pools = config.pools.iter().map(|pool| PoolPlan {
        name: pool.name.clone(),
        fate: Fate::Added,
        backends: pool
            .backends
            .iter()
            .map(|backend| BackendPlan {
                address: backend.address,
                fate: Fate::Added,
                before: None,
                after: Some(backend.weight),
                slots: None,
                flows: None,
            })
            .collect(),
        slots: None,
        moved: None,
        moved_when_up: None,
    });
    Plan {
        running: false,
        left: false,
        changes: Vec::new(),
        services: services.collect(),
        pools: pools.collect(),
    }
}

/// The whole document. Pure.
pub fn render(plan: &Plan) -> String {
    let mut text = String::new();
    if plan.left {
        text.push_str(
            "no daemon runs: compared with what an earlier one has left in the kernel, which tells of weights no \
             more than slots\n",
        );
    } else if !plan.running {
        text.push_str("no daemon runs, and none has left anything in the kernel: compared with nothing\n");
    }
    let has_base = plan.running || plan.left;
    if has_base && plan.changes.is_empty() && plan.services.is_empty() && plan.pools.is_empty() {
        return text + "nothing would change\n";
    }
    // Writing to a string cannot fail.
    for change in &plan.changes {
        let _ = writeln!(text, "{}", plain(change));
    }
    for service in &plan.services {
        let _ = writeln!(text, "{} service {}: {}", sign(service.fate), plain(&service.name), way(service));
    }
    for pool in &plan.pools {
        let _ = writeln!(text, "{} pool {}{}", sign(pool.fate), plain(&pool.name), slots(pool));
        for backend in &pool.backends {
            let _ = writeln!(text, "  {} {}{}", sign(backend.fate), backend.address, backend_words(backend));
        }
    }
    text
}

const fn sign(fate: Fate) -> char {
    match fate {
        Fate::Added => '+',
        Fate::Removed => '-',
        Fate::Changed => '~',
    }
}

fn way(service: &ServicePlan) -> String {
    let name = |plane: Option<Plane>| plane.map_or_else(|| "none".to_owned(), |plane| plane.to_string());
    let mut text = match service.fate {
        Fate::Removed if service.before.is_none() => String::new(),
        Fate::Removed => format!("from plane {}", name(service.before)),
        _ if service.before.is_some() && service.before != service.after => {
            format!("plane {} -> {}", name(service.before), name(service.after))
        }
        _ if service.after.is_none() => String::new(),
        _ => format!("plane {}", name(service.after)),
    };
    if !service.reason.is_empty() {
        let _ = write!(text, "{}{}", if text.is_empty() { "" } else { ", " }, plain(&service.reason));
    }
    if let Some(flows) = service.flows {
        let _ = write!(text, "; {} end", count(flows));
    }
    text
}

fn slots(pool: &PoolPlan) -> String {
    let (Some(slots), Some(moved), Some(later)) = (pool.slots, pool.moved, pool.moved_when_up) else {
        return String::new();
    };
    if slots == 0 {
        return String::new();
    }
    let share =
        |moved: u64| format!("{moved} of {slots} slots ({:.1} %)", moved as f64 / slots as f64 * 100.0);
    let mut text = format!(": {} get another backend at once", share(moved));
    if later != moved {
        let _ = write!(text, ", {} when the checks have found the new backends up", share(later));
    }
    text.push_str("; open flows stay where they are");
    text
}

fn backend_words(backend: &BackendPlan) -> String {
    match (backend.before, backend.after, backend.flows) {
        (None, Some(after), _) if let Some((before, then)) = backend.slots => {
            format!(": weight {after}, {before} -> {then} slots")
        }
        (Some(before), Some(after), _) => format!(": weight {before} -> {after}"),
        (None, Some(after), _) => format!(": weight {after}"),
        (_, None, Some(flows)) => {
            format!(": {} stay until they end or the drain time-out passes", count(flows))
        }
        _ => String::new(),
    }
}

fn count(flows: Flows) -> String {
    let Flows { known, exact } = flows;
    if exact {
        format!("{known} flows")
    } else {
        format!("at least {known} flows (those without entries not counted)")
    }
}
