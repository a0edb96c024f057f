//! What a previous daemon's maps say of backends. Pure.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Instant;

use super::apply::Confirmed;
use super::desired::Pools;
use super::ids::Part;
use super::kernel_state::{Identities, pools_by_listen};
use crate::config::Config;
use crate::data_plane::kernel::KernelState;

/// Takes over what the maps say: who was up, and who leaves, since the config does not have it.
pub fn adopt(
    pools: &mut Pools,
    config: &Config,
    confirmed: &Confirmed,
    identities: &Identities,
    now: Instant,
) {
    let served = served(&confirmed.applied, config);
    pools.dismiss(now, |pool, address| served.contains(&(pool, address)));
    for (pool, address) in served {
        pools.adopt_leaving(pool, address, now);
        if takes_new(confirmed, identities, pool, address) == Some(true) {
            pools.adopt_up(pool, address);
        }
    }
}

/// Whether new flows go to a backend; `None`: nothing is known of its pool.
pub fn takes_new(
    confirmed: &Confirmed,
    identities: &Identities,
    pool: &str,
    address: SocketAddr,
) -> Option<bool> {
    let tables: Vec<_> = Part::ALL
        .into_iter()
        .filter_map(|part| confirmed.tables.get(&identities.table(pool, part)?))
        .collect();
    let ids: Vec<_> = identities.of(address).collect();
    let is_current = tables.iter().any(|table| ids.iter().any(|id| table.holdings(*id).current > 0));
    (!tables.is_empty()).then_some(is_current)
}

/// The endpoints in the maps, each with the pool that it serves.
fn served<'c>(applied: &KernelState, config: &'c Config) -> BTreeSet<(&'c str, SocketAddr)> {
    let pools = pools_by_listen(config);
    let endpoints = applied.endpoints.iter();
    endpoints.filter_map(|(key, endpoint)| Some((*pools.get(&endpoint.vip)?, key.socket()))).collect()
}
