//! `/v1/…`: each route with its description, from which the OpenAPI document is made.

mod changes;

use std::convert::Infallible;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request as HttpRequest, State};
use axum::http::HeaderValue;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::response::sse::{Event as Sent, KeepAlive, Sse};
use axum::routing::get;
use axum::{Extension, Json, Router};
use futures_util::stream::{Stream, unfold};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::time::{Instant as TokioInstant, timeout_at};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{Answer, Asked, Named};
use super::protocol::{
    Accepted, CheckEvent, CheckQuery, Configuration, Diagnosis, Entry, Event, ExplainQuery, Explanation, Fault,
    Generations, Plan, PlanQuery, Problem, Progress, ReloadQuery, Services, State as StateDir, Status, Traffic,
    WaitQuery,
};
use super::{Control, Question, Request, Who, in_short};
use crate::kernel::peer::Peer;
use changes::*;

/// Seconds that a client may have its answer put off, and what it gets without saying.
const LONGEST_WAIT: f64 = 300.0;
const DEFAULT_WAIT: f64 = 30.0;
/// Pairs that were tried and not yet told of, at the most.
const CHECKED: usize = 64;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "meshd",
        description = "The control socket: HTTP/1.1 on a Unix socket, for root and the group of [control]. \
            `curl --unix-socket /run/meshd/meshd.sock http://meshd/v1/status`",
        license(name = "GPL-2.0-or-later")
    ),
    components(schemas(Problem, Fault)),
    servers((url = "http://meshd", description = "any host name will do"))
)]
struct Document;

/// Why a request is not done, whichever it is.
#[derive(utoipa::IntoResponses)]
#[allow(dead_code, reason = "it is only described")]
enum Refused {
    /// The request is wrong, or not for that client, or does not go with what there is.
    #[response(status = "4XX", content_type = "application/problem+json")]
    Client(Problem),
    /// meshd is stopping, has too much to do, or cannot read or write what it should.
    #[response(status = "5XX", content_type = "application/problem+json")]
    Server(Problem),
}

/// The OpenAPI document.
pub fn document() -> utoipa::openapi::OpenApi {
    described().split_for_parts().1
}

fn described() -> OpenApiRouter<Control> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(status))
        .routes(routes!(list))
        .routes(routes!(get_service, put_service, merge_service, delete_service))
        .routes(routes!(add_port))
        .routes(routes!(merge_port, delete_port))
        .routes(routes!(add_backend))
        .routes(routes!(merge_backend, delete_backend))
        .routes(routes!(add_backend_of_port))
        .routes(routes!(merge_backend_of_port, delete_backend_of_port))
        .routes(routes!(plan))
        .routes(routes!(reload))
        .routes(routes!(wait))
        .routes(routes!(traffic))
        .routes(routes!(explain))
        .routes(routes!(check))
        .routes(routes!(doctor))
        .routes(routes!(events))
}

/// All routes.
pub fn router(control: Control) -> Router {
    let (router, document) = described().split_for_parts();
    let document = Json(document);
    router
        .route("/v1/openapi.json", get(|| async move { document }))
        .fallback(|| async { Problem::not_found("no such path; /v1/openapi.json has those that there are") })
        .method_not_allowed_fallback(|| async {
            Problem::new(405, "method not allowed", "/v1/openapi.json has the methods of this path")
        })
        .layer(middleware::from_fn_with_state(control.clone(), count))
        .with_state(control)
}

/// Tells the metrics of every request.
async fn count(State(control): State<Control>, request: HttpRequest, next: Next) -> Response {
    let began = Instant::now();
    let method = request.method().clone();
    // A path that is none of ours would make a series of its own.
    let route = request.extensions().get::<MatchedPath>().map_or("none", |path| path.as_str()).to_owned();
    let mut response = next.run(request).await;
    let method = match method.as_str() {
        known @ ("GET" | "PUT" | "POST" | "PATCH" | "DELETE" | "HEAD" | "OPTIONS") => known,
        _ => "other",
    };
    let metrics = &control.metrics;
    metrics.control_requests.with_label_values(&[method, &route, response.status().as_str()]).inc();
    metrics.control_durations.with_label_values(&[&route]).observe(began.elapsed().as_secs_f64());
    response.headers_mut().insert("cache-control", HeaderValue::from_static("no-store"));
    response
}

