//! The OpenAPI document and the server say the same: every operation is carried out, and every answer is as described.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::lab::{Lab, Tcp};

/// An operation of the document with its path filled in, its body, and the status that it ends with.
type Example = (&'static str, &'static str, &'static str, Option<Value>, u16);

fn examples() -> Vec<Example> {
    let service = || {
        json!({
            "scheduler": "wrr", "persistence": 0, "persistence_mask": "255.255.255.0",
            "port": [{ "published": 20229, "target": 9092 }, { "published": "9090-9099", "protocol": "udp",
                       "backend": [{ "address": "10.255.0.34", "weight": 2, "state": "drain" }] }],
            "backend": [{ "address": "10.255.0.33", "netns": 4_000_000 }],
        })
    };
    let (services, name) = ("/v1/services", "/v1/services/{name}");
    let (backends, backend) = ("/v1/services/{name}/backends", "/v1/services/{name}/backends/{address}");
    let (ports, port) = ("/v1/services/{name}/ports", "/v1/services/{name}/ports/{protocol}/{published}");
    let of_port = "/v1/services/{name}/ports/{protocol}/{published}/backends";
    let one_of_port = "/v1/services/{name}/ports/{protocol}/{published}/backends/{address}";
    vec![
        ("get", services, "/v1/services", None, 200),
        ("put", name, "/v1/services/kafka", Some(service()), 200),
        ("put", name, "/v1/services/kafka?dry_run=true", Some(json!({ "port": [{ "published": 1 }] })), 200),
        ("put", name, "/v1/services/kafka", Some(json!({ "port": 1, "colour": 2 })), 422),
        ("put", name, "/v1/services/kafka?generation=0", Some(service()), 409),
        ("get", services, "/v1/services", None, 200),
        ("get", name, "/v1/services/kafka", None, 200),
        ("get", name, "/v1/services/web", None, 200),
        ("get", name, "/v1/services/none", None, 404),
        ("patch", name, "/v1/services/kafka?wait=60", Some(json!({ "scheduler": null })), 200),
        ("patch", name, "/v1/services/web", Some(json!({ "scheduler": null })), 409),
        ("post", ports, "/v1/services/kafka/ports?wait=0", Some(json!({ "published": 80 })), 200),
        ("post", ports, "/v1/services/kafka/ports", Some(json!({ "published": 80 })), 409),
        ("patch", port, "/v1/services/kafka/ports/tcp/80", Some(json!({ "target": 8080 })), 200),
        ("delete", port, "/v1/services/kafka/ports/tcp/80", None, 200),
        ("delete", port, "/v1/services/kafka/ports/tcp/0", None, 400),
        ("post", backends, "/v1/services/kafka/backends", Some(json!({ "address": "10.255.0.35" })), 200),
        ("patch", backend, "/v1/services/kafka/backends/10.255.0.35", Some(json!({ "weight": 0 })), 200),
        ("delete", backend, "/v1/services/kafka/backends/10.255.0.35", None, 200),
        ("delete", backend, "/v1/services/kafka/backends/10.255.0.35", None, 404),
        (
            "post",
            of_port,
            "/v1/services/kafka/ports/udp/9090-9099/backends",
            Some(json!({ "address": "10.255.0.36" })),
            200,
        ),
        (
            "patch",
            one_of_port,
            "/v1/services/kafka/ports/udp/9090-9099/backends/10.255.0.36",
            Some(json!({ "state": "disabled" })),
            200,
        ),
        ("delete", one_of_port, "/v1/services/kafka/ports/udp/9090-9099/backends/10.255.0.36", None, 200),
        ("get", "/v1/status", "/v1/status", None, 200),
        ("get", "/v1/plan", "/v1/plan", None, 200),
        ("get", "/v1/plan", "/v1/plan?reload=true", None, 200),
        ("get", "/v1/plan", "/v1/plan?reload=perhaps", None, 400),
        ("post", "/v1/reload", "/v1/reload?wait=60", None, 200),
        ("get", "/v1/wait", "/v1/wait", None, 200),
        ("get", "/v1/wait", "/v1/wait?generation=18446744073709551615", None, 404),
        ("get", "/v1/doctor", "/v1/doctor", None, 200),
        ("get", "/v1/explain/{port}", "/v1/explain/20229?protocol=tcp&from=192.168.50.10", None, 200),
        ("get", "/v1/explain/{port}", "/v1/explain/20229?protocol=icmp", None, 400),
        ("get", "/v1/explain/{port}", "/v1/explain/20230", None, 404),
        ("get", "/v1/traffic", "/v1/traffic", None, 200),
        ("delete", name, "/v1/services/kafka?wait=60", None, 200),
    ]
}

#[test]
fn the_document_and_the_server_agree() {
    let Some(lab) = Lab::new() else { return };
    let _web = lab.backend("web-1").tcp(80);
    let config = lab
        .config()
        .service("name = 'web'\nport = [{ published = 8000, target = 80 }]\nbackend = [{ address = '10.255.0.41', netns = \"web-1\" }]");
    let _meshd = lab.start(&config);
    lab.client.ask(Tcp, "192.168.50.1:8000");
    let mut api = lab.api();
    let document = api.get("/v1/openapi.json");
    assert_eq!(document["openapi"], "3.1.0");

    let mut described: BTreeSet<(String, String)> = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        described.extend(methods.as_object().unwrap().keys().map(|method| (method.clone(), path.clone())));
    }
    // Streams: tests/kernel/control_events.rs and explain.rs read them.
    for stream in ["/v1/events", "/v1/check"] {
        described.remove(&("get".to_owned(), stream.to_owned()));
    }
    let tried: BTreeSet<_> =
        examples().into_iter().map(|(method, path, ..)| (method.to_owned(), path.to_owned())).collect();
    assert_eq!(described, tried, "described and tried");

    for (method, template, path, body, status) in examples() {
        let operation = &document["paths"][template][method];
        let said = format!("{method} {path}");
        match (&body, operation.get("requestBody")) {
            (Some(body), Some(wanted)) if status == 200 => {
                check(&document, &wanted["content"]["application/json"]["schema"], body, &said);
            }
            (body, wanted) => assert_eq!(body.is_some(), wanted.is_some(), "{said}: a body"),
        }
        for parameter in path.split_once('?').map_or("", |(_, query)| query).split('&').filter(|text| !text.is_empty())
        {
            let name = parameter.split('=').next().unwrap();
            let known = operation["parameters"].as_array().unwrap();
            assert!(known.iter().any(|known| known["name"] == name && known["in"] == "query"), "{said}: {name}");
        }
        let (answered, answer) = api.call(&method.to_uppercase(), path, body.as_ref());
        assert_eq!(answered, status, "{said}: {answer:#}");
        let (key, kind) = if status == 200 { ("200", "application/json") } else { ("4XX", "application/problem+json") };
        let schema = &operation["responses"][key]["content"][kind]["schema"];
        assert!(schema.is_object(), "{said}: no {kind} for {key} in {operation:#}");
        check(&document, schema, &answer, &said);
    }
}

