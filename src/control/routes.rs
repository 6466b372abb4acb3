//! `/v1/…`: each route with its description, from which the OpenAPI document is made.

use std::convert::Infallible;
use std::net::IpAddr;
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
use tokio::time::{Instant as TokioInstant, timeout_at};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{Answer, Asked, Given, Named};
use super::protocol::{
    Accepted, Backend, ChangeQuery, Configuration, Entry, Event, Generations, Plan, PlanQuery, Port, PortName, Problem,
    Progress, ReloadQuery, Service, Services, State as StateDir, Status, Traffic, WaitQuery,
};
use super::{Control, Question, Request, Who};
use crate::kernel::peer::Peer;
use crate::source::{Action, Edit};

/// Seconds that a client may have its answer put off, and what it gets without saying.
const LONGEST_WAIT: f64 = 300.0;
const DEFAULT_WAIT: f64 = 30.0;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "meshd",
        description = "The control socket: HTTP/1.1 on a Unix socket, for root and the group of [control]. \
            `curl --unix-socket /run/meshd/meshd.sock http://meshd/v1/status`",
        license(name = "GPL-2.0-or-later")
    ),
    servers((url = "http://meshd", description = "any host name will do"))
)]
struct Document;

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
#[utoipa::path(get, path = "/v1/status", responses((status = 200, body = Status), (status = "5XX", body = Problem)))]
async fn status(State(control): State<Control>) -> Answer<Status> {
    let summary = control.request(Request::Summary).await?;
    let looked = control.looked.borrow().clone();
    Ok(Json(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        node: summary.node,
        pid: std::process::id(),
        uptime: control.started.elapsed().as_secs_f64(),
        generation: Generations { wanted: summary.generation, programmed: looked.programmed },
        failures: looked.failures.to_vec(),
        services: summary.services,
        ports: summary.ports,
        backends: summary.backends,
        timeouts: looked.timeouts,
        look: looked.took,
        repaired: looked.repaired,
        configuration: Configuration { path: summary.path, refused: summary.refused_reload },
        state: StateDir { directory: summary.state_dir, refused: summary.refused_files },
    }))
}

/// All services, the file's and the socket's.
#[utoipa::path(get, path = "/v1/services", responses((status = 200, body = Services), (status = "5XX", body = Problem)))]
async fn list(State(control): State<Control>) -> Answer<Services> {
    Ok(Json(control.request(Request::List).await?))
}

/// One service.
#[utoipa::path(
    get,
    path = "/v1/services/{name}",
    params(("name" = String, Path)),
    responses((status = 200, body = Entry), (status = "4XX", body = Problem), (status = "5XX", body = Problem))
)]
async fn get_service(State(control): State<Control>, Named(name): Named<String>) -> Answer<Entry> {
    Ok(Json(control.request(|reply| Request::Get(name, reply)).await??))
}

/// Makes the service, or makes it be like that. `name` may be left out of the body.
#[utoipa::path(
    put,
    path = "/v1/services/{name}",
    params(("name" = String, Path), ChangeQuery),
    request_body = Service,
    responses((status = 200, body = Accepted), (status = "4XX", body = Problem), (status = "5XX", body = Problem))
)]
async fn put_service(
    State(control): State<Control>,
    Extension(peer): Extension<Peer>,
    Named(name): Named<String>,
    Asked(query): Asked<ChangeQuery>,
    Given(body): Given,
) -> Answer<Accepted> {
    change(control, peer, query, name, Action::Put(body)).await
}

/// Changes keys of the service by a JSON merge patch (RFC 7396): null takes a key away.
#[utoipa::path(
    patch,
    path = "/v1/services/{name}",
    params(("name" = String, Path), ChangeQuery),
    request_body = Value,
    responses((status = 200, body = Accepted), (status = "4XX", body = Problem), (status = "5XX", body = Problem))
)]
async fn merge_service(
    State(control): State<Control>,
    Extension(peer): Extension<Peer>,
    Named(name): Named<String>,
    Asked(query): Asked<ChangeQuery>,
    Given(body): Given,
) -> Answer<Accepted> {
    change(control, peer, query, name, Action::Merge(body)).await
}

/// Removes the service.
#[utoipa::path(
    delete,
    path = "/v1/services/{name}",
    params(("name" = String, Path), ChangeQuery),
    responses((status = 200, body = Accepted), (status = "4XX", body = Problem), (status = "5XX", body = Problem))
)]
async fn delete_service(
    State(control): State<Control>,
    Extension(peer): Extension<Peer>,
    Named(name): Named<String>,
    Asked(query): Asked<ChangeQuery>,
) -> Answer<Accepted> {
    change(control, peer, query, name, Action::Delete).await
}

