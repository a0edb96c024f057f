//! The verbs that ask the running daemon.

use std::net::SocketAddr;
use std::path::Path;

use hyper::Method;

use crate::admin::api::{Flows, Question, Weight, backend_path, explain_path, flows_path, pool_path};
use crate::admin::client::{Client, ClientError};
use crate::controller::request::Reloaded;
use crate::model::flows::FlowList;
use crate::model::status::{Explanation, PoolStatus, Status};

use super::drain;
use super::output::{plain, print, print_json};
use super::{Backend, Failure, Target, runtime};

/// `sluice status`.
pub fn status(socket: &Path, json: bool) -> Result<(), Failure> {
    let status: Status = ask(socket, async |client| client.get("/api/v1/status").await)?;
    if json { print_json(&status) } else { print(&super::status::render(&status)) }
}

/// `sluice explain`.
pub fn explain(socket: &Path, client: SocketAddr, service: String, json: bool) -> Result<(), Failure> {
    let path = explain_path(&Question { client, service });
    let explanation: Explanation = ask(socket, async |client| client.get(&path).await)?;
    if json { print_json(&explanation) } else { print(&super::explain::render(&explanation)) }
}

/// `sluice flows`.
pub fn flows(socket: &Path, flows: &Flows, json: bool) -> Result<(), Failure> {
    let path = flows_path(flows);
    let list: FlowList = ask(socket, async |client| client.get(&path).await)?;
    if json { print_json(&list) } else { print(&super::flows::render(&list)) }
}

/// `sluice reload`.
pub fn reload(socket: &Path) -> Result<(), Failure> {
    let reloaded: Reloaded = ask(socket, async |client| client.ask(Method::POST, "/api/v1/reload").await)?;
    if reloaded.changes.is_empty() {
        return print("reloaded: nothing has changed\n");
    }
    print(&reloaded.changes.into_iter().map(|change| change + "\n").collect::<String>())
}

/// `sluice backend ...`.
pub fn backend(socket: &Path, verb: Backend) -> Result<(), Failure> {
    let (method, Target { pool, address }, below, weight) = match verb {
        Backend::Add { target, weight } => (Method::PUT, target, "", weight),
        Backend::Remove { target, now: false } => (Method::DELETE, target, "", None),
        Backend::Remove { target, now: true } => (Method::DELETE, target, "?now=true", None),
        Backend::Drain { target } => (Method::POST, target, "/drain", None),
        Backend::Undrain { target } => (Method::POST, target, "/undrain", None),
        Backend::Weight { target, weight } => (Method::PATCH, target, "", Some(weight)),
    };
    let path = backend_path(&pool, address, below);
    let body = weight.map(|weight| Weight { weight });
    let drains = below == "/drain" || method == Method::DELETE;
    let (changed, left) = ask(socket, async |client| {
        let changed = client.change(method, &path, body.as_ref()).await?;
        let left = match drains {
            true => Some(client.get::<PoolStatus>(&pool_path(&pool)).await?),
            false => None,
        };
        Ok((changed, left))
    })?;
    if let Some(line) = left.and_then(|pool| drain::line(&pool, address)) {
        print(&line)?;
    }
    if let Some(warning) = changed.warning {
        eprintln!("sluice: warning: {}", plain(&warning));
    }
    Ok(())
}

fn ask<T>(socket: &Path, question: impl AsyncFnOnce(Client) -> Result<T, ClientError>) -> Result<T, Failure> {
    Ok(runtime()?.block_on(question(Client::new(socket)))?)
}
