//! A real server on port 0, real ONNX Runtime, the fixture model; and encoders that wait for the test's leave.
//!
//! Owns starting, stopping and asking. Every server checks when it is stopped that it is clean: no request in flight, drained
//! without a cut.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use clipserve::{
    config::{self, Config, Overrides},
    embedder::{self, Abilities, Embedder, ModelInfo, Parts, Sessions, StartError, TextParts, Towers, VisionParts},
    encoder::{
        BatchSizes, Embeddings, EncodeError, Encoder, OutputSet, OutputShape, PixelBuf, Runner, Tokens, TowerOutputs,
    },
    health::Readiness,
    model::{
        LogitScale, LogitScaleSource, pictures::PicturePreparation, preprocessor::PreprocessorConfig, rules::Rules,
        texts::Tokenization,
    },
    preprocess::{
        image::{ImageOptions, ImageProcessor},
        text::TextTokenizer,
    },
    server::{LoadContext, ServeError, Server},
    web::Names,
};
use ndarray::{Array2, ArrayD};
use reqwest::{RequestBuilder, Response};
use serde_json::Value;
use tokio::{sync::oneshot, task::JoinHandle};

/// A file or folder of `tests/fixtures`.
pub(crate) fn fixture(path: impl AsRef<Path>) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

/// The bytes of a fixture picture.
pub(crate) fn picture(name: &str) -> Vec<u8> {
    let path = fixture("images").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A configuration for the fixture model on a free port, with these `section.key=value` on top.
pub(crate) fn configuration(set: &[&str]) -> Config {
    let mut all = vec![
        format!("model.path={}", fixture("tiny-clip").display()),
        "server.listen=127.0.0.1:0".to_owned(),
        "server.shutdown_delay=0ms".to_owned(),
        "engine.provider=cpu".to_owned(),
    ];
    all.extend(set.iter().map(|&pair| pair.to_owned()));
    config::load(&Overrides { set: all, ..Overrides::default() }, []).unwrap_or_else(|errors| panic!("{errors}")).config
}

/// A running server.
pub(crate) struct TestServer {
    base: String,
    admin: Option<String>,
    client: reqwest::Client,
    stop: oneshot::Sender<()>,
    running: JoinHandle<Result<(), ServeError>>,
    context: LoadContext,
}

impl TestServer {
    /// The fixture model on ONNX Runtime, with these `section.key=value`; returns when it is ready.
    pub(crate) async fn start(set: &[&str]) -> Self {
        let config = configuration(set);
        let server = Self::bind(config.clone(), move |context: LoadContext| {
            embedder::start(&config, context.metrics, &context.health)
        })
        .await;
        server.ready().await;
        server
    }

    /// The fixture's preprocessing around encoders that wait for the test; returns when it is ready.
    pub(crate) async fn start_gated(set: &[&str]) -> (Self, Gate) {
        Self::start_gated_after(set, &[]).await
    }

    /// The same, as if encoders had done `runs`: their work and how long it took.
    pub(crate) async fn start_gated_after(set: &[&str], runs: &[(u64, Duration)]) -> (Self, Gate) {
        let config = configuration(set);
        let (gate, vision, text) = Gate::new();
        let mut parts = parts(&config, vision, text);
        if let (Some(vision), Some(text)) = (&mut parts.vision, &mut parts.text) {
            vision.sessions.runs = runs.to_vec();
            text.sessions.runs = runs.to_vec();
        }
        let server = Self::bind(config.clone(), move |context| {
            Embedder::assemble(parts, &config, context.metrics, &context.health)
        })
        .await;
        server.ready().await;
        (server, gate)
    }

    /// As [`Self::start`]; the hosts that pictures are fetched from are where `names` says.
    pub(crate) async fn start_resolving(set: &[&str], names: Arc<dyn Names>) -> Self {
        let config = configuration(set);
        let server = Server::bind_resolving(config.clone(), names).await.expect("a free port");
        let server =
            Self::run(server, move |context: LoadContext| embedder::start(&config, context.metrics, &context.health));
        server.ready().await;
        server
    }

    /// Binds and serves; the model comes from `load`.
    pub(crate) async fn bind(
        config: Config,
        load: impl FnOnce(LoadContext) -> Result<Embedder, StartError> + Send + 'static,
    ) -> Self {
        Self::run(Server::bind(config).await.expect("a free port"), load)
    }

    fn run(server: Server, load: impl FnOnce(LoadContext) -> Result<Embedder, StartError> + Send + 'static) -> Self {
        let base = format!("http://{}", server.local_addr());
        let admin = server.admin_addr().map(|address| format!("http://{address}"));
        let context = server.context().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(server.run(load, async {
            // A test that fails drops its server: that stops it too.
            let _ = stopped.await;
        }));
        // No pool: a test that counts connections must know them all.
        let client = reqwest::Client::builder().pool_max_idle_per_host(0).build().expect("a client");
        Self { base, admin, client, stop, running, context }
    }

    /// Waits until `/readyz` would answer 200.
    pub(crate) async fn ready(&self) {
        while self.context.health.readiness() != Readiness::Ready {
            assert!(!self.running.is_finished(), "the server ended instead of becoming ready");
            pause().await;
        }
    }

    /// The address of `path`.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// The main listener's `host:port`.
    pub(crate) fn address(&self) -> &str {
        self.base.trim_start_matches("http://")
    }

    /// The address of `path` on the admin listener.
    pub(crate) fn admin_url(&self, path: &str) -> String {
        format!("{}{path}", self.admin.as_deref().expect("an admin listener"))
    }

    /// What the model's threads count in.
    pub(crate) fn context(&self) -> &LoadContext {
        &self.context
    }

    /// The client.
    pub(crate) fn client(&self) -> &reqwest::Client {
        &self.client
    }

    /// `GET path`.
    pub(crate) async fn get(&self, path: &str) -> Response {
        self.client.get(self.url(path)).send().await.expect("an answer")
    }

    /// `POST path`, to be filled in.
    pub(crate) fn post(&self, path: &str) -> RequestBuilder {
        self.client.post(self.url(path))
    }

    /// `POST path` with JSON.
    pub(crate) async fn post_json(&self, path: &str, body: &Value) -> Response {
        self.post(path).json(body).send().await.expect("an answer")
    }

    /// `POST path` with one picture as the body.
    pub(crate) async fn post_picture(&self, path: &str, bytes: Vec<u8>) -> Response {
        self.post(path).header("content-type", "image/jpeg").body(bytes).send().await.expect("an answer")
    }

    /// The value of a metric, by its full name with labels.
    #[track_caller]
    pub(crate) fn metric(&self, series: &str) -> f64 {
        self.metric_if_any(series).unwrap_or_else(|text| panic!("no metric {series} in:\n{text}"))
    }

    /// The same, or all metrics where that one has never been counted. Read without a request, so that looking counts nothing.
    fn metric_if_any(&self, series: &str) -> Result<f64, String> {
        let (text, _) = self.context.metrics.render();
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map(|value| value.parse().expect("a number")).ok_or(text)
    }

    /// Waits until a metric has this value: a request is counted behind the last byte of its answer, so its client may be sooner.
    pub(crate) async fn assert_metric(&self, series: &str, expected: f64) {
        self.until_metric(series, |value| value == expected).await;
    }

    /// Waits until a metric has reached a value: an event, not a time. One that has never been counted is waited for.
    ///
    /// # Panics
    /// When it does not come.
    pub(crate) async fn until_metric(&self, series: &str, reached: impl Fn(f64) -> bool) {
        let looking = async {
            while !self.metric_if_any(series).is_ok_and(&reached) {
                pause().await;
            }
        };
        if tokio::time::timeout(HUNG, looking).await.is_err() {
            panic!("{series} stays at {}", self.metric(series));
        }
    }

    /// Begins the shutdown; the returned handle waits for its end.
    pub(crate) fn begin_stop(self) -> JoinHandle<Result<(), ServeError>> {
        let _ = self.stop.send(());
        self.running
    }

    /// Stops the server and checks that it ended clean.
    pub(crate) async fn stop(self) {
        let metrics = Arc::clone(&self.context.metrics);
        self.begin_stop().await.expect("no panic").expect("a clean drain");
        assert_eq!(metrics.in_flight.get(), 0, "every request was counted out");
        assert_eq!(metrics.connections.get(), 0, "every connection is gone");
    }
}

/// Between two looks at something that will happen. Looks that follow each other at once take the cores from what they wait for,
/// and each look by a new connection leaves an entry in the kernel's tables for minutes: with these full, connections time out.
pub(crate) async fn pause() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// When what must happen counts as never happening. Far above what it takes, because a loaded machine is no fault of the code.
const HUNG: Duration = Duration::from_secs(120);

/// Asserts the status and returns the JSON body.
pub(crate) async fn json(response: Response, status: u16) -> Value {
    let actual = response.status().as_u16();
    let body = response.text().await.expect("a body");
    assert_eq!(actual, status, "{body}");
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"))
}

/// Asserts that the answer is an error of this status and code, shaped as the table says; returns its message.
pub(crate) async fn error(response: Response, status: u16, code: &str) -> String {
    let header_id = response.headers()["x-request-id"].to_str().expect("printable").to_owned();
    let body = json(response, status).await;
    assert_eq!(body["error"]["code"], code, "{body}");
    assert_eq!(body["error"]["request_id"], header_id, "{body}");
    body["error"]["message"].as_str().expect("a message").to_owned()
}

/// The rows of a JSON matrix.
pub(crate) fn matrix(value: &Value) -> Vec<Vec<f32>> {
    let row =
        |row: &Value| row.as_array().expect("a row").iter().map(|v| v.as_f64().expect("a number") as f32).collect();
    value.as_array().expect("a matrix").iter().map(row).collect()
}

/// How many values the gated encoders answer.
pub(crate) const GATED_DIM: usize = 4;

/// The outputs of the gated encoders: of one position, whatever the input.
const GATED_OUTPUTS: OutputShape =
    OutputShape { hidden_size: GATED_DIM, num_hidden_layers: 1, num_attention_heads: 1, max_positions: 1 };

/// Holds the gated encoders back: each run of theirs waits for one [`Gate::open`].
pub(crate) struct Gate {
    leave: mpsc::Sender<()>,
    texts: Arc<AtomicUsize>,
}

impl Gate {
    fn new() -> (Self, Gated<PixelBuf>, Gated<Tokens>) {
        let (leave, wait) = mpsc::channel();
        let wait = Arc::new(std::sync::Mutex::new(wait));
        let texts = Arc::new(AtomicUsize::new(0));
        let vision = Gated { wait: Arc::clone(&wait), encoded: Arc::default(), _input: std::marker::PhantomData };
        let text = Gated { wait, encoded: Arc::clone(&texts), _input: std::marker::PhantomData };
        (Self { leave, texts }, vision, text)
    }

    /// Lets one run through.
    pub(crate) fn open(&self) {
        let _ = self.leave.send(());
    }

    /// Texts that reached the encoder so far.
    pub(crate) fn texts(&self) -> usize {
        self.texts.load(Ordering::SeqCst)
    }
}

/// An encoder that counts its inputs, waits for leave, and answers `[1, 0, 0, 0]` for each. Free once the gate is dropped.
pub(crate) struct Gated<I> {
    wait: Arc<std::sync::Mutex<mpsc::Receiver<()>>>,
    encoded: Arc<AtomicUsize>,
    _input: std::marker::PhantomData<fn(I)>,
}

impl<I: Send + 'static> Encoder for Gated<I> {
    type Input = I;

    fn encode(&mut self, inputs: &[I]) -> Result<Embeddings, EncodeError> {
        self.encoded.fetch_add(inputs.len(), Ordering::SeqCst);
        let _ = self.wait.lock().expect("not poisoned").recv();
        Ok(Array2::from_shape_fn((inputs.len(), GATED_DIM), |(_, column)| f32::from(u8::from(column == 0))))
    }

    fn encode_outputs(&mut self, inputs: &[I], outputs: OutputSet) -> Result<Vec<TowerOutputs>, EncodeError> {
        let embedding = self.encode(inputs)?.row(0).to_vec();
        let arrays = outputs.iter().map(|output| ArrayD::ones(GATED_OUTPUTS.of(output, 1))).collect();
        Ok(vec![TowerOutputs { embedding: Some(embedding), arrays }; inputs.len()])
    }
}

