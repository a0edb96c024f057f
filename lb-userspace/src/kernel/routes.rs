//! Next hops for replies, as programs look them up: single addresses through buckets, the few routes of a
//! usual host as a list for each family, and a trie that has all routes to networks.

use std::collections::BTreeMap;
use std::path::Path;

use lb_common::route::{self, HOP, Host, LOCAL, Route, TOO_MANY};
use lb_common::{Address, NextHop, names};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::buckets::BucketTable;
use super::error::KernelError;
use super::syscall::Batch;
use super::table::{Key, Table};
use crate::data_plane::PlaneError;
use crate::data_plane::kernel::{KernelState, Prefix};

/// The key of an LPM trie (linux/bpf.h, `bpf_lpm_trie_key`), IPv4 as IPv4-mapped IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RouteKey {
    /// In bits, of 128.
    length: u32,
    address: Address,
}

/// Bits before an IPv4 address in an IPv4-mapped one.
const MAPPED_BITS: u32 = 96;

impl From<&Prefix> for RouteKey {
    fn from(prefix: &Prefix) -> Self {
        let before = if prefix.address.is_ipv4() { MAPPED_BITS } else { 0 };
        Self { length: before + u32::from(prefix.length), address: prefix.address.into() }
    }
}

impl From<RouteKey> for Prefix {
    fn from(key: RouteKey) -> Self {
        let address = key.address.ip();
        let before = if address.is_ipv4() { MAPPED_BITS } else { 0 };
        Self { address, length: u8::try_from(key.length.saturating_sub(before)).unwrap_or(u8::MAX) }
    }
}

impl Key for RouteKey {
    fn show(&self) -> String {
        let prefix = Prefix::from(*self);
        format!("{}/{}", prefix.address, prefix.length)
    }
}

/// Bits of the longest prefix: one address.
const ALL_BITS: u32 = 128;

/// The maps of all next hops but those to backends.
#[derive(Debug)]
pub(super) struct Routes {
    hosts: BucketTable<Address, Host>,
    trie: Table<RouteKey, NextHop>,
    lists: BucketTable<Address, route::Routes>,
    /// What the trie holds.
    networks: BTreeMap<Prefix, NextHop>,
}

impl Routes {
    /// Opens the pins, whose layouts have been checked, and makes the lists say what the trie says.
    pub(super) fn open(maps: &Path) -> Result<Self, KernelError> {
        let mut this = Self {
            hosts: BucketTable::open(names::MAP_HOSTS, names::MAP_HOST_BUCKETS, maps)?,
            trie: Table::open(names::MAP_ROUTES, maps)?,
            lists: BucketTable::open(names::MAP_LISTS, names::MAP_LIST_BUCKETS, maps)?,
            networks: BTreeMap::new(),
        };
        this.adopt().map_err(|error| KernelError::Map { map: error.object, reason: error.reason })?;
        Ok(this)
    }

    fn adopt(&mut self) -> Result<(), PlaneError> {
        let networks = &mut self.networks;
        self.trie.scan(Batch::Read, |keys, hops| {
            networks.extend(keys.iter().map(|key| Prefix::from(*key)).zip(hops.iter().copied()));
            Ok(())
        })?;
        self.list(true)?;
        self.list(false)
    }

    /// Makes an address one of the host's own.
    pub(super) fn put_local(&mut self, address: &Address) -> Result<(), PlaneError> {
        self.change(address, |host| host.flags |= LOCAL)
    }

    /// Takes that back.
    pub(super) fn remove_local(&mut self, address: &Address) -> Result<(), PlaneError> {
        self.change(address, |host| host.flags &= !LOCAL)
    }

    /// Sets the next hop to a network or to one address.
    pub(super) fn put(&mut self, prefix: &Prefix, hop: &NextHop) -> Result<(), PlaneError> {
        let key = RouteKey::from(prefix);
        if key.length == ALL_BITS {
            return self.change(&key.address, |host| *host = Host { hop: *hop, flags: host.flags | HOP });
        }
        self.trie.put(&key, hop)?;
        self.networks.insert(*prefix, *hop);
        self.list(prefix.address.is_ipv4())
    }

    /// Takes that back.
    pub(super) fn remove(&mut self, prefix: &Prefix) -> Result<(), PlaneError> {
        let key = RouteKey::from(prefix);
        if key.length == ALL_BITS {
            let none = NextHop::default();
            return self.change(&key.address, |host| *host = Host { hop: none, flags: host.flags & !HOP });
        }
        self.trie.delete(&key)?;
        self.networks.remove(prefix);
        self.list(prefix.address.is_ipv4())
    }

    /// What stands in the maps.
    pub(super) fn read_back(&self, state: &mut KernelState) -> Result<(), PlaneError> {
        for (address, host) in self.hosts.entries()? {
            if host.flags & LOCAL != 0 {
                state.local.insert(address);
            }
            if host.flags & HOP != 0 {
                state.routes.insert(RouteKey { length: ALL_BITS, address }.into(), host.hop);
            }
        }
        self.trie.scan(Batch::Read, |keys, hops| {
            state.routes.extend(keys.iter().map(|key| Prefix::from(*key)).zip(hops.iter().copied()));
            Ok(())
        })
    }

    fn change(&mut self, address: &Address, change: impl FnOnce(&mut Host)) -> Result<(), PlaneError> {
        let mut host = self.hosts.get(address)?.unwrap_or_default();
        change(&mut host);
        if host.flags == 0 { self.hosts.delete(address).map(drop) } else { self.hosts.put(address, &host) }
    }

    /// Publishes the list of a family: all its routes to networks, or that there are too many.
    fn list(&mut self, is_v4: bool) -> Result<(), PlaneError> {
        let of_family = self.networks.iter().filter(|(prefix, _)| prefix.address.is_ipv4() == is_v4);
        let mut routes: Vec<_> = of_family.collect();
        routes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.length));
        let mut list = route::Routes { count: TOO_MANY, ..Default::default() };
        if routes.len() <= list.list.len() {
            list.count = u32::try_from(routes.len()).unwrap_or(TOO_MANY);
            for (place, (prefix, hop)) in list.list.iter_mut().zip(routes) {
                let key = RouteKey::from(prefix);
                *place = Route { network: key.address, mask: mask(key.length), hop: *hop };
            }
        }
        let family = route::Routes::key(is_v4);
        if self.lists.get(&family)? == Some(list) { Ok(()) } else { self.lists.put(&family, &list) }
    }
}

/// That many ones, then zeroes.
fn mask(length: u32) -> Address {
    let bits = u128::MAX.checked_shl(ALL_BITS - length.min(ALL_BITS)).unwrap_or(0);
    Address { words: zerocopy::transmute!(bits.to_be_bytes()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_of_both_families_survive_the_trie_key() {
        for (address, length, bits) in [
            ("0.0.0.0", 0, 96),
            ("10.1.0.0", 16, 112),
            ("192.0.2.1", 32, 128),
            ("::", 0, 0),
            ("2001:db8::", 32, 32),
        ] {
            let prefix = Prefix { address: address.parse().unwrap(), length };
            let key = RouteKey::from(&prefix);
            assert_eq!(key.length, bits, "{address}/{length}");
            assert_eq!(Prefix::from(key), prefix);
        }
    }
}
