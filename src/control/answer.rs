//! Reading requests and refusing them, always with a reason.

use std::time::Duration;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use tokio::time::timeout;

use super::protocol::{LONGEST_BODY, Problem, Readable};

/// For a body to arrive.
pub const BODY_TIME: Duration = Duration::from_secs(10);

pub type Answer<T> = Result<Json<T>, Problem>;

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self)).into_response();
        let kind = header::HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}

/// The query, each key of it known.
pub struct Asked<T>(pub T);

impl<S: Send + Sync, T: Readable> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Query(query) =
            Query::from_request_parts(parts, state).await.map_err(|error| Problem::malformed(error.body_text()))?;
        Ok(Asked(query))
    }
}

/// The parts of the path that have names.
pub struct Named<T>(pub T);

impl<S: Send + Sync, T: Readable + Send> FromRequestParts<S> for Named<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(path) =
            Path::from_request_parts(parts, state).await.map_err(|error| Problem::malformed(error.body_text()))?;
        Ok(Named(path))
    }
}

/// The body, as JSON whatever it is said to be: `curl -d` says it is a form.
pub struct Given(pub Value);

impl<S: Send + Sync> FromRequest<S> for Given {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Problem> {
        let too_long =
            || Problem::new(413, "body too long", format!("a body of at most {LONGEST_BODY} bytes would do"));
        let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        if announced.and_then(|length| length.parse::<u64>().ok()).is_some_and(|length| length > LONGEST_BODY as u64) {
            return Err(too_long());
        }
        let body: Body = request.into_body();
        let late = || Problem::new(408, "body too slow", format!("the body was not there within {BODY_TIME:?}"));
        let bytes = timeout(BODY_TIME, to_bytes(body, LONGEST_BODY)).await.map_err(|_| late())?;
        let bytes = bytes.map_err(|error| match is_too_long(&error) {
            true => too_long(),
            false => Problem::malformed(format!("the body broke off: {error}")),
        })?;
        if bytes.is_empty() {
            return Err(Problem::malformed("there is no body; one of JSON would do"));
        }
        serde_json::from_slice(&bytes)
            .map(Given)
            .map_err(|error| Problem::malformed(format!("the body is not JSON: {error}")))
    }
}

fn is_too_long(error: &axum::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.is::<http_body_util::LengthLimitError>() {
            return true;
        }
        cause = error.source();
    }
    false
}
