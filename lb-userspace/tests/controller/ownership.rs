//! Who owns a VIP, and that the others are told.

use std::net::IpAddr;

use lb_common::{Mac, NextHop, Station};
use lb_userspace::model::Plane;
use lb_userspace::network::{Facts, Link, OnLink};

use crate::harness::{WEB, World, facts};

const MAC: Mac = [1, 2, 3];

const LINK: OnLink = OnLink { index: 2, mac: MAC, mtu: 1500 };

fn vip() -> IpAddr {
    "192.0.2.10".parse().unwrap()
}

/// The VIP is in the subnet of eth0.
fn on_link() -> Facts {
    let eth0 =
        Link { index: 2, name: "eth0".into(), up: true, mtu: 1500, is_virtual: false, is_loopback: false };
    Facts { links: [(2, eth0)].into(), on_link: [(vip(), LINK)].into(), ..facts() }
}

async fn owner(world: &World) -> String {
    let status = world.handle.status().await.unwrap();
    let of = status.services[0].vips.iter().find(|status| status.address == vip()).unwrap();
    assert!(!of.reason.is_empty());
    of.owner.clone()
}

fn station(index: u32) -> Station {
    Station { vip: vip().into(), ifindex: index }
}

#[tokio::test(start_paused = true)]
async fn on_its_link_the_kernel_planes_answer_for_a_vip() {
    let world = World::start(WEB).await;
    assert_eq!(owner(&world).await, "none");
    assert!(world.kernel.state().stations.is_empty());
    world.facts.send_replace(on_link());
    let hop = NextHop { source: MAC, ifindex: 2, mtu: 1500, ..NextHop::default() };
    let answers = || world.kernel.state().stations == [(station(2), hop)].into();
    world.eventually("answered for", answers).await;
    assert_eq!(owner(&world).await, "arp");
    assert_eq!(*world.found.borrow(), [(vip(), LINK)].into());
    assert!(world.vips.borrow().is_empty());

    // No program there, no answer there.
    world.planes.send_modify(|planes| planes[0].interface = "eth1".into());
    world.eventually("silent", || world.kernel.state().stations.is_empty()).await;
    assert!(world.found.borrow().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_the_host_has_already_stays_and_is_not_answered_for() {
    let world = World::start(WEB).await;
    let mut facts = on_link();
    facts.local.insert(vip());
    world.facts.send_replace(facts.clone());
    world.done().await;
    assert_eq!(owner(&world).await, "host");
    assert!(world.kernel.state().stations.is_empty() && world.vips.borrow().is_empty());

    // What a daemon of ours has put there is no reason to keep it.
    facts.ours.insert(vip());
    world.facts.send_replace(facts);
    world.eventually("answered for", || !world.kernel.state().stations.is_empty()).await;
    assert_eq!(owner(&world).await, "arp");
    assert!(world.vips.borrow().is_empty());
}

#[tokio::test(start_paused = true)]
async fn with_the_plane_the_owner_changes_and_the_vip_is_always_found() {
    let world = World::start(WEB).await;
    world.facts.send_replace(on_link());
    world.eventually("answered for", || !world.kernel.state().stations.is_empty()).await;
    world.proxy.fail(|_| true);
    world.planes.send_modify(|planes| planes[0].plane = None);
    world.eventually("wanted as an address", || world.vips.borrow().contains(&vip())).await;
    assert_eq!(world.kernel.state().stations.len(), 1, "the proxy does not listen yet");
    world.proxy.fail(|_| false);
    world.done().await;
    assert!(world.kernel.state().stations.is_empty());
    assert!(world.found.borrow().is_empty(), "the address is not there yet");
    let mut there = on_link();
    there.local.insert(vip());
    there.ours.insert(vip());
    world.facts.send_replace(there);
    world.eventually("told", || world.found.borrow().contains_key(&vip())).await;
    assert_eq!(owner(&world).await, "address");
    world.planes.send_modify(|planes| planes[0].plane = Some(Plane::Tc));
    world.eventually("answered for", || !world.kernel.state().stations.is_empty()).await;
    assert!(world.vips.borrow().is_empty());
}

#[tokio::test(start_paused = true)]
async fn none_is_none_wherever_the_vip_is() {
    let text = WEB.replace("pool = \"web\"", "pool = \"web\"\nannounce = \"none\"");
    let world = World::start(&text).await;
    world.facts.send_replace(on_link());
    world.done().await;
    assert_eq!(owner(&world).await, "none");
    assert!(world.kernel.state().stations.is_empty());
}
