//! `GET /` in a browser: a page to try the model with.
//!
//! Owns the page's files, all of them in the binary, the headers that they are served with, and who is given the page. Does not own what
//! the page asks: it is a client of our routes (`/info`, `/readyz`, `/similarity`) like any other, with no way of its own to the model.
//!
//! Invariants: the page is served without a key, a gate or a model, for it is what asks for the key and says that the model loads; it
//! loads nothing from elsewhere and runs nothing that is not among [`FILES`], by its policy and by a test of its text; its addresses are
//! relative, so that it works behind a proxy that puts the service below a path.

use std::sync::Arc;

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{ApiError, AppState, Code, path::PathRest};

/// One file of the page.
struct File {
    name: &'static str,
    content_type: &'static str,
    bytes: &'static [u8],
}

const HTML: File = file("page.html", "text/html; charset=utf-8", include_bytes!("page.html"));

const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";

/// What the page loads, from `/page/`. The pictures are this repository's own drawings, which the model in the box knows.
const FILES: [File; 15] = [
    file("style.css", CSS, include_bytes!("style.css")),
    file("script.js", JS, include_bytes!("script.js")),
    file("service.js", JS, include_bytes!("service.js")),
    file("results.js", JS, include_bytes!("results.js")),
    file("curl.js", JS, include_bytes!("curl.js")),
    example("cat_face.png", include_bytes!("../../../onnx/examples/cat_face.png")),
    example("deciduous_tree.png", include_bytes!("../../../onnx/examples/deciduous_tree.png")),
    example("dog_face.png", include_bytes!("../../../onnx/examples/dog_face.png")),
    example("mushroom.png", include_bytes!("../../../onnx/examples/mushroom.png")),
    example("pizza.png", include_bytes!("../../../onnx/examples/pizza.png")),
    example("red_apple.png", include_bytes!("../../../onnx/examples/red_apple.png")),
    example("red_heart.png", include_bytes!("../../../onnx/examples/red_heart.png")),
    example("sailboat.png", include_bytes!("../../../onnx/examples/sailboat.png")),
    example("snowman.png", include_bytes!("../../../onnx/examples/snowman.png")),
    example("umbrella.png", include_bytes!("../../../onnx/examples/umbrella.png")),
];

const fn file(name: &'static str, content_type: &'static str, bytes: &'static [u8]) -> File {
    File { name, content_type, bytes }
}

const fn example(name: &'static str, bytes: &'static [u8]) -> File {
    file(name, "image/png", bytes)
}

/// What a browser may do with the page: show it by itself, with our files, and ask us. `blob:` is for the pictures that are chosen.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// On every file. A new binary's files must not meet an old one's, so nothing is kept without asking.
const HEADERS: [(HeaderName, HeaderValue); 5] = [
    (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
];

/// The page, for a client that asks for HTML, unless it is switched off.
pub(super) fn for_browser(state: &AppState, headers: &HeaderMap) -> Option<Response> {
    (state.config.server.page && wants_html(headers)).then(|| HTML.answer())
}

/// `GET /page/{name}`: what the page loads.
///
/// # Errors
/// 404 for what is none of its files, and for all of them where `server.page` is off.
pub(super) async fn asset(State(state): State<Arc<AppState>>, PathRest(name): PathRest) -> Result<Response, ApiError> {
    let found = FILES.iter().find(|file| state.config.server.page && file.name == name);
    found.map(File::answer).ok_or_else(|| ApiError::new(Code::NotFound, "the page has no such file"))
}

/// Whether HTML is named among what the client takes, as every browser does for an address that is opened; `*/*` names nothing.
fn wants_html(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let is_refused = |part: &str| part.strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0));
        parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("text/html")) && !parts.any(is_refused)
    })
}

impl File {
    fn answer(&self) -> Response {
        let mut response = ([(header::CONTENT_TYPE, self.content_type)], self.bytes).into_response();
        response.headers_mut().extend(HEADERS);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browser_names_html_and_others_do_not() {
        let wants = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_str(accept).expect("a header"));
            wants_html(&headers)
        };
        for browser in
            ["text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "TEXT/HTML", "a/b, text/html;q=0.5"]
        {
            assert!(wants(browser), "{browser}");
        }
        for other in ["*/*", "application/json", "text/*", "text/html;q=0, */*", "text/html; q=0.000", "text/htmlx", ""]
        {
            assert!(!wants(other), "{other}");
        }
        assert!(!wants_html(&HeaderMap::new()));
    }

    /// Beside the policy: what it would keep a browser from is not even there to be kept from.
    #[test]
    fn no_file_names_an_address_elsewhere_or_has_script_or_style_inside() {
        for File { name, content_type, bytes } in
            FILES.iter().chain([&HTML]).filter(|file| file.content_type != "image/png")
        {
            let text = std::str::from_utf8(bytes).expect("UTF-8");
            for (number, line) in text.lines().enumerate() {
                let comment = *content_type == JS && line.trim_start().starts_with("//");
                let lower = line.to_ascii_lowercase();
                for foreign in ["//", "@import", "eval(", "innerhtml", "document.write", "javascript:"] {
                    assert!(comment || !lower.contains(foreign), "{name}:{}: {foreign}", number + 1);
                }
                if *content_type == HTML.content_type {
                    for inline in ["<style", " style=", " onclick=", " onload=", " onsubmit=", "<base"] {
                        assert!(!lower.contains(inline), "{name}:{}: {inline}", number + 1);
                    }
                    assert!(!lower.contains("<script") || lower.contains("src=\"page/"), "{name}:{}", number + 1);
                }
            }
        }
    }

    #[test]
    fn what_the_page_loads_is_there_and_nothing_else() {
        let texts: Vec<&str> =
            FILES.iter().chain([&HTML]).filter_map(|file| std::str::from_utf8(file.bytes).ok()).collect();
        let mut named: Vec<&str> = texts
            .iter()
            .flat_map(|text| text.split(['"', '\'']))
            .filter_map(|word| word.strip_prefix("page/").or_else(|| word.strip_prefix("./")))
            .collect();
        named.sort_unstable();
        named.dedup();
        let mut there: Vec<&str> = FILES.iter().map(|file| file.name).collect();
        there.sort_unstable();
        assert_eq!(named, there);
    }
}
