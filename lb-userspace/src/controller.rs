//! The one task that owns desired and applied state.
//!
//! Config, run-time changes and health checks are folded (`desired`) and each service is placed on a plane
//! (`placement`), its VIPs get an owner (`ownership`); what then should stand in the planes (`kernel_state`, `proxy_state`) is compared with what
//! they have confirmed (`plan`) and written (`apply`). How weights follow the load is in `weights`, and who is ejected for
//! what clients met in `outlier`. How a Maglev table changes without breaking a flow is
//! in `slots`, and what goes on by itself afterwards in `maintain`. All of that is pure or called with the
//! plane it needs; only `task` reads clocks and waits.

pub mod adoption;
pub mod apply;
pub mod assignment;
pub mod damper;
pub mod desired;
pub mod explain;
pub mod fill;
pub mod flows;
pub mod ids;
pub mod kernel_state;
pub mod maintain;
pub mod newcomers;
pub mod outlier;
pub mod ownership;
pub mod placement;
pub mod plan;
pub mod preview;
pub mod proxy_state;
pub mod request;
pub mod slots;
pub mod status;
pub mod table_sizes;
pub mod task;
pub mod weights;

pub use task::{About, Controller, Inputs, Kept, Outputs, ParseConfig, Progress, ReadConfig, StartError};
