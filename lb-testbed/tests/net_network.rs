//! The mirror of the kernel's network tables against real namespaces.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use lb_testbed::eventually::eventually;
use lb_testbed::namespace::Namespace;
use lb_userspace::network::addresses::{self, PutAddress};
use lb_userspace::network::{Facts, Network, neighbours};
use tokio::sync::watch;

const DEADLINE: Duration = Duration::from_secs(10);

/// The balancer and a peer on one link: 10.9.0.1 and .2, fd09::1 and ::2. The default gateway is silent.
struct Bed {
    lb: Namespace,
    peer: Namespace,
}

impl Bed {
    fn new() -> anyhow::Result<Self> {
        let bed = Self { lb: Namespace::new("lb")?, peer: Namespace::new("peer")? };
        bed.lb.ip(&format!("link add wire type veth peer name wire netns {}", bed.peer.name()))?;
        for (namespace, last) in [(&bed.lb, 1), (&bed.peer, 2)] {
            namespace.ip(&format!("link set wire address 02:00:00:00:00:0{last} up"))?;
            namespace.ip(&format!("address add 10.9.0.{last}/24 dev wire"))?;
            namespace.ip(&format!("address add fd09::{last}/64 dev wire"))?;
        }
        bed.lb.ip("route add default via 10.9.0.254")?;
        Ok(bed)
    }

    /// Runs a scenario within the balancer's namespace.
    fn run(&self, scenario: impl AsyncFnOnce() -> anyhow::Result<()> + Send) -> anyhow::Result<()> {
        self.lb.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(scenario())
        })?
    }
}

#[expect(clippy::unwrap_used, reason = "literals of this file")]
fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn targets(texts: &[&str]) -> BTreeSet<IpAddr> {
    texts.iter().map(|text| ip(text)).collect()
}

/// A MAC address 02:00:00:00:00:xx as [`lb_common::NextHop`] holds it.
fn mac(last: u8) -> lb_common::Mac {
    [u16::from_ne_bytes([2, 0]), 0, u16::from_ne_bytes([0, last])]
}

async fn until(
    what: &str,
    facts: &mut watch::Receiver<Facts>,
    condition: impl FnMut(&Facts) -> bool,
) -> anyhow::Result<Facts> {
    let seen = match tokio::time::timeout(DEADLINE, facts.wait_for(condition)).await {
        Ok(seen) => Some(seen.context("the mirror has stopped")?.clone()),
        Err(_) => None,
    };
    seen.with_context(|| format!("{what}: not within {DEADLINE:?}; facts are {:#?}", facts.borrow()))
}

#[test]
fn next_hops_follow_the_neighbours() -> anyhow::Result<()> {
    let bed = Bed::new()?;
    bed.lb.ip("neigh add 10.9.0.8 lladdr 02:00:00:00:00:08 nud permanent dev wire")?;
    bed.run(async || {
        let (wanted, receiver) = watch::channel(targets(&["10.9.0.2", "fd09::2", "10.9.0.3", "10.9.0.8"]));
        let (mut facts, _network) = Network::start(receiver, nothing()).await?;
        let seen = until("neighbours are resolved", &mut facts, |facts| {
            facts.hops.len() == 3 && facts.unreachable.values().any(|why| why.contains("does not answer"))
        })
        .await?;
        for (target, last) in [("10.9.0.2", 2), ("fd09::2", 2), ("10.9.0.8", 8)] {
            let hop = seen.hops[&ip(target)];
            ensure!(hop.destination == mac(last) && hop.source == mac(1), "{target}: {hop:?}");
            ensure!(seen.links[&hop.ifindex].name == "wire" && seen.links[&hop.ifindex].is_virtual);
        }
        ensure!(seen.local.contains(&ip("10.9.0.1")) && seen.local.contains(&ip("::1")));
        let shown = bed.lb.ip("neigh show 10.9.0.8")?;
        ensure!(shown.contains("PERMANENT") && !shown.contains("managed"), "{shown}");
        ensure!(bed.lb.ip("neigh show 10.9.0.2")?.contains("managed"));

        // The peer comes back with another network card.
        bed.peer.ip("link set wire down")?;
        until("the link is down", &mut facts, |facts| !facts.hops.contains_key(&ip("10.9.0.2"))).await?;
        bed.peer.ip("link set wire address 02:00:00:00:00:22 up")?;
        bed.peer.ip("address replace fd09::2/64 dev wire")?;
        until("the new MAC address is known", &mut facts, |facts| {
            ["10.9.0.2", "fd09::2"]
                .iter()
                .all(|target| facts.hops.get(&ip(target)).is_some_and(|hop| hop.destination == mac(0x22)))
        })
        .await?;

        // A backend that is no longer wanted is no longer kept resolved.
        wanted.send_replace(targets(&["10.9.0.2"]));
        eventually_async("fd09::2 is given up", async || {
            Ok(!bed.lb.ip("-6 neigh show fd09::2")?.contains("managed"))
        })
        .await?;
        Ok(())
    })
}

