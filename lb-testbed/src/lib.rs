//! Privileged tests of Sluice, and what they, the demo and the benchmark are built from: the packet table
//! and its worlds; network namespaces, hosts in them, clients that judge every byte, the real `sluice`.
#![expect(clippy::expect_used, reason = "a test that cannot be set up should stop")]

pub mod backend;
pub mod bed;
pub mod bpffs;
pub mod cases;
pub mod client;
pub mod conservation;
pub mod control;
pub mod crash;
pub mod datagrams;
pub mod eventually;
pub mod flood;
pub mod flow_map;
pub mod fuzzing;
pub mod icmp;
pub mod laboratory;
pub mod loaded;
pub mod machine;
pub mod median;
pub mod mutation;
pub mod namespace;
pub mod object;
pub mod pinned;
pub mod process;
pub mod record;
pub mod schedule;
pub mod segment;
pub mod siege;
pub mod snapshot;
pub mod takeover;
pub mod topology;
pub mod tracer;
pub mod world;
