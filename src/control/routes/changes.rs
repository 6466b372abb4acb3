//! Changes of what is wanted.

use std::net::IpAddr;
use std::time::Instant;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::{Extension, Json};

use super::super::answer::{Answer, Asked, Given, Named};
use super::super::protocol::{Accepted, Backend, ChangeQuery, Port, PortName, Problem, Progress, Service};
use super::super::{Control, Request, Who};
use super::{Refused, answer, planned, until};
use crate::kernel::peer::Peer;
use crate::source::{Action, Edit};

/// Who wants a change, and how it is to be answered.
pub(super) struct Changer {
    control: Control,
    peer: Peer,
    query: ChangeQuery,
}

impl FromRequestParts<Control> for Changer {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, control: &Control) -> Result<Changer, Problem> {
        let Asked(query) = Asked::from_request_parts(parts, control).await?;
        // The server says with every request who made it.
        let peer = Extension::<Peer>::from_request_parts(parts, control).await;
        let Extension(peer) = peer.map_err(|_| Problem::new(403, "not allowed", "it is not known who asks"))?;
        Ok(Changer { control: control.clone(), peer, query })
    }
}

impl Changer {
    async fn change(self, service: String, action: Action) -> Answer<Accepted> {
        let since = Instant::now();
        let Changer { control, peer, query } = self;
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
}

/// Makes the service, or makes it be like that. `name` may be left out of the body.
#[utoipa::path(
    put,
    path = "/v1/services/{name}",
    params(("name" = String, Path), ChangeQuery),
    request_body = Service,
    responses((status = 200, body = Accepted), Refused)
)]
pub(super) async fn put_service(changer: Changer, Named(name): Named<String>, Given(body): Given) -> Answer<Accepted> {
    changer.change(name, Action::Put(body)).await
}

/// Changes keys of the service by a JSON merge patch (RFC 7396): null takes a key away.
#[utoipa::path(
    patch,
    path = "/v1/services/{name}",
    params(("name" = String, Path), ChangeQuery),
    request_body = Value,
    responses((status = 200, body = Accepted), Refused)
)]
pub(super) async fn merge_service(
    changer: Changer,
    Named(name): Named<String>,
    Given(body): Given,
) -> Answer<Accepted> {
    changer.change(name, Action::Merge(body)).await
}

/// Removes the service.
#[utoipa::path(
    delete,
    path = "/v1/services/{name}",
    params(("name" = String, Path), ChangeQuery),
    responses((status = 200, body = Accepted), Refused)
)]
pub(super) async fn delete_service(changer: Changer, Named(name): Named<String>) -> Answer<Accepted> {
    changer.change(name, Action::Delete).await
}

/// Publishes another port of the service.
#[utoipa::path(
    post,
    path = "/v1/services/{name}/ports",
    params(("name" = String, Path), ChangeQuery),
    request_body = Port,
    responses((status = 200, body = Accepted), Refused)
)]
pub(super) async fn add_port(changer: Changer, Named(name): Named<String>, Given(body): Given) -> Answer<Accepted> {
    changer.change(name, Action::AddPort(body)).await
}

/// Changes keys of a port by a JSON merge patch.
#[utoipa::path(
    patch,
    path = "/v1/services/{name}/ports/{protocol}/{published}",
    params(("name" = String, Path), ("protocol" = String, Path), ("published" = String, Path), ChangeQuery),
    request_body = Value,
    responses((status = 200, body = Accepted), Refused)
)]
pub(super) async fn merge_port(
    changer: Changer,
    Named((name, protocol, published)): Named<(String, String, String)>,
    Given(body): Given,
) -> Answer<Accepted> {
    changer.change(name, Action::MergePort(port(&protocol, &published)?, body)).await
}

