//! The OpenAPI 3.1 document of all routes, put together from what each route's owner says of it beside its handler.
//!
//! Owns whom to ask, the order of the tags, and what the document says as a whole. Does not own an operation (its owner's `operations`),
//! nor how one is described (`operation`), nor a shape: those are the types of the routes, by way of `schemars`, and of `schema` where serde
//! alone does not know it.
//!
//! Invariants: every route is in it but those of `NOT_OF_THE_API` in its tests, each with a reason; `docs/openapi.json` is this document as it was
//! committed, and a test makes it anew and compares, so that every change of the wire is seen in a diff.

use std::sync::LazyLock;

use axum::response::{IntoResponse, Response};
use http::header;
use serde_json::{Map, Value, json};

use super::{
    dialects::{cohere, immich, infinity, jina, nim, oip, openai, tei, voyage, weaviate},
    native::{classify, embed},
    operation::{Operation, Schemas},
    probes,
};

/// `GET /openapi.json`.
pub(super) async fn document() -> Response {
    static DOCUMENT: LazyLock<String> = LazyLock::new(|| format!("{:#}\n", make()));
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.as_str()).into_response()
}

/// What each owner of routes says of them. Tags stand in the order in which they come here.
const OWNERS: &[fn(&mut Schemas) -> Vec<Operation>] = &[
    embed::operations,
    classify::operations,
    tei::info::operations,
    openai::operations,
    cohere::operations,
    voyage::operations,
    jina::operations,
    nim::operations,
    infinity::operations,
    tei::operations,
    tei::tokens::operations,
    oip::metadata::operations,
    oip::infer::operations,
    weaviate::operations,
    immich::operations,
    probes::operations,
];

/// All of it.
pub(super) fn make() -> Value {
    let mut schemas = Schemas::new();
    let (mut paths, mut tags) = (Map::new(), Vec::new());
    for Operation { method, path, value } in OWNERS.iter().flat_map(|operations| operations(&mut schemas)) {
        let tag = json!({"name": value["tags"][0]});
        if !tags.contains(&tag) {
            tags.push(tag);
        }
        paths.entry(path).or_insert_with(|| json!({}))[method] = value;
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "clipserve",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "CLIP embeddings over HTTP, by our own routes and by those of other services. With a JSON body the options go into the body, else into the query.",
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": schemas.definitions(),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "one of the service's keys, where it has some"}},
        },
    })
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, fs, sync::Arc, time::Duration};

    use axum::{body::Body, extract::Request};
    use http::{Method, StatusCode};
    use tower::ServiceExt as _;

    use super::*;
    use crate::{
        config,
        health::Health,
        http::{AppState, ROUTES, router},
        telemetry::Metrics,
    };

    /// Where the document is committed.
    const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");

    #[test]
    fn the_committed_document_is_that_of_the_types() {
        let made = format!("{:#}\n", make());
        let committed = fs::read_to_string(COMMITTED).unwrap_or_default();
        let differs = made.lines().zip(committed.lines()).position(|(made, committed)| made != committed);
        assert!(
            made == committed,
            "docs/openapi.json differs from line {:?} on; if the change of the wire is meant, run `cargo test --lib openapi -- --ignored`",
            differs.map(|line| line + 1)
        );
    }

    #[test]
    #[ignore = "writes docs/openapi.json"]
    fn write_the_document() {
        fs::write(COMMITTED, format!("{:#}\n", make())).expect("docs is there");
    }

    /// Which have no other service's client and no program as their reader: the document itself, as JSON and as a page, and what the page at
    /// `/` loads.
    const NOT_OF_THE_API: &[&str] = &["/openapi.json", "/docs", "/page/{name}"];

    /// Every method of every route is in the document, and nothing else is.
    #[tokio::test]
    async fn the_document_has_the_routes_that_there_are() {
        let set = vec!["model.path=m".to_owned()];
        let loaded = config::load(&config::Overrides { set, ..Default::default() }, []).expect("valid");
        let health = Arc::new(Health::new(Duration::from_secs(60)));
        let router = router(Arc::new(AppState::new(loaded.config.into(), Arc::new(Metrics::new()), health)));
        let document = make();
        let paths = document["paths"].as_object().expect("paths");
        // Those of a model are one to the router, which then looks at the end of the path.
        let templates = ROUTES.routes.iter().map(|route| route.template).filter(|path| !NOT_OF_THE_API.contains(path));
        let of_a_model = |path: &str| path.starts_with("/v2/models/") || path.starts_with("/v1/models/");
        let templates: Vec<&str> = templates.filter(|path| !of_a_model(path)).collect();
        assert!(paths.keys().all(|path| of_a_model(path) || templates.contains(&path.as_str())));
        for (path, method) in templates.into_iter().flat_map(|path| [(path, Method::GET), (path, Method::POST)]) {
            let described = paths.get(path).is_some_and(|path| path.get(method.as_str().to_lowercase()).is_some());
            let request = Request::builder().method(method.clone()).uri(path);
            let answer = router.clone().oneshot(request.body(Body::empty()).expect("a request")).await;
            let status = answer.expect("an answer").status();
            let routed = ![StatusCode::METHOD_NOT_ALLOWED, StatusCode::NOT_FOUND].contains(&status);
            assert_eq!(routed, described, "{method} {path}: {status}");
        }
    }

    #[test]
    fn a_name_is_one_shape_and_an_id_one_operation() {
        let mut schemas = Schemas::new();
        let operations: Vec<Operation> = OWNERS.iter().flat_map(|operations| operations(&mut schemas)).collect();
        let ids: HashSet<String> =
            operations.iter().map(|operation| operation.value["operationId"].to_string()).collect();
        assert_eq!(ids.len(), operations.len());
        assert_eq!(schemas.clashes(), [""; 0]);
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn references(value: &Value, found: &mut Vec<String>) {
            match value {
                Value::Object(members) => members.iter().for_each(|(name, value)| match value {
                    Value::String(target) if name == "$ref" => found.push(target.clone()),
                    value => references(value, found),
                }),
                Value::Array(values) => values.iter().for_each(|value| references(value, found)),
                _ => {}
            }
        }
        let document = make();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(!found.is_empty());
        for target in found {
            let pointer = target.strip_prefix('#').expect("within the document");
            assert!(document.pointer(pointer).is_some(), "{target}");
        }
    }
}
