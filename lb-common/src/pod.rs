//! The one place that vouches for bytes: which types may cross between the controller and BPF maps.
#![expect(unsafe_code, reason = "aya::Pod is an unsafe trait")]

use zerocopy::{FromBytes, Immutable, IntoBytes};

macro_rules! pod {
    ($($type:ty),* $(,)?) => {$(
        const _: () = {
            const fn plain<T: FromBytes + IntoBytes + Immutable + Copy + 'static>() {}
            plain::<$type>();
        };
        // SAFETY: `plain` proves that every byte pattern is a value (FromBytes) and that no byte is padding
        // (IntoBytes), which is all that `Pod` asks.
        unsafe impl aya::Pod for $type {}
    )*};
}

pod!(
    crate::Address,
    crate::SocketKey,
    crate::Backend,
    crate::BackendId,
    crate::NextHop,
    crate::Service,
    crate::ServiceId,
    crate::Endpoint,
    crate::Slot,
    crate::FlowKey,
    crate::HalfOpen,
    crate::Flow,
    crate::ExactKey,
    crate::Exact,
    crate::Vip,
    crate::Traffic,
    crate::PeerKey,
    crate::Peer,
    crate::flow_table::Bucket,
);
