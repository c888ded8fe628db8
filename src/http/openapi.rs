//! The OpenAPI 3.1 document of all routes, made from the Rust types that read and write them.
//!
//! Owns which operations there are, with which content types, and what each answers. Does not own a shape: those are the types of the
//! routes, by way of `schemars`, and of `schema` where serde alone does not know it. `docs/openapi.json` is this document as it was
//! committed; a test makes it anew and compares, so that every change of the wire is seen in a diff.
//!
//! It has our own routes, OpenAI's and the probes. The other dialects' are described by their own services' documents, and by
//! `docs/clients.md`.

use std::sync::LazyLock;

use axum::response::{IntoResponse, Response};
use http::header;
use schemars::{
    JsonSchema, Schema, SchemaGenerator,
    generate::{Contract, SchemaSettings},
};
use serde_json::{Map, Value, json};

use super::{
    dialects::openai,
    error::Code,
    native::{
        info::Info,
        wire::{
            ClassifyQuery, ClassifyRequest, ClassifyResponse, EmbedImageQuery, EmbedImageRequest, EmbedResponse,
            EmbedTextQuery, EmbedTextRequest, OutputsResponse, PartialResponse, SimilarityQuery, SimilarityRequest,
            SimilarityResponse,
        },
    },
    reply::{NPY, NPZ},
};

/// `GET /openapi.json`.
pub(super) async fn document() -> Response {
    static DOCUMENT: LazyLock<String> = LazyLock::new(|| format!("{:#}\n", make()));
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.as_str()).into_response()
}

/// Whose errors an operation answers.
#[derive(Clone, Copy)]
enum Errors {
    /// Ours.
    Native,
    /// OpenAI's.
    OpenAi,
}

