//! The one task that owns desired and applied state.

pub mod plan;
pub mod request;
pub mod slots;
