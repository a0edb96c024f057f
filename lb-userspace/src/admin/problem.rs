//! Errors of the API as problem documents (RFC 9457).

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use crate::config::problem::Problem;
use crate::controller::request::RequestError;

/// The media type of a problem document.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// What went wrong, as `type` and `title` say it. The words are part of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request cannot be understood.
    BadRequest,
    /// No token, or a wrong one.
    Unauthorized,
    /// Who asks may not do this.
    Forbidden,
    /// No such route, pool, backend or service.
    NotFound,
    /// The route exists, the method on it does not.
    MethodNotAllowed,
    /// The body did not arrive in time.
    Timeout,
    /// The body is too large.
    TooLarge,
    /// The body is not JSON.
    MediaType,
    /// Understood, but the value cannot be taken.
    Invalid,
    /// The config file is bad; the old config stays in force.
    ConfigInvalid,
    /// A data plane could not do it.
    Plane,
    /// Not ready yet, or stopping.
    Unavailable,
}

impl Kind {
    /// The `type` of the document: a name, not an address to fetch.
    pub const fn uri(self) -> &'static str {
        match self {
            Self::BadRequest => "urn:sluice:problem:bad-request",
            Self::Unauthorized => "urn:sluice:problem:unauthorized",
            Self::Forbidden => "urn:sluice:problem:forbidden",
            Self::NotFound => "urn:sluice:problem:not-found",
            Self::MethodNotAllowed => "urn:sluice:problem:method-not-allowed",
            Self::Timeout => "urn:sluice:problem:timeout",
            Self::TooLarge => "urn:sluice:problem:too-large",
            Self::MediaType => "urn:sluice:problem:media-type",
            Self::Invalid => "urn:sluice:problem:invalid",
            Self::ConfigInvalid => "urn:sluice:problem:config-invalid",
            Self::Plane => "urn:sluice:problem:plane",
            Self::Unavailable => "urn:sluice:problem:unavailable",
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::BadRequest => "The request cannot be understood",
            Self::Unauthorized => "A valid token is needed",
            Self::Forbidden => "Not allowed",
            Self::NotFound => "No such thing",
            Self::MethodNotAllowed => "No such method here",
            Self::Timeout => "The body did not arrive in time",
            Self::TooLarge => "The body is too large",
            Self::MediaType => "The body is not JSON",
            Self::Invalid => "The value cannot be taken",
            Self::ConfigInvalid => "The config is invalid",
            Self::Plane => "A data plane could not do it",
            Self::Unavailable => "Not now",
        }
    }

    const fn status(self) -> StatusCode {
        match self {
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Timeout => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Invalid | Self::ConfigInvalid => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Plane => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// A problem document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemDocument {
    /// Names the kind of problem: [`Kind::uri`].
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind in words; the same for every occurrence.
    pub title: String,
    /// The HTTP status code.
    pub status: u16,
    /// This occurrence in words: the object, the value and the cure.
    pub detail: String,
    /// What is wrong with the config file, thing by thing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

impl ProblemDocument {
    /// Of this kind, for this reason.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self {
            kind: kind.uri().into(),
            title: kind.title().into(),
            status: kind.status().as_u16(),
            detail: detail.into(),
            problems: Vec::new(),
        }
    }
}

impl From<RequestError> for ProblemDocument {
    fn from(error: RequestError) -> Self {
        let kind = match &error {
            RequestError::NoSuchPool(..)
            | RequestError::NoSuchBackend(..)
            | RequestError::NoSuchService(..) => Kind::NotFound,
            RequestError::Invalid(_) => Kind::Invalid,
            RequestError::ConfigInvalid(_) => Kind::ConfigInvalid,
            RequestError::Plane(_) => Kind::Plane,
            RequestError::Stopped => Kind::Unavailable,
        };
        let mut document = Self::new(kind, error.to_string());
        if let RequestError::ConfigInvalid(problems) = error {
            document.problems = problems;
        }
        document
    }
}

impl IntoResponse for ProblemDocument {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(self)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
