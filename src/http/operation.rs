//! One operation of the OpenAPI document, as the owner of a route describes it beside its handler.
//!
//! Owns how an operation is put together, and the generators of the schemas of what is taken ([`Schemas::request`]) and of what is answered
//! ([`Schemas::answer`]). Does not own a shape (the types of the routes), nor which operations there are (`openapi` puts them together).
//!
//! Invariants: the status of a refusal and its schema are those of the owner's own [`ErrorShape`], so neither is written down twice; that a
//! request may have more members than are named is said outright.

use schemars::{
    JsonSchema, Schema, SchemaGenerator,
    generate::{Contract, SchemaSettings},
    transform::RecursiveTransform,
};
use serde_json::{Map, Value, json};

use super::{Code, error::ErrorShape};

/// The media type of most bodies.
pub(super) const JSON: &str = "application/json";
/// The media type of a form.
pub(super) const FORM: &str = "multipart/form-data";

/// What a request with a body, in which a model may be named, can be refused with.
pub(super) const OF_A_MODEL: &[Code] = &[
    Code::ModelNotFound,
    Code::InvalidRequest,
    Code::Unauthorized,
    Code::RequestTimeout,
    Code::PayloadTooLarge,
    Code::UnsupportedMediaType,
    Code::InvalidImage,
    Code::ImageNotFetched,
    Code::InvalidText,
    Code::Overloaded,
    Code::Internal,
    Code::NotSupported,
    Code::NotReady,
    Code::ShuttingDown,
    Code::OutOfMemory,
    Code::DeadlineExceeded,
];

/// The same where none can be named.
pub(super) const GATED: &[Code] = OF_A_MODEL.split_at(1).1;

/// What a question about the model can be refused with.
pub(super) const OF_THE_KEYED: &[Code] = &[Code::Unauthorized, Code::NotReady];

/// What a probe can be refused with.
pub(super) const OF_A_PROBE: &[Code] = &[Code::NotReady, Code::ShuttingDown];

/// The schemas of requests and of answers.
pub(super) struct Schemas {
    requests: SchemaGenerator,
    answers: SchemaGenerator,
}

impl Schemas {
    pub(super) fn new() -> Self {
        let settings = |contract| {
            let mut settings = SchemaSettings::draft2020_12();
            settings.contract = contract;
            settings.definitions_path = "/components/schemas".into();
            settings
        };
        let requests = settings(Contract::Deserialize).with_transform(RecursiveTransform(say_what_else_may_come));
        Self { requests: requests.into_generator(), answers: settings(Contract::Serialize).into_generator() }
    }

    pub(super) fn request<T: JsonSchema>(&mut self) -> Value {
        self.requests.subschema_for::<T>().to_value()
    }

    pub(super) fn answer<T: JsonSchema>(&mut self) -> Value {
        self.answers.subschema_for::<T>().to_value()
    }

    fn error(&mut self, shape: ErrorShape) -> Value {
        (shape.schema)(&mut self.answers).to_value()
    }

    /// All that have a name.
    pub(super) fn definitions(mut self) -> Map<String, Value> {
        let mut all = self.requests.take_definitions(true);
        all.extend(self.answers.take_definitions(true));
        all
    }

    /// The names that a request and an answer have both, with another schema each.
    #[cfg(test)]
    pub(super) fn clashes(mut self) -> Vec<String> {
        let (requests, answers) = (self.requests.take_definitions(true), self.answers.take_definitions(true));
        let clash = |(name, schema)| answers.get(&name).is_some_and(|other| *other != schema).then_some(name);
        requests.into_iter().filter_map(clash).collect()
    }
}

/// Members that nobody knows are passed over where the schema does not refuse them.
fn say_what_else_may_come(schema: &mut Schema) {
    if schema.get("properties").is_some() && schema.get("additionalProperties").is_none() {
        schema.insert("additionalProperties".to_owned(), true.into());
    }
}

/// One operation.
pub(super) struct Operation {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    /// As OpenAPI has it.
    pub(super) value: Value,
}

impl Operation {
    fn new(method: &'static str, tag: &str, path: &'static str, summary: &str) -> Self {
        let id = path.replace(['{', '}'], "").replace(['/', '.', '-'], "_");
        let mut value =
            json!({"operationId": format!("{method}{id}"), "summary": summary, "tags": [tag], "responses": {}});
        let parameters: Vec<Value> = path
            .split(['{', '}'])
            .skip(1)
            .step_by(2)
            .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
            .collect();
        if !parameters.is_empty() {
            value["parameters"] = parameters.into();
        }
        Self { method, path, value }
    }