/// How the daemon is.
#[utoipa::path(get, path = "/v1/status", responses((status = 200, body = Status), Refused))]
async fn status(State(control): State<Control>) -> Answer<Status> {
    let summary = control.request(Request::Summary).await?;
    let looked = control.looked.borrow().clone();
    Ok(Json(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        node: summary.node,
        pid: std::process::id(),
        uptime: control.started.elapsed().as_secs_f64(),
        generation: Generations { wanted: summary.generation, programmed: looked.programmed() },
        failures: in_short(&looked.lines()),
        services: summary.services,
        ports: summary.ports,
        backends: summary.backends,
        dataplane: summary.dataplane,
        timeouts: looked.timeouts,
        public_key: summary.public_key,
        unwell: in_short(&looked.unwell),
        leaving: in_short(&looked.leaving),
        look: looked.took,
        repaired: looked.repaired,
        crowded: in_short(&looked.crowded),
        firewalls: in_short(&looked.firewalls),
        contested: in_short(&looked.contested),
        configuration: Configuration { path: summary.path, refused: summary.refused_reload },
        state: StateDir { directory: summary.state_dir, refused: summary.troubles },
    }))
}

/// All services, the file's and the socket's.
#[utoipa::path(get, path = "/v1/services", responses((status = 200, body = Services), Refused))]
async fn list(State(control): State<Control>) -> Answer<Services> {
    Ok(Json(control.request(Request::List).await?))
}

/// One service.
#[utoipa::path(
    get,
    path = "/v1/services/{name}",
    params(("name" = String, Path)),
    responses((status = 200, body = Entry), Refused)
)]
async fn get_service(State(control): State<Control>, Named(name): Named<String>) -> Answer<Entry> {
    Ok(Json(control.request(|reply| Request::Get(name, reply)).await??))
}

/// What would be done to the kernel now; nothing, if all is as wanted.
#[utoipa::path(
    get,
    path = "/v1/plan",
    params(PlanQuery),
    responses((status = 200, body = Plan), Refused)
)]
async fn plan(State(control): State<Control>, Asked(query): Asked<PlanQuery>) -> Answer<Plan> {
    let mesh = if query.reload { Some(control.request(Request::TryReload).await??) } else { None };
    Ok(Json(Plan { steps: planned(&control, mesh).await? }))
}

/// Reads the configuration file again.
#[utoipa::path(
    post,
    path = "/v1/reload",
    params(ReloadQuery),
    responses((status = 200, body = Accepted), Refused)
)]
async fn reload(
    State(control): State<Control>,
    Extension(peer): Extension<Peer>,
    Asked(query): Asked<ReloadQuery>,
) -> Answer<Accepted> {
    let until = query.wait.map(until).transpose()?;
    let (who, since) = (Who::Peer(peer), Instant::now());
    let change = control.request(|reply| Request::Reload { who, since, reply }).await??;
    answer(&control, change, until).await
}

/// Waits until the kernel holds a generation, or steps of it failed.
#[utoipa::path(
    get,
    path = "/v1/wait",
    params(WaitQuery),
    responses((status = 200, body = Accepted), Refused)
)]
async fn wait(State(control): State<Control>, Asked(query): Asked<WaitQuery>) -> Answer<Accepted> {
    let until = until(query.timeout.unwrap_or(DEFAULT_WAIT))?;
    let newest = control.request(Request::Summary).await?.generation;
    let generation = query.generation.unwrap_or(newest);
    if generation > newest {
        return Err(Problem::not_found(format!("there is no generation {generation}: the newest is {newest}")));
    }
    answer(&control, super::Change { generation, changed: false }, Some(until)).await
}

/// What every port and backend has carried so far.
#[utoipa::path(get, path = "/v1/traffic", responses((status = 200, body = Traffic), Refused))]
async fn traffic(State(control): State<Control>) -> Answer<Traffic> {
    let traffic = control.question(Question::Traffic).await?;
    traffic.map(Json).map_err(|reason| Problem::new(500, "the kernel cannot be read", reason))
}