/// Unpublishes a port.
#[utoipa::path(
    delete,
    path = "/v1/services/{name}/ports/{protocol}/{published}",
    params(("name" = String, Path), ("protocol" = String, Path), ("published" = String, Path), ChangeQuery),
    responses((status = 200, body = Accepted), Refused)
)]
pub(super) async fn delete_port(
    changer: Changer,
    Named((name, protocol, published)): Named<(String, String, String)>,
) -> Answer<Accepted> {
    changer.change(name, Action::DeletePort(port(&protocol, &published)?)).await
}

/// Adds a backend of all ports that have none of their own.
#[utoipa::path(
    post,
    path = "/v1/services/{name}/backends",
    params(("name" = String, Path), ChangeQuery),
    request_body = Backend,
    responses((status = 200, body = Accepted), Refused)
)]
pub(super) async fn add_backend(changer: Changer, Named(name): Named<String>, Given(body): Given) -> Answer<Accepted> {
    changer.change(name, Action::AddBackend(None, body)).await
}

/// Changes keys of a backend (weight, state) by a JSON merge patch.
#[utoipa::path(
    patch,
    path = "/v1/services/{name}/backends/{address}",
    params(("name" = String, Path), ("address" = String, Path), ChangeQuery),
    request_body = Value,
    responses((status = 200, body = Accepted), Refused)
)]
pub(super) async fn merge_backend(
    changer: Changer,
    Named((name, backend)): Named<(String, String)>,
    Given(body): Given,
) -> Answer<Accepted> {
    changer.change(name, Action::MergeBackend(None, address(&backend)?, body)).await
}

/// Removes a backend, and with it its connections.
#[utoipa::path(
    delete,
    path = "/v1/services/{name}/backends/{address}",
    params(("name" = String, Path), ("address" = String, Path), ChangeQuery),
    responses((status = 200, body = Accepted), Refused)
)]
pub(super) async fn delete_backend(
    changer: Changer,
    Named((name, backend)): Named<(String, String)>,
) -> Answer<Accepted> {
    changer.change(name, Action::DeleteBackend(None, address(&backend)?)).await
}

/// Adds a backend to a port's own list.
#[utoipa::path(
    post,
    path = "/v1/services/{name}/ports/{protocol}/{published}/backends",
    params(("name" = String, Path), ("protocol" = String, Path), ("published" = String, Path), ChangeQuery),
    request_body = Backend,
    responses((status = 200, body = Accepted), Refused)
)]
pub(super) async fn add_backend_of_port(
    changer: Changer,
    Named((name, protocol, published)): Named<(String, String, String)>,
    Given(body): Given,
) -> Answer<Accepted> {
    changer.change(name, Action::AddBackend(Some(port(&protocol, &published)?), body)).await
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
    responses((status = 200, body = Accepted), Refused)
)]
pub(super) async fn merge_backend_of_port(
    changer: Changer,
    Named((name, protocol, published, backend)): Named<(String, String, String, String)>,
    Given(body): Given,
) -> Answer<Accepted> {
    let of = Some(port(&protocol, &published)?);
    changer.change(name, Action::MergeBackend(of, address(&backend)?, body)).await
}

/// Removes a backend from a port's own list.
#[utoipa::path(
    delete,
    path = "/v1/services/{name}/ports/{protocol}/{published}/backends/{address}",
    params(
        ("name" = String, Path), ("protocol" = String, Path), ("published" = String, Path), ("address" = String, Path),
        ChangeQuery
    ),
    responses((status = 200, body = Accepted), Refused)
)]
pub(super) async fn delete_backend_of_port(
    changer: Changer,
    Named((name, protocol, published, backend)): Named<(String, String, String, String)>,
) -> Answer<Accepted> {
    let of = Some(port(&protocol, &published)?);
    changer.change(name, Action::DeleteBackend(of, address(&backend)?)).await
}

fn port(protocol: &str, published: &str) -> Result<PortName, Problem> {
    format!("{protocol}/{published}").parse().map_err(Problem::malformed)
}

fn address(text: &str) -> Result<IpAddr, Problem> {
    text.parse().map_err(|_| Problem::malformed(format!("{text:?} is no address; an IPv4 or IPv6 one would do")))
}
