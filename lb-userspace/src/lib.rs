//! Sluice's userspace: the controller, the splice proxy, the API and the command line.
//!
//! Layers, arrows never point back:
//! `model <- config, network, health, maglev, state <- controller <- data plane implementations (kernel, proxy)
//! <- admin, supervisor <- cli`. The vocabulary that controller and planes share is in [`data_plane`].

pub mod admin;
pub mod cli;
pub mod config;
pub mod controller;
pub mod data_plane;
pub mod health;
pub mod kernel;
pub mod maglev;
pub mod model;
pub mod network;
pub mod proxy;
pub mod state;
pub mod supervisor;
pub mod telemetry;