/// Whether a value is as its schema says. A word of JSON Schema that is not known here is an error, not a pass.
#[track_caller]
fn check(document: &Value, schema: &Value, value: &Value, place: &str) {
    if let Err(trouble) = conforms(document, schema, value, place, false) {
        panic!("{trouble}");
    }
}

/// `part`: of several schemas, each of which knows some keys only.
fn conforms(document: &Value, schema: &Value, value: &Value, place: &str, part: bool) -> Result<(), String> {
    let wrong = |what: String| Err(format!("{place}: {value} {what}"));
    let empty = Map::new();
    for (word, rule) in schema.as_object().unwrap_or(&empty) {
        let subschemas = || rule.as_array().into_iter().flatten();
        match word.as_str() {
            "description" | "format" | "default" | "propertyNames" => {}
            "$ref" => {
                let target = document.pointer(rule.as_str().unwrap().trim_start_matches('#'));
                conforms(document, target.ok_or(format!("no {rule}"))?, value, place, part)?;
            }
            "type" => {
                let types: Vec<&str> = match rule {
                    Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
                    one => one.as_str().into_iter().collect(),
                };
                let is = |kind: &&str| match *kind {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "boolean" => value.is_boolean(),
                    "integer" => value.is_u64() || value.is_i64(),
                    "number" => value.is_number(),
                    "null" => value.is_null(),
                    other => panic!("type {other}"),
                };
                if !types.iter().any(is) {
                    return wrong(format!("is no {types:?}"));
                }
            }
            "minimum" => {
                if value.as_f64().is_some_and(|number| number < rule.as_f64().unwrap()) {
                    return wrong(format!("is below {rule}"));
                }
            }
            "enum" => {
                if !subschemas().any(|one| one == value) {
                    return wrong(format!("is none of {rule}"));
                }
            }
            "required" => {
                if let Some(missing) = subschemas().find(|key| value.get(key.as_str().unwrap()).is_none()) {
                    return wrong(format!("lacks {missing}"));
                }
            }
            "properties" => {
                for (key, schema) in rule.as_object().unwrap() {
                    if let Some(value) = value.get(key) {
                        conforms(document, schema, value, &format!("{place} {key}"), false)?;
                    }
                }
            }
            "items" => {
                for (index, element) in value.as_array().into_iter().flatten().enumerate() {
                    conforms(document, rule, element, &format!("{place}[{index}]"), false)?;
                }
            }
            "allOf" => subschemas().try_for_each(|schema| conforms(document, schema, value, place, true))?,
            "oneOf" | "anyOf" => {
                if !subschemas().any(|schema| conforms(document, schema, value, place, part).is_ok()) {
                    return wrong(format!("is none of {rule}"));
                }
            }
            other => panic!("{other} in {schema:#}"),
        }
    }
    // What is answered has no key that is not described.
    if let (false, Some(object), Some(known)) = (part, value.as_object(), keys(document, schema))
        && let Some(extra) = object.keys().find(|key| !known.contains(key.as_str()))
    {
        return wrong(format!("has a key {extra} that is not described"));
    }
    Ok(())
}

/// All keys that a schema of objects knows, through its references; `None`: it says nothing of keys.
fn keys(document: &Value, schema: &Value) -> Option<BTreeSet<String>> {
    if let Some(reference) = schema["$ref"].as_str() {
        return keys(document, document.pointer(reference.trim_start_matches('#'))?);
    }
    let own = schema["properties"].as_object().map(|properties| properties.keys().cloned().collect::<BTreeSet<_>>());
    let parts = schema["allOf"].as_array().into_iter().flatten().filter_map(|part| keys(document, part));
    // A part of several does not know the others' keys: only the whole is asked.
    parts.chain(own).reduce(|mut all, more| {
        all.extend(more);
        all
    })
}
