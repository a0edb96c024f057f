//! What the controller knows of the host's network, from netlink.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use lb_common::NextHop;

use crate::data_plane::kernel::Prefix;

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
    /// Next hops for replies: gateway routes whose neighbour is resolved, and resolved on-link neighbours as
    /// host prefixes.
    pub routes: BTreeMap<Prefix, NextHop>,
    /// Next hop of every target; absent while its neighbour is not resolved.
    pub hops: BTreeMap<IpAddr, NextHop>,
    /// Targets that have no next hop, each with the reason.
    pub unreachable: BTreeMap<IpAddr, String>,
}
