//! What an agent says of its backend, in the words of HAProxy's agent check (its configuration manual, `agent-check`).

/// One answer. What it leaves out stays as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// How much of its weight the backend shall have, in percent.
    pub percent: Option<u16>,
    /// Whether it shall take new flows.
    pub order: Option<Order>,
    /// Whether it can serve.
    pub condition: Option<Condition>,
    /// How busy its CPUs are, in percent.
    pub load: Option<u8>,
    /// The connections that it shall have at most.
    pub connections: Option<u32>,
}

/// What an agent wants done with its backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// `ready`: it serves.
    #[default]
    Ready,
    /// `drain`: no new flows, old ones stay.
    Drain,
    /// `maint`: the same, for an operator's work.
    Maintenance,
}

/// Whether a backend can serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// `up`.
    Up,
    /// `down`, `failed` or `stopped`: the word, and what the agent says after it.
    Down(String),
}
