//! What the outside may ask of the controller: the API, the signals, the command line.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::config::problem::Problem;
use crate::model::flows::FlowList;
use crate::model::plan::Plan;
use crate::model::status::{Explanation, Status};

/// Why a request was refused. Nothing was changed, unless a plane is to blame.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Names the pool and those that exist.
    #[error("pool {0:?} does not exist (hint: the pools are {1})")]
    NoSuchPool(String, String),
    /// Names the pool and the backend.
    #[error("pool {0:?} has no backend {1}")]
    NoSuchBackend(String, SocketAddr),
    /// Names the service and those that exist.
    #[error("service {0:?} does not exist (hint: the services are {1})")]
    NoSuchService(String, String),
    /// A value that the pool cannot take.
    #[error("{0}")]
    Invalid(String),
    /// The new config is bad; the old one stays in force.
    #[error("the config has {} problem(s); the old one stays in force", .0.len())]
    ConfigInvalid(Vec<Problem>),
    /// A data plane could not do it, or a part of it. It stays desired and is tried again.
    #[error(transparent)]
    Plane(#[from] crate::data_plane::PlaneError),
    /// The controller has stopped.
    #[error("the daemon is stopping")]
    Stopped,
}

/// A change to one backend of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendChange {
    /// Adds it, or sets the weight of one that is there.
    Put {
        /// 0 to 65535.
        weight: u16,
    },
    /// Takes it from the pool; old flows stay until they end or the drain time-out passes.
    Remove {
        /// Cuts old flows at once.
        now: bool,
    },
    /// No new flows; old ones are cut when the drain time-out passes.
    Drain,
    /// Takes a drain back.
    Undrain,
    /// Sets its weight; 0: no new flows, no deadline.
    Weight {
        /// 0 to 65535.
        weight: u16,
    },
}

/// What became of a change to a backend. It is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Changed {
    /// Why it would not survive a restart.
    pub warning: Option<String>,
}

/// What reload did.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Reloaded {
    /// One line a change, in words; empty: the file changed nothing.
    pub changes: Vec<String>,
}

/// Which flows are asked for; `None`: all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowQuery {
    /// Of a service: its name, or one of its listen addresses.
    pub service: Option<String>,
    /// Of a client: its address, with or without a port.
    pub client: Option<String>,
    /// To a backend: its address, with or without a port.
    pub backend: Option<String>,
    /// So many at most.
    pub most: usize,
}

/// Where the answer goes.
pub type Reply<T> = oneshot::Sender<Result<T, RequestError>>;

/// One request.
#[derive(Debug)]
pub enum Request {
    /// Reads the config file again and puts it in force.
    Reload(Reply<Reloaded>),
    /// Says what a reload would do with this text in place of the file's. Changes nothing.
    Plan(String, Reply<Plan>),
    /// Changes one backend of a pool.
    Backend {
        /// Its pool.
        pool: String,
        /// Its address.
        address: SocketAddr,
        /// What to do.
        change: BackendChange,
        /// Answered when the planes have confirmed it and it has been written down, or could not be.
        reply: Reply<Changed>,
    },
    /// The status document, read now.
    Status(Reply<Arc<Status>>),
    /// Which backend a client's flow to a service goes to, and why.
    Explain {
        /// Address and port.
        client: SocketAddr,
        /// Service name, or one of its listen addresses.
        service: String,
        /// The answer.
        reply: Reply<Explanation>,
    },
    /// What is remembered of flows. Other requests need not wait for the answer.
    Flows(FlowQuery, Reply<FlowList>),
}

/// The controller as others see it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    requests: mpsc::Sender<Request>,
}

impl Handle {
    /// A handle and the controller's end.
    pub fn channel(capacity: usize) -> (Self, mpsc::Receiver<Request>) {
        let (requests, receiver) = mpsc::channel(capacity);
        (Self { requests }, receiver)
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, RequestError> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| RequestError::Stopped)?;
        answer.await.map_err(|_| RequestError::Stopped)?
    }

    /// See [`Request::Reload`].
    pub async fn reload(&self) -> Result<Reloaded, RequestError> {
        self.ask(Request::Reload).await
    }

    /// See [`Request::Plan`].
    pub async fn plan(&self, text: String) -> Result<Plan, RequestError> {
        self.ask(|reply| Request::Plan(text, reply)).await
    }

    /// See [`Request::Backend`].
    pub async fn backend(
        &self,
        pool: String,
        address: SocketAddr,
        change: BackendChange,
    ) -> Result<Changed, RequestError> {
        self.ask(|reply| Request::Backend { pool, address, change, reply }).await
    }

    /// See [`Request::Status`].
    pub async fn status(&self) -> Result<Arc<Status>, RequestError> {
        self.ask(Request::Status).await
    }

    /// See [`Request::Flows`].
    pub async fn flows(&self, query: FlowQuery) -> Result<FlowList, RequestError> {
        self.ask(|reply| Request::Flows(query, reply)).await
    }

    /// See [`Request::Explain`].
    pub async fn explain(&self, client: SocketAddr, service: String) -> Result<Explanation, RequestError> {
        self.ask(|reply| Request::Explain { client, service, reply }).await
    }
}
