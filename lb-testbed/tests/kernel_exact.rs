//! Exact entries in the real maps: made by the programs, swept by the controller, looked for only where there are any.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use lb_common::{Counter, ExactKey, Port, SocketKey};
use lb_testbed::loaded::{Hook, Loaded};
use lb_testbed::segment::{ACK, SYN, Tcp};
use lb_testbed::world::{ESTABLISHED, HALF_OPEN, Web, World};

#[test]
fn direct_flows_are_remembered_and_forgotten_on_xdp() -> Result<()> {
    direct_flows_are_remembered_and_forgotten(Hook::Xdp)
}

#[test]
fn direct_flows_are_remembered_and_forgotten_on_tc() -> Result<()> {
    direct_flows_are_remembered_and_forgotten(Hook::Tc)
}

fn direct_flows_are_remembered_and_forgotten(hook: Hook) -> Result<()> {
    let mut loaded = Loaded::new()?;
    let now = loaded.now();
    loaded.become_world(&World::new(), now)?;
    let web = Web::V4;
    let id = web.backends()[0];
    let endpoint = web.endpoint(id);
    let key = |client: SocketAddr| ExactKey {
        endpoint: SocketKey::new(endpoint, web.protocol()),
        client: client.ip().into(),
        port: Port::new(client.port()),
        padding: 0,
    };
    ensure!(loaded.sweep_exact(now)? == 0 && !loaded.has_exact_hint(id)?);
    let clients: Vec<_> = (0..20).map(|port| SocketAddr::from(([203, 0, 113, 9], 50_000 + port))).collect();
    for client in &clients {
        let syn = Tcp::new(*client, endpoint, SYN).numbers(7000, 0);
        ensure!(loaded.run(hook, &syn.frame())?.verdict == Some(Counter::Passed));
        let syn_ack = Tcp::new(endpoint, *client, SYN | ACK).numbers(9000, 7001);
        ensure!(loaded.run(hook, &syn_ack.frame())?.verdict == Some(Counter::Passed), "{client}");
        let data = Tcp::new(endpoint, *client, ACK).numbers(9001, 7001);
        ensure!(loaded.run(hook, &data.frame())?.verdict == Some(Counter::Passed), "{client}");
    }
    ensure!(loaded.has_exact_hint(id)?);
    let now = loaded.now();
    ensure!(
        loaded.sweep_exact(now.wrapping_add(2 * HALF_OPEN))? == 20,
        "confirmed flows outlive the handshake"
    );
    ensure!(loaded.has_exact_hint(id)?);
    ensure!(loaded.sweep_exact(now.wrapping_add(2 * ESTABLISHED))? == 0);
    ensure!(!loaded.has_exact_hint(id)? && loaded.exact(&key(clients[0])).is_none());
    Ok(())
}
