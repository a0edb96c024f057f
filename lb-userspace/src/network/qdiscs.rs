//! The clsact qdiscs that the tc plane needs on kernels without tcx (before 6.6).

use futures_util::TryStreamExt;
use rtnetlink::packet_route::tc::{TcHandle, TcMessage};

use super::NetworkError;
use super::socket::Requests;

/// Where clsact hangs (linux/pkt_sched.h, `TC_H_CLSACT`).
const CLSACT: TcHandle = TcHandle { major: 0xffff, minor: 0xfff1 };

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
