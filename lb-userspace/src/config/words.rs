//! The words that keys take, those of later versions with what to use until then.

use crate::model::{Affinity, AllDown, Announce, Fallback, Forward, Plane, Protocol, Scheduler, Tracking};

use super::scalar::Word::{self, Is, Later};
use super::{LogFormat, PlaneChoice};

pub(super) type Words<T> = &'static [(&'static str, Word<T>)];

pub(super) const LOG_FORMAT: Words<LogFormat> =
    &[("text", Is(LogFormat::Text)), ("json", Is(LogFormat::Json))];

pub(super) const PLANE: Words<PlaneChoice> = &[
    ("auto", Is(PlaneChoice::Auto)),
    ("xdp", Is(PlaneChoice::Force(Plane::Xdp))),
    ("xdp-generic", Is(PlaneChoice::Force(Plane::XdpGeneric))),
    ("tc", Is(PlaneChoice::Force(Plane::Tc))),
    ("off", Is(PlaneChoice::Off)),
];

pub(super) const LOCAL: Words<bool> = &[("auto", Is(true)), ("off", Is(false))];

pub(super) const PROTOCOL: Words<Protocol> = &[("tcp", Is(Protocol::Tcp)), ("udp", Is(Protocol::Udp))];

const NOT_NAT: &str = "use \"nat\" where replies return through this host, else \"proxy\"";

pub(super) const FORWARD: Words<Forward> = &[
    ("auto", Is(Forward::Auto)),
    ("nat", Is(Forward::Nat)),
    ("proxy", Is(Forward::Proxy)),
    ("snat", Later("use \"proxy\", which needs no reply path through this host either")),
    ("dsr", Later(NOT_NAT)),
    ("ipip", Later(NOT_NAT)),
    ("gue", Later(NOT_NAT)),
];

pub(super) const FALLBACK: Words<Fallback> =
    &[("proxy", Is(Fallback::Proxy)), ("refuse", Is(Fallback::Refuse))];

pub(super) const ANNOUNCE: Words<Announce> = &[
    ("auto", Is(Announce::Auto)),
    ("address", Is(Announce::Address)),
    ("arp", Is(Announce::Arp)),
    ("none", Is(Announce::None)),
];

pub(super) const AFFINITY: Words<Affinity> =
    &[("none", Is(Affinity::None)), ("source", Is(Affinity::Source))];

pub(super) const ALL_DOWN: Words<AllDown> =
    &[("refuse", Is(AllDown::Refuse)), ("serve_all", Is(AllDown::ServeAll))];

pub(super) const TRACKING: Words<Tracking> =
    &[("auto", Is(Tracking::Auto)), ("always", Is(Tracking::Always))];

const NOT_PROXIED: &str = "use \"maglev\" or \"round_robin\"";

/// Whether effective weights follow the load, before the details are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WeightsKind {
    Static,
    Adaptive,
}

pub(super) const WEIGHTS: Words<WeightsKind> =
    &[("static", Is(WeightsKind::Static)), ("adaptive", Is(WeightsKind::Adaptive))];

pub(super) const SCHEDULER: Words<Scheduler> = &[
    ("maglev", Is(Scheduler::Maglev)),
    ("round_robin", Is(Scheduler::RoundRobin)),
    ("least_connections", Later(NOT_PROXIED)),
    ("p2c", Later(NOT_PROXIED)),
    ("ewma", Later(NOT_PROXIED)),
    ("source_hash", Later("use \"maglev\" with affinity = \"source\" in the service")),
    ("random", Later(NOT_PROXIED)),
];

/// What a health check asks, before the details are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CheckKind {
    None,
    Tcp,
    Tls,
    Http,
    Https,
    Grpc,
    Grpcs,
    Udp,
    Exec,
    Agent,
}

impl CheckKind {
    /// As the config says it.
    pub(super) fn name(self) -> &'static str {
        let is_it = |word: &Word<Self>| matches!(word, Is(kind) if *kind == self);
        CHECK.iter().find(|(_, word)| is_it(word)).map_or("", |(name, _)| name)
    }
}

pub(super) const CHECK: Words<CheckKind> = &[
    ("tcp", Is(CheckKind::Tcp)),
    ("http", Is(CheckKind::Http)),
    ("https", Is(CheckKind::Https)),
    ("tls", Is(CheckKind::Tls)),
    ("grpc", Is(CheckKind::Grpc)),
    ("grpcs", Is(CheckKind::Grpcs)),
    ("udp", Is(CheckKind::Udp)),
    ("exec", Is(CheckKind::Exec)),
    ("none", Is(CheckKind::None)),
    ("agent", Is(CheckKind::Agent)),
];
