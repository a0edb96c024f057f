//! What several objects of a config owe each other.

use std::collections::HashMap;
use std::net::SocketAddr;

use lb_common::limits;

use crate::model::{Fallback, Forward, Pool, Protocol, Service};

use super::file::File;
use super::problem::{Fault, nearest};
use super::proxied::{self, NeedsProxy};
use super::report::{Read, Report};
use super::values::prime_from;
use super::{Config, Kernel};

/// The config, if nothing contradicts.
pub(super) fn check(report: &Report<'_>, file: File) -> Read<Config> {
    let services = readable(&file.services);
    let pools = readable(&file.pools);
    let by_name: HashMap<&str, &Pool> = pools.iter().map(|(_, pool)| (pool.name.as_str(), *pool)).collect();

    unique_names(report, "service", services.iter().map(|(index, service)| (*index, service.name.as_str())));
    unique_names(report, "pool", pools.iter().map(|(index, pool)| (*index, pool.name.as_str())));
    if pools.len() == file.pools.len() {
        pools_exist(report, &services, &by_name);
    }
    let listens = unique_listens(report, &services, file.admin.listen);
    for (index, pool) in &pools {
        backends(report, *index, pool, &listens);
    }
    for (index, service) in &services {
        if let Some(pool) = by_name.get(service.pool.as_str()) {
            nat(report, &file.kernel, *index, service, pool);
        }
    }
    let named = endpoints(report, &file.kernel, &services, &by_name);
    all_down(report, &services);
    capacities(report, &file.kernel, &services, pools.len(), named);

    Ok(Config {
        daemon: file.daemon,
        admin: file.admin,
        kernel: file.kernel,
        services: file.services.into_iter().collect::<Result<_, _>>()?,
        pools: file.pools.into_iter().collect::<Result<_, _>>()?,
    })
}

fn readable<T>(objects: &[Read<T>]) -> Vec<(usize, &T)> {
    objects.iter().enumerate().filter_map(|(index, object)| Some((index, object.as_ref().ok()?))).collect()
}

fn unique_names<'n>(report: &Report<'_>, kind: &str, names: impl Iterator<Item = (usize, &'n str)>) {
    let mut first = HashMap::new();
    for (index, name) in names {
        if let Some(other) = first.insert(name, index) {
            let fault = Fault::new(format!("{kind}[{other}] has this name too"));
            report.fault(
                &format!("{kind}[{index}].name"),
                fault.hint(format!("every {kind} needs its own name")),
            );
        }
    }
}

fn pools_exist(report: &Report<'_>, services: &[(usize, &Service)], pools: &HashMap<&str, &Pool>) {
    for (index, service) in services {
        if pools.contains_key(service.pool.as_str()) {
            continue;
        }
        let mut names: Vec<&str> = pools.keys().copied().collect();
        names.sort_unstable();
        let hint = match (nearest(&service.pool, names.iter().copied()), names.len()) {
            (Some(near), _) => format!("did you mean {near:?}?"),
            (None, 0) => "the file has no [[pool]]".to_owned(),
            (None, 1..=10) => format!("the pools are {}", names.join(", ")),
            (None, count) => format!("none of the {count} pools is called so"),
        };
        report.fault(&format!("service[{index}].pool"), Fault::new("no pool has this name").hint(hint));
    }
}

fn listen_path(report: &Report<'_>, service: usize, listen: usize) -> String {
    report.entry(format!("service[{service}].listen"), listen)
}

fn unique_listens<'s>(
    report: &Report<'_>,
    services: &[(usize, &'s Service)],
    admin: Option<SocketAddr>,
) -> HashMap<(SocketAddr, Protocol), &'s str> {
    let mut owners = HashMap::new();
    for (index, service) in services {
        for (number, listen) in service.listen.iter().enumerate() {
            let path = listen_path(report, *index, number);
            if let Some(owner) = owners.insert((*listen, service.protocol), service.name.as_str()) {
                let fault = Fault::new(format!("service {owner:?} listens on {listen} already"));
                report.fault(&path, fault.hint("one address and port of a protocol belongs to one service"));
            } else if admin == Some(*listen) && service.protocol == Protocol::Tcp {
                report.fault(&path, Fault::new("is admin.listen too").hint("give one of them another port"));
            }
        }
    }
    owners
}