/// Publishes another port of the service.
#[utoipa::path(
    post,
    path = "/v1/services/{name}/ports",
    params(("name" = String, Path), ChangeQuery),
    request_body = Port,
    responses((status = 200, body = Accepted), (status = "4XX", body = Problem), (status = "5XX", body = Problem))
)]
async fn add_port(
    State(control): State<Control>,
    Extension(peer): Extension<Peer>,
    Named(name): Named<String>,
    Asked(query): Asked<ChangeQuery>,
    Given(body): Given,
) -> Answer<Accepted> {
    change(control, peer, query, name, Action::AddPort(body)).await
}

/// Changes keys of a port by a JSON merge patch.
#[utoipa::path(
    patch,
    path = "/v1/services/{name}/ports/{protocol}/{published}",
    params(("name" = String, Path), ("protocol" = String, Path), ("published" = String, Path), ChangeQuery),
    request_body = Value,
    responses((status = 200, body = Accepted), (status = "4XX", body = Problem), (status = "5XX", body = Problem))
)]
async fn merge_port(
    State(control): State<Control>,
    Extension(peer): Extension<Peer>,
    Named((name, protocol, published)): Named<(String, String, String)>,
    Asked(query): Asked<ChangeQuery>,
    Given(body): Given,
) -> Answer<Accepted> {
    change(control, peer, query, name, Action::MergePort(port(&protocol, &published)?, body)).await
}

/// Unpublishes a port.
#[utoipa::path(
    delete,
    path = "/v1/services/{name}/ports/{protocol}/{published}",
    params(("name" = String, Path), ("protocol" = String, Path), ("published" = String, Path), ChangeQuery),
    responses((status = 200, body = Accepted), (status = "4XX", body = Problem), (status = "5XX", body = Problem))
)]
async fn delete_port(
    State(control): State<Control>,
    Extension(peer): Extension<Peer>,
    Named((name, protocol, published)): Named<(String, String, String)>,
    Asked(query): Asked<ChangeQuery>,
) -> Answer<Accepted> {
    change(control, peer, query, name, Action::DeletePort(port(&protocol, &published)?)).await
}

/// Adds a backend of all ports that have none of their own.
#[utoipa::path(
    post,
    path = "/v1/services/{name}/backends",
    params(("name" = String, Path), ChangeQuery),
    request_body = Backend,
    responses((status = 200, body = Accepted), (status = "4XX", body = Problem), (status = "5XX", body = Problem))
)]
async fn add_backend(
    State(control): State<Control>,
    Extension(peer): Extension<Peer>,
    Named(name): Named<String>,
    Asked(query): Asked<ChangeQuery>,
    Given(body): Given,
) -> Answer<Accepted> {
    change(control, peer, query, name, Action::AddBackend(None, body)).await
}

/// Changes keys of a backend (weight, state) by a JSON merge patch.
#[utoipa::path(
    patch,
    path = "/v1/services/{name}/backends/{address}",
    params(("name" = String, Path), ("address" = String, Path), ChangeQuery),
    request_body = Value,
    responses((status = 200, body = Accepted), (status = "4XX", body = Problem), (status = "5XX", body = Problem))
)]
async fn merge_backend(
    State(control): State<Control>,
    Extension(peer): Extension<Peer>,
    Named((name, backend)): Named<(String, String)>,
    Asked(query): Asked<ChangeQuery>,
    Given(body): Given,
) -> Answer<Accepted> {
    change(control, peer, query, name, Action::MergeBackend(None, address(&backend)?, body)).await
}

/// Removes a backend, and with it its connections.
#[utoipa::path(
    delete,
    path = "/v1/services/{name}/backends/{address}",
    params(("name" = String, Path), ("address" = String, Path), ChangeQuery),
    responses((status = 200, body = Accepted), (status = "4XX", body = Problem), (status = "5XX", body = Problem))
)]
async fn delete_backend(
    State(control): State<Control>,
    Extension(peer): Extension<Peer>,
    Named((name, backend)): Named<(String, String)>,
    Asked(query): Asked<ChangeQuery>,
) -> Answer<Accepted> {
    change(control, peer, query, name, Action::DeleteBackend(None, address(&backend)?)).await
}

/// Adds a backend to a port's own list.
#[utoipa::path(
    post,
    path = "/v1/services/{name}/ports/{protocol}/{published}/backends",
    params(("name" = String, Path), ("protocol" = String, Path), ("published" = String, Path), ChangeQuery),
    request_body = Backend,
    responses((status = 200, body = Accepted), (status = "4XX", body = Problem), (status = "5XX", body = Problem))
)]
async fn add_backend_of_port(
    State(control): State<Control>,
    Extension(peer): Extension<Peer>,
    Named((name, protocol, published)): Named<(String, String, String)>,
    Asked(query): Asked<ChangeQuery>,
    Given(body): Given,
) -> Answer<Accepted> {
    change(control, peer, query, name, Action::AddBackend(Some(port(&protocol, &published)?), body)).await
}

