//! The bodies of requests, through the whole router, with encoders that answer at once.
//!
//! The first byte of a body says whose route it is sent to. What is asserted: there is an answer, and it is no fault of ours.

use std::sync::Arc;

use axum::{Router, body::Body};
use clipserve::{
    config::{self, Config, Overrides},
    embedder::{Abilities, Embedder, ModelInfo, Parts, Sessions, TextParts, Towers, VisionParts},
    encoder::{BatchSizes, Embeddings, EncodeError, Encoder, PixelBuf, Runner, Tokens},
    health::Health,
    http::{AppState, router},
    model::{
        LogitScale, LogitScaleSource, pictures::PicturePreparation, preprocessor::PreprocessorConfig, rules::Rules,
        texts::Tokenization,
    },
    preprocess::{
        image::{ImageOptions, ImageProcessor},
        text::TextTokenizer,
    },
    telemetry::Metrics,
};
use ndarray::Array2;
use tokio::runtime::Runtime;
use tower::ServiceExt;

/// Routes that take JSON.
const JSON_ROUTES: [&str; 18] = [
    "/embed/image",
    "/embed/text",
    "/similarity",
    "/classify",
    "/v1/embeddings",
    "/embeddings",
    "/v1/embed",
    "/v2/embed",
    "/v1/multimodalembeddings",
    "/v1/classify",
    "/vectorize",
    "/embed",
    "/",
    "/tokenize",
    "/decode",
    "/v2/models/fuzzed/infer",
    "/v2/repository/index",
    "/v1/models",
];

/// Routes that take forms.
const FORM_ROUTES: [&str; 4] = ["/embed/image", "/similarity", "/classify", "/predict"];

const CODINGS: [&str; 4] = ["gzip", "deflate", "br", "zstd"];

/// The length of the made-up embeddings.
const DIM: usize = 4;

thread_local! {
    static SERVICE: Service = Service::new();
}

struct Service {
    runtime: Runtime,
    router: Router,
    metrics: Arc<Metrics>,
}

impl Service {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let set = ["limits.max_pixels=4096", "limits.max_body_bytes=1MiB", "preprocess.threads=1", "cache.max_bytes=0"];
        let set = set.map(str::to_owned).to_vec();
        let config = config::load(&Overrides { set, ..Overrides::default() }, [])
            .unwrap_or_else(|errors| panic!("{errors}"))
            .config;
        let (metrics, health) = (Arc::new(Metrics::new()), Arc::new(Health::new(std::time::Duration::from_secs(60))));
        let embedder =
            Embedder::assemble(parts(&config), &config, Arc::clone(&metrics), &health).expect("the parts fit");
        let state = Arc::new(AppState::new(config.into(), Arc::clone(&metrics), health));
        state.set_embedder(embedder);
        Self { runtime, router: router(state), metrics }
    }

    /// Sends it, and takes the answer.
    fn ask(&self, request: http::Request<Vec<u8>>) {
        let answered = self.runtime.block_on(async {
            let answer = self.router.clone().oneshot(request.map(Body::from)).await;
            let answer = answer.unwrap_or_else(|error| match error {});
            let status = answer.status();
            axum::body::to_bytes(answer.into_body(), usize::MAX).await.expect("a body in memory");
            status.as_u16()
        });
        assert!(answered < 500 || answered == 501, "answered {answered}");
        assert_eq!(self.metrics.http_panics.get(), 0);
    }
}

/// Answers the same for every input.
struct Constant<I>(std::marker::PhantomData<fn(I)>);

impl<I: Send + 'static> Encoder for Constant<I> {
    type Input = I;

    fn encode(&mut self, inputs: &[I]) -> Result<Embeddings, EncodeError> {
        Ok(Array2::from_elem((inputs.len(), DIM), 0.5))
    }
}

