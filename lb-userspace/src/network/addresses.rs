//! VIPs on interfaces of this host: put there, announced, recognised and taken off again.
//!
//! A VIP within a subnet of an interface goes on that interface, any other one on `lo` (a router sends it
//! here). It carries a mark (`IFA_PROTO`, Linux 5.18; before that an IPv4 label, and nothing for IPv6), so
//! that `sluice cleanup` finds it after `kill -9`. An address that the host has already is left alone.

use std::io;
use std::net::IpAddr;

use rtnetlink::packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressProtocol,
};

use super::announcement::announce;
use super::socket::Requests;
use super::tables::{Assigned, Device, OUR_LABEL, OURS, Tables};
use super::{Network, NetworkError, OnLink, facts};

/// The longest address label, without the closing zero (`IFNAMSIZ`, linux/if.h).
const LONGEST_LABEL: usize = 15;

/// Where a VIP is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PutAddress {
    /// The host had it on this interface, and not from us: it stays there when we go.
    WasThere(String),
    /// We put it on this interface, now or in an earlier life.
    Ours(String),
}

impl Network {
    /// Makes `ip` an address of this host, /32 or /128, usable at once (no duplicate address detection), and
    /// announces it to the link.
    ///
    /// # Errors
    /// The kernel refuses (CAP_NET_ADMIN). An announcement that fails is only logged: the address works.
    pub async fn put_address(&self, ip: IpAddr) -> Result<PutAddress, NetworkError> {
        let device = {
            let tables = self.mirror.lock();
            if let Some(there) = holder(&tables, ip) {
                return Ok(there);
            }
            place(&tables, ip)?
        };
        let name = device.link.name.clone();
        let mut request = self.requests.handle.address().add(device.link.index, ip, host_length(ip));
        mark(request.message_mut(), ip, &name);
        match request
            .execute()
            .await
            .map_err(|error| NetworkError::netlink(format!("adding address {ip} to {name}"), &error))
        {
            Ok(()) => {}
            // The mirror is some milliseconds behind.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let there = holder(&self.requests.dump().await?, ip);
                return Ok(there.unwrap_or(PutAddress::WasThere(name)));
            }
            Err(error) => return Err(error),
        }
        if let Some(mac) = device.mac
            && let Err(error) = announce(ip, OnLink { index: device.link.index, mac, mtu: device.link.mtu })
        {
            tracing::warn!(%ip, interface = name, %error, "the address could not be announced");
        }
        Ok(PutAddress::Ours(name))
    }

    /// Takes `ip` off where we put it, now or in an earlier life; leaves it where it was before us.
    ///
    /// # Errors
    /// The kernel refuses (CAP_NET_ADMIN).
    pub async fn take_address(&self, ip: IpAddr) -> Result<(), NetworkError> {
        let tables = self.requests.dump().await?;
        let ours = tables.holders(ip).filter(|(_, ours)| *ours);
        for (key, _) in ours {
            delete(&self.requests, key).await?;
        }
        Ok(())
    }
}

/// Takes every address off that carries our mark, and says which. Needs no memory of what a daemon did: for
/// `run --detach` and `sluice cleanup`.
///
/// # Errors
/// The kernel refuses (CAP_NET_ADMIN), or cannot be asked.
pub async fn release() -> Result<Vec<IpAddr>, NetworkError> {
    let requests = Requests::open()?;
    let tables = requests.dump().await?;
    let mut released = Vec::new();
    for (key, _) in tables.addresses.iter().filter(|(_, ours)| **ours) {
        delete(&requests, *key).await?;
        released.push(key.ip);
    }
    Ok(released)
}

/// Who put an address that the host has.
fn holder(tables: &Tables, ip: IpAddr) -> Option<PutAddress> {
    let (holder, ours) = tables.holders(ip).next()?;
    let name = tables.name(holder.interface);
    Some(if ours { PutAddress::Ours(name) } else { PutAddress::WasThere(name) })
}

/// The device that an address belongs on.
fn place(tables: &Tables, ip: IpAddr) -> Result<Device, NetworkError> {
    facts::on_link_device(tables, ip)
        .or_else(|| tables.devices.values().find(|device| device.link.is_loopback))
        .cloned()
        .ok_or_else(|| {
            let missing =
                io::Error::new(io::ErrorKind::NotFound, "no interface has its subnet, and there is no lo");
            NetworkError::new(format!("a place for address {ip}"), missing)
        })
}

fn host_length(ip: IpAddr) -> u8 {
    if ip.is_ipv6() { 128 } else { 32 }
}

fn mark(message: &mut AddressMessage, ip: IpAddr, interface: &str) {
    message.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(OURS)));
    if ip.is_ipv6() {
        message.header.flags |= AddressHeaderFlags::Nodad;
        return;
    }
    let label = format!("{interface}{OUR_LABEL}");
    if label.len() <= LONGEST_LABEL {
        message.attributes.push(AddressAttribute::Label(label));
    }
}

async fn delete(requests: &Requests, key: Assigned) -> Result<(), NetworkError> {
    let mut message = requests.handle.address().add(key.interface, key.ip, key.length);
    let deleted = requests.handle.address().del(message.message_mut().clone()).execute().await;
    match deleted.map_err(|error| {
        NetworkError::netlink(format!("deleting address {} from interface {}", key.ip, key.interface), &error)
    }) {
        // Someone else took it off.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::ENODEV)) => Ok(()),
        outcome => outcome,
    }
}
