//! The number of the layout of pinned maps.

/// Which layout this build's maps have. It is pinned beside them, and a build takes over no maps of another number: sizes
/// alone do not tell when a value of the same size means something else.
///
/// To be raised by whoever changes what lies in a pinned map, or what programs and controller take it for. Where the change
/// is in this crate `tests/layout.rs` insists on it; elsewhere (what the walk makes of a slot or an entry) nothing can.
/// 0 stands for maps from before layouts were numbered.
pub const LAYOUT: u32 = 1;
