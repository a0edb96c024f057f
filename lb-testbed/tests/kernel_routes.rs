//! Next hops of replies: the longest prefix wins, whichever of the maps it stands in.
#![expect(clippy::expect_used, reason = "constants that do not parse should stop the test")]

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use lb_common::route::LIST;
use lb_common::{Counter, NextHop};
use lb_testbed::loaded::{Hook, Loaded};
use lb_testbed::segment::{ACK, Tcp};
use lb_testbed::world::{GATEWAY, Web, World, mac};
use lb_userspace::data_plane::kernel::{KernelAction, Prefix};

fn prefix(text: &str, length: u8) -> Prefix {
    Prefix { address: text.parse().expect("an address"), length }
}

fn put(loaded: &mut Loaded, prefix: Prefix, number: u32) -> Result<()> {
    let hop =
        NextHop { destination: zerocopy::transmute!(mac(number)), source: [1; 3], ifindex: 1, mtu: 1500 };
    Ok(loaded.apply(&KernelAction::PutRoute { prefix, hop })?)
}

fn remove(loaded: &mut Loaded, prefix: Prefix) -> Result<()> {
    Ok(loaded.apply(&KernelAction::RemoveRoute { prefix })?)
}

/// Where a reply to a client goes: the number of the next hop's MAC address; `None`: it passes.
fn reply_to(loaded: &mut Loaded, client: &str) -> Result<Option<u32>> {
    let client = SocketAddr::new(client.parse::<IpAddr>()?, 40000);
    let web = if client.is_ipv4() { Web::V4 } else { Web::V6 };
    for backend in web.backends() {
        let frame = Tcp::new(web.endpoint(backend), client, ACK).frame();
        let ran = loaded.run(Hook::Xdp, &frame)?;
        if ran.verdict == Some(Counter::Replied) {
            let number = ran.frame.get(4..6).context("a MAC address")?;
            return Ok(Some(u32::from(u16::from_be_bytes([number[0], number[1]]))));
        }
        assert_eq!(ran.verdict, Some(Counter::Passed));
    }
    Ok(None)
}

#[test]
fn lists_and_trie_agree_before_and_after_there_are_too_many_routes() -> Result<()> {
    let mut loaded = Loaded::new()?;
    let now = loaded.now();
    loaded.become_world(&World::new(), now)?;
    let v4 = |n: usize| (prefix(&format!("100.64.{n}.0"), 24), format!("100.64.{n}.9"));
    let v6 = |n: usize| (prefix(&format!("2001:db8:{n}::"), 48), format!("2001:db8:{n}::9"));
    let count = LIST + 4;
    for n in 0..count {
        for (prefix, _) in [v4(n), v6(n)] {
            put(&mut loaded, prefix, n as u32 + 1)?;
        }
        // A shorter one that covers them all, in the middle of the others, changes nothing for them.
        if n == 3 {
            put(&mut loaded, prefix("100.64.0.0", 10), 900)?;
            put(&mut loaded, prefix("2001:db8::", 32), 900)?;
        }
        for known in 0..=n {
            assert_eq!(reply_to(&mut loaded, &v4(known).1)?, Some(known as u32 + 1), "{known} of {n}");
            assert_eq!(reply_to(&mut loaded, &v6(known).1)?, Some(known as u32 + 1), "{known} of {n}");
        }
        let other = if n < 3 { GATEWAY } else { 900 };
        assert_eq!(reply_to(&mut loaded, "100.64.200.9")?, Some(other));
        assert_eq!(reply_to(&mut loaded, "2001:db8:200::9")?, Some(other));
        assert_eq!(reply_to(&mut loaded, "203.0.113.9")?, Some(GATEWAY));
        assert_eq!(reply_to(&mut loaded, "2001:dead::9")?, Some(GATEWAY));
    }
    for n in 0..count {
        for (prefix, address) in [v4(n), v6(n)] {
            remove(&mut loaded, prefix)?;
            assert_eq!(reply_to(&mut loaded, &address)?, Some(900), "{address}");
        }
        for (_, address) in (n + 1..count).flat_map(|known| [v4(known), v6(known)]) {
            assert!(
                reply_to(&mut loaded, &address)?.is_some_and(|number| number <= count as u32),
                "{address}"
            );
        }
    }
    Ok(())
}

#[test]
fn one_address_may_be_a_neighbour_and_the_hosts_own() -> Result<()> {
    let mut loaded = Loaded::new()?;
    let now = loaded.now();
    loaded.become_world(&World::new(), now)?;
    for (text, length) in [("203.0.113.9", 32), ("2001:db8:7::9", 128)] {
        let (host, address) = (prefix(text, length), text.parse::<IpAddr>()?.into());
        assert_eq!(reply_to(&mut loaded, text)?, Some(GATEWAY));
        put(&mut loaded, host, 7)?;
        assert_eq!(reply_to(&mut loaded, text)?, Some(7));
        loaded.apply(&KernelAction::PutLocal { address })?;
        assert_eq!(reply_to(&mut loaded, text)?, None, "a packet to this host passes");
        put(&mut loaded, host, 8)?;
        assert_eq!(reply_to(&mut loaded, text)?, None);
        loaded.apply(&KernelAction::RemoveLocal { address })?;
        assert_eq!(reply_to(&mut loaded, text)?, Some(8));
        remove(&mut loaded, host)?;
        assert_eq!(reply_to(&mut loaded, text)?, Some(GATEWAY));
    }
    Ok(())
}