fn sessions<I: Send + 'static>() -> Sessions<Constant<I>> {
    let encoder = Constant(std::marker::PhantomData);
    Sessions::new(vec![Runner::new(encoder, || Err("none is made anew".to_owned()))])
}

fn parts(config: &Config) -> Parts<Constant<PixelBuf>, Constant<Tokens>> {
    let preparation = PicturePreparation::Transformers(PreprocessorConfig::from_json("{}").expect("all has a default"));
    let options = ImageOptions { exif_orientation: true, fast_decode: false, max_pixels: config.limits.max_pixels };
    let processor = ImageProcessor::new(&preparation, options).expect("it is CLIP's own");
    let tokenizer = TextTokenizer::open(&Tokenization::OpenAi, 77, config.limits.max_text_bytes, None);
    let batch_sizes = BatchSizes { images: 8, texts: 64 };
    let abilities = Abilities { embeds: true, outputs: None };
    Parts {
        info: ModelInfo {
            name: "fuzzed".to_owned(),
            fingerprint: "sha256:0".to_owned(),
            rules: Towers { vision: Some(Rules::Transformers), text: Some(Rules::OpenAi) },
            weights: Towers { vision: None, text: None },
            dim: Some(DIM),
            image_size: Some(processor.crop_size()),
            context_length: Some(77),
            logit_scale: Some(LogitScale { value: 100.0, source: LogitScaleSource::Default }),
            int8_scale: 127.0,
            provider: "cpu".to_owned(),
            precision: "f32".to_owned(),
            onnxruntime: "none".to_owned(),
            batch_sizes,
            automatic_batch_sizes: batch_sizes,
            one_by_one: Towers { vision: None, text: None },
        },
        vision: Some(VisionParts { abilities, processor, sessions: sessions(), pixels: None }),
        text: Some(TextParts { abilities, tokenizer: tokenizer.expect("it is in the program"), sessions: sessions() }),
    }
}

/// Sends `body` to `path`.
fn post(path: &str, headers: &[(&'static str, &str)], body: Vec<u8>) {
    let mut request = http::Request::post(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(body).expect("headers of ours");
    SERVICE.with(|service| service.ask(request));
}

/// One of `all` by the first byte, and the rest.
fn chosen<'a>(all: &[&'static str], bytes: &'a [u8]) -> Option<(&'static str, &'a [u8])> {
    let (&first, rest) = bytes.split_first()?;
    Some((all[usize::from(first) % all.len()], rest))
}

/// A body of JSON.
pub(super) fn json(bytes: &[u8]) {
    let Some((path, body)) = chosen(&JSON_ROUTES, bytes) else { return };
    post(path, &[("content-type", "application/json")], body.to_vec());
}

/// A form with the boundary `x`.
pub(super) fn multipart(bytes: &[u8]) {
    let Some((path, body)) = chosen(&FORM_ROUTES, bytes) else { return };
    post(path, &[("content-type", "multipart/form-data; boundary=x")], body.to_vec());
}

/// A string where a picture is to be.
pub(super) fn data_url(bytes: &[u8]) {
    let body = serde_json::json!({"images": [String::from_utf8_lossy(bytes)]});
    post("/embed/image", &[("content-type", "application/json")], body.to_string().into_bytes());
}

/// A compressed body.
pub(super) fn coding(bytes: &[u8]) {
    let Some((coding, body)) = chosen(&CODINGS, bytes) else { return };
    post("/embed/text", &[("content-type", "text/plain"), ("content-encoding", coding)], body.to_vec());
}

/// An inference with tensors behind its JSON, whose length the first two bytes say.
pub(super) fn tensors(bytes: &[u8]) {
    let Some((length, body)) = bytes.split_first_chunk() else { return };
    let length = u16::from_be_bytes(*length).to_string();
    let headers = [("content-type", "application/octet-stream"), ("inference-header-content-length", &*length)];
    post("/v2/models/fuzzed/infer", &headers, body.to_vec());
}