/// As [`eventually`], for scenarios that must let their own tasks run between two looks.
async fn eventually_async(
    what: &str,
    mut look: impl AsyncFnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let poll = async {
        let mut interval = tokio::time::interval(Duration::from_millis(10));
        while !look().await? {
            interval.tick().await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(DEADLINE, poll).await.with_context(|| format!("{what}: not within {DEADLINE:?}"))?
}

#[test]
fn changes_of_the_interface_are_seen() -> anyhow::Result<()> {
    let bed = Bed::new()?;
    bed.run(async || {
        let (_wanted, receiver) = watch::channel(targets(&["10.9.0.2"]));
        let (mut facts, network) = Network::start(receiver, nothing()).await?;
        let reached = |facts: &Facts| facts.hops.contains_key(&ip("10.9.0.2"));
        let first = until("resolved", &mut facts, reached).await?.hops[&ip("10.9.0.2")].ifindex;

        bed.lb.ip("link set wire mtu 1400")?;
        until("MTU", &mut facts, |facts| facts.links[&first].mtu == 1400).await?;
        bed.lb.ip("link set wire name cable")?;
        until("name", &mut facts, |facts| facts.links[&first].name == "cable").await?;
        bed.lb.ip("link set cable address 02:00:00:00:00:11")?;
        until("own MAC", &mut facts, |facts| {
            facts.hops.get(&ip("10.9.0.2")).is_some_and(|hop| hop.source == mac(0x11))
        })
        .await?;
        let chosen = network.interfaces_for(&targets(&["10.9.0.2"]));
        ensure!(chosen.len() == 1 && chosen[0].name == "cable", "{chosen:?}");

        bed.lb.ip("link delete cable")?;
        let gone = until("gone", &mut facts, |facts| !facts.links.contains_key(&first)).await?;
        ensure!(gone.unreachable[&ip("10.9.0.2")].contains("no route"), "{:?}", gone.unreachable);
        ensure!(gone.routes.is_empty(), "{:?}", gone.routes);

        bed.lb.ip(&format!("link add wire type veth peer name wire netns {}", bed.peer.name()))?;
        bed.peer.ip("address add 10.9.0.2/24 dev wire")?;
        bed.peer.ip("link set wire up")?;
        bed.lb.ip("address add 10.9.0.1/24 dev wire")?;
        bed.lb.ip("link set wire up")?;
        let again = until("made again", &mut facts, reached).await?;
        ensure!(again.hops[&ip("10.9.0.2")].ifindex != first);
        Ok(())
    })
}

#[test]
fn replies_know_gateways_and_neighbours() -> anyhow::Result<()> {
    let bed = Bed::new()?;
    bed.peer.ip("address add 10.9.0.254/24 dev wire")?;
    bed.run(async || {
        let (_wanted, receiver) = watch::channel(BTreeSet::new());
        let (mut facts, network) = Network::start(receiver, nothing()).await?;
        let entry = |facts: &Facts, address: &str, length| {
            facts
                .routes
                .iter()
                .find(|(prefix, _)| prefix.address == ip(address) && prefix.length == length)
                .map(|(_, hop)| *hop)
        };
        until("the default gateway is resolved unasked", &mut facts, |facts| {
            entry(facts, "0.0.0.0", 0).is_some_and(|hop| hop.destination == mac(2))
        })
        .await?;
        ensure!(entry(&facts.borrow(), "10.9.0.0", 24) == Some(Default::default()));
        ensure!(entry(&facts.borrow(), "10.9.0.2", 32).is_none());
        let wire = facts.borrow().links.values().find(|link| link.name == "wire").map(|link| link.index);
        let wire = wire.context("no wire")?;
        network.resolve(vec![(ip("10.9.0.2"), wire), (ip("fd09::2"), wire)]).await?;
        until("a wanted client is resolved", &mut facts, |facts| {
            entry(facts, "10.9.0.2", 32).is_some_and(|hop| hop.destination == mac(2))
                && entry(facts, "fd09::2", 128).is_some_and(|hop| hop.destination == mac(2))
        })
        .await?;

        bed.lb.ip("route add blackhole 198.51.100.0/24")?;
        until("a new route", &mut facts, |facts| {
            entry(facts, "198.51.100.0", 24) == Some(Default::default())
        })
        .await?;
        bed.lb.ip("link set wire down")?;
        until("the kernel dropped the routes without a word", &mut facts, |facts| {
            entry(facts, "0.0.0.0", 0).is_none()
        })
        .await?;
        Ok(())
    })
}

#[test]
fn a_successor_takes_away_what_a_killed_daemon_left() -> anyhow::Result<()> {
    let bed = Bed::new()?;
    bed.lb.ip("address add 10.9.0.50/32 dev lo")?;
    bed.run(async || {
        let (_wanted, receiver) = watch::channel(targets(&["10.9.0.2"]));
        let (mut facts, network) = Network::start(receiver, nothing()).await?;
        until("resolved", &mut facts, |facts| facts.hops.contains_key(&ip("10.9.0.2"))).await?;
        for vip in ["10.9.0.77", "203.0.113.9", "fd09::77", "fd77::9"] {
            network.put_address(ip(vip)).await?;
        }
        ensure!(network.put_address(ip("10.9.0.50")).await? == PutAddress::WasThere("lo".to_owned()));
        // As after kill -9: whatever was made stays.
        drop(network);
        ensure!(bed.lb.ip("neigh show 10.9.0.2")?.contains("managed"));

        let (_wanted, receiver) = watch::channel(targets(&["10.9.0.2"]));
        let (_facts, successor) = Network::start(receiver, nothing()).await?;
        ensure!(successor.put_address(ip("10.9.0.77")).await? == PutAddress::Ours("wire".to_owned()));
        ensure!(successor.release().await? > 0);
        ensure!(!bed.lb.ip("neigh show nud all")?.contains("managed"));
        ensure!(neighbours::release().await? == 0);

        let released: BTreeSet<_> = addresses::release().await?.into_iter().collect();
        ensure!(released == targets(&["10.9.0.77", "203.0.113.9", "fd09::77", "fd77::9"]), "{released:?}");
        let left = bed.lb.ip("address show")?;
        let ours = ["10.9.0.77/", "203.0.113.9/", "fd09::77/", "fd77::9/"];
        ensure!(left.contains("10.9.0.50/") && !ours.iter().any(|ip| left.contains(ip)), "{left}");
        Ok(())
    })
}

#[test]
fn a_vip_is_put_where_its_subnet_is_and_announced() -> anyhow::Result<()> {
    let bed = Bed::new()?;
    // The peer believes that someone else has them.
    bed.peer.ip("neigh add 10.9.0.77 lladdr 02:00:00:00:00:99 nud stale dev wire")?;
    bed.peer.ip("neigh add fd09::77 lladdr 02:00:00:00:00:99 nud stale dev wire")?;
    bed.run(async || {
        let (_wanted, receiver) = watch::channel(BTreeSet::new());
        let (mut facts, network) = Network::start(receiver, nothing()).await?;
        for (vip, interface) in
            [("10.9.0.77", "wire"), ("fd09::77", "wire"), ("203.0.113.9", "lo"), ("fd77::9", "lo")]
        {
            let put = network.put_address(ip(vip)).await?;
            ensure!(put == PutAddress::Ours(interface.to_owned()), "{vip}: {put:?}");
            ensure!(network.put_address(ip(vip)).await? == put, "{vip} is known for ours at once");
            // Usable at once.
            std::net::TcpListener::bind((ip(vip), 80)).with_context(|| format!("binding {vip}"))?;
        }
        for vip in ["10.9.0.77", "fd09::77"] {
            eventually(&format!("the peer learns {vip}"), DEADLINE, || {
                let shown = bed.peer.ip(&format!("neigh show {vip}"))?;
                Ok(shown.contains("02:00:00:00:00:01").then_some(()))
            })?;
        }
        until("it is local", &mut facts, |facts| facts.local.contains(&ip("10.9.0.77"))).await?;
        network.take_address(ip("10.9.0.77")).await?;
        until("it is taken off", &mut facts, |facts| !facts.local.contains(&ip("10.9.0.77"))).await?;
        Ok(())
    })
}

/// No VIPs.
fn nothing() -> watch::Receiver<BTreeSet<IpAddr>> {
    watch::channel(BTreeSet::new()).1
}