/// What fakes take at most in one run.
const AUTOMATIC: BatchSizes = BatchSizes { images: 8, texts: 64 };

/// The fixture's image processor and tokenizer around any two encoders.
pub(crate) fn parts<V, T>(config: &Config, vision: V, text: T) -> Parts<V, T>
where
    V: Encoder<Input = PixelBuf>,
    T: Encoder<Input = Tokens>,
{
    let preprocessor = std::fs::read_to_string(fixture("tiny-clip/preprocessor_config.json")).expect("the fixture");
    let preprocessor = PreprocessorConfig::from_json(&preprocessor).expect("valid");
    let options = ImageOptions { exif_orientation: true, fast_decode: false, max_pixels: config.limits.max_pixels };
    let processor = ImageProcessor::new(&PicturePreparation::Transformers(preprocessor), options).expect("supported");
    let tokenizer = TextTokenizer::open(
        &Tokenization::Transformers(fixture("tiny-clip/tokenizer.json")),
        77,
        config.limits.max_text_bytes,
        None,
    );
    Parts {
        info: ModelInfo {
            name: "gated".to_owned(),
            fingerprint: "sha256:0".to_owned(),
            rules: Towers { vision: Some(Rules::Transformers), text: Some(Rules::Transformers) },
            weights: Towers { vision: None, text: None },
            dim: Some(GATED_DIM),
            image_size: Some(processor.crop_size()),
            context_length: Some(77),
            logit_scale: Some(LogitScale { value: 100.0, source: LogitScaleSource::Default }),
            int8_scale: 127.0,
            provider: "cpu".to_owned(),
            precision: "f32".to_owned(),
            onnxruntime: "none".to_owned(),
            batch_sizes: BatchSizes {
                images: config.batch.vision.max_batch_size.unwrap_or(AUTOMATIC.images),
                texts: config.batch.text.max_batch_size.unwrap_or(AUTOMATIC.texts),
            },
            automatic_batch_sizes: AUTOMATIC,
            one_by_one: Towers { vision: None, text: None },
        },
        vision: Some(VisionParts {
            abilities: Abilities { embeds: true, outputs: Some(GATED_OUTPUTS) },
            processor,
            sessions: Sessions::new(vec![Runner::new(vision, || Err("not rebuilt".to_owned()))]),
            pixels: None,
        }),
        text: Some(TextParts {
            abilities: Abilities { embeds: true, outputs: Some(GATED_OUTPUTS) },
            tokenizer: tokenizer.expect("the fixture"),
            sessions: Sessions::new(vec![Runner::new(text, || Err("not rebuilt".to_owned()))]),
        }),
    }
}
