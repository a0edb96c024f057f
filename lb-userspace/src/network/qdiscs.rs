//! The clsact qdiscs that the tc plane needs on kernels without tcx (before 6.6), and the filters in them.

use std::io;

use futures_util::TryStreamExt;
use rtnetlink::packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{TcHandle, TcHeader, TcMessage};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};

use super::NetworkError;
use super::socket::Requests;

/// Where clsact hangs (linux/pkt_sched.h, `TC_H_CLSACT`).
const CLSACT: TcHandle = TcHandle { major: 0xffff, minor: 0xfff1 };

/// Whether an interface has a filter of this priority and handle at its ingress; without a qdisc it has none. Needs no
/// runtime, and waits for nothing but the kernel's answer.
///
/// # Errors
/// The kernel cannot be asked.
pub fn has_filter(interface: u32, priority: u16, handle: u32) -> Result<bool, NetworkError> {
    let headers = filters(interface).map_err(|error| {
        NetworkError::new(format!("reading the tc filters of interface {interface}"), error)
    })?;
    // The lower half of `info` is the protocol (`tcm_info` of linux/rtnetlink.h).
    let is_it =
        |header: &TcHeader| header.info >> 16 == u32::from(priority) && u32::from(header.handle) == handle;
    Ok(headers.iter().any(is_it))
}

fn filters(interface: u32) -> io::Result<Vec<TcHeader>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut wanted = TcMessage::default();
    wanted.header.index = i32::try_from(interface).map_err(io::Error::other)?;
    wanted.header.parent = TcHandle { major: CLSACT.major, minor: TcHandle::MIN_INGRESS };
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetTrafficFilter(wanted));
    request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;

    let mut found = Vec::new();
    loop {
        let (answer, _) = socket.recv_from_full()?;
        let mut rest = answer.as_slice();
        while !rest.is_empty() {
            let message: NetlinkMessage<RouteNetlinkMessage> =
                NetlinkMessage::deserialize(rest).map_err(io::Error::other)?;
            match message.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewTrafficFilter(filter)) => {
                    found.push(filter.header);
                }
                NetlinkPayload::Done(_) => return Ok(found),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
            rest = rest.get((message.header.length as usize).next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// Takes the clsact qdisc off interfaces where nobody has a filter in it any more, and says off which.
///
/// # Errors
/// The kernel refuses (CAP_NET_ADMIN), or cannot be asked.
pub async fn release(interfaces: &[u32]) -> Result<Vec<u32>, NetworkError> {
    let requests = Requests::open()?;
    let mut released = Vec::new();
    for interface in interfaces {
        let Ok(index) = i32::try_from(*interface) else { continue };
        let failed = |doing: &str, error: &rtnetlink::Error| {
            NetworkError::netlink(format!("{doing} the clsact qdisc of interface {interface}"), error)
        };
        let filters = requests.handle.traffic_filter(index);
        let dumps = [filters.clone().get().ingress(), filters.clone().get().egress()];
        let mut found: Vec<TcMessage> = Vec::new();
        for dump in dumps {
            found.extend(
                dump.execute().try_collect::<Vec<_>>().await.map_err(|error| failed("reading", &error))?,
            );
        }
        if found.is_empty() {
            let mut request = requests.handle.qdisc().del(index);
            request.message_mut().header.parent = CLSACT;
            request.execute().await.map_err(|error| failed("removing", &error))?;
            released.push(*interface);
        }
    }
    Ok(released)
}
