//! Two services of one pool.

use lb_common::SocketKey;
use lb_common::address::TCP;

use super::harness::{A, B, C, WEB, World, address};

fn key(socket: &str) -> SocketKey {
    SocketKey::new(address(socket), TCP)
}

fn service(name: &str, listen: &str) -> String {
    format!("[[service]]\nname = \"{name}\"\nlisten = \"{listen}\"\npool = \"web\"\n\n")
}

/// A file with the services of this text.
fn with_services(services: &str) -> String {
    let (head, rest) = WEB.split_once("[[service]]").unwrap();
    let (_, pool) = rest.split_once("[[pool]]").unwrap();
    format!("{head}{services}[[pool]]{pool}")
}

/// The VIP whose flows need no exact entry, the same for every backend.
fn plain(world: &World) -> SocketKey {
    let state = world.kernel.state();
    let vip = state.endpoints[&key(A)].vip;
    for backend in [A, B, C] {
        let endpoint = &state.endpoints[&key(backend)];
        assert_eq!(endpoint.vip, vip);
        assert_eq!(endpoint.service, state.services[&vip]);
        assert_eq!(state.backends[&endpoint.backend.index()].plain, endpoint.service.id);
    }
    vip
}

async fn reload(world: &World, services: &str) {
    world.set_config(&with_services(services));
    world.handle.reload().await.unwrap();
    world.done().await;
}

#[tokio::test(start_paused = true)]
async fn they_share_a_table_and_the_first_stays_the_one_without_exact_entries() {
    let (web, api) = (service("web", "192.0.2.10:80"), service("api", "192.0.2.11:80"));
    let world = World::start(&with_services(&format!("{web}{api}"))).await;
    let state = world.kernel.state();
    assert_eq!((state.tables.len(), state.backends.len(), state.endpoints.len()), (1, 3, 3));
    let [first, second] = ["192.0.2.10:80", "192.0.2.11:80"].map(|listen| state.services[&key(listen)]);
    assert_eq!(first.table, second.table);
    assert_ne!(first.id, second.id);
    assert_eq!(plain(&world), key("192.0.2.10:80"));

    reload(&world, &format!("{api}{web}")).await;
    assert_eq!(plain(&world), key("192.0.2.10:80"), "its flows have no entries");
    reload(&world, &api).await;
    assert_eq!(plain(&world), key("192.0.2.11:80"));
    assert_eq!(world.kernel.state().services[&key("192.0.2.11:80")].id, second.id);
    reload(&world, &format!("{web}{api}")).await;
    assert_eq!(plain(&world), key("192.0.2.11:80"));
}

#[tokio::test(start_paused = true)]
async fn one_service_may_have_two_addresses() {
    let both = service("web", "192.0.2.10:80")
        .replace("\"192.0.2.10:80\"", "[\"192.0.2.10:80\", \"192.0.2.11:80\"]");
    let world = World::start(&with_services(&both)).await;
    assert_eq!(plain(&world), key("192.0.2.10:80"));
    assert_eq!(world.kernel.state().services.len(), 4);
}
