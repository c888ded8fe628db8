//! `clipserve compare` by the real binary: against our own server, and against stand-ins that speak each other service's protocol
//! with our server's embeddings, as they are or with noise of a known size.
//!
//! Owns the stand-in. Does not own the arithmetic (beside its code).

use std::{
    fmt::Write as _,
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Output},
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, HeaderName, StatusCode, Uri, header},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::oneshot,
    task::{JoinHandle, JoinSet, block_in_place},
};

use crate::support::{TestServer, fixture, json, matrix};

const KEY: &str = "sk-hunter2";

/// What the stand-in does with a request before it answers as it should.
type Fault = fn(&Asked) -> Option<(StatusCode, HeaderMap, String)>;

/// One request that came.
#[derive(Clone, Debug)]
struct Asked {
    /// How many came before.
    number: usize,
    path: String,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Asked {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// Another service, with the embeddings of a server of ours.
struct StandIn {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

#[derive(Clone)]
struct Speaks {
    kind: &'static str,
    server: Arc<TestServer>,
    /// What is added to the value at the place of the sample's number, as a share of the embedding's length.
    noise: f32,
    fault: Fault,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl StandIn {
    async fn start(kind: &'static str, server: &Arc<TestServer>, noise: f32, fault: Fault) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let speaks = Speaks { kind, server: Arc::clone(server), noise, fault, asked: Arc::clone(&asked) };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let router = Router::new().fallback(answer).with_state(speaks);
        let router = router.layer(axum::extract::DefaultBodyLimit::disable());
        let serving = tokio::spawn(async move {
            let (mut connections, mut stopped) = (JoinSet::new(), stopped);
            loop {
                let (stream, _) = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap(),
                    _ = &mut stopped => break,
                };
                let service = TowerToHyperService::new(router.clone());
                connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
            connections.shutdown().await;
        });
        Self { address, asked, stop, serving }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Ends it; what it was asked.
    async fn stop(self) -> Vec<Asked> {
        drop(self.stop);
        self.serving.await.unwrap();
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

async fn answer(
    State(speaks): State<Speaks>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, HeaderMap, String) {
    let asked = {
        let mut all = speaks.asked.lock().unwrap();
        let number = all.len();
        all.push(Asked { number, path: uri.path().to_owned(), headers, body: body.to_vec() });
        all.last().unwrap().clone()
    };
    match (speaks.fault)(&asked) {
        Some(answer) => answer,
        None => (StatusCode::OK, HeaderMap::new(), speaks.speak(&asked).await.to_string()),
    }
}

impl Speaks {
    /// The answer in this kind's shape.
    async fn speak(&self, asked: &Asked) -> Value {
        let data = |rows: &[Vec<f32>]| {
            // Backwards: whoever reads `index` sees no difference.
            let entries = rows.iter().enumerate().rev();
            json!({"data": entries.map(|(index, row)| json!({"index": index, "embedding": row})).collect::<Vec<_>>()})
        };
        let strings = |value: &Value| -> Vec<String> {
            value.as_array().unwrap().iter().map(|item| item.as_str().unwrap().to_owned()).collect()
        };
        match (self.kind, &*asked.path) {
            ("openai", "/v1/embeddings") => data(&self.of_strings(strings(&asked.json()["input"])).await),
            ("infinity", "/embeddings") => {
                let (body, rows) = (asked.json(), self.of_strings(strings(&asked.json()["input"])).await);
                let images = body["input"][0].as_str().unwrap().starts_with("data:");
                assert_eq!(body["modality"], if images { "image" } else { "text" });
                assert_eq!(body["model"], "default/not-specified");
                data(&rows)
            }
            ("weaviate", "/vectorize") => {
                let body = asked.json();
                json!({
                    "textVectors": self.embed("texts", strings(&body["texts"])).await,
                    "imageVectors": self.embed("images", strings(&body["images"])).await,
                })
            }
            ("immich", "/predict") => json!({"clip": json!(self.of_form(asked).await).to_string()}),
            ("tei", "/embed") => json!(self.embed("texts", strings(&asked.json()["inputs"])).await),
            ("cohere", "/v2/embed") => {
                let body = asked.json();
                assert_eq!(body["embedding_types"], json!(["float"]));
                let items = if body["input_type"] == "image" { &body["images"] } else { &body["texts"] };
                json!({"embeddings": {"float": self.of_strings(strings(items)).await}})
            }
            ("voyage", "/v1/multimodalembeddings") => {
                let part = |input: &Value| {
                    let part = &input["content"][0];
                    part[part["type"].as_str().unwrap()].as_str().unwrap().to_owned()
                };
                let inputs = asked.json()["inputs"].as_array().unwrap().iter().map(part).collect();
                let rows = self.of_strings(inputs).await;
                let text = |row: &Vec<f32>| {
                    BASE64_STANDARD.encode(row.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())
                };
                json!({"data": rows.iter().map(|row| json!({"embedding": text(row)})).collect::<Vec<_>>()})
            }
            ("jina", "/v1/embeddings") => {
                let body = asked.json();
                let inputs = body["input"].as_array().unwrap();
                let image = inputs[0].get("image").is_some();
                let part = |input: &Value| input[if image { "image" } else { "text" }].as_str().unwrap().to_owned();
                let items = inputs.iter().map(part).collect();
                data(&self.embed(if image { "images" } else { "texts" }, items).await)
            }
            ("clipserve", "/embed/image") => {
                json!({"embeddings": self.embed("images", strings(&asked.json()["images"])).await})
            }
            ("clipserve", "/embed/text") => {
                json!({"embeddings": self.embed("texts", strings(&asked.json()["texts"])).await})
            }
            (kind, path) => panic!("{kind} has no {path}"),
        }
    }

    /// Of strings, which are data URLs, or texts.
    async fn of_strings(&self, strings: Vec<String>) -> Vec<Vec<f32>> {
        let pictures: Vec<String> = strings
            .iter()
            .filter(|text| text.starts_with("data:image/"))
            .map(|url| url.split_once(";base64,").unwrap().1.to_owned())
            .collect();
        match pictures.len() {
            0 => self.embed("texts", strings).await,
            some => {
                assert_eq!(some, strings.len());
                self.embed("images", pictures).await
            }
        }
    }

    /// Of Immich's form, which is given to a server as it came but for the name of what is in it.
    async fn of_form(&self, asked: &Asked) -> Vec<f32> {
        let kind = asked.headers[header::CONTENT_TYPE].to_str().unwrap();
        let boundary = kind.split_once("boundary=").unwrap().1;
        let body = futures_util::stream::iter([Ok::<_, std::io::Error>(Bytes::from(asked.body.clone()))]);
        let mut form = multer::Multipart::new(body, boundary);
        let (mut entries, mut embeddings) = (Value::Null, Vec::new());
        while let Some(field) = form.next_field().await.unwrap() {
            let name = field.name().unwrap().to_owned();
            let bytes = field.bytes().await.unwrap();
            let (tower, items) = match &*name {
                "entries" => {
                    entries = serde_json::from_slice(&bytes).unwrap();
                    continue;
                }
                "image" => ("visual", self.embed("images", vec![BASE64_STANDARD.encode(&bytes)]).await),
                _ => ("textual", self.embed("texts", vec![String::from_utf8(bytes.to_vec()).unwrap()]).await),
            };
            assert_eq!(entries["clip"][tower]["modelName"], "ViT-B-32__openai");
            embeddings.extend(items);
        }
        assert_eq!(embeddings.len(), 1);
        embeddings.remove(0)
    }

    /// Our server's, with the noise.
    async fn embed(&self, field: &str, items: Vec<String>) -> Vec<Vec<f32>> {
        if items.is_empty() {
            return Vec::new();
        }
        let path = if field == "images" { "/embed/image" } else { "/embed/text" };
        let mut rows =
            matrix(&json(self.server.post_json(path, &json!({field: items})).await, 200).await["embeddings"]);
        for row in &mut rows {
            // Across the row's own direction, so that the cosine is 1 / sqrt(1 + noise^2) whatever is in the row.
            let at = row.iter().enumerate().min_by(|a, b| a.1.abs().total_cmp(&b.1.abs())).unwrap().0;
            row[at] += self.noise;
            // Their length is nobody's business.
            row.iter_mut().for_each(|value| *value *= 3.0);
        }
        rows
    }
}

fn never(_: &Asked) -> Option<(StatusCode, HeaderMap, String)> {
    None
}

/// Compares the fixture model with what answers at `url`.
fn compare(url: &str, kind: &str, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clipserve"));
    command.env_clear().env("CLIPSERVE_COMPARE_API_KEY", KEY);
    // A proxy is for what is encrypted: this one is never asked.
    command.env("HTTPS_PROXY", "http://127.0.0.1:1");
    command.args(["compare", "--provider", "cpu", "--set", "telemetry.log_level=warn", "--url", url, "--kind", kind]);
    command.arg("--model").arg(fixture("tiny-clip"));
    command.args(args).arg(fixture("images"));
    block_in_place(|| command.output()).unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)))
}

async fn server() -> Arc<TestServer> {
    Arc::new(TestServer::start(&[]).await)
}

async fn stop(server: Arc<TestServer>) {
    Arc::into_inner(server).expect("no stand-in is left").stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_server_has_our_embeddings_by_its_own_routes_and_by_openais() {
    let server = TestServer::start(&["server.api_key=sk-hunter2"]).await;
    for (kind, path) in [("openai", ""), ("openai", "/v1"), ("vllm", ""), ("clipserve", ""), ("infinity", "")] {
        let output = compare(&server.url(path), kind, &[]);
        let printed = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{printed}{}", text(&output.stderr));
        for part in [
            "| cosines  | pairs |      min |      1 % |   median |     mean |",
            "| texts    |    40 | 1.000000 | 1.000000 | 1.000000 | 1.000000 |",
            "| texts         | pictures | ",
            "\nThe worst pictures:\n\n- 1.000000 ",
            "tests/fixtures/images/",
            "\nThe index may be kept (a median cosine of 0.9999 and a recall@10 of 0.99 at least): here median 1.000000, recall \
             1.0000, the lowest of each.\n",
        ] {
            assert!(printed.contains(part), "{part}\n{printed}");
        }
        assert!(!printed.contains("Left out") && !printed.contains("Note"), "{printed}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_is_asked_in_its_own_words() {
    let server = server().await;
    for kind in ["openai", "infinity", "weaviate", "immich", "tei", "cohere", "voyage", "jina", "clipserve"] {
        let stand_in = StandIn::start(kind, &server, 0.0, never).await;
        let model: &[&str] = if kind == "immich" { &["--model-name", "ViT-B-32__openai"] } else { &[] };
        let output = compare(&stand_in.url(), kind, &[&["--json", "--samples", "24"], model].concat());
        let report = report(&output);
        assert_eq!((output.status.code(), &report["verdict"]), (Some(0), &json!("kept")), "{kind}: {report}");
        assert_eq!(report["texts"]["pairs"], 24, "{kind}: {report}");
        assert!(report["texts"]["cosine"]["min"].as_f64().unwrap() > 0.999_999, "{kind}: {report}");
        if kind == "tei" {
            assert_eq!((&report["pictures"], report["neighbours"].as_array().unwrap().len()), (&Value::Null, 1));
            assert_eq!(report["notes"][0], "tei has no pictures: texts alone are compared");
        } else {
            assert_eq!(report["pictures"]["pairs"], 24, "{kind}: {report}");
            let of: Vec<_> =
                report["neighbours"].as_array().unwrap().iter().map(|it| (&it["of"], &it["among"])).collect();
            let (pictures, texts) = (&json!("pictures"), &json!("texts"));
            assert_eq!(of, [(pictures, pictures), (texts, texts), (texts, pictures), (pictures, texts)]);
        }
        for asked in stand_in.stop().await {
            assert_eq!(asked.headers[header::AUTHORIZATION], format!("Bearer {KEY}"), "{kind}");
        }
    }
    stop(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_verdict_follows_the_noise() {
    let server = server().await;
    // The cosine of an embedding and of itself with so much across it.
    let cosine = |noise: f64| 1.0 / (1.0 + noise * noise).sqrt();
    for (noise, verdict, code) in [(0.005, "kept", 0), (0.03, "kept_with_care", 0), (0.3, "not_kept", 2)] {
        let stand_in = StandIn::start("openai", &server, noise, never).await;
        // Neighbours of a model of random weights are too near to each other to be told from noise: cosines alone.
        let output = compare(&stand_in.url(), "openai", &["--json", "--samples", "2"]);
        let report = report(&output);
        let actual = report["texts"]["cosine"]["median"].as_f64().unwrap();
        // The value with the least in it has not nothing in it.
        assert!((actual - cosine(f64::from(noise))).abs() < 3e-3 * f64::from(noise), "{noise}: {report}");
        assert_eq!((&report["verdict"], output.status.code()), (&json!(verdict), Some(code)), "{noise}: {report}");
        stand_in.stop().await;
    }
    stop(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_of_another_length_is_another_model() {
    let server = server().await;
    let short: Fault = |asked| {
        let count = asked.json()["input"].as_array().unwrap().len();
        Some((
            StatusCode::OK,
            HeaderMap::new(),
            json!({"data": vec![json!({"embedding": [1.0, 2.0]}); count]}).to_string(),
        ))
    };
    let stand_in = StandIn::start("openai", &server, 0.0, short).await;
    let output = compare(&stand_in.url(), "openai", &[]);
    let printed = text(&output.stdout);
    assert_eq!(output.status.code(), Some(2), "{printed}");
    let end = "The index cannot be kept: its embeddings have 2 values, ours 48: that is another model.\n";
    assert!(printed.ends_with(end), "{printed}");
    assert_eq!(stand_in.stop().await.len(), 1);
    stop(server).await;
}

/// An answer with headers.
fn with(status: u16, headers: &[(&str, &str)], body: &str) -> Option<(StatusCode, HeaderMap, String)> {
    let headers = headers.iter().map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()));
    Some((StatusCode::from_u16(status).unwrap(), headers.collect(), body.to_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_busy_is_asked_again_and_what_one_side_refuses_is_left_out() {
    let server = server().await;
    let stand_in = StandIn::start("tei", &server, 0.0, |asked| match asked.number {
        0 => with(429, &[("retry-after", "0")], ""),
        1 => with(503, &[("retry-after", "0")], ""),
        // One of the texts is more than it takes, and so is every request with that one.
        _ if asked.json()["inputs"].as_array().unwrap().contains(&json!("pizza")) => {
            with(422, &[], "{\"error\":\"no pizza\r\n\x1b[2J for sk-hunter2\"}")
        }
        _ => None,
    })
    .await;
    let output = compare(&stand_in.url(), "tei", &[]);
    let printed = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{printed}{}", text(&output.stderr));
    assert!(printed.contains("| texts    |    39 |"), "{printed}");
    let left_out = "\nLeft out:\n\n- pizza: it answers 422: {\"error\":\"no pizza \u{fffd}[2J for [redacted]\"}\n";
    assert!(printed.contains(left_out), "{printed}");
    stand_in.stop().await;
    stop(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_none_is_one_line_and_no_verdict() {
    let server = server().await;
    let faults: [(Fault, usize, &str); 9] = [
        (|_| with(401, &[], "who are you, sk-hunter2?"), 1, "it answers 401: who are you, [redacted]?"),
        (|_| with(404, &[], ""), 1, "it answers 404; are --url, --kind and --model-name right?"),
        (
            |_| with(307, &[("location", "http://u:p@elsewhere/x")], ""),
            1,
            "it redirects to http://[redacted]@elsewhere/x: give",
        ),
        (|_| with(429, &[("retry-after", "9999")], ""), 1, "it answers 429 and asks to wait for 9999 s"),
        (|_| with(429, &[("retry-after", "0")], ""), 8, "it answers 429, 8 times in a row"),
        (|_| with(400, &[], "no such model"), 9, "it answers 400: no such model"),
        (|_| with(200, &[], "<html>"), 1, "it is not JSON of the kind's shape (line 1, column 1)"),
        (|_| with(200, &[], "[[1e39]]"), 1, "it answers 1 embeddings for 32 items"),
        (|_| with(200, &[], &" ".repeat((8 << 20) + 1)), 1, "its answer is larger than 8 MiB"),
    ];
    for (fault, requests, wants) in faults {
        let stand_in = StandIn::start("tei", &server, 0.0, fault).await;
        let url = stand_in.url();
        let output = compare(&url, "tei", &[]);
        let errors = text(&output.stderr);
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), ""), "{errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
        assert!(errors.starts_with(&format!("clipserve: {url}/embed: {wants}")), "{wants}\n{errors}");
        assert!(!errors.contains("hunter2"), "{errors}");
        assert_eq!(stand_in.stop().await.len(), requests, "{wants}");
    }
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = compare(&format!("http://{closed}"), "tei", &[]);
    assert_eq!((output.status.code(), text(&output.stderr).lines().count()), (Some(1), 1));
    stop(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_no_pictures_are_left_out_and_texts_come_from_a_file() {
    let server = server().await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| -> PathBuf { folder.path().join(name) };
    std::fs::write(path("no.png"), "no picture").unwrap();
    let lines = (0..30).fold(String::new(), |mut lines, at| {
        writeln!(lines, "text number {at}\n").unwrap();
        lines
    });
    std::fs::write(path("texts.txt"), lines).unwrap();
    let (texts, no_picture) = (path("texts.txt"), path("no.png"));
    let args = ["--texts", texts.to_str().unwrap(), no_picture.to_str().unwrap(), "--json"];
    let output = compare(&server.url(""), "clipserve", &args);
    let report = report(&output);
    assert_eq!((&report["verdict"], &report["texts"]["pairs"]), (&json!("kept"), &json!(30)));
    assert_eq!(report["left_out"].as_array().unwrap().len(), 1, "{report}");
    assert_eq!(report["left_out"][0]["sample"], no_picture.to_str().unwrap());
    assert!(report["left_out"][0]["reason"].as_str().unwrap().starts_with("our own model: "), "{report}");
    assert_eq!(report["texts"]["worst"].as_array().unwrap().len(), 5);
    stop(server).await;
}
