//! Pictures that are fetched from the web, by a real server from a host of the test's own: where an address may stand, what is dialled, what
//! becomes of bad answers, and what the client is told. No address outside of this machine is named to anybody.

use std::{
    io::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};

use crate::{
    checkpoint::checkpoint,
    support::{TestServer, error, json, matrix, picture},
    web_stand_in::{ALLOWED, Answer, FORBIDDEN, TestNames, WebStandIn},
};

const HOST: &str = "pictures.test";
const CAT: &str = "exact_224.png";

/// How a picture that was asked for in vain is answered, every time.
const FAILED: (u16, &str) = (422, "image_not_fetched");

struct Setting {
    host: WebStandIn,
    names: Arc<TestNames>,
    server: TestServer,
}

impl Setting {
    /// A host with a picture at `/cat.png`, reached as `names` say, and a server that may ask it.
    async fn new(names: &[(&str, &[&[&str]])], set: &[&str]) -> Self {
        let host = WebStandIn::start();
        host.put("/cat.png", Answer::Whole(200, "", picture(CAT)));
        let names = TestNames::new(names);
        let hosts = ["pictures.test", "other.test", "unknown.test", ALLOWED, FORBIDDEN, "[::1]"];
        let allowed = format!("web.allow_hosts={}", hosts.map(|name| host.authority(name)).join(","));
        let all = [&[&*allowed, "web.allow_networks=127.0.0.2/32"], set].concat();
        let server = TestServer::start_resolving(&all, Arc::clone(&names) as _).await;
        Self { host, names, server }
    }

    async fn usual(set: &[&str]) -> Self {
        Self::new(&[(HOST, &[&[ALLOWED]]), ("other.test", &[&[ALLOWED]])], set).await
    }

    fn cat(&self) -> String {
        self.host.url(HOST, "/cat.png")
    }

    async fn embed(&self, images: Value) -> reqwest::Response {
        self.server.post_json("/embed/image", &json!({"images": images})).await
    }

    /// Asserts that nothing came of the address, said in the one way.
    async fn fails(&self, address: &str, outcome: &str) {
        let (before, series) = (self.count(outcome), format!("{address}: {outcome}"));
        let message = error(self.embed(json!([address])).await, FAILED.0, FAILED.1).await;
        assert!(message.starts_with("the picture could not be fetched from its address;"), "{series}: {message}");
        assert!(!message.contains("test") && !message.contains("secret") && !message.contains("127"), "{message}");
        assert_eq!(self.count(outcome), before + 1.0, "{series}");
    }

    fn count(&self, outcome: &str) -> f64 {
        self.server.metric(&format!("clipserve_web_pictures_total{{outcome=\"{outcome}\"}}"))
    }
}

