//! Spans: what a collector gets of requests and runs, which traces they are of, and that a collector which does not answer harms nobody.

use std::{ffi::OsString, time::Duration};

use clipserve::{
    config::{self, Overrides},
    embedder::{self, Embedder},
    encoder::{Embeddings, EncodeError, Encoder, OutputSet, PixelBuf, Tokens, TowerOutputs},
    server::LoadContext,
};
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode};
use reqwest::Response;
use serde_json::json;

use crate::{
    collector_stand_in::{CollectorStandIn, Manner, attribute, hex},
    lifecycle::{self, Running},
    support::{TestServer, configuration, fixture, parts, pause, picture},
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";
const DROPPED: &str = "clipserve_spans_dropped_total";

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{PARENT}-{flags}")
}

/// A server whose spans go to `collector`.
async fn start(collector: &CollectorStandIn, set: &[&str]) -> TestServer {
    TestServer::start(&[&[collector.setting().as_str()][..], set].concat()).await
}

/// Sends one text, with these headers.
async fn ask(server: &TestServer, headers: &[(&str, &str)]) -> Response {
    let body = json!({ "texts": ["a photo of a cat"] });
    let request = headers
        .iter()
        .fold(server.post("/embed/text").json(&body), |request, (name, value)| request.header(*name, *value));
    let response = request.send().await.expect("an answer");
    assert_eq!(response.status(), 200);
    response
}

/// Trace, span and flags of an answer.
fn traceresponse(response: &Response) -> (String, String, String) {
    let text = response.headers()["traceresponse"].to_str().expect("printable");
    let [version, trace, span, flags] = text.split('-').collect::<Vec<_>>()[..] else { panic!("{text}") };
    assert_eq!(version, "00");
    (trace.to_owned(), span.to_owned(), flags.to_owned())
}

/// Those of requests and those of runs, in the order in which they ended.
fn sorted(spans: Vec<Span>) -> (Vec<Span>, Vec<Span>) {
    spans.into_iter().partition(|span| span.kind == SpanKind::Server as i32)
}

