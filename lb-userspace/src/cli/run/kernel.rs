//! Whether there are kernel planes, and with what they begin.

use crate::config::{Config, PlaneChoice};
use crate::kernel::{self, KernelError, KernelPlane, Settings, Unavailable, object};

use super::Failure;
use crate::cli::cleanup;

/// Opens the kernel planes; the inner error is why this host has none, for people to read.
///
/// # Errors
/// A forced plane cannot be had, or what an earlier daemon pinned does not fit.
pub(super) fn open(config: &Config) -> Result<Result<KernelPlane, String>, Failure> {
    let choice = config.kernel.strictest();
    let forced = matches!(choice, PlaneChoice::Force(_));
    let object = match kernel::available(choice, object::object()) {
        Ok(object) => object,
        Err(Unavailable::Off) => {
            clear(config);
            return Ok(Err(Unavailable::Off.to_string()));
        }
        Err(unavailable) if forced => return Err(KernelError::from(unavailable).into()),
        Err(unavailable) => {
            tracing::info!("no kernel plane: {unavailable}");
            return Ok(Err(unavailable.to_string()));
        }
    };
    match KernelPlane::open(&Settings::of(config, object)) {
        Ok((plane, adopted)) => {
            if !adopted.links.is_empty() {
                tracing::info!(links = adopted.links.len(), "programs of an earlier daemon are attached");
            }
            Ok(Ok(plane))
        }
        // A container may be allowed to load programs but not to mount.
        Err(error @ KernelError::NotBpffs { .. }) if !forced => {
            tracing::warn!("no kernel plane: {error}");
            Ok(Err(error.to_string()))
        }
        Err(error) => Err(error.into()),
    }
}

/// Programs of an earlier daemon would go on taking the packets of services that are proxied now.
fn clear(config: &Config) {
    match kernel::cleanup(&config.daemon.bpf_dir) {
        Ok(report) => {
            for line in cleanup::words(&report).lines() {
                tracing::info!("left by an earlier daemon: {line}");
            }
        }
        Err(error) => tracing::warn!("what an earlier daemon left in the kernel stays: {error}"),
    }
}