async fn rows(answer: reqwest::Response) -> Vec<Vec<f32>> {
    matrix(&json(answer, 200).await["embeddings"])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_may_stand_wherever_a_picture_may() {
    let setting = Setting::usual(&["model.aliases=m"]).await;
    let (server, cat) = (&setting.server, setting.cat());
    let base64 = BASE64_STANDARD.encode(picture(CAT));
    let part = |url: &str| json!({"type": "image_url", "image_url": {"url": url}});
    type Body<'a> = Box<dyn Fn(&str) -> Value + 'a>;
    let bodies: Vec<(&str, &str, Body<'_>)> = vec![
        ("ours", "/embed/image", Box::new(|url| json!({"images": url}))),
        ("ours, in parts", "/embed/image", Box::new(|url| json!({"images": [url], "on_error": "partial"}))),
        ("similarity", "/similarity", Box::new(|url| json!({"images": url, "texts": ["a", "b"]}))),
        ("classify", "/classify", Box::new(|url| json!({"images": [url], "labels": ["a", "b"]}))),
        ("vLLM", "/v1/embeddings", Box::new(|url| json!({"messages": [{"role": "user", "content": [part(url)]}]}))),
        ("llama.cpp", "/v1/embeddings", Box::new(|url| json!({"input": [part(url), "a text"]}))),
        ("Jina", "/v1/embeddings", Box::new(|url| json!({"input": [{"image": url}, {"text": "a"}]}))),
        ("SGLang", "/v1/embeddings", Box::new(|url| json!({"input": [{"url": url}]}))),
        ("infinity", "/embeddings", Box::new(|url| json!({"input": [url], "modality": "image"}))),
        ("OpenRouter", "/v1/embeddings", Box::new(|url| json!({"input": [{"content": [part(url)]}]}))),
        ("Intel", "/v1/embeddings", Box::new(|url| json!({"input": {"type": "image_url", "image_url": url}}))),
        ("Cohere 1", "/v1/embed", Box::new(|url| json!({"images": [url], "embedding_types": ["float"]}))),
        ("Cohere 2", "/v2/embed", Box::new(|url| json!({"inputs": [{"content": [part(url)]}]}))),
        (
            "Voyage",
            "/v1/multimodalembeddings",
            Box::new(|url| json!({"inputs": [{"content": [{"type": "image_url", "image_url": url}]}]})),
        ),
        ("Jina's classify", "/v1/classify", Box::new(|url| json!({"input": [{"image": url}], "labels": ["a", "b"]}))),
        ("Weaviate", "/vectorize", Box::new(|url| json!({"texts": ["a"], "images": [url]}))),
        (
            "KServe",
            "/v2/models/m/infer",
            Box::new(|url| json!({"inputs": [{"name": "images", "shape": [1], "datatype": "BYTES", "data": [url]}]})),
        ),
    ];
    for (whose, path, body) in bodies {
        let sent = json(server.post_json(path, &body(&format!("data:image/png;base64,{base64}"))).await, 200).await;
        let fetched = json(server.post_json(path, &body(&cat)).await, 200).await;
        let mut both = [sent, fetched];
        for answer in &mut both {
            let members = answer.as_object_mut().expect("an object");
            ["id", "created"].iter().for_each(|varying| drop(members.remove(*varying)));
        }
        assert_eq!(both[0], both[1], "{whose}");
        let missing = setting.host.url(HOST, "/secret.png?signature=secret");
        let refused = server.post_json(path, &body(&missing)).await;
        let (status, text) = (refused.status(), refused.text().await.expect("a body"));
        if whose == "ours, in parts" {
            assert!(status == 200 && text.contains(FAILED.1), "{text}");
        } else {
            assert!(status == 422 && text.contains("could not be fetched"), "{whose}: {status} {text}");
        }
        assert!(!text.contains("secret"), "{whose}: {text}");
    }
    // A text that is an address stays one.
    let before = setting.host.calls().len();
    json(server.post_json("/v1/embeddings", &json!({"input": [cat]})).await, 200).await;
    json(server.post_json("/v1/classify", &json!({"input": [cat], "labels": ["a", "b"]})).await, 200).await;
    assert_eq!(setting.host.calls().len(), before);
    setting.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_may_stand_where_outputs_are_asked_for() {
    let (model, cache) = (checkpoint(), tempfile::tempdir().expect("a folder"));
    let places = [("model.path", model.path()), ("model.cache_dir", cache.path())];
    let set = places.map(|(key, path)| format!("{key}={}", path.display()));
    let setting = Setting::usual(&set.each_ref().map(String::as_str)).await;
    let base64 = BASE64_STANDARD.encode(picture(CAT));
    let mut answers = Vec::new();
    for image in [base64, setting.cat()] {
        let body = json!({"images": [image], "outputs": ["pooler_output"]});
        answers.push(json(setting.server.post_json("/embed/image", &body).await, 200).await);
    }
    assert_eq!(answers[0], answers[1]);
    setting.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_is_ours_and_one_address_is_asked_once() {
    let setting = Setting::usual(&["server.api_key=s3cret", "limits.max_images=3"]).await;
    let ask = |body: Value| {
        let request = setting.server.post("/embed/image").bearer_auth("s3cret").header("cookie", "a=b");
        request.header("accept-language", "de").json(&body).send()
    };
    let cat = setting.host.url(HOST, "/cat.png?size=1");
    setting.host.put("/cat.png?size=1", Answer::Whole(200, "", picture(CAT)));
    let other = BASE64_STANDARD.encode(picture("cat_420.jpg"));
    let body = json!({"images": [cat, other, format!("{cat}#fragment")]});
    let answer = rows(ask(body.clone()).await.expect("an answer")).await;
    assert_eq!(answer[0], answer[2]);
    assert_ne!(answer[0], answer[1]);
    let calls = setting.host.calls();
    let [call] = &calls[..] else { panic!("{calls:?}") };
    let mut lines: Vec<_> = call.head.trim().lines().map(str::to_ascii_lowercase).collect();
    lines.sort_unstable();
    let version = env!("CARGO_PKG_VERSION");
    let expected = [
        "accept-encoding: identity".to_owned(),
        "accept: */*".to_owned(),
        "get /cat.png?size=1 http/1.1".to_owned(),
        format!("host: {}", setting.host.authority(HOST)),
        format!("user-agent: clipserve/{version}"),
    ];
    assert_eq!(lines, expected);
    // What is known is known by its bytes: it is asked for again, and if it has changed so has the answer.
    setting.host.put("/cat.png?size=1", Answer::Whole(200, "", picture("cat_420.jpg")));
    let changed = rows(ask(body.clone()).await.expect("an answer")).await;
    assert_eq!(changed, [&answer[1][..], &answer[1], &answer[1]]);
    // Too many are counted before anybody is asked, and what is evident is said first.
    let before = setting.host.calls().len();
    let many = json!({"images": [cat, cat, cat, cat]});
    error(ask(many).await.expect("an answer"), 413, "payload_too_large").await;
    let elsewhere = json!({"images": [cat, "http://elsewhere.test/"]});
    let refused = json(ask(elsewhere).await.expect("an answer"), 400).await;
    assert_eq!(refused["error"]["index"], 1, "{refused}");
    assert_eq!(setting.host.calls().len(), before);
    setting.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_evident_from_an_address_is_said_and_nobody_is_asked() {
    let setting = Setting::usual(&[]).await;
    for (address, expected) in [
        ("http://elsewhere.test/cat.png", "web.allow_hosts"),
        ("https://pictures.test/cat.png", "web.allow_hosts"),
        ("http://pictures.test.evil.test/cat.png", "web.allow_hosts"),
        ("http://user:password@pictures.test/", "a user or a password"),
        ("http://pictures.test@evil.test/", "a user or a password"),
        ("http://169.254.169.254/latest/meta-data/", "web.allow_hosts"),
        ("http://0x7f000001/", "web.allow_hosts"),
        ("http://pic%74ures.test/", "no URL"),
        ("http://:80/", "no URL"),
        ("ftp://pictures.test/cat.png", "addresses of this kind are not fetched"),
        ("file:///etc/passwd", "files of this server"),
    ] {
        let message = error(setting.embed(json!([address])).await, 400, "invalid_request").await;
        assert!(message.contains(expected), "{address}: {message}");
    }
    let images = [&*setting.cat(), "http://elsewhere.test/", &setting.host.url(HOST, "/none"), "!"];
    let body = json!({"images": images, "on_error": "partial"});
    let answer = json(setting.server.post_json("/embed/image", &body).await, 200).await;
    let codes: Vec<_> =
        answer["errors"].as_array().expect("errors").iter().map(|error| (&error["index"], &error["code"])).collect();
    let expected =
        [(json!(1), json!("invalid_request")), (json!(2), json!(FAILED.1)), (json!(3), json!("invalid_request"))];
    assert_eq!(codes, expected.iter().map(|(index, code)| (index, code)).collect::<Vec<_>>());
    assert!(answer["embeddings"][0].is_array() && answer["embeddings"][2].is_null(), "{answer}");
    assert!(setting.names.asked().iter().all(|name| name == HOST), "{:?}", setting.names.asked());
    setting.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_fetched_where_no_host_is_allowed() {
    let host = WebStandIn::start();
    let names = TestNames::new(&[(HOST, &[&[ALLOWED]])]);
    let set = ["web.allow_networks=127.0.0.0/8"];
    let server = TestServer::start_resolving(&set, Arc::clone(&names) as _).await;
    let body = json!({"images": [host.url(HOST, "/cat.png")]});
    let message = error(server.post_json("/embed/image", &body).await, 400, "invalid_request").await;
    assert!(message.contains("web addresses are not fetched; send the picture itself"), "{message}");
    assert!(message.contains("web.allow_hosts"), "{message}");
    assert!(host.calls().is_empty() && names.asked().is_empty());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_checked_is_what_is_dialled_however_often_a_name_changes() {
    // The first lookup of each host is permitted; what a second would say is not, and so on with both in one answer.
    let rebound: &[(&str, &[&[&str]])] = &[
        (HOST, &[&[ALLOWED], &[FORBIDDEN]]),
        ("other.test", &[&[ALLOWED, FORBIDDEN], &[FORBIDDEN, ALLOWED], &["::1"], &["::ffff:127.0.0.1"], &["0.0.0.0"]]),
    ];
    let setting = Setting::new(rebound, &["web.max_redirects=3"]).await;
    assert_eq!(rows(setting.embed(json!([setting.cat()])).await).await.len(), 1);
    for _ in 0..20 {
        setting.fails(&setting.cat(), "address").await;
        setting.fails(&setting.host.url("other.test", "/cat.png"), "address").await;
    }
    for literal in [FORBIDDEN, "[::1]", "[::ffff:127.0.0.1]"] {
        let address = setting.host.url(literal, "/cat.png");
        if literal == "[::ffff:127.0.0.1]" {
            error(setting.embed(json!([address])).await, 400, "invalid_request").await;
        } else {
            setting.fails(&address, "address").await;
        }
    }
    setting.fails(&setting.host.url("unknown.test", "/cat.png"), "name").await;
    assert_eq!(rows(setting.embed(json!([setting.host.url(ALLOWED, "/cat.png")])).await).await.len(), 1);
    let by: Vec<_> = setting.host.calls().iter().map(|call| call.by.to_string()).collect();
    assert_eq!(by, [ALLOWED, ALLOWED]);
    setting.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_followed_as_far_as_allowed_and_to_where_an_address_may_lead() {
    let names: &[(&str, &[&[&str]])] = &[(HOST, &[&[ALLOWED]]), ("other.test", &[&[ALLOWED], &[FORBIDDEN]])];
    let setting = Setting::new(names, &["web.max_redirects=3"]).await;
    let url = |path: &str| setting.host.url(HOST, path);
    let to = |path: &str, location: String| setting.host.put(path, Answer::To(302, location));
    to("/1", "/cat.png".to_owned());
    to("/2", "1?x#y".to_owned());
    setting.host.put("/1?x", Answer::To(308, url("/1")));
    to("/other", setting.host.url("other.test", "/cat.png"));
    let expected = rows(setting.embed(json!([setting.cat()])).await).await;
    for path in ["/1", "/2", "/other"] {
        assert_eq!(rows(setting.embed(json!([url(path)])).await).await, expected, "{path}");
    }
    to("/3", url("/2"));
    setting.fails(&url("/3"), "redirect").await;
    to("/loop", "/loop".to_owned());
    setting.fails(&url("/loop"), "redirect").await;
    // The second time the name leads elsewhere.
    setting.fails(&url("/other"), "address").await;
    for (location, outcome) in [
        (setting.host.url(FORBIDDEN, "/cat.png"), "address"),
        (setting.host.url("localhost", "/cat.png"), "redirect"),
        ("http://127.0.0.1/".to_owned(), "redirect"),
        ("http://pictures.test/cat.png".to_owned(), "redirect"),
        ("file:///etc/passwd".to_owned(), "redirect"),
        ("gopher://pictures.test/".to_owned(), "redirect"),
        (format!("http://u:p@{}/cat.png", setting.host.authority(HOST)), "redirect"),
    ] {
        to("/away", location);
        setting.fails(&url("/away"), outcome).await;
    }
    assert!(setting.host.calls().iter().all(|call| call.by.to_string() == ALLOWED));
    setting.server.stop().await;

    let setting = Setting::usual(&[]).await;
    setting.host.put("/1", Answer::To(302, "/cat.png".to_owned()));
    setting.fails(&setting.host.url(HOST, "/1"), "redirect").await;
    assert_eq!(setting.host.calls().len(), 1, "none is followed by itself");
    setting.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_answer_is_one_error_whatever_is_wrong_with_it() {
    let cat = picture(CAT);
    let limit = format!("web.max_bytes={}", cat.len());
    let setting = Setting::usual(&[&limit]).await;
    let head = |lines: &str, body: &[u8]| [b"HTTP/1.1 200 OK\r\n", lines.as_bytes(), b"\r\n\r\n", body].concat();
    let chunk = |body: &[u8]| [format!("{:x}\r\n", body.len()).as_bytes(), body, b"\r\n"].concat();
    let chunked = "transfer-encoding: chunked";
    let gzip = |bytes: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).expect("memory");
        encoder.finish().expect("memory")
    };
    let over = [&cat[..], b"\0"].concat();
    for (what, answer, outcome) in [
        ("not there", Answer::Whole(404, "", cat.clone()), "status"),
        ("a part", Answer::Whole(206, "", cat.clone()), "status"),
        ("nothing", Answer::Whole(204, "", Vec::new()), "status"),
        ("not modified", Answer::Whole(304, "", Vec::new()), "status"),
        ("broken itself", Answer::Whole(500, "", b"secret".to_vec()), "status"),
        ("a redirect to nowhere", Answer::Whole(301, "", b"secret".to_vec()), "redirect"),
        ("empty", Answer::Whole(200, "", Vec::new()), "not_a_picture"),
        ("a page", Answer::Whole(200, "content-type: image/png\r\n", b"<html>secret</html>".to_vec()), "not_a_picture"),
        ("a text", Answer::Whole(200, "content-type: image/png\r\n", b"password=secret".to_vec()), "not_a_picture"),
        ("compressed", Answer::Whole(200, "content-encoding: gzip\r\n", gzip(&cat)), "encoding"),
        ("a bomb", Answer::Whole(200, "content-encoding: gzip\r\n", gzip(&vec![0; 64 << 20])), "encoding"),
        ("twice", Answer::Whole(200, "content-encoding: identity, br\r\n", cat.clone()), "encoding"),
        ("by the way", Answer::Bytes(head("transfer-encoding: gzip, chunked", &chunk(&cat))), "encoding"),
        ("longer than allowed", Answer::Whole(200, "", over.clone()), "too_large"),
        ("much longer", Answer::Bytes(head("content-length: 99999999999", &cat)), "too_large"),
        ("longer, without a length", Answer::Bytes(head("connection: close", &over)), "too_large"),
        (
            "longer, in chunks",
            Answer::Bytes(head(chunked, &[chunk(&cat), chunk(b"\0"), chunk(b"")].concat())),
            "too_large",
        ),
        ("shorter than it says", Answer::Bytes(head(&format!("content-length: {}", cat.len()), &cat[..99])), "broken"),
        ("cut within chunks", Answer::Bytes(head(chunked, &chunk(&cat)[..99])), "broken"),
        ("cut between chunks", Answer::Bytes(head(chunked, &chunk(&cat))), "broken"),
        ("no length", Answer::Bytes(head("content-length: -1", &cat)), "broken"),
        ("two lengths", Answer::Bytes(head("content-length: 5\r\ncontent-length: 6", &cat)), "broken"),
        ("no HTTP", Answer::Bytes(b"220 secret ESMTP\r\n".to_vec()), "broken"),
        ("silent", Answer::Bytes(Vec::new()), "broken"),
        ("a head without end", Answer::Bytes(head(&format!("a: {}", "x".repeat(1 << 20)), &cat)), "broken"),
    ] {
        println!("{what}");
        setting.host.put("/bad", answer);
        setting.fails(&setting.host.url(HOST, "/bad"), outcome).await;
    }
    // And what is good, however it comes.
    let expected = rows(setting.embed(json!([setting.cat()])).await).await;
    for (what, answer) in [
        ("in chunks", head(chunked, &[chunk(&cat[..7]), chunk(&cat[7..]), chunk(b"")].concat())),
        ("to the end", head("connection: close", &cat)),
        ("identity", head(&format!("content-encoding: identity\r\ncontent-length: {}", cat.len()), &cat)),
        ("and more behind it", head(&format!("content-length: {}", cat.len()), &over)),
    ] {
        setting.host.put("/good", Answer::Bytes(answer));
        assert_eq!(rows(setting.embed(json!([setting.host.url(HOST, "/good")])).await).await, expected, "{what}");
    }
    // A damaged picture is one like any other.
    setting.host.put("/cut", Answer::Whole(200, "", cat[..500].to_vec()));
    error(setting.embed(json!([setting.host.url(HOST, "/cut")])).await, 422, "invalid_image").await;
    setting.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_slow_is_waited_for_until_the_timeout_and_holds_up_no_other_host() {
    let set = ["web.timeout=500ms", "web.max_connections_per_host=1"];
    let setting = Setting::usual(&set).await;
    let url = |path: &str| setting.host.url(HOST, path);
    setting.host.put("/head", Answer::Hang(b"HTTP/1.1 200 OK\r\ncontent-".to_vec()));
    setting.host.put("/body", Answer::Hang(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n\x89PNG".to_vec()));
    for path in ["/head", "/body"] {
        let started = Instant::now();
        setting.fails(&url(path), "timeout").await;
        assert!(started.elapsed() >= Duration::from_millis(500));
    }
    // Who waits for a busy host waits as long, and then comes back; another host is asked meanwhile.
    let waiting: Vec<_> = (0..4).map(|_| setting.embed(json!([url("/body")]))).collect();
    let other = async { rows(setting.embed(json!([setting.host.url("other.test", "/cat.png")])).await).await };
    let (waited, other) = tokio::join!(futures_util::future::join_all(waiting), other);
    assert_eq!(other.len(), 1);
    let statuses: Vec<_> = waited.iter().map(|answer| answer.status().as_u16()).collect();
    assert!(statuses.contains(&422) && statuses.iter().all(|status| [422, 429].contains(status)), "{statuses:?}");
    // A deadline of the client's own ends it sooner, as any work.
    let request = setting.server.post("/embed/image").header("x-request-timeout", "0.2");
    let late = request.json(&json!({"images": [url("/body")]})).send().await.expect("an answer");
    error(late, 504, "deadline_exceeded").await;
    setting.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_hosts_hold_a_bounded_part_of_all_requests() {
    let setting = Setting::usual(&["web.max_connections=1", "web.timeout=1m"]).await;
    setting.host.put("/body", Answer::Hang(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n\x89PNG".to_vec()));
    let body = json!({"images": [setting.host.url(HOST, "/body")]});
    let waiting: Vec<_> =
        (0..4).map(|_| tokio::spawn(setting.server.post("/embed/image").json(&body).send())).collect();
    // Who comes while four wait is told so at once; what needs no address is served.
    let rejected = r#"clipserve_rejected_total{reason="fetches"}"#;
    while setting.server.metric(rejected) == 0.0 {
        let request = setting.server.post("/embed/image").header("x-request-timeout", "0.05").json(&body);
        let answer = request.send().await.expect("an answer").status().as_u16();
        assert!([429, 504].contains(&answer), "{answer}");
    }
    let sent = json!([BASE64_STANDARD.encode(picture(CAT))]);
    assert_eq!(rows(setting.embed(sent).await).await.len(), 1);
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
    setting.host.release();
    setting.server.until_metric("clipserve_http_requests_in_flight", |requests| requests == 0.0).await;
    assert_eq!(rows(setting.embed(json!([setting.cat()])).await).await.len(), 1);
    setting.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_that_waits_for_one_host_turns_nobody_away_from_another() {
    let set = ["web.max_connections=2", "web.max_connections_per_host=1", "web.timeout=1m"];
    let setting = Setting::usual(&set).await;
    setting.host.put("/body", Answer::Hang(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n\x89PNG".to_vec()));
    let body = json!({"images": [setting.host.url(HOST, "/body")]});
    // As many as may wait in all: of them four do, the others are told to come back.
    let waiting: Vec<_> =
        (0..8).map(|_| tokio::spawn(setting.server.post("/embed/image").json(&body).send())).collect();
    let rejected = r#"clipserve_rejected_total{reason="fetches"}"#;
    setting.server.until_metric(rejected, |refused| refused >= 4.0).await;
    assert_eq!(rows(setting.embed(json!([setting.host.url("other.test", "/cat.png")])).await).await.len(), 1);
    assert_eq!(setting.server.metric(rejected), 4.0);
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
    setting.host.release();
    setting.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_server_that_hangs_holds_a_request_no_longer_than_its_time() {
    let setting = Setting::usual(&["web.timeout=300ms", "web.max_connections=2"]).await;
    let hang = setting.names.hang();
    let unknown = setting.host.url("unknown.test", "/cat.png");
    setting.fails(&unknown, "timeout").await;
    // Its thread still waits, with its place; another one serves.
    assert_eq!(rows(setting.embed(json!([setting.cat()])).await).await.len(), 1);
    drop(hang);
    setting.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_gives_up_what_it_waited_for() {
    let setting = Setting::usual(&["web.max_connections_per_host=1"]).await;
    setting.host.put("/body", Answer::Hang(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n\x89PNG".to_vec()));
    let (first, second) = (setting.host.url(HOST, "/body"), setting.host.url(HOST, "/second"));
    let holding = tokio::spawn(setting.server.post("/embed/image").json(&json!({"images": [first]})).send());
    while setting.host.calls().is_empty() {
        crate::support::pause().await;
    }
    let queued = tokio::spawn(setting.server.post("/embed/image").json(&json!({"images": [second]})).send());
    setting.server.until_metric("clipserve_http_requests_in_flight", |requests| requests == 2.0).await;
    queued.abort();
    holding.abort();
    setting.server.until_metric("clipserve_http_requests_in_flight", |requests| requests == 0.0).await;
    // Whoever comes next has the host to itself as soon as the first connection is over.
    setting.host.release();
    assert_eq!(rows(setting.embed(json!([setting.cat()])).await).await.len(), 1);
    assert!(setting.host.calls().iter().all(|call| !call.head.contains("/second")), "asked for nobody");
    setting.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_has_room_among_the_bodies_or_is_refused() {
    let set = [
        "limits.max_body_bytes=64KiB",
        "limits.max_inflight_body_bytes=256KiB",
        "web.max_bytes=192KiB",
        "cache.max_bytes=0",
    ];
    let setting = Setting::usual(&set).await;
    // A whole picture, and more behind it.
    let mut large = picture(CAT);
    large.resize(192 << 10, 0);
    for path in ["/a", "/b"] {
        setting.host.put(path, Answer::Whole(200, "", large.clone()));
    }
    let (a, b) = (setting.host.url(HOST, "/a"), setting.host.url(HOST, "/b"));
    assert_eq!(rows(setting.embed(json!([a])).await).await.len(), 1);
    let message = error(setting.embed(json!([a, b])).await, 413, "payload_too_large").await;
    assert!(message.contains("limits.max_inflight_body_bytes"), "{message}");
    assert_eq!(rows(setting.embed(json!([b])).await).await.len(), 1, "all was given back");
    setting.server.stop().await;
}
