//! What the controller knows of the host's network, from netlink.
//!
//! One task mirrors links, addresses, neighbours and the main routing table (`tables`, `routes`), computes
//! from them what the data path has to know (`facts`), and has the kernel keep the neighbours of backends
//! and gateways resolved (`neighbours`). Routes are looked up in the mirror: policy rules and other tables
//! are not followed.

pub mod addresses;
mod announcement;
mod error;
mod facts;
#[cfg(test)]
mod fixtures;
pub mod neighbours;
pub mod qdiscs;
mod reached;
mod routes;
mod socket;
mod tables;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use lb_common::{Mac, NextHop};
use tokio::sync::watch as channel;
use tokio_util::task::AbortOnDropHandle;

use crate::data_plane::kernel::Prefix;

pub use error::NetworkError;
pub use reached::{Reached, Ways};

/// One network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Kernel index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Whether it is administratively and operationally up.
    pub up: bool,
    /// Bytes of L3 payload.
    pub mtu: u32,
    /// Whether no hardware stands behind it (veth, bridge, tun, loopback).
    pub is_virtual: bool,
    /// Whether it is the loopback interface.
    pub is_loopback: bool,
}

/// The facts of one moment. Compared to tell whether anything changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// By index.
    pub links: BTreeMap<u32, Link>,
    /// The host's own addresses.
    pub local: BTreeSet<IpAddr>,
    /// Next hops for replies: an entry for every prefix of the main table (all but link-local ones) and, as
    /// host prefixes, for every resolved neighbour on a link. [`NextHop::default`] says that the prefix is
    /// there but no MAC address for the whole of it: prefixes on the link, gateways that are not resolved,
    /// blackholes. Without those entries a reply would fall to a shorter prefix and its gateway.
    pub routes: BTreeMap<Prefix, NextHop>,
    /// Next hop of every target; absent while its neighbour is not resolved.
    pub hops: BTreeMap<IpAddr, NextHop>,
    /// Those of `local` that a daemon of ours has put there.
    pub ours: BTreeSet<IpAddr>,
    /// VIPs that belong to the subnet of a link that is up, and where that is.
    pub on_link: BTreeMap<IpAddr, OnLink>,
    /// Targets that have no next hop, each with the reason.
    pub unreachable: BTreeMap<IpAddr, String>,
    /// Those of them that surely cannot be reached: the link is down or gone, the neighbour did not answer the
    /// kernel, or there is no route. Where the reason is that nobody asked yet, it is not known.
    pub lost: BTreeSet<IpAddr>,
}

/// An Ethernet interface with the subnet of a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OnLink {
    /// Kernel index.
    pub index: u32,
    /// Its MAC address.
    pub mac: Mac,
    /// Of its frames, without the Ethernet header, in bytes.
    pub mtu: u32,
}

/// An interface that the traffic of services passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChosenInterface {
    /// Kernel index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Why it was chosen, in words.
    pub reason: String,
}

/// The running mirror. Dropping it stops the task; what the kernel was told to keep, it keeps.
#[derive(Debug)]
pub struct Network {
    mirror: watch::Mirror,
    requests: socket::Requests,
    task: AbortOnDropHandle<()>,
}

impl Network {
    /// Starts to mirror the network namespace of the calling thread, and keeps the next hops of `targets`
    /// (backends) and of all gateways resolved; the facts say which of `vips` are on a link. The first facts are there
    /// when this returns; neighbours that the kernel does not know yet are resolved later.
    ///
    /// # Errors
    /// Netlink sockets cannot be opened, or a table cannot be read.
    pub async fn start(
        targets: channel::Receiver<BTreeSet<IpAddr>>,
        vips: channel::Receiver<BTreeSet<IpAddr>>,
    ) -> Result<(channel::Receiver<Facts>, Self), NetworkError> {
        let mirror = watch::Mirror::default();
        let requests = socket::Requests::open()?;
        let (watcher, facts) = watch::Watcher::new(mirror.clone(), targets, vips).await?;
        let task = AbortOnDropHandle::new(tokio::spawn(watcher.run()));
        Ok((facts, Self { mirror, requests, task }))
    }

    /// Has the kernel resolve these neighbours once: destinations on a link that replies waited for, each with the
    /// interface that the reply had come in by. Those that are resolved, or kept resolved anyway, are skipped.
    ///
    /// # Errors
    /// The first refusal of the kernel; the others were asked for all the same.
    pub async fn resolve(&self, wanted: Vec<(IpAddr, u32)>) -> Result<(), NetworkError> {
        let unknown: Vec<_> = {
            let tables = self.mirror.lock();
            wanted
                .into_iter()
                .filter_map(|(ip, _)| Some((facts::on_link_device(&tables, ip)?.link.index, ip)))
                .filter(|key| {
                    tables
                        .neighbours
                        .get(key)
                        .is_none_or(|entry| !entry.managed && entry.resolved().is_none())
                })
                .collect()
        };
        let mut outcome = Ok(());
        for key in unknown {
            outcome = outcome.and(neighbours::use_once(&self.requests.handle, key).await);
        }
        outcome
    }

    /// Has the kernel ask anew for the neighbour that a silent target is reached by: it may have another MAC address.
    /// Only those that are kept resolved for us; nothing where there is no such neighbour.
    ///
    /// # Errors
    /// The kernel refuses (CAP_NET_ADMIN), or cannot be asked.
    pub async fn renew(&self, target: IpAddr) -> Result<(), NetworkError> {
        let key = {
            let tables = self.mirror.lock();
            facts::neighbour_of(&tables, target).filter(|key| {
                tables.neighbours.get(key).is_some_and(|entry| entry.managed && entry.resolved().is_some())
            })
        };
        match key {
            Some(key) => neighbours::renew(&self.requests.handle, key).await,
            None => Ok(()),
        }
    }

    /// Where the traffic of these addresses (VIPs and backends) passes: for `kernel.interfaces = "auto"`.
    pub fn interfaces_for(&self, ips: &BTreeSet<IpAddr>) -> Vec<ChosenInterface> {
        facts::interfaces_for(&self.mirror.lock(), ips)
    }

    /// Tells a link that an address is there now.
    ///
    /// # Errors
    /// There is no right to (CAP_NET_RAW), or the link is down.
    pub fn announce(&self, ip: IpAddr, link: OnLink) -> Result<(), NetworkError> {
        announcement::announce(ip, link)
            .map_err(|error| NetworkError::new(format!("announcing {ip} on interface {}", link.index), error))
    }

    /// Stops the task, then deletes every neighbour entry that carries our mark, whoever made it; says how
    /// many there were. For `run --detach`.
    ///
    /// # Errors
    /// The kernel refuses (CAP_NET_ADMIN), or cannot be asked.
    pub async fn release(self) -> Result<usize, NetworkError> {
        self.task.abort();
        // Cancelled is what it should be: from here on nobody makes neighbours again.
        let _ = self.task.await;
        neighbours::release().await
    }
}
