//! How many slots the config asks for, and whether the pinned tables have as many: the size is fixed while flows depend on
//! it. Pure.

use std::collections::BTreeMap;

use lb_common::{Service, SocketKey};

use super::ids::{Part, TableNumbers};
use super::kernel_state::pools_by_listen;
use crate::config::Config;

/// A pool's tables are pinned with another size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "pool {pool:?}: table_size is {configured}, but the pinned table {table} has {pinned} slots. Nothing was changed, and \
     what is attached goes on forwarding: set table_size = {pinned}, or stop sluice and run `sluice cleanup` (ends open \
     connections)"
)]
pub struct TableSize {
    /// The pool.
    pub pool: String,
    /// The table's number.
    pub table: u32,
    /// Its slots.
    pub pinned: u32,
    /// Slots in the config.
    pub configured: u32,
}

/// The pool that each listen address leads to, with the size of its tables; by default nothing is asked for.
#[derive(Clone, Debug, Default)]
pub struct TableSizes(BTreeMap<SocketKey, (String, u32)>);

impl TableSizes {
    /// What a config asks for.
    pub fn of(config: &Config) -> Self {
        let sizes: BTreeMap<_, _> =
            config.pools.iter().map(|pool| (pool.name.as_str(), pool.table_size)).collect();
        let pools = pools_by_listen(config).into_iter();
        Self(pools.filter_map(|(key, pool)| Some((key, (pool.to_owned(), *sizes.get(pool)?)))).collect())
    }

    /// Compares with what is pinned: `services`, and the slots of each table.
    ///
    /// # Errors
    /// A table that would be taken over has another size.
    pub fn check(
        &self,
        services: &BTreeMap<SocketKey, Service>,
        tables: &BTreeMap<u32, u32>,
    ) -> Result<(), TableSize> {
        let pools = self.0.iter().map(|(key, (pool, _))| (*key, pool.as_str())).collect();
        let numbers = TableNumbers::adopt(services, |table| tables.contains_key(&table), &pools);
        let compared = self.0.iter().filter_map(|(key, (pool, configured))| {
            let table = numbers.get(pool, Part::of(key)?)?;
            Some((pool, table, *tables.get(&table)?, *configured))
        });
        match compared.into_iter().find(|(.., pinned, configured)| pinned != configured) {
            None => Ok(()),
            Some((pool, table, pinned, configured)) => {
                Err(TableSize { pool: pool.clone(), table, pinned, configured })
            }
        }
    }
}