    /// `GET path`.
    pub(super) fn get(tag: &str, path: &'static str, summary: &str) -> Self {
        Self::new("get", tag, path, summary)
    }

    /// `POST path`.
    pub(super) fn post(tag: &str, path: &'static str, summary: &str) -> Self {
        Self::new("post", tag, path, summary)
    }

    /// With a body of this media type.
    pub(super) fn takes(mut self, kind: &str, schema: Value) -> Self {
        let body = &mut self.value["requestBody"];
        body["required"] = true.into();
        add(&mut body["content"][kind]["schema"], schema);
        self
    }

    /// With the members of `T` as parameters of the query.
    pub(super) fn asks<T: JsonSchema>(mut self, schemas: &mut Schemas) -> Self {
        let name = T::schema_name();
        schemas.requests.subschema_for::<T>();
        // Each member is a parameter, so the whole has no name of its own.
        let mut query = schemas.requests.definitions_mut().remove(&*name).unwrap_or_default();
        let Some(properties) = query["properties"].as_object_mut() else { return self };
        self.value["parameters"] = std::mem::take(properties).into_iter().map(parameter).collect();
        self
    }

    /// With a number in a header that may be there.
    pub(super) fn may_have_header(mut self, name: &str, description: &str) -> Self {
        let schema = json!({"type": "integer", "minimum": 0});
        let header =
            json!({"name": name, "in": "header", "required": false, "description": description, "schema": schema});
        match self.value["parameters"].as_array_mut() {
            Some(parameters) => parameters.push(header),
            None => self.value["parameters"] = [header].into_iter().collect(),
        }
        self
    }

    /// Answers 200 with a body of this media type.
    pub(super) fn answers(self, kind: &str, schema: Value) -> Self {
        self.answers_with(200, "The answer", kind, schema)
    }

    /// Answers that status with a body of this media type.
    pub(super) fn answers_with(mut self, status: u16, description: &str, kind: &str, schema: Value) -> Self {
        let response = &mut self.value["responses"][status.to_string()];
        response["description"] = description.into();
        add(&mut response["content"][kind]["schema"], schema);
        self
    }

    /// Answers 204, which has no body.
    pub(super) fn answers_nothing(mut self) -> Self {
        self.value["responses"]["204"] = json!({"description": "Yes"});
        self
    }

    /// Refuses with these codes, in any of the shapes. Where one of them is that the key is missing, it wants the key.
    pub(super) fn refuses(mut self, schemas: &mut Schemas, codes: &[Code], shapes: &[ErrorShape]) -> Self {
        for (code, shape) in codes.iter().flat_map(|code| shapes.iter().map(move |shape| (*code, *shape))) {
            let response = &mut self.value["responses"][shape.status(code).as_str()];
            let (description, name) =
                (response["description"].as_str().unwrap_or_default(), format!("`{}`", code.as_str()));
            if !description.contains(&name) {
                let separator = if description.is_empty() { "" } else { ", " };
                response["description"] = format!("{description}{separator}{name}").into();
            }
            add(&mut response["content"][JSON]["schema"], schemas.error(shape));
        }
        if codes.contains(&Code::Unauthorized) {
            // Only where one is configured.
            self.value["security"] = json!([{}, {"key": []}]);
        }
        self
    }
}

/// Adds `schema` to those of which a body has one.
fn add(schemas: &mut Value, schema: Value) {
    if schemas.is_null() {
        *schemas = schema;
    } else if let Some(alternatives) = schemas.get_mut("anyOf").and_then(Value::as_array_mut) {
        if !alternatives.contains(&schema) {
            alternatives.push(schema);
        }
    } else if *schemas != schema {
        *schemas = json!({"anyOf": [schemas.take(), schema]});
    }
}

/// A member of a query as a parameter.
fn parameter((name, mut schema): (String, Value)) -> Value {
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
}

/// What stands for bytes that JSON does not describe.
pub(super) fn bytes() -> Value {
    json!({})
}

/// A text.
pub(super) fn text() -> Value {
    json!({"type": "string"})
}
