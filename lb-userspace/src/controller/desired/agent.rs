//! What a backend's agent has said, word by word: what an answer leaves out stays as it was.

use crate::model::status::{AgentStatus, LastCheck};
use crate::model::{Condition, Order, Report};

/// All that is known from an agent.
#[derive(Clone, Debug, Default)]
pub(super) struct Agent {
    /// Whether the backend shall take new flows.
    pub(super) order: Order,
    /// Why the backend cannot serve.
    pub(super) down: Option<String>,
    percent: Option<u16>,
    load: Option<u8>,
    connections: Option<u32>,
    last: Option<LastCheck>,
}

impl Agent {
    /// Takes in one answer; whether the backend's judgement may have changed.
    pub(super) fn observe(&mut self, report: Report, check: LastCheck) -> bool {
        let Report { percent, order, condition, load, connections } = report;
        let before = (self.order, self.down.clone(), self.percent);
        self.order = order.unwrap_or(self.order);
        match condition {
            Some(Condition::Up) => self.down = None,
            Some(Condition::Down(said)) => self.down = Some(said),
            None => {}
        }
        self.percent = percent.or(self.percent);
        self.load = load.or(self.load);
        self.connections = connections.or(self.connections);
        self.last = Some(check);
        before != (self.order, self.down.clone(), self.percent)
    }

    /// What is left of a weight. Only 0 % leaves nothing.
    pub(super) fn scale(&self, weight: u16) -> u16 {
        let Some(percent) = self.percent else { return weight };
        let scaled = (u32::from(weight) * u32::from(percent)).div_ceil(100);
        u16::try_from(scaled).unwrap_or(u16::MAX)
    }

    /// Whether it lets the backend take new flows, if that can serve.
    pub(super) fn is_ready(&self) -> bool {
        self.order == Order::Ready && self.percent != Some(0)
    }

    /// What it has done to the weight, in words.
    pub(super) fn share(&self) -> Option<String> {
        let percent = self.percent.filter(|percent| *percent != 100)?;
        Some(format!("its agent gives it {percent} % of its weight"))
    }

    /// What `status` shows.
    pub(super) fn status(&self) -> Option<AgentStatus> {
        let Self { percent, load, connections, .. } = *self;
        Some(AgentStatus { percent, load, connections, last_check: self.last.clone()? })
    }
}