/// The way of clients to a published port, hop by hop, as the kernel has it now. It takes some seconds where a backend does not answer.
#[utoipa::path(
    get,
    path = "/v1/explain/{port}",
    params(("port" = u16, Path), ExplainQuery),
    responses((status = 200, body = Explanation), Refused)
)]
async fn explain(
    State(control): State<Control>,
    Named(number): Named<u16>,
    Asked(query): Asked<ExplainQuery>,
) -> Answer<Explanation> {
    let asked = query.asked(number).map_err(Problem::malformed)?;
    Ok(Json(control.question(|reply| Question::Explain(asked, reply)).await??))
}

/// Connects to every published port by every address of this node, and to every backend from the sandbox; what comes of each is told as
/// a server-sent event, whose data is JSON.
#[utoipa::path(
    get,
    path = "/v1/check",
    params(CheckQuery),
    responses((status = 200, body = CheckEvent, content_type = "text/event-stream"), Refused)
)]
async fn check(
    State(control): State<Control>,
    Asked(query): Asked<CheckQuery>,
) -> Result<Sse<impl Stream<Item = Result<Sent, Infallible>>>, Problem> {
    if let Some(service) = &query.service {
        control.request(|reply| Request::Get(service.clone(), reply)).await??;
    }
    let (tell, told) = mpsc::channel(CHECKED);
    control.question(|reply| Question::Check(query, tell, reply)).await??;
    let stream = unfold(told, |mut told| async {
        let event = told.recv().await?;
        Some((Ok(Sent::default().json_data(&event).unwrap_or_default()), told))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::default()))
}

/// What is wrong with this host, or may be, and what mends it. It takes some seconds where another node does not answer.
#[utoipa::path(get, path = "/v1/doctor", responses((status = 200, body = Diagnosis), Refused))]
async fn doctor(State(control): State<Control>) -> Answer<Diagnosis> {
    Ok(Json(control.question(Question::Doctor).await??))
}

/// What happens from now on, as server-sent events; the data of each is JSON.
#[utoipa::path(
    get,
    path = "/v1/events",
    responses((status = 200, body = Event, content_type = "text/event-stream"), Refused)
)]
async fn events(State(control): State<Control>) -> Sse<impl Stream<Item = Result<Sent, Infallible>>> {
    let listen = control.events.subscribe();
    let stream = unfold(listen, |mut listen| async {
        let event = match listen.recv().await {
            Ok(event) => event,
            Err(RecvError::Lagged(events)) => Event::Lost { events },
            Err(RecvError::Closed) => return None,
        };
        // An event has nothing that JSON has not.
        let sent = Sent::default().json_data(&event).unwrap_or_default();
        Some((Ok(sent), listen))
    });
    Sse::new(stream).keep_alive(KeepAlive::default())
}

/// Tells of a change, once the kernel holds it if that is asked for.
async fn answer(control: &Control, change: super::Change, until: Option<TokioInstant>) -> Answer<Accepted> {
    let super::Change { generation, changed } = change;
    let mut accepted = Accepted { generation, changed, result: Progress::Accepted, failures: Vec::new(), plan: None };
    let Some(until) = until else { return Ok(Json(accepted)) };
    let mut looked = control.looked.clone();
    match timeout_at(until, looked.wait_for(|looked| looked.generation >= generation)).await {
        Ok(Ok(looked)) => {
            accepted.failures = in_short(&looked.failures_of(generation));
            accepted.result = if accepted.failures.is_empty() { Progress::Programmed } else { Progress::Failed };
        }
        Ok(Err(_)) => return Err(Problem::stopping()),
        Err(_) => accepted.result = Progress::Pending,
    }
    Ok(Json(accepted))
}

async fn planned(control: &Control, mesh: Option<crate::mesh::Mesh>) -> Result<Vec<String>, Problem> {
    let plan = control.question(|reply| Question::Plan(mesh.map(Box::new), reply)).await?;
    plan.map_err(|reason| Problem::new(500, "the kernel cannot be read", reason))
}

fn until(seconds: f64) -> Result<TokioInstant, Problem> {
    if !(0.0..=LONGEST_WAIT).contains(&seconds) {
        return Err(Problem::malformed(format!("to wait {seconds} s; 0 to {LONGEST_WAIT} would do")));
    }
    Ok(TokioInstant::now() + Duration::from_secs_f64(seconds))
}
