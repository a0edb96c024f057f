//! `plan`: what a reload of another config would do.

use tokio::task::spawn_blocking;

use super::{Controller, now};
use crate::config::{self, Config};
use crate::controller::desired::{Fold, Pools};
use crate::controller::placement::Placement;
use crate::controller::preview::{self, Kernel, Side, View};
use crate::controller::request::RequestError;
use crate::data_plane::proxy::ProxyPlane;
use crate::model::plan::Plan;

impl<P: ProxyPlane + 'static> Controller<P> {
    /// What [`Self::reload`] would do with this text in place of the file's. Changes nothing.
    pub(super) async fn preview(&mut self, text: String) -> Result<Plan, RequestError> {
        let parse = self.channels.parse_config.clone();
        let parsed = spawn_blocking(move || parse(&text)).await.map_err(|_| RequestError::Stopped)?;
        let new = parsed.map_err(RequestError::ConfigInvalid)?;
        let (pools, fold) = self.admit(&new)?;
        let mut first = pools.clone();
        let fold = if first.rise(&self.fold, &fold, now()) { first.fold(now()) } else { fold };
        let mut up = pools;
        for (pool, address) in up.unjudged() {
            up.assume_up(&pool, address);
        }
        let up = up.fold(now());
        let placements = self.place(&new, &fold);
        let facts = self.channels.facts.borrow().clone();
        let traffic = self.proxy.traffic();
        Ok(preview::preview(&View {
            before: Side { config: &self.config, fold: &self.fold, placements: &self.placements },
            after: Side { config: &new, fold: &fold, placements: &placements },
            up: &up,
            kernel: self.kernel.as_ref().ok().map(|kernel| Kernel {
                confirmed: &kernel.confirmed,
                identities: &kernel.identities,
                sweep: &kernel.sweep,
                facts: &facts,
            }),
            traffic: &traffic,
        }))
    }

    /// The pools that a config would make of those that there are; why it would be refused.
    pub(super) fn admit(&self, new: &Config) -> Result<(Pools, Fold), RequestError> {
        let frozen = config::frozen(&self.config, new);
        if !frozen.is_empty() {
            return Err(RequestError::ConfigInvalid(frozen));
        }
        let mut pools = self.pools.clone();
        pools.reload(new, now());
        let fold = pools.fold(now());
        super::requests::fits(new, &fold)?;
        for (service, placement) in self.place(new, &fold) {
            if let Placement::Refused { reason } = placement {
                return Err(RequestError::Invalid(format!("service {service:?}: {reason}")));
            }
        }
        Ok((pools, fold))
    }
}