fn value(span: &Span, name: &str) -> Option<String> {
    attribute(&span.attributes, name)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_a_span_and_its_run_another_one_that_is_linked_to_it() {
    let collector = CollectorStandIn::start(Manner::Takes);
    let server = start(&collector, &[]).await;
    let state =
        [("traceparent", traceparent("01")), ("tracestate", "a=1".to_owned()), ("tracestate", "b=2".to_owned())];
    let mut headers: Vec<_> = state.iter().map(|(name, value)| (*name, value.as_str())).collect();
    headers.push(("x-request-id", "find-me"));
    let response = ask(&server, &headers).await;
    let (trace, span, flags) = traceresponse(&response);
    assert_eq!((trace.as_str(), flags.as_str()), (TRACE, "01"));
    server.stop().await;

    let mut sent = collector.next();
    sent.spans.extend(collector.spans(2 - sent.spans.len()));
    assert!(sent.head.starts_with("post /v1/traces http/1.1\r\n"), "{}", sent.head);
    assert!(sent.head.contains("\r\ncontent-type: application/x-protobuf\r\n"), "{}", sent.head);
    assert_eq!(attribute(&sent.resource, "service.name").as_deref(), Some("clipserve"));
    assert_eq!(attribute(&sent.resource, "service.version").as_deref(), Some(env!("CARGO_PKG_VERSION")));
    assert!(attribute(&sent.resource, "service.instance.id").is_some());
    let (requests, runs) = sorted(sent.spans);
    let ([request], [run]) = (&requests[..], &runs[..]) else { panic!("{requests:?} {runs:?}") };
    assert_eq!(request.name, "POST /embed/text");
    assert_eq!((hex(&request.trace_id), hex(&request.span_id)), (trace, span));
    assert_eq!(hex(&request.parent_span_id), PARENT);
    assert_eq!(request.trace_state, "a=1,b=2");
    for (name, expected) in [
        ("http.request.method", "POST"),
        ("http.route", "/embed/text"),
        ("url.path", "/embed/text"),
        ("url.scheme", "http"),
        ("http.response.status_code", "200"),
        ("clipserve.request_id", "find-me"),
    ] {
        assert_eq!(value(request, name).as_deref(), Some(expected), "{name}");
    }
    assert_eq!(value(request, "error.type"), None);
    assert_eq!((run.name.as_str(), run.kind), ("run text", SpanKind::Internal as i32));
    assert_ne!(run.trace_id, request.trace_id);
    assert!(run.parent_span_id.is_empty());
    let [link] = &run.links[..] else { panic!("{:?}", run.links) };
    assert_eq!((&link.trace_id, &link.span_id), (&request.trace_id, &request.span_id));
    assert_eq!(attribute(&link.attributes, "clipserve.items").as_deref(), Some("1"));
    assert_eq!(value(run, "clipserve.batch.size").as_deref(), Some("1"));
    assert_eq!(value(run, "clipserve.modality").as_deref(), Some("text"));
    let waited: f64 = value(run, "clipserve.queue.wait").expect("a wait").parse().expect("a number");
    assert!((0.0..60.0).contains(&waited), "{waited}");
    assert!(request.start_time_unix_nano <= run.start_time_unix_nano, "the run is within its request");
    assert!(run.end_time_unix_nano <= request.end_time_unix_nano, "the run is within its request");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_names_each_traced_request_in_it_once() {
    let collector = CollectorStandIn::start(Manner::Takes);
    let setting = collector.setting();
    let set = [setting.as_str(), "cache.max_bytes=0", "limits.max_queue_wait=1h"];
    let (server, gate) = TestServer::start_gated(&set).await;
    let post = |texts: &[&str], flags: &'static str| {
        let request =
            server.post("/embed/text").json(&json!({ "texts": texts })).header("traceparent", traceparent(flags));
        tokio::spawn(async move { request.send().await.expect("an answer") })
    };
    let first = post(&["a"], "01");
    while gate.texts() < 1 {
        pause().await;
    }
    // These wait for its end, and are the next run.
    let (two, one, untraced) = (post(&["b", "c"], "01"), post(&["d"], "01"), post(&["e"], "00"));
    server.until_metric("clipserve_queue_depth{queue=\"text\"}", |depth| depth == 4.0).await;
    gate.open();
    gate.open();
    let mut ids = Vec::new();
    for answer in [first, two, one] {
        ids.push(traceresponse(&answer.await.expect("no panic")).1);
    }
    let (_, untraced, flags) = traceresponse(&untraced.await.expect("no panic"));
    assert_eq!(flags, "00");
    server.stop().await;
    let (requests, runs) = sorted(collector.spans(5));
    assert_eq!((requests.len(), runs.len()), (3, 2));
    let links = |run: &Span| -> Vec<_> {
        let items = |link| attribute(link, "clipserve.items").expect("a number");
        let mut links: Vec<_> = run.links.iter().map(|link| (hex(&link.span_id), items(&link.attributes))).collect();
        links.sort();
        links
    };
    let mut expected = vec![(ids[1].clone(), "2".to_owned()), (ids[2].clone(), "1".to_owned())];
    expected.sort();
    assert_eq!(links(&runs[0]), [(ids[0].clone(), "1".to_owned())]);
    assert_eq!(links(&runs[1]), expected);
    assert_eq!(value(&runs[1], "clipserve.batch.size").as_deref(), Some("4"), "{untraced} is in it, without a link");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_traceparent_decides_and_else_the_ratio_does() {
    for (ratio, without) in [("0", "00"), ("1", "01")] {
        let collector = CollectorStandIn::start(Manner::Takes);
        let server = start(&collector, &["cache.max_bytes=0", &format!("telemetry.otlp_sample_ratio={ratio}")]).await;
        let sampled = traceparent("01");
        let mut expected = Vec::new();
        for (headers, trace, flags) in [
            (&[][..], None, without),
            (&[("traceparent", "00-0-0-01")], None, without),
            (&[("traceparent", &*sampled), ("traceparent", &*sampled)], None, without),
            (&[("traceparent", &*traceparent("00"))], Some(TRACE), "00"),
            (&[("traceparent", &*sampled)], Some(TRACE), "01"),
        ] {
            let answer = traceresponse(&ask(&server, headers).await);
            assert_eq!(answer.2, flags, "{ratio} {headers:?}");
            assert_eq!(answer.0 == TRACE, trace.is_some(), "{ratio} {headers:?}");
            if flags == "01" {
                expected.push(answer.1);
            }
        }
        server.stop().await;
        let (requests, _) = sorted(collector.spans(2 * expected.len()));
        assert_eq!(requests.iter().map(|span| hex(&span.span_id)).collect::<Vec<_>>(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_chooses_has_a_bound_and_probes_have_no_span() {
    let collector = CollectorStandIn::start(Manner::Takes);
    let server = start(&collector, &[]).await;
    for probe in ["/livez", "/readyz", "/metrics", "/ping", "/v2/health/ready"] {
        let response = server.get(probe).await;
        assert!(response.headers().get("traceresponse").is_none(), "{probe}");
    }
    let long = format!("/nowhere/{}?api_key=hunter2", "x".repeat(4000));
    let state = format!("a={}", "y".repeat(3000));
    let request =
        server.client().get(server.url(&long)).header("traceparent", traceparent("01")).header("tracestate", state);
    assert_eq!(request.header("baggage", "secret=hunter2").send().await.expect("an answer").status(), 404);
    server.stop().await;
    let [span] = <[_; 1]>::try_from(collector.spans(1)).expect("one");
    assert_eq!((span.name.as_str(), value(&span, "http.route")), ("GET", None));
    assert_eq!(value(&span, "url.path").map(|path| path.len()), Some(256));
    assert_eq!(span.trace_state, "");
    assert_eq!(value(&span, "error.type").as_deref(), Some("not_found"));
    assert_eq!(span.status.as_ref().map(|status| status.code()), Some(StatusCode::Unset));
    assert!(!format!("{span:?}").contains("hunter2"), "{span:?}");
}

/// An encoder that fails.
struct Failing<I>(std::marker::PhantomData<fn(I)>);

impl<I: Send + 'static> Encoder for Failing<I> {
    type Input = I;

    fn encode(&mut self, _: &[I]) -> Result<Embeddings, EncodeError> {
        Err(EncodeError::Runtime("é".repeat(1000)))
    }

    fn encode_outputs(&mut self, _: &[I], _: OutputSet) -> Result<Vec<TowerOutputs>, EncodeError> {
        Err(EncodeError::Runtime(String::new()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_fails_is_an_error_and_so_is_its_request() {
    let collector = CollectorStandIn::start(Manner::Takes);
    let config = configuration(&[collector.setting().as_str()]);
    let (vision, text) = (Failing::<PixelBuf>(std::marker::PhantomData), Failing::<Tokens>(std::marker::PhantomData));
    let failing = parts(&config, vision, text);
    let server = TestServer::bind(config.clone(), move |context: LoadContext| {
        Embedder::assemble(failing, &config, context.metrics, &context.health)
    })
    .await;
    server.ready().await;
    let response = server.post_picture("/embed/image", picture("cat_420.jpg")).await;
    assert_eq!(response.status(), 500);
    server.stop().await;
    let (requests, runs) = sorted(collector.spans(2));
    let code = |span: &Span| span.status.as_ref().map(|status| status.code());
    assert_eq!((code(&requests[0]), code(&runs[0])), (Some(StatusCode::Error), Some(StatusCode::Error)));
    assert_eq!(value(&requests[0], "error.type").as_deref(), Some("internal"));
    let reason = runs[0].status.as_ref().map(|status| status.message.len()).expect("a status");
    assert!((200..=256).contains(&reason), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_ends_the_span_of_its_request() {
    let collector = CollectorStandIn::start(Manner::Takes);
    let (server, gate) = TestServer::start_gated(&[collector.setting().as_str()]).await;
    let request = server.post("/embed/text").json(&json!({ "texts": ["a"] }));
    let gone = tokio::spawn(async move { request.send().await });
    while gate.texts() < 1 {
        pause().await;
    }
    gone.abort();
    server.assert_metric("clipserve_http_requests_in_flight", 0.0).await;
    drop(gate);
    server.stop().await;
    let (requests, runs) = sorted(collector.spans(2));
    assert_eq!(value(&requests[0], "http.response.status_code").as_deref(), Some("499"));
    assert_eq!(hex(&runs[0].links[0].span_id), hex(&requests[0].span_id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_not_well_harms_nobody_and_what_is_lost_is_counted() {
    // Neither a port that nobody listens on, nor one who refuses now or for good.
    for manner in [None, Some(Manner::Refuses(503)), Some(Manner::Refuses(401))] {
        let collector = manner.map(CollectorStandIn::start);
        let setting = collector
            .as_ref()
            .map_or("telemetry.otlp_endpoint=http://127.0.0.1:1".to_owned(), CollectorStandIn::setting);
        let server = TestServer::start(&[&setting]).await;
        let context = server.context().clone();
        for _ in 0..3 {
            ask(&server, &[]).await;
        }
        server.stop().await;
        // Three requests, and one run: the others were known. The thread that sends may outlive the server.
        let all = format!("\n{DROPPED} 4\n");
        while !context.metrics.render().0.contains(&all) {
            pause().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_hangs_holds_up_neither_requests_nor_the_end() {
    let collector = CollectorStandIn::start(Manner::Hangs);
    let server = start(&collector, &[]).await;
    let client = reqwest::Client::new();
    // As many as may wait, and more: what finds no room is counted, and none of them waits.
    for _ in 0..2100 {
        let response = client.get(server.url("/nowhere")).send().await.expect("an answer");
        assert_eq!(response.status(), 404);
    }
    server.until_metric(DROPPED, |lost| lost >= 2100.0 - 2048.0).await;
    drop(client);
    let end = tokio::time::timeout(Duration::from_secs(60), server.stop());
    assert!(end.await.is_ok(), "it ends while the collector still hangs");
}

#[tokio::test(flavor = "multi_thread")]
async fn opentelemetrys_own_variables_say_who_this_is_and_what_the_collector_wants() {
    let collector = CollectorStandIn::start(Manner::Takes);
    let model = format!("model.path={}", fixture("tiny-clip").display());
    let set = [model.as_str(), "server.listen=127.0.0.1:0", "server.shutdown_delay=0ms", "engine.provider=cpu"];
    let set = set.iter().map(|&pair| pair.to_owned()).chain([collector.setting()]).collect();
    let environment = [
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20hunter2,x-tenant=a"),
        ("OTEL_SERVICE_NAME", "clip-b32"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=staging"),
    ];
    let environment = environment.map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let loaded = config::load(&Overrides { set, ..Overrides::default() }, environment).expect("a configuration");
    assert!(!format!("{loaded:?}").contains("hunter2"));
    let config = loaded.config;
    let load = {
        let config = config.clone();
        move |context: LoadContext| embedder::start(&config, context.metrics, &context.health)
    };
    let server = TestServer::bind(config, load).await;
    server.ready().await;
    ask(&server, &[]).await;
    server.stop().await;
    let sent = collector.next();
    assert!(sent.head.contains("\r\nauthorization: bearer hunter2\r\n"), "{}", sent.head);
    assert!(sent.head.contains("\r\nx-tenant: a\r\n"), "{}", sent.head);
    assert_eq!(attribute(&sent.resource, "service.name").as_deref(), Some("clip-b32"));
    assert_eq!(attribute(&sent.resource, "deployment.environment.name").as_deref(), Some("staging"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_endpoint_there_is_nothing_of_it() {
    let server = TestServer::start(&[]).await;
    let response = ask(&server, &[("traceparent", &traceparent("01"))]).await;
    assert!(response.headers().get("traceresponse").is_none());
    assert_eq!(server.metric(DROPPED), 0.0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_of_the_log_have_the_ids_in_both_formats() {
    let collector = CollectorStandIn::start(Manner::Takes);
    for format in ["text", "json"] {
        let (setting, format_setting) = (collector.setting(), format!("telemetry.log_format={format}"));
        let (mut running, address) = Running::serve(&[&setting, "server.shutdown_delay=0ms", &format_setting]);
        let request = reqwest::Client::new().get(format!("http://{address}/nowhere"));
        let request = request.header("x-request-id", "find-me").header("traceparent", traceparent("01"));
        let (_, span, _) = traceresponse(&request.send().await.expect("an answer"));
        let line = running.until("find-me");
        if format == "json" {
            let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
            assert_eq!((&line["span"]["trace_id"], &line["span"]["span_id"]), (&json!(TRACE), &json!(span)), "{line}");
        } else {
            assert!(line.contains(&format!(" trace_id={TRACE} span_id={span}}}")), "{line}");
        }
        running.signal(libc::SIGTERM);
        assert_eq!(running.exit_code(), Some(0));
    }
    collector.spans(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_says_why_spans_are_lost() {
    let collector = CollectorStandIn::start(Manner::Refuses(401));
    let (mut running, address) = Running::serve(&[&collector.setting(), "server.shutdown_delay=0ms"]);
    reqwest::get(format!("http://{address}/nowhere")).await.expect("an answer");
    running.signal(libc::SIGTERM);
    let line = running.until("spans were dropped");
    assert!(line.contains(" WARN ") && line.contains("spans=1") && line.contains("it answers 401"), "{line}");
    assert_eq!(running.exit_code(), Some(0));
}

#[test]
fn a_wrong_endpoint_and_a_wrong_ratio_are_a_line_each() {
    let set = ["telemetry.otlp_endpoint=http://user@127.0.0.1:1", "telemetry.otlp_sample_ratio=2"];
    let mut command = lifecycle::serve(&fixture("tiny-clip"), &[]);
    command.args(set.iter().flat_map(|pair| ["--set", pair]));
    let output = lifecycle::fault(command);
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(64), "{stderr}");
    let lines: Vec<_> = stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{stderr}");
    assert!(
        lines[0].starts_with("clipserve: telemetry.otlp_endpoint = ")
            && lines[0].contains("the address of a collector"),
        "{stderr}"
    );
    assert!(!lines[0].contains("user@"), "{stderr}");
    assert!(
        lines[1].starts_with("clipserve: telemetry.otlp_sample_ratio = ") && lines[1].contains("from 0 to 1"),
        "{stderr}"
    );
}
