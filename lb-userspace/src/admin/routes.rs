//! Route -> controller request -> response.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router, middleware};
use tokio::sync::{Mutex, watch};

use crate::controller::request::{BackendChange, FlowQuery, Handle, Reloaded, RequestError};
use crate::model::Phase;
use crate::model::flows::FlowList;
use crate::model::plan::Plan;
use crate::model::status::{Explanation, PoolStatus, ServiceStatus};

use super::access;
use super::api::{
    Alive, DEFAULT_FLOWS, DEFAULT_WEIGHT, Flows, MOST_FLOWS, PlanRequest, Question, Removal, Weight,
};
use super::extract::{BackendPath, OptionalBody, Path, Query};
use super::problem::{Kind, ProblemDocument};

/// The body of a plan: a config, written as JSON.
const MOST_CONFIG: usize = 16 << 20;

type Answer<T> = Result<T, ProblemDocument>;

#[derive(Clone)]
struct Daemon {
    controller: Handle,
    phase: watch::Receiver<Phase>,
    /// Held by the one who lists flows.
    looking: Arc<Mutex<()>>,
}

/// Every route. Requests need a [`access::Peer`] extension.
pub(super) fn router(controller: Handle, phase: watch::Receiver<Phase>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/api/v1/status", get(status))
        .route("/api/v1/services", get(services))
        .route("/api/v1/pools/{pool}", get(pool))
        .route("/api/v1/explain", get(explain))
        .route("/api/v1/flows", get(flows))
        .route("/api/v1/reload", post(reload))
        .route("/api/v1/plan", post(plan))
        .route(
            "/api/v1/pools/{pool}/backends/{address}",
            put(put_backend).delete(remove_backend).patch(patch_backend),
        )
        .route("/api/v1/pools/{pool}/backends/{address}/drain", post(drain_backend))
        .route("/api/v1/pools/{pool}/backends/{address}/undrain", post(undrain_backend))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(middleware::from_fn(access::check))
        .with_state(Daemon { controller, phase, looking: Arc::default() })
}

async fn health(State(daemon): State<Daemon>) -> Json<Alive> {
    Json(Alive { phase: daemon.phase.borrow().to_string() })
}

async fn ready(State(daemon): State<Daemon>) -> Answer<Json<Alive>> {
    let phase = *daemon.phase.borrow();
    match phase {
        Phase::Ready => Ok(Json(Alive { phase: phase.to_string() })),
        _ => Err(ProblemDocument::new(Kind::Unavailable, format!("the daemon is {phase}"))),
    }
}

async fn status(State(daemon): State<Daemon>) -> Answer<Response> {
    Ok(Json(&*daemon.controller.status().await?).into_response())
}

async fn services(State(daemon): State<Daemon>) -> Answer<Json<Vec<ServiceStatus>>> {
    Ok(Json(daemon.controller.status().await?.services.clone()))
}

async fn pool(State(daemon): State<Daemon>, Path(name): Path<String>) -> Answer<Json<PoolStatus>> {
    let status = daemon.controller.status().await?;
    let known = || status.pools.iter().map(|pool| pool.name.as_str()).collect::<Vec<_>>().join(", ");
    match status.pools.iter().find(|pool| pool.name == name) {
        Some(pool) => Ok(Json(pool.clone())),
        None => Err(RequestError::NoSuchPool(name, known()).into()),
    }
}

async fn explain(
    State(daemon): State<Daemon>,
    Query(Question { client, service }): Query<Question>,
) -> Answer<Json<Explanation>> {
    Ok(Json(daemon.controller.explain(client, service).await?))
}

async fn flows(
    State(daemon): State<Daemon>,
    Query(Flows { service, client, backend, limit }): Query<Flows>,
) -> Answer<Json<FlowList>> {
    let most = limit.unwrap_or(DEFAULT_FLOWS);
    if most > MOST_FLOWS {
        let reason =
            format!("limit={most} is more than {MOST_FLOWS} (hint: ask for a service, client or backend)");
        return Err(ProblemDocument::new(Kind::BadRequest, reason));
    }
    // One after another: each walks through all entries.
    let _turn = daemon.looking.lock().await;
    Ok(Json(daemon.controller.flows(FlowQuery { service, client, backend, most }).await?))
}

async fn reload(State(daemon): State<Daemon>) -> Answer<Json<Reloaded>> {
    Ok(Json(daemon.controller.reload().await?))
}

async fn plan(
    State(daemon): State<Daemon>,
    OptionalBody(body): OptionalBody<PlanRequest, MOST_CONFIG>,
) -> Answer<Json<Plan>> {
    let missing = || ProblemDocument::new(Kind::BadRequest, "a body is needed (hint: {\"config\": \"...\"})");
    let PlanRequest { config } = body.ok_or_else(missing)?;
    Ok(Json(daemon.controller.plan(config).await?))
}

async fn put_backend(
    State(daemon): State<Daemon>,
    path: BackendPath,
    OptionalBody(body): OptionalBody<Weight>,
) -> Answer<Response> {
    let weight = body.map_or(DEFAULT_WEIGHT, |body| body.weight);
    change(&daemon, path, BackendChange::Put { weight }).await
}

async fn patch_backend(
    State(daemon): State<Daemon>,
    path: BackendPath,
    OptionalBody(body): OptionalBody<Weight>,
) -> Answer<Response> {
    let missing = || ProblemDocument::new(Kind::BadRequest, "a body is needed (hint: {\"weight\": 100})");
    let Weight { weight } = body.ok_or_else(missing)?;
    change(&daemon, path, BackendChange::Weight { weight }).await
}

async fn remove_backend(
    State(daemon): State<Daemon>,
    path: BackendPath,
    Query(Removal { now }): Query<Removal>,
) -> Answer<Response> {
    change(&daemon, path, BackendChange::Remove { now }).await
}

async fn drain_backend(State(daemon): State<Daemon>, path: BackendPath) -> Answer<Response> {
    change(&daemon, path, BackendChange::Drain).await
}

async fn undrain_backend(State(daemon): State<Daemon>, path: BackendPath) -> Answer<Response> {
    change(&daemon, path, BackendChange::Undrain).await
}

async fn change(
    daemon: &Daemon,
    BackendPath { pool, address }: BackendPath,
    change: BackendChange,
) -> Answer<Response> {
    let changed = daemon.controller.backend(pool, address, change).await?;
    Ok(match changed.warning {
        None => StatusCode::NO_CONTENT.into_response(),
        Some(_) => Json(changed).into_response(),
    })
}

async fn no_route(uri: Uri) -> ProblemDocument {
    ProblemDocument::new(Kind::NotFound, format!("no route {}", uri.path()))
}

async fn no_method(method: Method, uri: Uri) -> ProblemDocument {
    ProblemDocument::new(Kind::MethodNotAllowed, format!("{} does not take {method}", uri.path()))
}