fn backends(report: &Report<'_>, index: usize, pool: &Pool, listens: &HashMap<(SocketAddr, Protocol), &str>) {
    let mut first = HashMap::new();
    for (number, backend) in pool.backends.iter().enumerate() {
        let path = format!("pool[{index}].backend[{number}].address");
        if let Some(other) = first.insert(backend.address, number) {
            let fault = Fault::new(format!("pool[{index}].backend[{other}] has this address too"));
            report.fault(&path, fault.hint("give one backend a higher weight instead"));
        }
        let mut looped =
            Protocol::ALL.iter().filter_map(|protocol| listens.get(&(backend.address, *protocol)));
        if let Some(service) = looped.next() {
            let fault =
                Fault::new(format!("service {service:?} listens here: its traffic would run in a loop"));
            report.fault(&path, fault.hint("write the address of the host that serves"));
        }
    }
    let weighted = pool.backends.iter().filter(|backend| backend.weight > 0).count();
    let weighted = u32::try_from(weighted).unwrap_or(u32::MAX);
    if weighted > pool.table_size {
        let reason =
            format!("{} slots are too few for {weighted} backends of positive weight", pool.table_size);
        // Below 100 slots a backend the shares are coarse.
        let hint = match prime_from(weighted.saturating_mul(100)).or_else(|| prime_from(weighted)) {
            Some(prime) => format!("table_size = {prime} or more"),
            None => format!("{} is the largest table", limits::MAX_TABLE_SIZE),
        };
        report.fault(&format!("pool[{index}].table_size"), Fault::new(reason).hint(hint));
    }
}

/// `forward = "nat"` is a promise of the config that the config itself must not break.
fn nat(report: &Report<'_>, kernel: &Kernel, index: usize, service: &Service, pool: &Pool) {
    if service.forward != Forward::Nat {
        return;
    }
    let Some(why) = proxied::needs_proxy(kernel, service, pool) else { return };
    if why == NeedsProxy::KernelOff && service.fallback == Fallback::Proxy {
        return;
    }
    let hint = match why {
        NeedsProxy::KernelOff => "write fallback = \"proxy\", or give kernel.plane another value",
        NeedsProxy::Scheduler(_) => "write scheduler = \"maglev\" in the pool, or forward = \"proxy\" here",
        _ => "write forward = \"proxy\"",
    };
    let fault = Fault::new(format!("no kernel plane can forward for this service: {why}")).hint(hint);
    report.fault(&format!("service[{index}].forward"), fault);
}

/// Services of one pool may share its backends on the kernel planes. A backend of two pools would be judged twice,
/// and its packets do not tell by whom. How many ids the backends of those planes take: one for each protocol.
fn endpoints(
    report: &Report<'_>,
    kernel: &Kernel,
    services: &[(usize, &Service)],
    pools: &HashMap<&str, &Pool>,
) -> usize {
    let mut owners: HashMap<(SocketAddr, Protocol), &Service> = HashMap::new();
    for (index, service) in services {
        let Some(pool) = pools.get(service.pool.as_str()) else { continue };
        if proxied::needs_proxy(kernel, service, pool).is_some() {
            continue;
        }
        let served = |listen: &SocketAddr| service.listen.iter().any(|own| own.is_ipv4() == listen.is_ipv4());
        let mut shared = None;
        for backend in pool.backends.iter().filter(|backend| served(&backend.address)) {
            let owner = *owners.entry((backend.address, service.protocol)).or_insert(service);
            if owner.pool != service.pool {
                shared.get_or_insert((backend.address, owner));
            }
        }
        if let Some((backend, owner)) = shared {
            let fault = Fault::new(format!(
                "backend {backend} serves service {:?} through pool {:?} already: a kernel plane could not tell \
                 whose its replies are",
                owner.name, owner.pool
            ));
            let hint = "let both services use one pool, or write forward = \"proxy\" in one of them";
            report.fault(&format!("service[{index}].pool"), fault.hint(hint));
        }
    }
    owners.len()
}

/// A pool has one set of tables for all its services.
fn all_down(report: &Report<'_>, services: &[(usize, &Service)]) {
    let mut first: HashMap<&str, &Service> = HashMap::new();
    for (index, service) in services {
        let other = *first.entry(service.pool.as_str()).or_insert(service);
        if other.all_down != service.all_down {
            let word = other.all_down.name();
            let reason = format!("service {:?} of the same pool has {word:?}", other.name);
            let hint = format!("write all_down = {word:?} here too, or give one of them a pool of its own");
            report.fault(&format!("service[{index}].all_down"), Fault::new(reason).hint(hint));
        }
    }
}

/// The kernel's maps are of fixed size.
fn capacities(
    report: &Report<'_>,
    kernel: &Kernel,
    services: &[(usize, &Service)],
    pools: usize,
    backends: usize,
) {
    let refuse = |path: &str, what: &str, count: usize, most: u32, hint: &str| {
        if count > most as usize {
            let fault = Fault::new(format!("{count} {what} are too many: {most} at most"));
            report.fault(path, fault.hint(hint));
        }
    };
    let too_many = |path, what, count, most| refuse(path, what, count, most, "leave some out");
    // Every listen address takes an entry, and every IP address one more.
    let listens = services.iter().map(|(_, service)| service.listen.len()).sum();
    too_many("service", "listen addresses", listens, limits::SERVICES / 2);
    let raise = format!("raise kernel.backends, up to {}", limits::MAX_BACKENDS);
    let hint = if backends <= limits::MAX_BACKENDS as usize { raise.as_str() } else { "leave some out" };
    refuse("pool", "backends", backends, kernel.backends, hint);
    // One table a family and protocol.
    too_many("pool", "pools", pools, limits::TABLES / 4);
}
