//! `GET /docs`: the OpenAPI document for people, as one page that loads nothing.
//!
//! Owns how the document is laid out: by tags, in the document's order of them. Does not own the document (`openapi`).
//!
//! Invariant: every text goes through [`Escaped`], and the policy of the page allows its one style and nothing else.

use std::{
    fmt::{self, Write as _},
    sync::LazyLock,
};

use axum::response::{IntoResponse, Response};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::header;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::openapi;

const STYLE: &str = include_str!("reference.css");

/// The page.
pub(super) async fn page() -> Response {
    static PAGE: LazyLock<(String, String)> = LazyLock::new(|| (render(&openapi::make()), policy()));
    let (html, policy) = &*PAGE;
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, policy.as_str()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, html.as_str()).into_response()
}

fn policy() -> String {
    let hash = BASE64_STANDARD.encode(Sha256::digest(STYLE));
    format!(
        "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

/// A text within HTML, also within a quoted attribute.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|char| match char {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            char => f.write_char(char),
        })
    }
}

fn render(document: &Value) -> String {
    let mut html = String::new();
    // Writing to a string does not fail.
    let _ = write_page(document, &mut html);
    html
}

fn text(value: &Value) -> Escaped<'_> {
    Escaped(value.as_str().unwrap_or_default())
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// The path, the method and the operation of all that stand under `tag`.
fn operations<'a>(document: &'a Value, tag: &'a Value) -> impl Iterator<Item = (&'a String, &'a String, &'a Value)> {
    let all = members(&document["paths"])
        .flat_map(|(path, methods)| members(methods).map(move |(method, operation)| (path, method, operation)));
    all.filter(move |(.., operation)| operation["tags"][0] == *tag)
}

fn write_page(document: &Value, html: &mut String) -> fmt::Result {
    let info = &document["info"];
    write!(
        html,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, \
         initial-scale=1\">\n<title>{title} API</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<header><h1>{title} {version}</h1>\n\
         <p>{description} The same for programs: <a href=\"/openapi.json\">/openapi.json</a>.</p></header>\n<nav>\n",
        title = text(&info["title"]),
        version = text(&info["version"]),
        description = text(&info["description"]),
    )?;
    let tags = || document["tags"].as_array().into_iter().flatten().map(|tag| &tag["name"]);
    for tag in tags() {
        writeln!(html, "<h2>{}</h2><ul>", text(tag))?;
        for (path, method, operation) in operations(document, tag) {
            let id = text(&operation["operationId"]);
            writeln!(html, "<li><a href=\"#{id}\"><b>{}</b> {}</a></li>", method.to_uppercase(), Escaped(path))?;
        }
        html.push_str("</ul>\n");
    }
    html.push_str("</nav>\n<main>\n");
    for tag in tags() {
        writeln!(html, "<h2>{}</h2>", text(tag))?;
        for (path, method, operation) in operations(document, tag) {
            write_operation(path, method, operation, html)?;
        }
    }
    html.push_str("<h2 id=\"shapes\">Shapes</h2>\n");
    for (name, schema) in members(&document["components"]["schemas"]) {
        write!(html, "<section id=\"shape-{0}\"><h3>{0}</h3>", Escaped(name))?;
        if schema["description"].is_string() {
            write!(html, "<p>{}</p>", text(&schema["description"]))?;
        }
        write_json(schema, html)?;
        html.push_str("</section>\n");
    }
    html.push_str("</main>\n</body>\n</html>\n");
    Ok(())
}

fn write_operation(path: &str, method: &str, operation: &Value, html: &mut String) -> fmt::Result {
    let id = text(&operation["operationId"]);
    write!(html, "<section id=\"{id}\"><h3><b>{}</b> {}</h3>", method.to_uppercase(), Escaped(path))?;
    write!(html, "<p>{}</p>", text(&operation["summary"]))?;
    if let Some(parameters) = operation["parameters"].as_array() {
        html.push_str("<h4>Parameters</h4><dl>");
        for parameter in parameters {
            let [name, place, description] = ["name", "in", "description"].map(|member| text(&parameter[member]));
            write!(html, "<dt>{name} <small>{place}</small></dt><dd>{description} ")?;
            write_json(&parameter["schema"], html)?;
            html.push_str("</dd>");
        }
        html.push_str("</dl>");
    }
    if operation["requestBody"].is_object() {
        html.push_str("<h4>Body</h4>");
        write_contents(&operation["requestBody"]["content"], html)?;
    }
    for (status, answer) in members(&operation["responses"]) {
        write!(html, "<h4>{} <small>{}</small></h4>", Escaped(status), text(&answer["description"]))?;
        write_contents(&answer["content"], html)?;
    }
    html.push_str("</section>\n");
    Ok(())
}

fn write_contents(contents: &Value, html: &mut String) -> fmt::Result {
    for (kind, content) in members(contents) {
        write!(html, "<p><code>{}</code></p>", Escaped(kind))?;
        write_json(&content["schema"], html)?;
    }
    Ok(())
}

/// A schema: a link where it is a reference, several of those where it is one of them, else as it is.
fn write_json(schema: &Value, html: &mut String) -> fmt::Result {
    let alternatives = schema["anyOf"].as_array().filter(|all| all.iter().all(|one| one["$ref"].is_string()));
    if let Some(alternatives) = alternatives {
        return alternatives.iter().try_for_each(|alternative| write_json(alternative, html));
    }
    if let Some(name) = schema["$ref"].as_str().and_then(|target| target.rsplit('/').next()) {
        return write!(html, "<p><a href=\"#shape-{0}\">{0}</a></p>", Escaped(name));
    }
    if schema.as_object().is_some_and(serde_json::Map::is_empty) {
        html.push_str("<p>bytes</p>");
        return Ok(());
    }
    write!(html, "<pre>{}</pre>", Escaped(&format!("{schema:#}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_operation_is_on_the_page_and_nothing_is_loaded() {
        let document = openapi::make();
        let html = render(&document);
        for (path, methods) in members(&document["paths"]) {
            for (method, operation) in members(methods) {
                let id = operation["operationId"].as_str().expect("an id");
                assert!(
                    html.contains(&format!("<section id=\"{id}\"><h3><b>{}</b> {path}</h3>", method.to_uppercase())),
                    "{path}"
                );
            }
        }
        // One of the alternatives of an answer.
        assert!(html.contains("<a href=\"#shape-OpenAiErrorUnread\">"));
        let heads: Vec<_> = document["tags"].as_array().expect("tags").iter().map(|tag| &tag["name"]).collect();
        let places = heads.iter().map(|tag| html.rfind(&format!("<h2>{}</h2>", tag.as_str().expect("a name"))));
        let places: Vec<usize> = places.map(|place| place.expect("a head")).collect();
        assert!(places.len() > 10 && places.is_sorted(), "{places:?}");
        for loads in ["src=", "http://", "https://", "@import", "url(", "<script"] {
            assert!(!html.contains(loads), "{loads}");
        }
    }

    #[test]
    fn texts_are_escaped() {
        let operation = json!({"summary": "<script>", "tags": ["<i>"]});
        let info = json!({"title": "<b>&\"'"});
        let document = json!({"info": info, "tags": [{"name": "<i>"}], "paths": {"/<x>": {"get": operation}}});
        let html = render(&document);
        assert!(html.contains("&lt;b&gt;&amp;&quot;&#39;") && html.contains("/&lt;x&gt;"), "{html}");
        assert!(!html.contains("<script>") && !html.contains("<i>"), "{html}");
    }
}
