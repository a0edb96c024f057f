//! Many services: one change touches one table, and nothing at all is written for those that it is not about.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lb_common::SocketKey;
use lb_common::address::TCP;
use lb_userspace::controller::request::BackendChange;
use lb_userspace::data_plane::kernel::KernelAction;

use super::harness::{World, hop};

const SERVICES: u8 = 100;
const BACKENDS: u8 = 20;

fn backend(service: u8, number: u8) -> SocketAddr {
    SocketAddr::from(([10, 1, service, number], 80))
}

fn vip(service: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, service], 80))
}

/// A config with this weight of the first backend of the first service.
fn config(first: u16) -> String {
    let mut config = "[daemon]\ndrain_spread = \"0s\"\n".to_owned();
    for service in 0..SERVICES {
        let vip = vip(service);
        let _ = write!(
            config,
            "[[service]]\nname = \"s{service}\"\nlisten = \"{vip}\"\npool = \"s{service}\"\n\
             [[pool]]\nname = \"s{service}\"\ntable_size = 251\nhealth = {{ check = \"tcp\" }}\n"
        );
        for number in 0..BACKENDS {
            let (address, first) = (backend(service, number), (service, number) == (0, 0) && first != 100);
            let weight = if first { "weight = 50\n" } else { "" };
            let _ = write!(config, "[[pool.backend]]\naddress = \"{address}\"\n{weight}");
        }
    }
    config
}

async fn many() -> World {
    let world = World::start(&config(100)).await;
    let all = (0..SERVICES).flat_map(|service| (0..BACKENDS).map(move |number| backend(service, number)));
    let hops: Vec<(IpAddr, _)> = all.map(|backend| (backend.ip(), hop(2))).collect();
    world.facts.send_modify(|facts| facts.hops.extend(hops));
    world.pass(Duration::from_secs(1)).await;
    world.done().await;
    world.kernel.take_actions();
    world
}

/// The table that a service's packets go by.
fn table(world: &World, service: u8) -> u32 {
    world.kernel.state().services[&SocketKey::new(vip(service), TCP)].table
}

/// Whether exactly one table was swapped, that of a service, and nothing else was written.
fn is_one_swap(actions: &[KernelAction], expected: u32) -> bool {
    matches!(actions, [KernelAction::SwapTable { table, .. }] if *table == expected)
}

#[tokio::test(start_paused = true)]
async fn one_change_touches_one_table() {
    let world = many().await;
    for (change, service) in
        [(BackendChange::Weight { weight: 50 }, 7), (BackendChange::Drain, 8), (BackendChange::Undrain, 8)]
    {
        let (pool, address) = (format!("s{service}"), backend(service, 3));
        world.handle.backend(pool, address, change).await.unwrap();
        let actions = world.kernel.take_actions();
        assert!(is_one_swap(&actions, table(&world, service)), "{change:?}: {actions:?}");
    }
    world.observe("s9", backend(9, 0), false).await;
    world.done().await;
    let actions = world.kernel.take_actions();
    assert!(is_one_swap(&actions, table(&world, 9)), "a failure: {actions:?}");

    world.set_config(&config(50));
    world.handle.reload().await.unwrap();
    let actions = world.kernel.take_actions();
    assert!(is_one_swap(&actions, table(&world, 0)), "a reload: {actions:?}");
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_leaves_at_once_takes_its_own_entries_along_and_no_others() {
    let world = many().await;
    let (gone, id) = (backend(5, 5), world.id(&backend(5, 5).to_string()));
    world.handle.backend("s5".into(), gone, BackendChange::Remove { now: true }).await.unwrap();
    let expected = table(&world, 5);
    for action in world.kernel.take_actions() {
        let is_its_own = match &action {
            KernelAction::SwapTable { table, .. } => *table == expected,
            KernelAction::RemoveEndpoint { key } => key.socket() == gone,
            KernelAction::PutBackend { index, .. } => *index == id.index(),
            _ => false,
        };
        assert!(is_its_own, "{action:?}");
    }
    assert_eq!(world.kernel.id_of(gone), None);
}

#[tokio::test(start_paused = true)]
async fn what_changes_nothing_writes_nothing() {
    let world = many().await;
    world.handle.reload().await.unwrap();
    world.facts.send_modify(|facts| {
        facts.local.insert([172, 16, 0, 2].into());
    });
    // Beyond an audit.
    world.pass(Duration::from_secs(35)).await;
    world.done().await;
    let actions = world.kernel.take_actions();
    assert!(matches!(actions.as_slice(), [KernelAction::PutLocal { .. }]), "{actions:?}");
}
