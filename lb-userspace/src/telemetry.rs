//! Where log lines go and how they look.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter cannot be parsed.
    #[error(
        "daemon.log = {filter:?}: {reason} (hint: a level such as \"info\", or \"warn,lb_userspace=debug\")"
    )]
    Filter {
        /// As configured.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The process has a log already.
    #[error("the log is set up already")]
    Twice,
}

/// The log of the process.
pub struct Log {
    replace: Box<dyn Fn(EnvFilter) -> Result<(), tracing_subscriber::reload::Error> + Send + Sync>,
}

impl Log {
    /// Changes what is logged from now on.
    pub fn set_filter(&self, filter: &str) -> Result<(), TelemetryError> {
        (self.replace)(parse(filter)?).map_err(|error| refused(filter, &error))
    }
}

/// Sends log lines to standard error; coloured only where that is a terminal.
pub fn init(filter: &str, format: LogFormat) -> Result<Log, TelemetryError> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(parse(filter)?)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => {
            let builder = builder.with_target(false).with_filter_reloading();
            let handle = builder.reload_handle();
            builder.try_init().map_err(|_| TelemetryError::Twice)?;
            Ok(Log { replace: Box::new(move |filter| handle.reload(filter)) })
        }
        LogFormat::Json => {
            let builder = builder.json().with_filter_reloading();
            let handle = builder.reload_handle();
            builder.try_init().map_err(|_| TelemetryError::Twice)?;
            Ok(Log { replace: Box::new(move |filter| handle.reload(filter)) })
        }
    }
}

fn parse(filter: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::builder().parse(filter).map_err(|error| refused(filter, &error))
}

fn refused(filter: &str, error: &dyn std::error::Error) -> TelemetryError {
    TelemetryError::Filter { filter: filter.to_owned(), reason: error.to_string() }
}
