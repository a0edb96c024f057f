//! Capacities of the kernel maps.

/// Services (listen addresses) and VIP markers together.
pub const SERVICES: u32 = 16 * 1024;
/// Buckets of the services' index: a quarter of its words at most is taken.
pub const SERVICE_BUCKETS: u32 = SERVICES / 2;
/// Buckets of the endpoints' index, likewise. Of one size for every number of backends: programs know it.
pub const ENDPOINT_BUCKETS: u32 = MAX_BACKENDS / 2;
/// Entries beyond the capacity of a table with buckets: room for new values beside the old ones.
pub const SPARE_ENTRIES: u32 = 1024;
/// Backends where the config is silent (`kernel.backends`).
pub const BACKENDS: u32 = 32 * 1024;
/// The most that it may ask for.
pub const MAX_BACKENDS: u32 = 128 * 1024;

/// Entries of the maps by backend index that have room for `backends`, over all pools and generations in use. Index 0
/// is no backend's.
pub const fn backend_entries(backends: u32) -> u32 {
    backends + 1
}

/// Maglev tables: one a pool, address family and protocol in use.
pub const TABLES: u32 = 8192;
/// Slots of the largest table that `table_size` may ask for: a prime.
pub const MAX_TABLE_SIZE: u32 = 655_373;
/// Addresses of the host itself.
pub const LOCAL_ADDRESSES: u32 = 4096;
/// Routes and neighbours mirrored for replies; beyond, the kernel's FIB is asked.
pub const ROUTES: u32 = 64 * 1024;
/// Addresses of the host, neighbours, and routes to one address.
pub const HOSTS: u32 = LOCAL_ADDRESSES + ROUTES;
/// Buckets of their index.
pub const HOST_BUCKETS: u32 = ROUTES / 2;
/// Versions of the two families' lists of routes.
pub const LISTS: u32 = 64;
/// Buckets of their index.
pub const LIST_BUCKETS: u32 = 2;
/// Neighbours that the data path waits for.
pub const WANTED: u32 = 1024;
/// Hosts on a link that have asked the data path for a VIP; beyond, the oldest is forgotten.
pub const ASKERS: u32 = 4096;
/// VIPs that the data path speaks for on a link.
pub const STATIONS: u32 = SERVICES;
/// Addresses that sockets of this host were led to; the least recently used are forgotten beyond.
pub const PEERS: u32 = 64 * 1024;
/// Half-open flows; tracked flows are configured (`kernel.flows`).
pub const HALF_OPEN: u32 = 256 * 1024;
/// Tracked flows where the config is silent.
pub const FLOWS: u32 = 1_000_000;