/// One operation. Bodies and answers have a content type each, and a schema.
struct Operation {
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    tag: &'static str,
    query: Option<Schema>,
    bodies: Vec<(&'static str, Value)>,
    answers: Vec<(&'static str, Value)>,
    errors: Errors,
    /// The codes that it can be refused with.
    codes: &'static [Code],
    /// Whether it wants the key.
    keyed: bool,
}

/// What any request with a body can be refused with.
const GATED: &[Code] = &[
    Code::InvalidRequest,
    Code::Unauthorized,
    Code::RequestTimeout,
    Code::PayloadTooLarge,
    Code::UnsupportedMediaType,
    Code::InvalidImage,
    Code::Overloaded,
    Code::Internal,
    Code::NotSupported,
    Code::NotReady,
    Code::DeadlineExceeded,
];

/// The same where a model may be named.
const OF_A_MODEL: &[Code] = &[
    Code::InvalidRequest,
    Code::Unauthorized,
    Code::ModelNotFound,
    Code::RequestTimeout,
    Code::PayloadTooLarge,
    Code::InvalidImage,
    Code::Overloaded,
    Code::Internal,
    Code::NotSupported,
    Code::NotReady,
    Code::DeadlineExceeded,
];

/// Schemas of requests and of answers.
struct Schemas {
    requests: SchemaGenerator,
    answers: SchemaGenerator,
}

impl Schemas {
    fn new() -> Self {
        let generator = |contract| {
            let mut settings = SchemaSettings::draft2020_12();
            settings.contract = contract;
            settings.definitions_path = "/components/schemas".into();
            settings.into_generator()
        };
        Self { requests: generator(Contract::Deserialize), answers: generator(Contract::Serialize) }
    }

    fn request<T: JsonSchema>(&mut self) -> Value {
        self.requests.subschema_for::<T>().to_value()
    }

    fn answer<T: JsonSchema>(&mut self) -> Value {
        self.answers.subschema_for::<T>().to_value()
    }

    /// Of a query: the members themselves, since each is a parameter.
    fn query<T: JsonSchema>(&mut self) -> Option<Schema> {
        let name = T::schema_name().into_owned();
        self.requests.subschema_for::<T>();
        self.requests.definitions_mut().remove(&name).and_then(|schema| Schema::try_from(schema).ok())
    }

    fn definitions(mut self) -> Map<String, Value> {
        let mut all = self.requests.take_definitions(true);
        all.extend(self.answers.take_definitions(true));
        all
    }
}

fn binary() -> Value {
    json!({})
}

/// A multipart body with file parts and these text fields.
fn multipart(fields: &[&str]) -> Value {
    let list = |items: Value| json!({"type": "array", "minItems": 1, "items": items});
    let mut properties = Map::new();
    properties.insert("image".to_owned(), list(json!({"type": "string", "format": "binary"})));
    for field in fields {
        // Whatever a part holds is a text.
        properties.insert((*field).to_owned(), json!({}));
    }
    let required: Vec<&str> =
        ["image"].iter().chain(fields.iter().filter(|field| **field != "template")).copied().collect();
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

fn operations(schemas: &mut Schemas) -> Vec<Operation> {
    let embeddings = |schemas: &mut Schemas| {
        let one_of = json!({"anyOf": [schemas.answer::<EmbedResponse<'static>>(), schemas.answer::<OutputsResponse<'static>>(), schemas.answer::<PartialResponse<'static>>()]});
        vec![("application/json", one_of), (NPY, binary()), (NPZ, binary())]
    };
    let text = |path, summary| Operation {
        method: "get",
        path,
        summary,
        tag: "probes",
        query: None,
        bodies: Vec::new(),
        answers: vec![("text/plain", json!({"type": "string"}))],
        errors: Errors::Native,
        codes: &[],
        keyed: false,
    };
    let native = |path, summary, query, bodies, answers| Operation {
        method: "post",
        path,
        summary,
        tag: "native",
        query,
        bodies,
        answers,
        errors: Errors::Native,
        codes: GATED,
        keyed: true,
    };
    let openai = |schemas: &mut Schemas, path| Operation {
        method: "post",
        path,
        summary: "Embeddings, as OpenAI's clients and those around them ask for them",
        tag: "OpenAI",
        query: None,
        bodies: vec![("application/json", schemas.request::<openai::Body<'static>>())],
        answers: vec![("application/json", schemas.answer::<openai::Answer>())],
        errors: Errors::OpenAi,
        codes: OF_A_MODEL,
        keyed: true,
    };
    vec![
        native(
            "/embed/image",
            "An embedding for each picture",
            schemas.query::<EmbedImageQuery>(),
            vec![
                ("application/json", schemas.request::<EmbedImageRequest<'static>>()),
                ("multipart/form-data", multipart(&[])),
                ("image/*", binary()),
                ("application/octet-stream", binary()),
            ],
            embeddings(schemas),
        ),
        native(
            "/embed/text",
            "An embedding for each text",
            schemas.query::<EmbedTextQuery>(),
            vec![
                ("application/json", schemas.request::<EmbedTextRequest<'static>>()),
                ("text/plain", json!({"type": "string"})),
            ],
            embeddings(schemas),
        ),
        native(
            "/similarity",
            "logits_per_image of pictures and texts, as CLIPModel computes it",
            schemas.query::<SimilarityQuery>(),
            vec![
                ("application/json", schemas.request::<SimilarityRequest<'static>>()),
                ("multipart/form-data", multipart(&["text"])),
            ],
            vec![("application/json", schemas.answer::<SimilarityResponse<'static>>())],
        ),
        native(
            "/classify",
            "The labels of each picture, best first",
            schemas.query::<ClassifyQuery>(),
            vec![
                ("application/json", schemas.request::<ClassifyRequest<'static>>()),
                ("multipart/form-data", multipart(&["label", "template"])),
            ],
            vec![("application/json", schemas.answer::<ClassifyResponse<'static>>())],
        ),
        openai(schemas, "/v1/embeddings"),
        openai(schemas, "/embeddings"),
        Operation {
            method: "get",
            path: "/info",
            summary: "What runs: model, provider, precision, limits, versions",
            tag: "native",
            query: None,
            bodies: Vec::new(),
            answers: vec![("application/json", schemas.answer::<Info<'static>>())],
            errors: Errors::Native,
            codes: &[Code::Unauthorized, Code::NotReady],
            keyed: true,
        },
        text("/livez", "Whether the process should go on: 503 when an encoder is stuck"),
        text("/readyz", "Whether requests are served: 503 while loading and while draining"),
        text("/metrics", "All metrics, in Prometheus' text format"),
    ]
}

impl Operation {
    fn document(&self) -> Value {
        let content = |all: &[(&'static str, Value)]| -> Value {
            all.iter()
                .map(|(kind, schema)| ((*kind).to_owned(), json!({"schema": schema})))
                .collect::<Map<_, _>>()
                .into()
        };
        let mut responses = Map::new();
        responses.insert("200".to_owned(), json!({"description": "The answer", "content": content(&self.answers)}));
        if self.tag == "probes" && self.path != "/metrics" {
            responses.insert("503".to_owned(), json!({"description": "Not now", "content": content(&self.answers)}));
        }
        let reference = |name: &str| json!({"$ref": format!("#/components/schemas/{name}")});
        let schema = match self.errors {
            Errors::Native => reference("Error"),
            // Intel's, once the body has turned out to be of its kind.
            Errors::OpenAi => json!({"anyOf": [reference("OpenAiError"), reference("Detail")]}),
        };
        for code in self.codes {
            let entry = responses.entry(code.status().as_str()).or_insert_with(|| {
                let content = json!({"application/json": {"schema": schema}});
                json!({"description": "", "content": content})
            });
            let description = entry["description"].as_str().unwrap_or_default();
            let separator = if description.is_empty() { "" } else { ", " };
            entry["description"] = format!("{description}{separator}`{}`", code.as_str()).into();
        }
        let mut operation = json!({
            "operationId": format!("{}{}", self.method, self.path.replace(['/', '.', '-'], "_")),
            "summary": self.summary,
            "tags": [self.tag],
            "responses": responses,
        });
        if !self.bodies.is_empty() {
            operation["requestBody"] = json!({"required": true, "content": content(&self.bodies)});
        }
        if let Some(query) = &self.query {
            operation["parameters"] = parameters(query);
        }
        if self.keyed {
            // The key is wanted only where one is configured.
            operation["security"] = json!([{}, {"key": []}]);
        }
        operation
    }
}

/// The members of a query as parameters.
fn parameters(query: &Schema) -> Value {
    let properties = query.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
    let parameter = |(name, mut schema): (String, Value)| {
        let description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
        let mut parameter = json!({"name": name, "in": "query", "required": false, "schema": schema});
        // Lists are written with commas.
        if parameter["schema"]["type"] == "array" {
            parameter["style"] = "form".into();
            parameter["explode"] = false.into();
        }
        if let Some(description) = description {
            parameter["description"] = description;
        }
        parameter
    };
    properties.into_iter().map(parameter).collect()
}

/// All of it.
pub(super) fn make() -> Value {
    let mut schemas = Schemas::new();
    let mut paths = Map::new();
    for operation in operations(&mut schemas) {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = operation.document();
    }
    let mut definitions = schemas.definitions();
    definitions.insert("Error".to_owned(), native_error());
    definitions.insert("OpenAiError".to_owned(), openai_error());
    definitions.insert("Detail".to_owned(), detail());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "clipserve",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "CLIP embeddings over HTTP. With a JSON body the options go into the body, else into the query.",
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": definitions,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "`server.api_key`, where one is set"}},
        },
    })
}

fn native_error() -> Value {
    let codes: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    json!({
        "type": "object",
        "required": ["error"],
        "additionalProperties": false,
        "properties": {"error": {
            "type": "object",
            "required": ["code", "message", "request_id"],
            "additionalProperties": false,
            "properties": {
                "code": {"enum": codes},
                "message": {"type": "string"},
                "index": {"type": "integer", "minimum": 0, "description": "Which item stands in the way."},
                "request_id": {"type": "string"},
            },
        }},
    })
}

/// Errors as FastAPI's services have them.
fn detail() -> Value {
    json!({
        "type": "object",
        "required": ["detail"],
        "additionalProperties": false,
        "properties": {"detail": {"type": "string"}},
    })
}

fn openai_error() -> Value {
    json!({
        "type": "object",
        "required": ["error"],
        "additionalProperties": false,
        "properties": {"error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "additionalProperties": false,
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"], "description": "Which input stands in the way, such as input[3]."},
                "code": {"type": "string"},
            },
        }, "detail": {"type": "string", "description": "Where the body has not been read: the message, for clients that look for it here."}},
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

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

    #[test]
    fn every_route_is_in_the_document_or_is_described_elsewhere() {
        let document = make();
        for (path, _) in crate::http::ROUTES.templates {
            assert!(document["paths"].get(path).is_some() || NOT_OF_THE_API.contains(path), "{path}");
        }
    }

    /// Pages for people, this document, and routes that other services describe.
    const NOT_OF_THE_API: &[&str] = &[
        "/openapi.json",
        "/docs",
        "/",
        "/page/{name}",
        "/vectorize",
        "/meta",
        "/.well-known/live",
        "/.well-known/ready",
        "/predict",
        "/ping",
        "/embed",
        "/tokenize",
        "/decode",
        "/v1/models",
        "/v1/models/{*id}",
        "/models",
        "/health",
        "/v1/health/ready",
        "/v1/health/live",
        "/v1/embed",
        "/v2/embed",
        "/v1/multimodalembeddings",
        "/v1/classify",
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/{*path}",
        "/v2/repository/index",
    ];

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