/// Changes keys of a backend of a port's own list by a JSON merge patch.
#[utoipa::path(
    patch,
    path = "/v1/services/{name}/ports/{protocol}/{published}/backends/{address}",
    params(
        ("name" = String, Path), ("protocol" = String, Path), ("published" = String, Path), ("address" = String, Path),
        ChangeQuery
    ),
    request_body = Value,
    responses((status = 200, body = Accepted), (status = "4XX", body = Problem), (status = "5XX", body = Problem))
)]
async fn merge_backend_of_port(
    State(control): State<Control>,
    Extension(peer): Extension<Peer>,
    Named((name, protocol, published, backend)): Named<(String, String, String, String)>,
    Asked(query): Asked<ChangeQuery>,
    Given(body): Given,
) -> Answer<Accepted> {
    let of = Some(port(&protocol, &published)?);
    change(control, peer, query, name, Action::MergeBackend(of, address(&backend)?, body)).await
}

/// Removes a backend from a port's own list.
#[utoipa::path(
    delete,
    path = "/v1/services/{name}/ports/{protocol}/{published}/backends/{address}",
    params(
        ("name" = String, Path), ("protocol" = String, Path), ("published" = String, Path), ("address" = String, Path),
        ChangeQuery
    ),
    responses((status = 200, body = Accepted), (status = "4XX", body = Problem), (status = "5XX", body = Problem))
)]
async fn delete_backend_of_port(
    State(control): State<Control>,
    Extension(peer): Extension<Peer>,
    Named((name, protocol, published, backend)): Named<(String, String, String, String)>,
    Asked(query): Asked<ChangeQuery>,
) -> Answer<Accepted> {
    let of = Some(port(&protocol, &published)?);
    change(control, peer, query, name, Action::DeleteBackend(of, address(&backend)?)).await
}

/// What would be done to the kernel now; nothing, if all is as wanted.
#[utoipa::path(
    get,
    path = "/v1/plan",
    params(PlanQuery),
    responses((status = 200, body = Plan), (status = "4XX", body = Problem), (status = "5XX", body = Problem))
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
    responses((status = 200, body = Accepted), (status = "4XX", body = Problem), (status = "5XX", body = Problem))
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
    responses((status = 200, body = Accepted), (status = "4XX", body = Problem), (status = "5XX", body = Problem))
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
#[utoipa::path(get, path = "/v1/traffic", responses((status = 200, body = Traffic), (status = "5XX", body = Problem)))]
async fn traffic(State(control): State<Control>) -> Answer<Traffic> {
    let traffic = control.question(Question::Traffic).await?;
    traffic.map(Json).map_err(|reason| Problem::new(500, "the kernel cannot be read", reason))
}

/// What happens from now on, as server-sent events; the data of each is JSON.
#[utoipa::path(
    get,
    path = "/v1/events",
    responses((status = 200, body = Event, content_type = "text/event-stream"), (status = "5XX", body = Problem))
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

async fn change(control: Control, peer: Peer, query: ChangeQuery, service: String, action: Action) -> Answer<Accepted> {
    let since = Instant::now();
    let until = query.wait.map(until).transpose()?;
    let (edit, expected) = (Edit { service, action }, query.generation);
    if query.dry_run {
        let mesh = control.request(|reply| Request::TryChange { edit, expected, reply }).await??;
        let generation = control.request(Request::Summary).await?.generation;
        let plan = Some(planned(&control, Some(mesh)).await?);
        let result = Progress::Accepted;
        return Ok(Json(Accepted { generation, changed: false, result, failures: Vec::new(), plan }));
    }
    let who = Who::Peer(peer);
    let change = control.request(|reply| Request::Change { edit, expected, who, since, reply }).await??;
    answer(&control, change, until).await
}

/// Tells of a change, once the kernel holds it if that is asked for.
async fn answer(control: &Control, change: super::Change, until: Option<TokioInstant>) -> Answer<Accepted> {
    let super::Change { generation, changed } = change;
    let mut accepted = Accepted { generation, changed, result: Progress::Accepted, failures: Vec::new(), plan: None };
    let Some(until) = until else { return Ok(Json(accepted)) };
    let mut looked = control.looked.clone();
    match timeout_at(until, looked.wait_for(|looked| looked.generation >= generation)).await {
        Ok(Ok(looked)) if looked.programmed >= generation => accepted.result = Progress::Programmed,
        Ok(Ok(looked)) => {
            accepted.result = Progress::Failed;
            accepted.failures = looked.failures.to_vec();
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

fn port(protocol: &str, published: &str) -> Result<PortName, Problem> {
    format!("{protocol}/{published}").parse().map_err(Problem::malformed)
}

fn address(text: &str) -> Result<IpAddr, Problem> {
    text.parse().map_err(|_| Problem::malformed(format!("{text:?} is no address; an IPv4 or IPv6 one would do")))
}
