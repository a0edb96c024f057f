//! How a verb fails, as an exit code and in words.

use std::fmt;
use std::io;
use std::process::ExitCode;

use crate::admin::AdminError;
use crate::admin::client::ClientError;
use crate::admin::problem::Kind;
use crate::config::problem::Problem;
use crate::kernel::{KernelError, Unavailable};
use crate::network::NetworkError;

use super::output::plain;

/// How a verb fails. clap itself ends the process with 2 where the arguments are wrong.
#[derive(Debug)]
pub enum Failure {
    /// Exit code 1.
    Failed(anyhow::Error),
    /// Exit code 3: what is wrong with the config file.
    ConfigInvalid(Vec<Problem>),
    /// Exit code 4: whoever asks has no rights to it.
    NoRights(anyhow::Error),
}

impl Failure {
    /// The exit code of the process; part of the interface.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Failed(_) => 1,
            Self::ConfigInvalid(_) => 3,
            Self::NoRights(_) => 4,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) | Self::NoRights(error) => {
                let mut text = format!("sluice: {error}");
                for cause in error.chain().skip(1).map(ToString::to_string) {
                    // Many errors say what their source says.
                    if !text.contains(&cause) {
                        text.push_str(": ");
                        text.push_str(&cause);
                    }
                }
                f.write_str(&plain(&text))
            }
            Self::ConfigInvalid(problems) => {
                for problem in problems {
                    writeln!(f, "{}", plain(&problem.to_string()))?;
                }
                match problems.len() {
                    1 => f.write_str("sluice: the config has 1 problem"),
                    many => write!(f, "sluice: the config has {many} problems"),
                }
            }
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<AdminError> for Failure {
    fn from(error: AdminError) -> Self {
        if error.is_denied() { Self::NoRights(error.into()) } else { Self::Failed(error.into()) }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused(document) if document.kind == Kind::ConfigInvalid.uri() => {
                Self::ConfigInvalid(document.problems)
            }
            ClientError::Refused(document) if document.kind == Kind::Forbidden.uri() => {
                Self::NoRights(anyhow::Error::msg(document.detail))
            }
            ClientError::Denied(_) => Self::NoRights(error.into()),
            _ => Self::Failed(error.into()),
        }
    }
}

impl From<KernelError> for Failure {
    fn from(error: KernelError) -> Self {
        match &error {
            KernelError::File { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Self::NoRights(error.into())
            }
            KernelError::Unavailable(Unavailable::NoCapability { .. }) => Self::NoRights(error.into()),
            _ => Self::Failed(error.into()),
        }
    }
}

impl From<NetworkError> for Failure {
    fn from(error: NetworkError) -> Self {
        match error.kind() {
            io::ErrorKind::PermissionDenied => Self::NoRights(error.into()),
            _ => Self::Failed(error.into()),
        }
    }
}
