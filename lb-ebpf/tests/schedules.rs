//! Schedules that break a careless flow table: every test ends with the flow whole on its host, that is, its
//! next packet reaches the host that holds the connection, and that host's reply is translated.
//!
//! Through NAT.

#[path = "schedules/all.rs"]
mod all;
#[path = "schedules/races.rs"]
mod races;

/// On the host.
type Bed = lb_testbed::schedule::Bed<lb_ebpf::host::Model>;
