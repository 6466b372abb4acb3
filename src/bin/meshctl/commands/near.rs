//! Helpful refusals: what there is, where the thing that was named is not.

use meshd::config::nearest;
use meshd::control::protocol::Services;

use crate::meshctl::client::Client;
use crate::meshctl::failure::Failure;

/// If the service is not there, says which one was probably meant.
pub async fn explain(client: &Client, failure: Failure, service: &str) -> Failure {
    if !failure.has_status(404) {
        return failure;
    }
    // Without a list, the daemon's own words will do.
    let Ok(services) = client.get::<Services>("/v1/services").await else { return failure };
    let names: Vec<&str> = services.services.iter().map(|entry| entry.service.name.as_str()).collect();
    match unknown(service, &names) {
        Some(detail) => Failure { detail, ..failure },
        None => failure,
    }
}

/// `None`: it is known.
pub fn unknown(name: &str, names: &[&str]) -> Option<String> {
    if names.contains(&name) {
        return None;
    }
    let hint = match nearest(name, names) {
        Some(near) => format!("did you mean {near}?"),
        None if names.is_empty() => "there is none at all".to_owned(),
        None if names.len() <= 10 => format!("there are: {}", names.join(", ")),
        None => format!("`meshctl service ls` lists the {} that there are", names.len()),
    };
    Some(format!("no service {name}; {hint}"))
}

#[cfg(test)]
mod tests {
    use super::unknown;

    #[track_caller]
    fn check(name: &str, names: &[&str], expected: Option<&str>) {
        assert_eq!(unknown(name, names).as_deref(), expected);
    }

    #[test]
    fn a_wrong_name_is_answered_with_a_right_one() {
        check("kafka", &["kafka"], None);
        check("kafak", &["kafka", "web"], Some("no service kafak; did you mean kafka?"));
        check("postgres", &["kafka", "web"], Some("no service postgres; there are: kafka, web"));
        check("kafka", &[], Some("no service kafka; there is none at all"));
        check("x", &["service"; 11], Some("no service x; `meshctl service ls` lists the 11 that there are"));
    }
}
