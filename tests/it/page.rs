//! The page at `/`, by its headers and who is given it; and what other people's pages may do (CORS). What the page does in a browser
//! is in `tests/browser`.

use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};

use crate::support::{TestServer, configuration, error, json};

/// What a browser sends for an address that is opened.
const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8";

const APP: &str = "https://app.example.com";

async fn opened(server: &TestServer, path: &str) -> Response {
    server.client().get(server.url(path)).header("accept", BROWSER).send().await.expect("an answer")
}

fn header<'a>(answer: &'a Response, name: &str) -> &'a str {
    answer.headers().get(name).map_or("", |value| value.to_str().expect("printable"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_is_given_the_page_and_everybody_else_json() {
    let server = TestServer::start(&[]).await;
    let page = opened(&server, "/").await;
    assert_eq!((page.status().as_u16(), header(&page, "content-type")), (200, "text/html; charset=utf-8"));
    assert_eq!(header(&page, "vary"), "accept");
    assert!(page.text().await.expect("text").starts_with("<!doctype html>"));
    for accept in ["*/*", "application/json", ""] {
        let answer = server.client().get(server.url("/")).header("accept", accept).send().await.expect("an answer");
        assert_eq!((header(&answer, "content-type"), header(&answer, "vary")), ("application/json", "accept"));
        assert_eq!(json(answer, 200).await, json!({"message": "Immich ML"}), "{accept}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_file_of_the_page_has_the_strict_headers() {
    let server = TestServer::start(&[]).await;
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/page/style.css", "text/css; charset=utf-8"),
        ("/page/script.js", "text/javascript; charset=utf-8"),
        ("/page/pizza.png", "image/png"),
    ] {
        let answer = opened(&server, path).await;
        assert_eq!((answer.status().as_u16(), header(&answer, "content-type")), (200, kind), "{path}");
        let policy = header(&answer, "content-security-policy");
        let directives: Vec<&str> = policy.split(';').map(str::trim).collect();
        for wanted in [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self' data: blob:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ] {
            assert!(directives.contains(&wanted), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
        assert_eq!(header(&answer, "x-content-type-options"), "nosniff");
        assert_eq!(header(&answer, "referrer-policy"), "no-referrer");
        assert_eq!(header(&answer, "cache-control"), "no-cache");
    }
    error(opened(&server, "/page/Cargo.toml").await, 404, "not_found").await;
    error(opened(&server, "/page/..%2Fmod.rs").await, 404, "not_found").await;
    error(opened(&server, "/page/%ff").await, 400, "invalid_request").await;
    let posted = server.post("/page/style.css").send().await.expect("an answer");
    error(posted, 405, "method_not_allowed").await;
    server.assert_metric(r#"clipserve_http_requests_total{method="GET",route="/page/{name}",status="200"}"#, 3.0).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_can_be_switched_off() {
    let server = TestServer::start(&["server.page=false"]).await;
    assert_eq!(json(opened(&server, "/").await, 200).await, json!({"message": "Immich ML"}));
    error(opened(&server, "/page/style.css").await, 404, "not_found").await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_served_without_the_key_and_what_it_asks_is_not() {
    let server = TestServer::start(&["server.api_key=s3cret"]).await;
    for path in ["/", "/page/script.js"] {
        assert_eq!(opened(&server, path).await.status(), 200, "{path}");
    }
    error(opened(&server, "/info").await, 401, "unauthorized").await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_there_while_the_model_loads() {
    let (load, wait) = std::sync::mpsc::channel::<()>();
    let server = TestServer::bind(configuration(&[]), move |_| {
        let _ = wait.recv();
        Err(clipserve::embedder::StartError::Canary("the test is over".to_owned()))
    })
    .await;
    for path in ["/", "/page/script.js"] {
        assert_eq!(opened(&server, path).await.status(), 200, "{path}");
    }
    assert_eq!(server.get("/readyz").await.text().await.expect("text"), "starting\n");
    error(server.get("/info").await, 503, "not_ready").await;
    server.begin_stop().abort();
    drop(load);
}

/// What a browser asks before a page of `origin` may send JSON with a key.
fn preflight(server: &TestServer, path: &str, origin: &str) -> RequestBuilder {
    server
        .client()
        .request(Method::OPTIONS, server.url(path))
        .header("origin", origin)
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization,content-type")
}

fn from_page(server: &TestServer, path: &str, origin: &str, body: &Value) -> RequestBuilder {
    server.post(path).header("origin", origin).json(body)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listed_origin_may_ask_and_read_whatever_the_answer() {
    let listed = format!("server.cors_origins=http://localhost:3000, {APP}");
    let server = TestServer::start(&[&listed, "server.api_key=s3cret"]).await;
    // The preflight brings no key and needs none, on every path.
    for path in ["/embed/text", "/v1/embeddings", "/info", "/nowhere"] {
        let answer = preflight(&server, path, APP).send().await.expect("an answer");
        assert_eq!(answer.status(), 200, "{path}");
        assert_eq!(header(&answer, "access-control-allow-origin"), APP);
        assert_eq!(header(&answer, "access-control-allow-headers"), "authorization,content-type");
        assert_eq!(header(&answer, "access-control-max-age"), "3600");
        for method in ["GET", "HEAD", "POST"] {
            assert!(header(&answer, "access-control-allow-methods").split(',').any(|allowed| allowed == method));
        }
        assert!(!header(&answer, "x-request-id").is_empty());
    }
    let ask = |path: &'static str, key: &str, body: Value| {
        from_page(&server, path, APP, &body).header("authorization", format!("Bearer {key}")).send()
    };
    for (path, key, body, status) in [
        ("/embed/text", "s3cret", json!({"texts": "a"}), 200),
        ("/embed/text", "wrong", json!({"texts": "a"}), 401),
        ("/embed/text", "s3cret", json!({"texts": []}), 400),
        ("/v1/embeddings", "s3cret", json!({}), 400),
        ("/nowhere", "s3cret", json!({}), 404),
        ("/info", "s3cret", json!({}), 405),
    ] {
        let answer = ask(path, key, body).await.expect("an answer");
        assert_eq!(answer.status(), status, "{path}");
        assert_eq!(header(&answer, "access-control-allow-origin"), APP, "{path} {status}");
        assert!(header(&answer, "vary").to_lowercase().contains("origin"), "{path} {status}");
        assert!(answer.headers().get("access-control-allow-credentials").is_none());
        let exposed: Vec<&str> = header(&answer, "access-control-expose-headers").split(',').collect();
        for name in
            ["x-request-id", "retry-after", "retry-after-ms", "server-timing", "x-model-fingerprint", "x-should-retry"]
        {
            assert!(exposed.contains(&name), "{path} {status}: {exposed:?}");
        }
    }
    // The page's own answer varies by both.
    let page = opened(&server, "/").await;
    let vary: Vec<&str> = page.headers().get_all("vary").iter().filter_map(|value| value.to_str().ok()).collect();
    assert!(vary.join(",").contains("accept") && vary.join(",").contains("origin"), "{vary:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_origin_is_not_allowed_to_read() {
    let listed = format!("server.cors_origins={APP}");
    let server = TestServer::start(&[&listed]).await;
    for other in ["https://evil.example", "https://app.example.com.evil.example", "http://app.example.com", "null"] {
        for answer in [
            preflight(&server, "/embed/text", other).send().await.expect("an answer"),
            from_page(&server, "/embed/text", other, &json!({"texts": "a"})).send().await.expect("an answer"),
        ] {
            assert!(answer.headers().get("access-control-allow-origin").is_none(), "{other}");
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_origin_may_read_where_all_are_allowed_but_never_with_credentials() {
    let server = TestServer::start(&["server.cors_origins=*"]).await;
    for answer in [
        preflight(&server, "/embed/text", APP).send().await.expect("an answer"),
        from_page(&server, "/embed/text", APP, &json!({"texts": "a"})).send().await.expect("an answer"),
    ] {
        assert_eq!(answer.status(), 200);
        assert_eq!(header(&answer, "access-control-allow-origin"), "*");
        assert!(answer.headers().get("access-control-allow-credentials").is_none());
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_key_of_the_configuration_no_origin_is_allowed() {
    let server = TestServer::start(&[]).await;
    let answer = preflight(&server, "/embed/text", APP).send().await.expect("an answer");
    assert!(answer.headers().keys().all(|name| !name.as_str().starts_with("access-control")));
    error(answer, 405, "method_not_allowed").await;
    server.stop().await;
}
