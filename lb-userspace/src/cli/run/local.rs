//! Whether sockets of this host that name a VIP are led to backends.

use crate::kernel::{LocalError, Programs};
use crate::model::status::LocalTraffic;

/// Does what `kernel.local` asks for. Where that is not possible the daemon goes on without, and says why.
pub(super) fn follow(programs: &mut Programs, is_wanted: bool) -> LocalTraffic {
    let outcome = if is_wanted {
        programs.attach_local().map(Some)
    } else {
        programs.detach_local().map(|()| None).map_err(LocalError::from)
    };
    match outcome {
        Ok(Some(cgroup)) => {
            tracing::info!(cgroup = %cgroup.display(), "clients on this host are led to backends");
            let reason = "sockets of this network namespace, of processes in this cgroup and below".into();
            LocalTraffic { cgroup: Some(cgroup), reason }
        }
        Ok(None) => LocalTraffic { cgroup: None, reason: "kernel.local = \"off\"".into() },
        Err(error) => {
            tracing::warn!("clients on this host do not reach VIPs of kernel planes: {error}");
            LocalTraffic { cgroup: None, reason: error.to_string() }
        }
    }
}
