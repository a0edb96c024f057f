//! Paths, queries and bodies of requests, with problem documents for those that cannot be understood.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::header;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::problem::{Kind, ProblemDocument};

const BODY_LIMIT: usize = 64 * 1024;
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

fn bad_request(reason: impl Into<String>) -> ProblemDocument {
    ProblemDocument::new(Kind::BadRequest, reason)
}

/// The parameters of the path.
pub(super) struct Path<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = ProblemDocument;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ProblemDocument> {
        match axum::extract::Path::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(parameters)) => Ok(Self(parameters)),
            Err(rejection) => Err(bad_request(rejection.body_text())),
        }
    }
}

/// A pool and a backend of it in the path.
pub(super) struct BackendPath {
    pub(super) pool: String,
    pub(super) address: SocketAddr,
}

impl<S: Send + Sync> FromRequestParts<S> for BackendPath {
    type Rejection = ProblemDocument;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ProblemDocument> {
        let Path((pool, address)) = Path::<(String, String)>::from_request_parts(parts, state).await?;
        let address = address.parse().map_err(|_| {
            bad_request(format!(
                "{address:?} is not an address and port (hint: 10.0.0.11:8080 or [2001:db8::11]:8080)"
            ))
        })?;
        Ok(Self { pool, address })
    }
}

/// The query; unknown keys are refused by its type.
pub(super) struct Query<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = ProblemDocument;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ProblemDocument> {
        match axum::extract::Query::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(query)) => Ok(Self(query)),
            Err(rejection) => Err(bad_request(rejection.body_text())),
        }
    }
}

/// A JSON body, or none: at most `LIMIT` bytes, within 5 s; unknown keys are refused by its type, deep nesting by
/// serde_json.
pub(super) struct OptionalBody<T, const LIMIT: usize = BODY_LIMIT>(pub(super) Option<T>);

impl<S: Send + Sync, T: DeserializeOwned, const LIMIT: usize> FromRequest<S> for OptionalBody<T, LIMIT> {
    type Rejection = ProblemDocument;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ProblemDocument> {
        let (parts, body) = request.into_parts();
        let bytes = match tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, LIMIT)).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(_)) => {
                return Err(ProblemDocument::new(
                    Kind::TooLarge,
                    format!("the body is cut off or larger than {LIMIT} bytes"),
                ));
            }
            Err(_) => {
                return Err(ProblemDocument::new(
                    Kind::Timeout,
                    format!("the body did not arrive within {BODY_TIMEOUT:?}"),
                ));
            }
        };
        if bytes.is_empty() {
            return Ok(Self(None));
        }
        // A form on some web page can send a body, but not one of this type.
        let is_json = parts
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split(';').next())
            .is_some_and(|media_type| media_type.trim().eq_ignore_ascii_case("application/json"));
        if !is_json {
            return Err(ProblemDocument::new(Kind::MediaType, "send content-type: application/json"));
        }
        serde_json::from_slice(&bytes).map(|body| Self(Some(body))).map_err(|error| {
            bad_request(format!("the body cannot be read: {error} (hint: {{\"weight\": 100}})"))
        })
    }
}
